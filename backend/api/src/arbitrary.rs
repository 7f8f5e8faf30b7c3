//! Arbitrary objects for property tests.
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..3_i64).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from),
        Just(json!("delete")),
    ]
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[abc]",
        1 => Just("metadata".to_owned()),
        1 => Just("finalizers".to_owned()),
        1 => Just("ownerReferences".to_owned()),
        1 => Just("$patch".to_owned()),
        1 => Just("$retainKeys".to_owned()),
        1 => Just("$setElementOrder/a".to_owned()),
    ]
}

/// Any JSON, directives of patches among it.
pub fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((field(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

pub fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec((field(), value()), 0..5)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

/// Some fields of a pod's spec, right in their types, with lists of every kind.
pub fn pod_spec() -> impl Strategy<Value = Value> {
    let names = || prop::collection::btree_set("[abc]", 0..3);
    let env =
        names().prop_map(|names| names.into_iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
    let ports = prop::collection::btree_set(1..4_u16, 0..3)
        .prop_map(|ports| ports.into_iter().map(|port| json!({"containerPort": port})).collect::<Vec<_>>());
    let container = (env, ports, prop::option::of("[xyz]")).prop_map(|(env, ports, image)| {
        let mut container = json!({"env": env, "ports": ports});
        if let Some(image) = image {
            container["image"] = image.into();
        }
        container
    });
    let containers = prop::collection::btree_map("[abc]", container, 0..3).prop_map(|containers| {
        let named = containers.into_iter().map(|(name, mut container)| {
            container["name"] = name.into();
            container
        });
        Value::from(named.collect::<Vec<_>>())
    });
    let selector = prop::collection::btree_map("[abc]", "[xyz]", 0..3).prop_map(|map| json!(map));
    let tolerations = names().prop_map(|keys| keys.into_iter().map(|key| json!({"key": key})).collect());
    let fields = (
        prop::option::of(containers),
        prop::option::of(selector),
        prop::option::of(tolerations),
        prop::option::of("[xyz]".prop_map(Value::from)),
    );
    fields.prop_map(|(containers, selector, tolerations, hostname)| {
        let all = [
            ("containers", containers),
            ("nodeSelector", selector),
            ("tolerations", tolerations.map(Value::Array)),
            ("hostname", hostname),
        ];
        let set = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(set.collect::<Map<_, _>>())
    })
}
