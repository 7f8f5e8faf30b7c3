//! Tests of the fixed order that every object passes, on kinds made for them.
use super::*;
use crate::kind::{Kind, Subresource};
use crate::validation::Path;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;

/// A kind with a status and generations.
struct Deployment;
impl Kind for Deployment {
    type Object = apps::Deployment;
    const SINGULAR: &'static str = "deployment";
    const HAS_GENERATION: bool = true;
    const SUBRESOURCES: &'static [Subresource] =
        &[crate::kinds::support::subresource("status", "apps", "v1", "Deployment", &[])];
    fn default(object: &mut Value) {
        if object["spec"]["replicas"].is_null() {
            object["spec"]["replicas"] = json!(1);
        }
    }
    fn validate(object: &apps::Deployment, errors: &mut FieldErrors) {
        if object.spec.as_ref().and_then(|s| s.replicas).is_some_and(|n| n < 0) {
            errors.invalid(&Path::new("spec.replicas"), -1, "must be greater than or equal to 0");
        }
    }
}

/// A kind that ends gracefully, and one that something else holds.
struct Pod;
impl Kind for Pod {
    type Object = core::Pod;
    const SINGULAR: &'static str = "pod";
    fn grace_period_seconds(_object: &Value, requested: Option<i64>) -> i64 {
        requested.unwrap_or(30)
    }
}

struct Namespace;
impl Kind for Namespace {
    type Object = core::Namespace;
    const SINGULAR: &'static str = "namespace";
    fn holds_deletion(object: &Value) -> bool {
        object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
    }
    fn before_marked_for_deletion(object: &mut Value) {
        object["status"]["phase"] = "Terminating".into();
    }
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00.5Z".parse().unwrap()
}

fn create(entry: &KindEntry, mut object: Value) -> Result<Value, Status> {
    let namespace = if entry.is_namespaced() { "d" } else { "" };
    let context = CreateContext { namespace, now: now(), uid: "u1", name_suffix: "x7k2p" };
    before_create(entry, &mut object, &context).map(|()| object)
}

fn web() -> Value {
    create(&KindEntry::of::<Deployment>(), json!({"metadata": {"name": "web"}, "spec": {}})).unwrap()
}

fn update(old: &Value, change: impl Fn(&mut Value)) -> Result<Value, Status> {
    let mut new = old.clone();
    change(&mut new);
    before_update(&KindEntry::of::<Deployment>(), &mut new, old, now()).map(|()| new)
}

#[test]
fn creation_fills_what_the_server_knows() {
    let entry = KindEntry::of::<Deployment>();
    let object = json!({
        "metadata": {"generateName": "web-", "creationTimestamp": null, "uid": "mine", "selfLink": "/x", "generation": 9},
        "spec": {"paused": null}, "status": {"replicas": 7},
    });
    assert_eq!(
        create(&entry, object).unwrap(),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web-x7k2p", "generateName": "web-", "namespace": "d", "uid": "u1",
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1},
            "spec": {"replicas": 1},
        })
    );
    let long = create(&entry, json!({"metadata": {"generateName": "a".repeat(80)}, "spec": {}})).unwrap();
    assert_eq!(meta::name(&long).len(), 63);
}

