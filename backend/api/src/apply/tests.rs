//! Tests of server-side apply, as the stories its documentation tells.
use super::*;
use crate::kind::{Kind, Subresource};
use k8s_openapi::api::apps::v1 as apps;
use proptest::prelude::*;

struct Deployment;
impl Kind for Deployment {
    type Object = apps::Deployment;
    const SINGULAR: &'static str = "deployment";
    const SUBRESOURCES: &'static [Subresource] =
        &[crate::kinds::support::subresource("status", "apps", "v1", "Deployment", &[])];
}

fn entry() -> KindEntry {
    KindEntry::of::<Deployment>()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn with_containers(containers: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": containers}}}))
}

fn containers(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"]
}

fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(&entry(), live, config, manager, false, at(0)).unwrap()
}

fn managers(object: &Value) -> Vec<(String, String)> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    entries.map(|e| (text(&e["manager"]), text(&e["operation"]))).collect()
}

#[test]
fn the_first_apply_owns_what_it_says() {
    let mut config = deployment(json!({"replicas": 3, "strategy": {"type": "Recreate"}}));
    config["metadata"]["labels"] = json!({"app": "web"});
    let object = applied(None, &config, "kubectl");
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:replicas": {}, "f:strategy": {"f:type": {}}},
            },
        }])
    );
}

#[test]
fn applying_the_same_again_changes_nothing_not_even_a_time() {
    let config = deployment(json!({"replicas": 3}));
    let object = applied(None, &config, "kubectl");
    assert_eq!(apply(&entry(), Some(&object), &config, "kubectl", false, at(60)).unwrap(), object);
}

#[test]
fn what_is_applied_no_more_is_removed_with_what_the_server_added_to_it() {
    let first = with_containers(
        json!([{"name": "a", "image": "x", "livenessProbe": {"exec": {"command": ["y"]}}}, {"name": "b"}]),
    );
    let mut live = applied(None, &first, "kubectl");
    live["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = json!(10);
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    let object = applied(Some(&live), &with_containers(json!([{"name": "a", "image": "x"}])), "kubectl");
    assert_eq!(containers(&object), &json!([{"name": "a", "image": "x", "imagePullPolicy": "Always"}]));
}

#[test]
fn a_field_of_another_manager_is_a_conflict_until_forced() {
    let live = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "alice");
    let config = deployment(json!({"replicas": 5}));
    let error = apply(&entry(), Some(&live), &config, "bob", false, at(1)).unwrap_err();
    assert_eq!(error.code(), 409);
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"alice\": .spec.replicas");
    assert_eq!(error.details.causes[0].reason, "FieldManagerConflict");
    assert_eq!(error.details.causes[0].field, ".spec.replicas");
    let object = apply(&entry(), Some(&live), &config, "bob", true, at(1)).unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    let alice = &object["metadata"]["managedFields"][0];
    assert_eq!(alice["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
    // The same value is no disagreement: both own it, and it stays when one lets go.
    let shared = applied(Some(&live), &deployment(json!({"replicas": 3})), "bob");
    let left = applied(Some(&shared), &deployment(json!({"paused": true})), "alice");
    assert_eq!(left["spec"]["replicas"], 3);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let live = with_containers(json!([{"name": "a", "image": "x"}]));
    let mut live = live;
    live["spec"]["replicas"] = json!(1);
    track(&entry(), None, &mut live, "kubectl-edit", "", at(0));
    let mut config = with_containers(json!([{"name": "a", "image": "y"}]));
    config["spec"]["replicas"] = json!(2);
    let error = apply(&entry(), Some(&live), &config, "argo", false, at(1)).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using apps/v1 at 2026-01-01T00:00:00Z:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"a\"].image"
    );
}

