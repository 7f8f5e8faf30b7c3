//! What holds of StatefulSets: their order, their bound, one pod a name, and that they get there.
use super::{Op, config, op, run};
use crate::Action;
use crate::world::World;
use pilothouse_api::Key;
use proptest::prelude::*;
use serde_json::{Value, json};

fn db(policy: &str, strategy: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "serviceName": "web", "podManagementPolicy": policy, "updateStrategy": strategy,
            "selector": {"matchLabels": {"app": "web"}},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }],
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "web:0"}]},
            },
        },
    })
}

fn strategy() -> impl Strategy<Value = Value> {
    let rolling = |(partition, unavailable): (i64, Option<i64>)| {
        let mut rolling = json!({"partition": partition});
        if let Some(unavailable) = unavailable {
            rolling["maxUnavailable"] = unavailable.into();
        }
        json!({"type": "RollingUpdate", "rollingUpdate": rolling})
    };
    (0..3_i64, prop::option::of(1..3_i64)).prop_map(rolling)
}

fn policy() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("OrderedReady"), Just("Parallel")]
}

fn ordinal(key: &Key) -> i64 {
    key.name.rsplit_once('-').unwrap().1.parse().unwrap()
}

fn is_healthy(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["phase"] == "Running"
        && pod["status"]["conditions"][0]["status"] == "True"
}

/// Pods by ordinal, and whether each is healthy.
fn members(world: &World) -> Vec<(i64, bool)> {
    let ours = |pod: &Value| pod["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet";
    let pods = world.all("pods").into_iter().filter(|(_, pod)| ours(pod));
    pods.map(|(key, pod)| (ordinal(&key), is_healthy(&pod))).collect()
}

fn healthy_in(world: &World, replicas: i64) -> i64 {
    members(world).into_iter().filter(|(ordinal, healthy)| *ordinal < replicas && *healthy).count() as i64
}

fn assert_done(world: &mut World, web: &Key) {
    world.is_blind = false;
    world.catch_up();
    // A broken pod holds an ordered set up until somebody mends it: the nodes do.
    world.edit(web, |s| s["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"}));
    world.converge();
    world.visit_everything();
    world.converge();
    world.assert_at_rest();
    let set = world.get(web).clone();
    let replicas = set["spec"]["replicas"].as_i64().unwrap();
    let members: Vec<(i64, bool)> = members(world);
    assert_eq!(members, (0..replicas).map(|ordinal| (ordinal, true)).collect::<Vec<_>>());
    let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
    for (key, pod) in world.all("pods").iter().filter(|(_, p)| p["metadata"]["labels"]["app"] == "web") {
        assert_eq!(pod["spec"]["containers"][0]["image"], *image, "{key}");
    }
    let status = &set["status"];
    assert_eq!(status["currentRevision"], status["updateRevision"], "{status}");
    for field in ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas", "currentReplicas"] {
        assert_eq!(status[field].as_i64().unwrap_or(0), replicas, "{field} of {status}");
    }
    // One may be left of a pod that was scaled away before it was made: as far as we know, somebody keeps it.
    let claims: Vec<i64> = world.all("persistentvolumeclaims").iter().map(|(key, _)| ordinal(key)).collect();
    assert!((0..replicas).all(|ordinal| claims.contains(&ordinal)), "{claims:?} of {replicas}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_ordered_set_keeps_its_order_and_every_set_its_bound(
        policy in policy(), strategy in strategy(), ops in prop::collection::vec(op(), 1..30),
    ) {
        let mut world = World::new();
        let web = world.create(db(policy, strategy));
        for op in ops.iter().filter(|op| !matches!(op, Op::Blind | Op::Steps(_) | Op::Relabel(_) | Op::Pause(_) | Op::DeleteSet(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
            let replicas = world.get(&web)["spec"]["replicas"].as_i64().unwrap();
            let mut before = healthy_in(&world, replicas);
            world.settle_checked(&mut |world, action| {
                let set = world.get(&web);
                let bound = set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].as_i64().unwrap_or(1);
                let after = healthy_in(world, replicas);
                assert!(after >= (replicas - bound).min(before), "{after} healthy pods after {action:?}");
                before = after;
                if policy != "OrderedReady" {
                    return;
                }
                if let Action::Create { key, .. } = action && &*key.resource == "pods" {
                    let healthy: Vec<i64> = members(world).into_iter().filter(|(_, h)| *h).map(|(o, _)| o).collect();
                    assert!((0..ordinal(key)).all(|o| healthy.contains(&o)), "{key} came before those below it");
                }
            });
        }
        assert_done(&mut world, &web);
    }

    #[test]
    fn every_story_of_a_stateful_set_converges_whatever_the_view_missed(
        policy in policy(), strategy in strategy(), ops in prop::collection::vec(op(), 1..40),
    ) {
        let mut world = World::new();
        let web = world.create(db(policy, strategy));
        for op in ops.iter().filter(|op| !matches!(op, Op::Relabel(_) | Op::Pause(_) | Op::DeleteSet(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
        }
        assert_done(&mut world, &web);
    }

    #[test]
    fn nothing_is_left_of_a_stateful_set_that_was_deleted(
        deletion in prop_oneof![Just("Background"), Just("Foreground")],
        ops in prop::collection::vec(op(), 1..20),
    ) {
        let mut world = World::new();
        let web = world.create(db("Parallel", json!({"type": "RollingUpdate"})));
        for op in ops.iter().filter(|op| !matches!(op, Op::Relabel(_) | Op::Pause(_) | Op::DeleteSet(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
        }
        world.is_blind = false;
        world.catch_up();
        world.delete(&web, deletion);
        world.converge();
        for resource in ["statefulsets.apps", "pods", "controllerrevisions.apps", "persistentvolumeclaims"] {
            prop_assert!(world.all(resource).is_empty(), "{resource}");
        }
    }
}
