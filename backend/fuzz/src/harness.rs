//! What each fuzz target does with its bytes. Nothing here may panic but by an assertion that names a broken promise. The
//! committed corpus goes through the same functions in an ordinary test (`backend/api/tests/corpus.rs`).
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::json_path::JsonPath;
use pilothouse_api::lifecycle::{self, CreateContext, DeleteOptions};
use pilothouse_api::patch::PatchType;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::selector::{FieldSelector, LabelSelector};
use pilothouse_api::table::{IncludeObject, table};
use pilothouse_api::{KindEntry, Registry, apply, custom, decode, patch, protobuf};
use serde_json::{Value, json};
use std::sync::LazyLock;

pub type Target = fn(&[u8]);

/// By the names of their directories in the corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("decode", decode_body),
    ("protobuf", read_protobuf),
    ("patch", patch_object),
    ("apply", apply_objects),
    ("selectors", parse_selectors),
    ("cel", check_rule),
    ("quantity", parse_quantity),
    ("json_path", parse_json_path),
];

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);

fn now() -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A body of every format, then the whole way of the object it holds.
pub fn decode_body(data: &[u8]) {
    let formats = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    for format in formats {
        let Ok(decoded) = decode::decode(data, Some(format)) else { continue };
        let kind = decoded.value["kind"].as_str().unwrap_or_default();
        let entry = REGISTRY.entries().iter().find(|entry| entry.kind == kind);
        if let Some(entry) = entry.or_else(|| REGISTRY.by_resource("pods")) {
            live(entry, decoded.value);
        }
    }
}

/// Everything that becomes of an object between a client and the store.
pub fn live(entry: &KindEntry, mut object: Value) {
    decode::unknown_fields(entry, &object);
    if decode::check_types(entry, &object).is_err() {
        return;
    }
    entry.rules.prune(&mut object);
    let context = CreateContext { namespace: "d", now: now(), uid: "u", name_suffix: "x7k2p" };
    let outcome = lifecycle::before_create(entry, &mut object, &context);
    table(entry, &[object.clone()], IncludeObject::Metadata, now(), json!({}));
    entry.rules.selectable_fields(&object);
    if outcome.is_err() {
        return;
    }
    let mut same = object.clone();
    if let Err(why) = lifecycle::before_update(entry, &mut same, &object, now()) {
        panic!("{} was accepted, and refused unchanged: {}", entry.resource, why.message);
    }
    assert_eq!(same, object, "an update that says nothing new changes nothing");
    let mut status = object.clone();
    let _ = lifecycle::before_update_status(entry, &mut status, &object, now());
    let mut stored = object.clone();
    entry.rules.to_stored(&mut stored);
    entry.rules.from_stored(&mut stored);
    let _ = lifecycle::before_delete(entry, &object, &DeleteOptions::default(), now());
}

pub fn read_protobuf(data: &[u8]) {
    let _ = protobuf::read(data);
    // Without the envelope's first bytes a mutation seldom gets further.
    let _ = protobuf::read(&[b"k8s\0", data].concat());
}

/// The values that stand on the lines of the input.
fn lines(data: &[u8]) -> Vec<Value> {
    data.split(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap_or_default()).collect()
}

/// On two lines, an object and a patch.
pub fn patch_object(data: &[u8]) {
    let values = lines(data);
    let [current, change, ..] = values.as_slice() else { return };
    for resource in ["pods", "deployments.apps", "services"] {
        let Some(entry) = REGISTRY.by_resource(resource) else { continue };
        for kind in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            if let Ok(patched) = patch::patch(kind, entry, current, change) {
                decode::unknown_fields(entry, &patched);
                let _ = decode::check_types(entry, &patched);
            }
        }
    }
}

