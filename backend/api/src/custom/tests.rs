//! Tests of a whole custom kind: what its definition makes of the registry, and how its objects pass.
use super::*;
use crate::Registry;
use crate::lifecycle::{self, CreateContext};
use crate::table::{IncludeObject, table};

fn definition() -> Value {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "color": {"type": "string", "default": "red"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "port": {"x-kubernetes-int-or-string": true}}}},
        }},
        "status": {"type": "object", "properties": {"ready": {"type": "integer"}, "since": {"type": "string"}}},
    }});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.ready"}},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [
                {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                {"name": "Since", "type": "date", "jsonPath": ".status.since", "priority": 1},
            ],
        })
    };
    let names = json!({"plural": "boxes", "singular": "box", "kind": "Box", "listKind": "BoxList", "shortNames": ["bx"]});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names,
            "versions": [version("v1beta1", false), version("v1", true)]},
        "status": {"acceptedNames": names, "conditions": [{"type": "Established", "status": "True"}]},
    })
}

fn registry() -> Registry {
    let mut registry = Registry::builtin();
    entries(&definition()).into_iter().for_each(|entry| registry.insert(entry));
    registry
}

fn create(entry: &KindEntry, mut object: Value) -> Result<Value, crate::Status> {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let context = CreateContext { namespace: "d", now, uid: "u", name_suffix: "x" };
    lifecycle::before_create(entry, &mut object, &context).map(|()| object)
}

fn a_box(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Box", "metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn every_served_version_is_offered_and_one_is_stored() {
    let registry = registry();
    let stored = registry.by_resource("boxes.example.com").unwrap();
    assert_eq!(stored.version, "v1");
    for version in ["v1", "v1beta1"] {
        let entry = registry.by_url("example.com", version, "boxes").unwrap();
        assert_eq!(&*entry.stored_as, "boxes.example.com");
        assert_eq!((entry.short_names[0].as_str(), entry.is_namespaced()), ("bx", true));
        assert!(entry.has_status() && entry.subresource("scale").is_some());
    }
    let mut definition = definition();
    definition["spec"]["versions"][1]["served"] = false.into();
    let mut registry = Registry::builtin();
    entries(&definition).into_iter().for_each(|entry| registry.insert(entry));
    assert!(registry.by_url("example.com", "v1", "boxes").is_none());
    assert_eq!(registry.by_resource("boxes.example.com").unwrap().version, "v1");
    definition["status"]["conditions"] = json!([]);
    assert!(entries(&definition).is_empty());
}

#[test]
fn an_object_is_pruned_defaulted_and_checked_on_its_way_in() {
    let registry = registry();
    let entry = registry.by_resource("boxes.example.com").unwrap();
    let mut object = a_box(json!({"size": 2, "extra": 1, "color": null}));
    object["status"] = json!({"ready": 1});
    let made = create(entry, object.clone()).unwrap();
    assert_eq!(made["spec"], json!({"size": 2, "color": "red"}));
    assert_eq!((&made["metadata"]["generation"], made.get("status")), (&json!(1), None));
    assert_eq!(crate::decode::unknown_fields(entry, &object), ["spec.extra"]);

    let refused = create(entry, a_box(json!({"size": "x", "color": 1}))).unwrap_err();
    let message = "Box.example.com \"a\" is invalid: [spec.color: Invalid value: \"integer\": spec.color in body must be of \
                   type string: \"integer\", spec.size: Invalid value: \"string\": spec.size in body must be of type \
                   integer: \"string\"]";
    assert_eq!((refused.code(), refused.message.as_str()), (422, message));
    let mut broken = a_box(json!({"size": 1}));
    broken["metadata"]["labels"] = json!({"a": 1});
    let refused = create(entry, broken).unwrap_err();
    assert_eq!(refused.code(), 400);
    assert!(refused.message.contains("Go struct field Box.metadata.labels.a of type string"), "{refused}");
}

#[test]
fn spec_and_status_have_their_own_writers_and_the_generation_follows_the_spec() {
    let registry = registry();
    let entry = registry.by_resource("boxes.example.com").unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let old = create(entry, a_box(json!({"size": 2}))).unwrap();
    let mut new = old.clone();
    new["status"] = json!({"ready": 2});
    lifecycle::before_update(entry, &mut new, &old, now).unwrap();
    assert_eq!((&new["metadata"]["generation"], new.get("status")), (&json!(1), None));
    new["spec"]["size"] = 3.into();
    lifecycle::before_update(entry, &mut new, &old, now).unwrap();
    assert_eq!(new["metadata"]["generation"], 2);
    let mut new = old.clone();
    new["status"] = json!({"ready": 2, "extra": 1});
    new["spec"]["size"] = 5.into();
    lifecycle::before_update_status(entry, &mut new, &old, now).unwrap();
    assert_eq!((&new["status"], &new["spec"]["size"]), (&json!({"ready": 2}), &json!(2)));
}

#[test]
fn columns_come_from_the_definition() {
    let registry = registry();
    let entry = registry.by_resource("boxes.example.com").unwrap();
    let mut object = a_box(json!({"size": 2}));
    object["status"] = json!({"since": "2026-01-01T00:00:00Z"});
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let table = table(entry, &[object, a_box(json!({}))], IncludeObject::None, now, json!({}));
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["Name", "Size", "Since"]);
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 2, "60s"]));
    assert_eq!(table["rows"][1]["cells"], json!(["a", null, null]));
}

