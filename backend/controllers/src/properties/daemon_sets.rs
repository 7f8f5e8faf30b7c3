//! What holds of DaemonSets: one pod a node, their bounds, and that they get there.
use super::{Op, config, op, run};
use crate::world::World;
use pilothouse_api::Key;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NODES: usize = 5;

fn agent(strategy: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": strategy},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "web:0"}]},
            },
        },
    })
}

fn strategy() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1..4_i64).prop_map(|n| json!({"maxUnavailable": n})),
        (1..4_i64).prop_map(|n| json!({"maxSurge": n, "maxUnavailable": 0})),
    ]
}

fn is_live(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] != "Failed"
}

/// Live pods and serving pods of each node.
fn by_node(world: &World) -> BTreeMap<String, (i64, i64)> {
    let mut nodes = BTreeMap::new();
    for (key, pod) in world.all("pods").into_iter().filter(|(_, pod)| is_live(pod)) {
        let facts = crate::pod::Pod::new(&pod);
        let Some(node) = facts.node.or(facts.target) else { continue };
        if pod["metadata"]["labels"]["app"] != "web" {
            continue;
        }
        let (live, serving): &mut (i64, i64) = nodes.entry(node.to_string()).or_default();
        *live += 1;
        let ready = pod["status"]["phase"] == "Running" && pod["status"]["conditions"][0]["status"] == "True";
        *serving += i64::from(ready);
        assert!(*live <= 2, "{key} is the third on {node}");
    }
    nodes
}

fn serving(world: &World) -> i64 {
    by_node(world).values().filter(|(_, serving)| *serving > 0).count() as i64
}

fn world_with(strategy: &Value) -> (World, Key) {
    let mut world = World::new();
    for i in 2..=NODES {
        world.add_node(&format!("n{i}"));
    }
    let web = world.create(agent(strategy));
    (world, web)
}

/// Of the common story what makes sense for a set that has no size.
fn fits(op: &Op) -> bool {
    !matches!(op, Op::Scale(_) | Op::Pause(_) | Op::Relabel(_) | Op::DeleteSet(_))
}

fn assert_done(world: &mut World, web: &Key) {
    world.is_blind = false;
    world.catch_up();
    world.converge();
    world.pass(60);
    world.visit_everything();
    world.converge();
    world.pass(60);
    world.converge();
    world.assert_at_rest();
    assert_eq!(by_node(world).into_values().collect::<Vec<_>>(), vec![(1, 1); NODES]);
    let set = world.get(web);
    let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
    let mut pods = world.all("pods").into_iter();
    assert!(pods.all(|(_, pod)| pod["spec"]["containers"][0]["image"] == *image));
    let status = &set["status"];
    for field in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "numberAvailable",
        "updatedNumberScheduled",
    ] {
        assert_eq!(status[field], NODES, "{field} of {status}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_daemon_set_keeps_its_bounds_at_every_write(strategy in strategy(), ops in prop::collection::vec(op(), 1..30)) {
        let (mut world, web) = world_with(&strategy);
        let surge = strategy["maxSurge"].as_i64().unwrap_or(0);
        let unavailable = strategy["maxUnavailable"].as_i64().unwrap();
        for op in ops.iter().filter(|op| fits(op) && !matches!(op, Op::Blind | Op::Steps(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
            let mut before = serving(&world);
            world.settle_checked(&mut |world, action| {
                let nodes = by_node(world);
                let doubled = nodes.values().filter(|(live, _)| *live > 1).count() as i64;
                assert!(doubled == 0 || surge > 0, "two pods on a node by {action:?}");
                let after = serving(world);
                assert!(after >= (NODES as i64 - unavailable).min(before), "{after} nodes serve after {action:?}");
                before = after;
            });
        }
        assert_done(&mut world, &web);
    }

    #[test]
    fn every_story_of_a_daemon_set_converges_whatever_the_view_missed(strategy in strategy(), ops in prop::collection::vec(op(), 1..40)) {
        let (mut world, web) = world_with(&strategy);
        for op in ops.iter().filter(|op| fits(op)) {
            run(&mut world, &web, op, &mut |_, _| {});
        }
        assert_done(&mut world, &web);
    }
}