/// On three lines, what is there, what one manager applies, what another applies.
pub fn apply_objects(data: &[u8]) {
    let values = lines(data);
    let [live, first, second, ..] = values.as_slice() else { return };
    for resource in ["deployments.apps", "pods"] {
        let Some(entry) = REGISTRY.by_resource(resource) else { continue };
        let Ok(object) = apply::apply(entry, Some(live), first, "one", true, now()) else { continue };
        let Ok(object) = apply::apply(entry, Some(&object), second, "two", true, now()) else { continue };
        let again = apply::apply(entry, Some(&object), second, "two", false, now());
        match again {
            Ok(again) => assert_eq!(again, object, "applied again, it changes nothing"),
            Err(why) => panic!("applied again, it is refused: {}", why.message),
        }
        let mut updated = second.clone();
        if updated["metadata"].is_object() {
            apply::track(entry, Some(&object), &mut updated, "three", "", now());
        }
    }
}

pub fn parse_selectors(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let labels = [("a", "1"), ("b/c", "")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    if let Ok(selector) = LabelSelector::parse(&text) {
        let printed = selector.to_string();
        let again = LabelSelector::parse(&printed).expect("what a selector prints can be parsed");
        assert_eq!(again, selector, "{text:?} prints as {printed:?}");
        selector.matches(&labels);
    }
    if let Ok(selector) = FieldSelector::parse(&text) {
        selector.matches(&[("metadata.name".to_owned(), "a,b".to_owned())]);
        selector.requires("metadata.name");
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data)
        && let Ok(selector) = LabelSelector::from_object(&value)
    {
        selector.matches(&labels);
    }
}

/// A rule, and below it an object that is judged by it.
pub fn check_rule(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (rule, object) = text.split_once('\n').unwrap_or((&text, "{}"));
    let item = json!({"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}});
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "x-kubernetes-validations": [{"rule": rule}],
        "properties": {
            "s": {"type": "string"}, "n": {"type": "integer"}, "f": {"type": "number"}, "b": {"type": "boolean"},
            "list": {"type": "array", "items": item.clone()}, "map": {"type": "object", "additionalProperties": item},
            "any": {"x-kubernetes-int-or-string": true}, "time": {"type": "string", "format": "date-time"},
        },
    }}});
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "xs.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "xs", "singular": "x", "kind": "X"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let context = CreateContext { namespace: "", now: now(), uid: "u", name_suffix: "x7k2p" };
    if let Some(entry) = REGISTRY.by_resource("customresourcedefinitions.apiextensions.k8s.io") {
        let _ = lifecycle::before_create(entry, &mut definition, &context);
    }
    let spec: Value = serde_json::from_str(object).unwrap_or_else(|_| json!({}));
    for entry in custom::entries(&definition) {
        let object = json!({"metadata": {"name": "a"}, "spec": spec});
        let mut created = object.clone();
        let context = CreateContext { namespace: "d", now: now(), uid: "u", name_suffix: "x7k2p" };
        let _ = lifecycle::before_create(&entry, &mut created, &context);
        let _ = lifecycle::before_update(&entry, &mut created.clone(), &created, now());
    }
}

pub fn parse_quantity(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (one, other) = text.split_once('\n').unwrap_or((&text, "1"));
    let (Some(one), Some(other)) = (Quantity::parse(one), Quantity::parse(other)) else { return };
    for quantity in [one, other, one.plus(other), one.minus(other)] {
        let printed = quantity.to_string();
        let again = Quantity::parse(&printed);
        assert!(again.is_some_and(|again| again == quantity), "{quantity:?} prints as {printed:?}");
        // What no binary suffix fits is printed in digits, as Kubernetes does, and read as decimal: then it stays.
        let settled = again.map(|again| again.to_string()).unwrap_or_default();
        let last = Quantity::parse(&settled).map(|last| last.to_string());
        assert_eq!(last, Some(settled), "the canonical form stays");
        let _ = (quantity.milli(), quantity.value());
    }
}

pub fn parse_json_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut value = json!({"a": [{"b": 1, "c": "x"}, {"b": null}], "d": {"e.f": [1, 2, 3]}});
    if let Ok(path) = JsonPath::parse(&text) {
        path.find(&value);
        path.first(&value);
        path.fields();
        path.set(&mut value, json!(7));
    }
}