#[test]
fn lists_with_keys_are_shared_entry_by_entry() {
    let live = applied(None, &with_containers(json!([{"name": "a", "image": "x"}])), "app");
    let sidecar = with_containers(json!([{"name": "side", "image": "s"}]));
    let both = applied(Some(&live), &sidecar, "mesh");
    assert_eq!(containers(&both), &json!([{"name": "a", "image": "x"}, {"name": "side", "image": "s"}]));
    let gone = applied(Some(&both), &deployment(json!({"template": {"spec": {}}})), "mesh");
    assert_eq!(containers(&gone), &json!([{"name": "a", "image": "x"}]));
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let old = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "kubectl");
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(9);
    track(&entry(), Some(&old), &mut new, "autoscaler", "", at(5));
    assert_eq!(managers(&new), [("kubectl".into(), "Apply".into()), ("autoscaler".into(), "Update".into())]);
    let owned: Vec<&Value> =
        new["metadata"]["managedFields"].as_array().unwrap().iter().map(|e| &e["fieldsV1"]).collect();
    assert_eq!(owned, [&json!({"f:spec": {"f:paused": {}}}), &json!({"f:spec": {"f:replicas": {}}})]);
    let mut same = new.clone();
    track(&entry(), Some(&new), &mut same, "other", "", at(9));
    assert_eq!(same, new);
}

#[test]
fn a_field_that_is_gone_has_no_owner() {
    let old = applied(None, &deployment(json!({"paused": true})), "kubectl");
    let mut new = old.clone();
    new["spec"].as_object_mut().unwrap().remove("paused");
    track(&entry(), Some(&old), &mut new, "editor", "", at(5));
    assert!(managers(&new).is_empty(), "{new}");
}

#[test]
fn an_object_nobody_owned_is_owned_by_what_was_before_the_first_apply() {
    let live = deployment(json!({"replicas": 3}));
    let error = apply(&entry(), Some(&live), &deployment(json!({"replicas": 4})), "kubectl", false, at(0))
        .unwrap_err();
    assert!(error.message.contains("conflict with \"before-first-apply\""), "{}", error.message);
}

#[test]
fn the_status_is_applied_only_through_its_subresource() {
    let mut config = deployment(json!({"replicas": 1}));
    config["status"] = json!({"readyReplicas": 7});
    let object = applied(None, &config, "kubectl");
    assert!(object.get("status").is_none());
    let status =
        apply_to_subresource(&entry(), Some(&object), &config, "ctl", "status", false, at(1)).unwrap();
    assert_eq!(status["status"]["readyReplicas"], 7);
    let entry = &status["metadata"]["managedFields"][1];
    assert_eq!(
        (&entry["subresource"], &entry["fieldsV1"]),
        (&json!("status"), &json!({"f:status": {"f:readyReplicas": {}}}))
    );
}

#[test]
fn annotations_that_nobody_owns_survive_when_the_applied_ones_go() {
    let mut config = deployment(json!({"replicas": 1}));
    config["metadata"]["annotations"] = json!({"mine": "1"});
    let mut live = applied(None, &config, "kubectl");
    live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("4");
    let object = applied(Some(&live), &deployment(json!({"replicas": 1})), "kubectl");
    assert_eq!(object["metadata"]["annotations"], json!({"deployment.kubernetes.io/revision": "4"}));
}

#[test]
fn what_cannot_be_applied_is_a_clear_error() {
    let mut owned = deployment(json!({}));
    owned["metadata"]["managedFields"] = json!([]);
    let rows = [
        (owned, "kubectl", 400, "metadata.managedFields must be nil"),
        (
            deployment(json!({})),
            "",
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            with_containers(json!([{"image": "x"}])),
            "kubectl",
            400,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: \
          associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
        (
            with_containers(json!([{"name": "x"}, {"name": "x"}])),
            "kubectl",
            400,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate \
          entries for key [name=\"x\"]",
        ),
    ];
    for (config, manager, code, message) in rows {
        let error = apply(&entry(), None, &config, manager, false, at(0)).unwrap_err();
        assert_eq!((error.code(), error.message.as_str()), (code, message));
    }
}

#[test]
fn a_field_that_does_not_exist_cannot_be_applied() {
    let config = deployment(json!({"replicas": 1, "replica": 2, "template": {"spce": {}}}));
    let error = apply(&entry(), None, &config, "kubectl", false, at(0)).unwrap_err();
    assert_eq!(
        error.message,
        "failed to create typed patch object (/web; apps/v1, Kind=Deployment): errors:\n  .spec.replica: field not \
         declared in schema\n  .spec.template.spce: field not declared in schema"
    );
}

#[test]
fn old_managers_of_updates_are_put_together() {
    let mut object = deployment(json!({}));
    for number in 0..15 {
        let old = object.clone();
        object["metadata"]["labels"][format!("l{number}")] = json!("x");
        track(&entry(), Some(&old), &mut object, &format!("m{number:02}"), "", at(number));
    }
    let names: Vec<String> = managers(&object).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), MAX_UPDATE_MANAGERS);
    assert!(names.contains(&ANCIENT.to_owned()) && names.contains(&"m14".to_owned()), "{names:?}");
}