#[test]
fn what_is_wrong_with_a_new_object_is_told_in_kubernetes_words() {
    let entry = KindEntry::of::<Deployment>();
    let rows = [
        (
            json!({"metadata": {}}),
            422,
            "Deployment.apps \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (json!([]), 400, "the object provided is unrecognized: Deployment is an object"),
        (
            json!({"apiVersion": "v1"}),
            400,
            "the API version in the data (v1) does not match the expected API version (apps/v1)",
        ),
        (
            json!({"metadata": {"name": "x", "namespace": "e"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            json!({"metadata": {"name": "x"}, "spec": {"replicas": "three"}}),
            400,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field \
          Deployment.spec.replicas of type int32",
        ),
        (
            json!({"metadata": {"name": "x"}, "spec": {"replicas": -1}}),
            422,
            "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"metadata": {"name": "x", "finalizers": ["mine"]}}),
            422,
            "Deployment.apps \"x\" is invalid: metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard \
          finalizer name nor is it fully qualified",
        ),
        (
            json!({"metadata": {"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
            422,
            "Deployment.apps \"x\" is invalid: metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
        ),
    ];
    for (object, code, message) in rows {
        let error = create(&entry, object).unwrap_err();
        assert_eq!((error.code(), error.message.as_str()), (code, message));
    }
}

#[test]
fn names_labels_and_annotations_are_checked() {
    let entry = KindEntry::of::<Deployment>();
    let rows = [
        (json!({"name": "Web"}), "metadata.name"),
        (json!({"name": "a".repeat(254)}), "metadata.name"),
        (json!({"name": "a", "generateName": "A-"}), "metadata.generateName"),
        (json!({"name": "a", "labels": {"-": "x"}}), "metadata.labels"),
        (json!({"name": "a", "labels": {"x": "a b"}}), "metadata.labels"),
        (json!({"name": "a", "annotations": {"a b": "x"}}), "metadata.annotations"),
        (json!({"name": "a", "annotations": {"a": "x".repeat(256 * 1024)}}), "metadata.annotations"),
        (json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}), "metadata.finalizers"),
    ];
    for (metadata, field) in rows {
        let error = create(&entry, json!({"metadata": metadata, "spec": {}})).unwrap_err();
        assert_eq!(error.details.causes[0].field, field);
        assert_eq!(error.code(), 422);
    }
    assert!(create(&entry, json!({"metadata": {"name": "a", "annotations": {"A.B/C": "any text"}}})).is_ok());
}

#[test]
fn generation_moves_with_the_spec_only() {
    let old = web();
    let labelled = update(&old, |new| new["metadata"]["labels"] = json!({"a": "b"})).unwrap();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = update(&old, |new| new["spec"]["replicas"] = json!(3)).unwrap();
    assert_eq!(scaled["metadata"]["generation"], 2);
    let defaulted =
        update(&old, |new| drop(new["spec"].as_object_mut().unwrap().remove("replicas"))).unwrap();
    assert_eq!(defaulted, old);
}

#[test]
fn a_spec_write_keeps_the_status_and_a_status_write_the_spec() {
    let entry = KindEntry::of::<Deployment>();
    let mut old = web();
    old["status"] = json!({"replicas": 1});
    let written = update(&old, |new| new["status"] = json!({"replicas": 5})).unwrap();
    assert_eq!(written, old);
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(9);
    new["metadata"]["labels"] = json!({"a": "b"});
    new["status"] = json!({"replicas": 2});
    before_update_status(&entry, &mut new, &old, now()).unwrap();
    let mut expected = old.clone();
    expected["status"] = json!({"replicas": 2});
    expected["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(new, expected);
}

#[test]
fn some_kinds_let_a_status_write_change_no_metadata() {
    let registry = crate::Registry::builtin();
    let rows =
        [("deployments.apps", false, true), ("flowschemas.flowcontrol.apiserver.k8s.io", false, false)];
    for (resource, labels, annotations) in rows {
        let entry = registry.by_resource(resource).unwrap();
        let old = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {}});
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        new["metadata"]["annotations"] = json!({"a": "b"});
        let _ = before_update_status(entry, &mut new, &old, now());
        let has = |field: &str| !new["metadata"][field].is_null();
        assert_eq!((has("labels"), has("annotations")), (labels, annotations), "{resource}");
    }
}

#[test]
fn what_the_server_sets_a_client_cannot_change() {
    let mut old = web();
    old["metadata"]["resourceVersion"] = json!("5");
    let same = update(&old, |new| {
        new["metadata"] =
            json!({"name": "web", "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 70});
    });
    assert_eq!(same.unwrap(), old);
    type Change = fn(&mut Value);
    let rows: [(Change, u16); 5] = [
        (|new| new["metadata"]["uid"] = json!("other"), 409),
        (|new| new["metadata"]["resourceVersion"] = json!("4"), 409),
        (|new| new["metadata"]["name"] = json!("other"), 400),
        (|new| new["metadata"]["namespace"] = json!("other"), 400),
        (|new| new["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"), 422),
    ];
    for (change, code) in rows {
        assert_eq!(update(&old, change).unwrap_err().code(), code);
    }
}

#[test]
fn an_object_being_deleted_takes_no_new_finalizers_and_stays_deleted() {
    let mut old = web();
    old["metadata"]["finalizers"] = json!(["a/b"]);
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    old["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    let undone =
        update(&old, |new| drop(new["metadata"].as_object_mut().unwrap().remove("deletionTimestamp")));
    assert_eq!(undone.unwrap(), old);
    let error = update(&old, |new| new["metadata"]["finalizers"] = json!(["a/b", "c/d"])).unwrap_err();
    assert!(error.message.contains("found new finalizers []string{\"c/d\"}"), "{}", error.message);
    let released = update(&old, |new| new["metadata"]["finalizers"] = json!([])).unwrap();
    let entry = KindEntry::of::<Deployment>();
    assert!(is_released(&entry, &released) && !is_released(&entry, &old));
}

fn delete(entry: &KindEntry, object: &Value, options: Value) -> Result<Deletion, Status> {
    before_delete(entry, object, &DeleteOptions::from_json(&options), now())
}

#[test]
fn a_deletion_removes_or_marks() {
    let entry = KindEntry::of::<Deployment>();
    let web = web();
    assert_eq!(delete(&entry, &web, json!({})).unwrap(), Deletion::Remove);
    assert_eq!(delete(&entry, &web, json!({"orphanDependents": false})).unwrap(), Deletion::Remove);
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let Deletion::Update(marked) = delete(&entry, &web, json!({"propagationPolicy": policy})).unwrap()
        else {
            panic!("{policy} must wait");
        };
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(delete(&entry, &marked, json!({})).unwrap(), Deletion::Unchanged);
        assert_eq!(
            delete(&entry, &marked, json!({"propagationPolicy": "Background"})).unwrap(),
            Deletion::Remove
        );
    }
}

#[test]
fn a_grace_period_can_be_cut_but_not_drawn_out() {
    let entry = KindEntry::of::<Pod>();
    let pod = create(&entry, json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
    assert_eq!(delete(&entry, &pod, json!({"gracePeriodSeconds": 0})).unwrap(), Deletion::Remove);
    let Deletion::Update(marked) = delete(&entry, &pod, json!({})).unwrap() else {
        panic!("a pod ends in order")
    };
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert!(!is_released(&entry, &marked));
    assert_eq!(delete(&entry, &marked, json!({"gracePeriodSeconds": 60})).unwrap(), Deletion::Unchanged);
    let Deletion::Update(sooner) = delete(&entry, &marked, json!({"gracePeriodSeconds": 5})).unwrap() else {
        panic!("5 is less than 30");
    };
    assert_eq!(sooner["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    assert_eq!(delete(&entry, &sooner, json!({"gracePeriodSeconds": 0})).unwrap(), Deletion::Remove);
}

#[test]
fn a_namespace_stays_until_its_own_finalizers_are_gone() {
    let entry = KindEntry::of::<Namespace>();
    let namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}});
    let Deletion::Update(mut marked) = delete(&entry, &namespace, json!({})).unwrap() else {
        panic!("it is held")
    };
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert!(!is_released(&entry, &marked));
    marked["spec"]["finalizers"] = json!([]);
    assert!(is_released(&entry, &marked));
}

#[test]
fn a_precondition_that_does_not_hold_is_a_conflict() {
    let entry = KindEntry::of::<Deployment>();
    let mut web = web();
    web["metadata"]["resourceVersion"] = json!("5");
    let error = delete(&entry, &web, json!({"preconditions": {"uid": "other"}})).unwrap_err();
    assert_eq!(
        error.message,
        "Operation cannot be fulfilled on deployments.apps \"web\": the UID in the precondition (other) does not match \
         the UID in record (u1). The object might have been deleted and then recreated"
    );
    assert_eq!(
        delete(&entry, &web, json!({"preconditions": {"resourceVersion": "4"}})).unwrap_err().code(),
        409
    );
    assert_eq!(
        delete(&entry, &web, json!({"preconditions": {"resourceVersion": "5"}})).unwrap(),
        Deletion::Remove
    );
    assert_eq!(delete(&entry, &web, json!({"propagationPolicy": "Sideways"})).unwrap_err().code(), 422);
}
