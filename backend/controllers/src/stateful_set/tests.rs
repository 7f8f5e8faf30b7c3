//! StatefulSets step by step.
use super::*;
use crate::world::World;
use serde_json::json;

fn db(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "main", "image": "db:1"}]}},
        },
    })
}

fn with_claims(mut set: Value, when_scaled: &str, when_deleted: &str) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": spec}]);
    set["spec"]["persistentVolumeClaimRetentionPolicy"] =
        json!({"whenScaled": when_scaled, "whenDeleted": when_deleted});
    set
}

/// Names of a resource's objects; those on their way out with a minus.
fn names(world: &World, resource: &str) -> Vec<String> {
    let mark = |object: &Value| if is_deleting(object) { "-" } else { "" };
    world.all(resource).iter().map(|(key, object)| format!("{}{}", key.name, mark(object))).collect()
}

fn images(world: &World) -> Vec<String> {
    let image = |pod: &Value| text(&pod["spec"]["containers"][0], "image").to_owned();
    world.all(PODS).iter().map(|(_, pod)| image(pod)).collect()
}

fn pod(name: &str) -> Key {
    Key::new(PODS, "default", name)
}

fn set_image(world: &mut World, set: &Key, image: &str) {
    world.edit(set, |s| s["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
}

fn status(world: &World, set: &Key) -> String {
    let status = &world.get(set)["status"];
    let counts = ["replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"];
    let same = status["currentRevision"] == status["updateRevision"];
    format!("{:?} {}", counts.map(|field| count(&status[field])), if same { "done" } else { "rolling" })
}

#[test]
fn an_ordered_set_makes_one_pod_after_another_and_removes_them_the_other_way_round() {
    let mut world = World::new();
    let set = world.create(db(3));
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0"]);
    world.run_pod(&pod("db-0"), false);
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0"], "the next waits until it is ready");
    world.run_pod(&pod("db-0"), true);
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0", "db-1"]);
    world.converge();
    assert_eq!(names(&world, PODS), ["db-0", "db-1", "db-2"]);
    assert_eq!(status(&world, &set), "[3, 3, 3, 3, 3] done");
    let made = world.get(&pod("db-1"));
    let revision = text(&world.get(&set)["status"], "updateRevision");
    assert_eq!(
        made["metadata"]["labels"],
        json!({"app": "db", REVISION_LABEL: revision, POD_NAME_LABEL: "db-1", INDEX_LABEL: "1"})
    );
    assert_eq!((&made["spec"]["hostname"], &made["spec"]["subdomain"]), (&json!("db-1"), &json!("db")));
    world.assert_at_rest();

    world.edit(&set, |s| s["spec"]["replicas"] = 1.into());
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0", "db-1", "db-2-"]);
    world.end_pod(&pod("db-2"));
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0", "db-1-"]);
    world.converge();
    assert_eq!(names(&world, PODS), ["db-0"]);
}

#[test]
fn a_parallel_set_makes_and_removes_its_pods_at_once() {
    let mut world = World::new();
    let mut object = db(3);
    object["spec"]["podManagementPolicy"] = "Parallel".into();
    object["spec"]["ordinals"] = json!({"start": 5});
    let set = world.create(object);
    world.settle();
    assert_eq!(names(&world, PODS), ["db-5", "db-6", "db-7"]);
    world.converge();
    world.edit(&set, |s| s["spec"]["replicas"] = 0.into());
    world.settle();
    assert_eq!(names(&world, PODS), ["db-5-", "db-6-", "db-7-"]);
    world.converge();
    assert_eq!(names(&world, PODS), Vec::<String>::new());
}

#[test]
fn scaling_halts_while_a_pod_is_broken() {
    let mut world = World::new();
    let set = world.create(db(3));
    world.converge();
    for i in 0..3 {
        world.run_pod(&pod(&format!("db-{i}")), false);
    }
    world.edit(&set, |s| s["spec"]["replicas"] = 0.into());
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0", "db-1", "db-2"]);
    world.converge();
    assert_eq!(names(&world, PODS), Vec::<String>::new());
}

#[test]
fn a_rolling_update_goes_from_the_last_pod_to_the_first_and_leaves_the_partition_alone() {
    let mut world = World::new();
    let set = world.create(db(3));
    world.converge();
    world.edit(&set, |s| s["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 1.into());
    set_image(&mut world, &set, "db:2");
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0", "db-1", "db-2-"]);
    world.converge();
    assert_eq!(images(&world), ["db:1", "db:2", "db:2"]);
    assert_eq!(status(&world, &set), "[3, 3, 3, 1, 2] rolling");
    // A pod below the partition comes back as it was.
    world.delete(&pod("db-0"), "Background");
    world.converge();
    assert_eq!(images(&world), ["db:1", "db:2", "db:2"]);
    world.edit(&set, |s| s["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 0.into());
    world.converge();
    assert_eq!(images(&world), ["db:2", "db:2", "db:2"]);
    assert_eq!(status(&world, &set), "[3, 3, 3, 3, 3] done");
    world.assert_at_rest();
}

#[test]
fn as_many_as_may_be_unavailable_are_replaced_at_once() {
    let mut world = World::new();
    let mut object = db(4);
    object["spec"]["podManagementPolicy"] = "Parallel".into();
    object["spec"]["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    let set = world.create(object);
    world.converge();
    set_image(&mut world, &set, "db:2");
    world.settle();
    assert_eq!(names(&world, PODS), ["db-0", "db-1", "db-2-", "db-3-"]);
    world.converge();
    assert_eq!(images(&world), ["db:2"; 4]);
}

#[test]
fn on_delete_a_pod_changes_only_when_someone_deletes_it() {
    let mut world = World::new();
    let mut object = db(2);
    object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let set = world.create(object);
    world.converge();
    set_image(&mut world, &set, "db:2");
    world.converge();
    assert_eq!(images(&world), ["db:1", "db:1"]);
    world.delete(&pod("db-0"), "Background");
    world.converge();
    assert_eq!(images(&world), ["db:2", "db:1"]);
}

#[test]
fn history_is_kept_up_to_the_limit_and_an_old_template_comes_back_as_the_newest_revision() {
    let mut world = World::new();
    let mut object = db(1);
    object["spec"]["revisionHistoryLimit"] = 1.into();
    let set = world.create(object);
    world.converge();
    let first = text(&world.get(&set)["status"], "currentRevision").to_owned();
    set_image(&mut world, &set, "db:2");
    world.converge();
    set_image(&mut world, &set, "db:1");
    world.converge();
    assert_eq!(text(&world.get(&set)["status"], "currentRevision"), first);
    let revisions = world.all(CONTROLLER_REVISIONS);
    assert_eq!(revisions.len(), 2);
    assert_eq!(world.get(&Key::new(CONTROLLER_REVISIONS, "default", first))["revision"], 3);
    set_image(&mut world, &set, "db:3");
    world.converge();
    assert_eq!(world.all(CONTROLLER_REVISIONS).len(), 2, "one live, one past");
    world.assert_at_rest();
}

#[test]
fn claims_come_before_the_pod_and_stay_unless_told_otherwise() {
    let mut world = World::new();
    let set = world.create(with_claims(db(2), "Retain", "Retain"));
    world.converge();
    assert_eq!(names(&world, CLAIMS), ["data-db-0", "data-db-1"]);
    let volume = &world.get(&pod("db-1"))["spec"]["volumes"][0];
    assert_eq!(*volume, json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}));
    world.delete(&set, "Background");
    world.converge();
    assert_eq!(names(&world, PODS), Vec::<String>::new());
    assert_eq!(names(&world, CLAIMS), ["data-db-0", "data-db-1"]);
}

#[test]
fn claims_go_with_their_pod_or_their_set_when_told_so() {
    let mut world = World::new();
    let set = world.create(with_claims(db(3), "Delete", "Delete"));
    world.converge();
    world.edit(&set, |s| s["spec"]["replicas"] = 1.into());
    world.converge();
    assert_eq!(names(&world, CLAIMS), ["data-db-0"]);
    world.edit(&set, |s| s["spec"]["replicas"] = 2.into());
    world.converge();
    assert_eq!(
        (names(&world, PODS), names(&world, CLAIMS)),
        (vec!["db-0".into(), "db-1".into()], vec!["data-db-0".into(), "data-db-1".into()])
    );
    // A pod deleted by hand keeps its claim.
    let claim = uid(world.get(&Key::new(CLAIMS, "default", "data-db-1"))).to_owned();
    world.delete(&pod("db-1"), "Background");
    world.converge();
    assert_eq!(uid(world.get(&Key::new(CLAIMS, "default", "data-db-1"))), claim);
    world.edit(&set, |s| s["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = "Retain".into());
    world.converge();
    world.edit(&set, |s| s["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = "Delete".into());
    world.converge();
    world.assert_at_rest();
    world.delete(&set, "Background");
    world.converge();
    assert_eq!(names(&world, CLAIMS), Vec::<String>::new());
}

#[test]
fn a_claim_is_controlled_by_what_it_goes_with() {
    let mut world = World::new();
    world.create(with_claims(db(1), "Retain", "Delete"));
    world.converge();
    let claim = Key::new(CLAIMS, "default", "data-db-0");
    world.edit(&claim, |c| c["metadata"]["ownerReferences"][0]["controller"] = false.into());
    world.converge();
    let owners = &world.get(&claim)["metadata"]["ownerReferences"];
    assert_eq!((owners.as_array().unwrap().len(), &owners[0]["controller"]), (1, &json!(true)));
    world.assert_at_rest();
}

#[test]
fn a_failed_pod_is_replaced_under_its_name_and_strangers_are_not_touched() {
    let mut world = World::new();
    let spec = json!({"containers": [{"name": "main", "image": "other"}]});
    let stranger =
        world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db-1"}, "spec": spec}));
    let set = world.create(db(2));
    world.converge();
    assert_eq!(images(&world), ["db:1", "other"]);
    world.delete(&stranger, "Background");
    world.converge();
    assert_eq!(images(&world), ["db:1", "db:1"]);
    let before = uid(world.get(&pod("db-0"))).to_owned();
    world.edit_status(&pod("db-0"), |pod| pod["status"]["phase"] = "Failed".into());
    world.converge();
    assert_ne!(uid(world.get(&pod("db-0"))), before);
    assert_eq!(status(&world, &set), "[2, 2, 2, 2, 2] done");
}

#[test]
fn the_pods_and_revisions_of_an_orphaned_set_are_taken_over_by_one_like_it() {
    let mut world = World::new();
    let set = world.create(db(2));
    world.converge();
    let before: Vec<String> = world.all(PODS).iter().map(|(_, pod)| uid(pod).to_owned()).collect();
    world.delete(&set, "Orphan");
    world.converge();
    world.create(db(2));
    world.converge();
    let after: Vec<String> = world.all(PODS).iter().map(|(_, pod)| uid(pod).to_owned()).collect();
    assert_eq!(before, after);
    assert_eq!(world.all(CONTROLLER_REVISIONS).len(), 1);
    world.assert_at_rest();
}

#[test]
fn names_tell_ordinals() {
    let key = Key::new(STATEFUL_SETS, "default", "db");
    let rows = [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-01", None),
        ("db-", None),
        ("db-x", None),
        ("dbx-1", None),
        ("db-1-2", None),
        ("db--1", None),
    ];
    for (name, expected) in rows {
        assert_eq!(ordinal(&key, name), expected, "{name}");
    }
}