fn pod_template(spec: Value) -> Value {
    deployment(json!({"template": {"spec": spec}}))
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in crate::arbitrary::pod_spec(), config in crate::arbitrary::pod_spec()) {
        let live = applied(None, &pod_template(live), "other");
        let config = pod_template(config);
        let once = apply(&entry(), Some(&live), &config, "me", true, at(1)).unwrap();
        let twice = apply(&entry(), Some(&once), &config, "me", false, at(2)).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn one_manager_alone_gets_exactly_what_it_applied_last(
        first in crate::arbitrary::pod_spec(), second in crate::arbitrary::pod_spec(),
    ) {
        let object = applied(None, &pod_template(first), "me");
        let second = pod_template(second);
        let object = applied(Some(&object), &second, "me");
        let expected = applied(None, &second, "me");
        prop_assert_eq!(&object["spec"], &expected["spec"]);
    }

    #[test]
    fn a_forced_apply_gets_its_way(live in crate::arbitrary::pod_spec(), config in crate::arbitrary::pod_spec()) {
        let live = applied(None, &pod_template(live), "other");
        let config = pod_template(config);
        let object = apply(&entry(), Some(&live), &config, "me", true, at(1)).unwrap();
        let again = fields::merge(entry().rules.type_ref(), &object, &config);
        prop_assert_eq!(again, object);
    }
    #[test]
    fn what_two_managers_agree_on_is_both_of_theirs_and_the_rest_goes_with_its_owner(
        first in crate::arbitrary::pod_spec(), second in crate::arbitrary::pod_spec(),
    ) {
        let alone = applied(None, &pod_template(first.clone()), "one");
        let second = pod_template(second);
        // Only where they do not disagree.
        if let Ok(both) = apply(&entry(), Some(&alone), &second, "two", false, at(1)) {
            let merged = fields::merge(entry().rules.type_ref(), &both, &second);
            prop_assert_eq!(&merged["spec"], &both["spec"], "all that the second says is there");
            let again = applied(Some(&both), &pod_template(first), "one");
            prop_assert_eq!(&again["spec"], &both["spec"], "all that the first says is there, too");
            let left = applied(Some(&both), &deployment(json!({})), "two");
            prop_assert_eq!(&left["spec"], &alone["spec"], "the first has what it said, and nothing else");
        }
    }

    #[test]
    fn what_is_taken_by_force_goes_with_who_took_it(
        first in crate::arbitrary::pod_spec(), second in crate::arbitrary::pod_spec(),
    ) {
        let alone = applied(None, &pod_template(first.clone()), "one");
        let second = pod_template(second);
        let taken = apply(&entry(), Some(&alone), &second, "two", true, at(1)).unwrap();
        let all = fields::merge(entry().rules.type_ref(), &alone, &second);
        prop_assert_eq!(&taken["spec"], &all["spec"], "the documented merge, with the second one's values");
        // Where it was not overruled the first one may say the same again. (An order is nobody's, so more may be the same.)
        let next = apply(&entry(), Some(&taken), &pod_template(first), "one", false, at(2));
        let is_unchanged = taken["spec"] == fields::merge(entry().rules.type_ref(), &taken, &alone)["spec"];
        prop_assert!(next.is_ok() || !is_unchanged);
    }
}