#[test]
fn apply_merges_lists_by_the_keys_of_the_schema() {
    let registry = registry();
    let entry = registry.by_resource("boxes.example.com").unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let port = |name: &str| json!({"name": name, "port": 1});
    let mut first = a_box(json!({"size": 1, "ports": [port("a")]}));
    first["metadata"]["finalizers"] = json!(["example.com/one"]);
    let live = crate::apply::apply(entry, None, &first, "one", false, now).unwrap();
    let mut second = a_box(json!({"ports": [port("b")]}));
    second["metadata"]["finalizers"] = json!(["example.com/two"]);
    let live = crate::apply::apply(entry, Some(&live), &second, "two", false, now).unwrap();
    assert_eq!(live["spec"]["ports"], json!([port("a"), port("b")]));
    assert_eq!(live["metadata"]["finalizers"], json!(["example.com/one", "example.com/two"]));
    let taken = crate::apply::apply(entry, Some(&live), &a_box(json!({"size": 9})), "two", false, now);
    assert_eq!(taken.unwrap_err().message, "Apply failed with 1 conflict: conflict with \"one\": .spec.size");
    let patch = crate::patch::patch(crate::patch::PatchType::Strategic, entry, &live, &json!({}));
    assert_eq!(patch.unwrap_err().code(), 415);
}

#[test]
fn its_scale_is_where_the_definition_says() {
    let registry = registry();
    let paths = registry.by_resource("boxes.example.com").unwrap().scale.clone().unwrap();
    let mut object = a_box(json!({"size": 2}));
    object["status"] = json!({"ready": 1});
    let scale = paths.scale_of(&object);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(2), &json!(1)));
    paths.set_replicas(&mut object, 5);
    assert_eq!(object["spec"]["size"], 5);
}

#[test]
fn field_selectors_and_explain_know_it() {
    let registry = registry();
    let entry = registry.by_resource("boxes.example.com").unwrap();
    let fields = entry.rules.selectable_fields(&a_box(json!({"color": "blue"})));
    assert_eq!(fields, [("spec.color".to_owned(), "blue".to_owned())]);
    let document = crate::schema::document(&registry, "apis/example.com/v1").unwrap();
    let schema = &document["components"]["schemas"]["com.example.v1.Box"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["default"], "red");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Box");
    assert!(
        document["components"]["schemas"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some()
    );
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/boxes/{name}"]["patch"];
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
}
