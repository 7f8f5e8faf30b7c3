//! DaemonSets step by step.
use super::*;
use crate::world::World;

fn agent() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "main", "image": "agent:1"}]}},
        },
    })
}

/// `node image`, with `-` for a pod on its way out and `?` for one that does not run yet.
fn pods(world: &World) -> Vec<String> {
    let line = |key: &Key, object: &Value| {
        let pod = world.cluster.pod(key).unwrap();
        let node = pod.node.as_deref().or(pod.target.as_deref()).unwrap_or_default();
        let mark = if pod.is_deleting {
            "-"
        } else if pod.is_ready() {
            ""
        } else {
            "?"
        };
        format!("{node} {}{mark}", text(&object["spec"]["containers"][0], "image"))
    };
    let mut lines: Vec<String> = world.all(PODS).iter().map(|(key, object)| line(key, object)).collect();
    lines.sort();
    lines
}

fn world(nodes: usize) -> World {
    let mut world = World::new();
    for i in 2..=nodes {
        world.add_node(&format!("n{i}"));
    }
    world
}

fn set_image(world: &mut World, set: &Key, image: &str) {
    world.edit(set, |s| s["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
}

fn counts(world: &World, set: &Key) -> [i64; 6] {
    let status = &world.get(set)["status"];
    [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "numberAvailable",
        "updatedNumberScheduled",
        "numberMisscheduled",
    ]
    .map(|field| count(&status[field]))
}

#[test]
fn every_node_that_fits_has_one_pod_and_a_new_node_gets_one() {
    let mut world = world(2);
    let set = world.create(agent());
    world.settle();
    assert_eq!(pods(&world), ["n1 agent:1?", "n2 agent:1?"]);
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:1", "n2 agent:1"]);
    assert_eq!(counts(&world, &set), [2, 2, 2, 2, 2, 0]);
    world.add_node("n3");
    world.converge();
    assert_eq!(counts(&world, &set), [3, 3, 3, 3, 3, 0]);
    world.edit(&set, |s| s["spec"]["template"]["spec"]["nodeSelector"] = json!({"gpu": "yes"}));
    world.converge();
    assert_eq!(counts(&world, &set), [0; 6]);
    world.edit(&Key::new(NODES, "", "n2"), |n| n["metadata"]["labels"]["gpu"] = "yes".into());
    world.converge();
    assert_eq!(pods(&world), ["n2 agent:1"]);
    world.assert_at_rest();
}

#[test]
fn a_node_that_only_keeps_new_pods_away_keeps_its_daemon() {
    let mut world = world(2);
    let set = world.create(agent());
    world.converge();
    let n2 = Key::new(NODES, "", "n2");
    world.edit(&n2, |n| n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]));
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:1", "n2 agent:1"]);
    assert_eq!(counts(&world, &set), [1, 1, 1, 1, 1, 1]);
    world.edit(&n2, |n| n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoExecute"}]));
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:1"]);
    world.assert_at_rest();
}

#[test]
fn an_update_takes_one_node_after_another() {
    let mut world = world(3);
    let set = world.create(agent());
    world.converge();
    set_image(&mut world, &set, "agent:2");
    world.settle();
    assert_eq!(pods(&world), ["n1 agent:1-", "n2 agent:1", "n3 agent:1"]);
    for (key, _) in world.all(PODS).into_iter().filter(|(_, pod)| is_deleting(pod)) {
        world.end_pod(&key);
    }
    world.settle();
    assert_eq!(pods(&world), ["n1 agent:2?", "n2 agent:1", "n3 agent:1"]);
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:2", "n2 agent:2", "n3 agent:2"]);
    assert_eq!(counts(&world, &set), [3, 3, 3, 3, 3, 0]);
    // Its history: `kubectl rollout undo` writes the old template back.
    assert_eq!(world.all(CONTROLLER_REVISIONS).len(), 2);
    set_image(&mut world, &set, "agent:1");
    world.converge();
    let mut numbers: Vec<i64> =
        world.all(CONTROLLER_REVISIONS).iter().map(|(_, r)| count(&r["revision"])).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    world.assert_at_rest();
}

#[test]
fn with_a_surge_the_old_pod_stays_until_the_new_one_serves() {
    let mut world = world(3);
    let mut object = agent();
    object["spec"]["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let set = world.create(object);
    world.converge();
    set_image(&mut world, &set, "agent:2");
    world.settle();
    assert_eq!(pods(&world), ["n1 agent:1", "n1 agent:2?", "n2 agent:1", "n3 agent:1"]);
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:2", "n2 agent:2", "n3 agent:2"]);
    world.assert_at_rest();
}

#[test]
fn a_template_that_is_replaced_before_it_serves_gives_way_before_the_next_is_made() {
    let mut world = world(1);
    let mut object = agent();
    object["spec"]["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let set = world.create(object);
    world.converge();
    set_image(&mut world, &set, "agent:2");
    world.settle();
    assert_eq!(pods(&world), ["n1 agent:1", "n1 agent:2?"]);
    set_image(&mut world, &set, "agent:3");
    // Whatever of a plan is written first; the view has not seen it yet.
    world.settle_checked(&mut |world, _| {
        let live = world.all(PODS).into_iter().filter(|(_, pod)| !is_deleting(pod)).count();
        assert!(live <= 2, "{live} pods on one node");
    });
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:3"]);
}

#[test]
fn on_delete_waits_for_someone_to_delete_a_pod() {
    let mut world = world(2);
    let mut object = agent();
    object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let set = world.create(object);
    world.converge();
    set_image(&mut world, &set, "agent:2");
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:1", "n2 agent:1"]);
    let victim = world.all(PODS).into_iter().find(|(_, pod)| pod["spec"]["nodeName"] == "n2").unwrap().0;
    world.delete(&victim, "Background");
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:1", "n2 agent:2"]);
}

#[test]
fn a_bad_image_stops_within_the_bound_and_the_next_template_replaces_it() {
    let mut world = world(3);
    let set = world.create(agent());
    world.converge();
    set_image(&mut world, &set, "bad");
    for _ in 0..5 {
        world.settle();
        for (key, _) in world.all(PODS).into_iter().filter(|(_, pod)| is_deleting(pod)) {
            world.end_pod(&key);
        }
    }
    assert_eq!(pods(&world), ["n1 bad?", "n2 agent:1", "n3 agent:1"]);
    set_image(&mut world, &set, "agent:3");
    world.converge();
    assert_eq!(pods(&world), ["n1 agent:3", "n2 agent:3", "n3 agent:3"]);
}

#[test]
fn a_failed_pod_is_replaced_after_a_while() {
    let mut world = world(1);
    world.create(agent());
    world.converge();
    let (key, _) = world.all(PODS).remove(0);
    world.edit_status(&key, |pod| pod["status"]["phase"] = "Failed".into());
    world.settle();
    assert_eq!(world.all(PODS)[0].0, key);
    world.pass(RETRY_SECONDS);
    world.converge();
    assert_ne!(world.all(PODS)[0].0, key);
    assert_eq!(pods(&world), ["n1 agent:1"]);
}

#[test]
fn a_pod_that_waits_for_a_node_that_is_gone_goes() {
    let mut world = world(2);
    world.create(agent());
    world.settle();
    world.delete(&Key::new(NODES, "", "n2"), "Background");
    world.settle();
    assert_eq!(pods(&world), ["n1 agent:1?"]);
}

#[test]
fn a_nodes_heartbeat_concerns_no_daemon_set() {
    let mut world = world(1);
    world.create(agent());
    let n1 = Key::new(NODES, "", "n1");
    let old = world.get(&n1).clone();
    let change = |new: Value| Observed {
        key: n1.clone(),
        revision: 1,
        object: Some(new.into()),
        previous: Some(old.clone().into()),
        bytes: Default::default(),
    };
    let mut beat = old.clone();
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:10Z".into();
    assert!(DaemonSets.keys(&change(beat), &world.cluster).is_empty());
    let mut labeled = old.clone();
    labeled["metadata"]["labels"] = json!({"gpu": "yes"});
    assert_eq!(DaemonSets.keys(&change(labeled), &world.cluster).len(), 1);
}
