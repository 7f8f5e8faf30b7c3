//! Rollouts step by step, as `kubectl rollout` sees them.
use super::*;
use crate::world::{World, deployment};

fn web(world: &mut World, replicas: i64) -> Key {
    let key = world.create(deployment("web", replicas, "web:1"));
    world.converge();
    key
}

fn set_image(world: &mut World, key: &Key, image: &str) {
    world.edit(key, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
}

/// `image revision size`, oldest revision first.
fn sets(world: &World) -> Vec<String> {
    let mut sets: Vec<Value> = world.all(REPLICA_SETS).into_iter().map(|(_, set)| set).collect();
    sets.sort_by_key(|set| annotation(set, REVISION).map(|r| r.parse::<i64>().unwrap()));
    let line = |set: &Value| {
        let image = text(&set["spec"]["template"]["spec"]["containers"][0], "image").to_owned();
        format!("{image} #{} {}", annotation(set, REVISION).unwrap(), replicas(set))
    };
    sets.iter().map(line).collect()
}

fn reason(world: &World, key: &Key, r#type: &str) -> String {
    let condition =
        condition(world.get(key), r#type).map(|c| format!("{} {}", text(c, "status"), text(c, "reason")));
    condition.unwrap_or_default()
}

#[test]
fn a_new_deployment_makes_one_set_with_its_hash_and_its_revision() {
    let mut world = World::new();
    let key = web(&mut world, 2);
    assert_eq!(sets(&world), ["web:1 #1 2"]);
    let (_, set) = world.all(REPLICA_SETS).remove(0);
    let hash = text(&set["metadata"]["labels"], HASH_LABEL);
    assert_eq!(name(&set), format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"][HASH_LABEL], hash);
    assert!(world.all(PODS).iter().all(|(_, pod)| pod["metadata"]["labels"][HASH_LABEL] == hash));
    assert_eq!(annotation(world.get(&key), REVISION), Some("1"));
    let status = &world.get(&key)["status"];
    let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
        .map(|field| count(&status[field]));
    assert_eq!(counts, [2, 2, 2, 2]);
    assert_eq!(status["unavailableReplicas"], Value::Null);
    assert_eq!(reason(&world, &key, "Available"), "True MinimumReplicasAvailable");
    assert_eq!(reason(&world, &key, "Progressing"), "True NewReplicaSetAvailable");
    assert!(
        world.events.contains(&format!("ScalingReplicaSet Scaled up replica set web-{hash} from 0 to 2")),
        "{:?}",
        world.events
    );
    world.assert_at_rest();
}

#[test]
fn a_rollout_keeps_history_and_undo_brings_the_old_set_back_as_the_newest_revision() {
    let mut world = World::new();
    let key = web(&mut world, 3);
    set_image(&mut world, &key, "web:2");
    world.converge();
    assert_eq!(sets(&world), ["web:1 #1 0", "web:2 #2 3"]);
    // `kubectl rollout undo` writes the old template back.
    set_image(&mut world, &key, "web:1");
    world.converge();
    assert_eq!(sets(&world), ["web:2 #2 0", "web:1 #3 3"]);
    assert_eq!(annotation(world.get(&key), REVISION), Some("3"));
    let back = world.all(REPLICA_SETS).into_iter().find(|(_, set)| replicas(set) == 3).unwrap().1;
    assert_eq!(annotation(&back, HISTORY), Some("1"));
    assert_eq!(world.all(PODS).len(), 3);
}

#[test]
fn a_bad_image_stops_within_the_bounds_and_is_told_after_the_deadline() {
    let mut world = World::new();
    let key = web(&mut world, 4);
    set_image(&mut world, &key, "bad");
    world.settle();
    // 25 % of 4: one more, one less.
    assert_eq!(sets(&world), ["web:1 #1 3", "bad #2 2"]);
    for (pod, _) in world.all(PODS).into_iter().filter(|(_, p)| is_deleting(p)) {
        world.end_pod(&pod);
    }
    world.settle();
    assert_eq!(sets(&world), ["web:1 #1 3", "bad #2 2"]);
    world.pass(601);
    world.settle();
    assert_eq!(reason(&world, &key, "Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(reason(&world, &key, "Available"), "True MinimumReplicasAvailable");
    set_image(&mut world, &key, "web:1");
    world.converge();
    assert_eq!(sets(&world), ["bad #2 0", "web:1 #3 4"]);
    assert_eq!(reason(&world, &key, "Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let mut world = World::new();
    let key = web(&mut world, 2);
    world.edit(&key, |d| d["spec"]["paused"] = true.into());
    set_image(&mut world, &key, "web:2");
    world.edit(&key, |d| d["spec"]["replicas"] = 3.into());
    world.converge();
    assert_eq!(sets(&world), ["web:1 #1 3"]);
    assert_eq!(reason(&world, &key, "Progressing"), "Unknown DeploymentPaused");
    world.edit(&key, |d| d["spec"]["replicas"] = 0.into());
    world.converge();
    world.edit(&key, |d| d["spec"]["replicas"] = 2.into());
    world.converge();
    assert_eq!(sets(&world), ["web:1 #1 2"], "it comes back from nothing, too");
    world.edit(&key, |d| d["spec"]["paused"] = false.into());
    world.converge();
    assert_eq!(sets(&world), ["web:1 #1 0", "web:2 #2 2"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    let mut world = World::new();
    let mut object = deployment("web", 10, "web:1");
    object["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let key = world.create(object);
    world.converge();
    set_image(&mut world, &key, "web:2");
    world.settle();
    assert_eq!(sets(&world), ["web:1 #1 8", "web:2 #2 5"]);
    // The example of Kubernetes' documentation, "Proportional scaling".
    world.edit(&key, |d| d["spec"]["replicas"] = 15.into());
    world.settle();
    assert_eq!(sets(&world), ["web:1 #1 11", "web:2 #2 7"]);
    world.converge();
    assert_eq!(sets(&world), ["web:1 #1 0", "web:2 #2 15"]);
}

#[test]
fn only_so_many_old_sets_are_kept() {
    let mut world = World::new();
    let key = web(&mut world, 1);
    world.edit(&key, |d| d["spec"]["revisionHistoryLimit"] = 2.into());
    for version in 2..7 {
        set_image(&mut world, &key, &format!("web:{version}"));
        world.converge();
    }
    assert_eq!(sets(&world), ["web:4 #4 0", "web:5 #5 0", "web:6 #6 1"]);
}

#[test]
fn a_set_that_was_orphaned_is_taken_over_again() {
    let mut world = World::new();
    let key = web(&mut world, 2);
    let (set, _) = world.all(REPLICA_SETS).remove(0);
    let pods = world.all(PODS);
    world.delete(&key, "Orphan");
    world.converge();
    world.create(deployment("web", 2, "web:1"));
    world.converge();
    assert_eq!(controller_of(world.get(&set)).unwrap()["name"], "web");
    let names = |pods: Vec<(Key, Value)>| pods.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(names(world.all(PODS)), names(pods), "no pod was restarted");
}

#[test]
fn a_name_that_is_taken_by_another_template_is_passed_over() {
    let mut world = World::new();
    let first = web(&mut world, 1);
    let taken = world.all(REPLICA_SETS).remove(0).0;
    world.delete(&first, "Orphan");
    world.converge();
    world.edit(&taken, |set| set["metadata"]["labels"] = json!({"app": "somebody-else"}));
    let key = web(&mut world, 1);
    assert_eq!(world.get(&key)["status"]["collisionCount"], 1);
    assert_eq!(world.all(REPLICA_SETS).len(), 2);
    assert_eq!(world.get(&key)["status"]["availableReplicas"], 1);
}

#[test]
fn annotations_reach_the_set_and_a_new_min_ready_time_does_too() {
    let mut world = World::new();
    let key = web(&mut world, 1);
    world.edit(&key, |d| {
        d["metadata"]["annotations"]["kubernetes.io/change-cause"] = "because".into();
        d["metadata"]["annotations"][LAST_APPLIED] = "{}".into();
        d["spec"]["minReadySeconds"] = 5.into();
    });
    world.converge();
    let (_, set) = world.all(REPLICA_SETS).remove(0);
    assert_eq!(annotation(&set, "kubernetes.io/change-cause"), Some("because"));
    assert_eq!(annotation(&set, LAST_APPLIED), None);
    assert_eq!(set["spec"]["minReadySeconds"], 5);
}

#[test]
fn a_crash_after_the_rollout_does_not_start_the_deadline() {
    let mut world = World::new();
    let key = web(&mut world, 2);
    let (pod, _) = world.all(PODS).remove(0);
    world.run_pod(&pod, false);
    world.settle();
    world.pass(3600);
    world.settle();
    assert_eq!(reason(&world, &key, "Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(world.get(&key)["status"]["unavailableReplicas"], 1);
}

#[test]
fn bounds_round_surge_up_and_unavailable_down() {
    let rows = [
        (json!("25%"), 4, true, 1),
        (json!("25%"), 5, true, 2),
        (json!("25%"), 5, false, 1),
        (json!("25%"), 3, false, 0),
        (json!(2), 9, true, 2),
    ];
    for (value, total, up, expected) in rows {
        assert_eq!(bound(&value, total, up), expected, "{value} of {total}");
    }
}

#[test]
fn a_deployment_tells_that_its_pods_may_not_be_made() {
    let mut world = World::new();
    world.refuses = Some("exceeded quota: small".into());
    let key = world.create(deployment("web", 2, "web:1"));
    world.settle();
    assert_eq!(reason(&world, &key, "ReplicaFailure"), "True FailedCreate");
    assert_eq!(reason(&world, &key, "Available"), "False MinimumReplicasUnavailable");
    world.refuses = None;
    world.pass(60);
    world.converge();
    assert_eq!(reason(&world, &key, "ReplicaFailure"), "");
    assert_eq!(reason(&world, &key, "Available"), "True MinimumReplicasAvailable");
}

#[test]
fn a_new_size_and_a_new_template_at_once_stay_within_the_bounds() {
    let mut world = World::new();
    let key = web(&mut world, 2);
    world.edit(&key, |d| d["spec"]["replicas"] = 6.into());
    set_image(&mut world, &key, "web:2");
    world.settle_checked(&mut |world, action| {
        let total: i64 = world.all(REPLICA_SETS).iter().map(|(_, set)| replicas(set)).sum();
        assert!(total <= 8, "{total} by {action:?}");
    });
    world.converge();
    assert_eq!(sets(&world), ["web:1 #1 0", "web:2 #2 6"]);
}
