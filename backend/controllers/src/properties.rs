//! What holds of all controllers, whatever happens: limits at every write, convergence, rest, nothing unseen deleted.
mod daemon_sets;
mod jobs;
mod stateful_sets;
mod volumes;

use crate::Action;
use crate::world::{World, deployment};
use pilothouse_api::Key;
use pilothouse_api::lifecycle::DeleteOptions;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Op {
    Scale(i64),
    Image(u8),
    Pause(bool),
    Ready(usize),
    Unready(usize),
    Fail(usize),
    DeletePod(usize),
    EndPods,
    Relabel(usize),
    DeleteSet(usize),
    Settle,
    Steps(usize),
    Blind,
    See,
    Pass(i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..8_i64).prop_map(Op::Scale),
        3 => (0..4_u8).prop_map(Op::Image),
        1 => any::<bool>().prop_map(Op::Pause),
        6 => (0..20_usize).prop_map(Op::Ready),
        2 => (0..20_usize).prop_map(Op::Unready),
        1 => (0..20_usize).prop_map(Op::Fail),
        1 => (0..20_usize).prop_map(Op::DeletePod),
        4 => Just(Op::EndPods),
        1 => (0..20_usize).prop_map(Op::Relabel),
        1 => (0..4_usize).prop_map(Op::DeleteSet),
        8 => Just(Op::Settle),
        4 => (1..6_usize).prop_map(Op::Steps),
        2 => Just(Op::Blind),
        3 => Just(Op::See),
        1 => (1..700_i64).prop_map(Op::Pass),
    ]
}

/// Of the pods that live: one that has ended does not come back.
fn nth_pod(world: &World, at: usize) -> Option<Key> {
    let lives =
        |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] != "Failed";
    let live: Vec<Key> =
        world.all("pods").into_iter().filter(|(_, pod)| lives(pod)).map(|(key, _)| key).collect();
    (!live.is_empty()).then(|| live[at % live.len()].clone())
}

fn run(world: &mut World, web: &Key, op: &Op, check: &mut dyn FnMut(&World, &Action)) {
    match op {
        Op::Scale(n) => world.edit(web, |d| d["spec"]["replicas"] = (*n).into()),
        Op::Image(i) => world.edit(web, |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = format!("web:{i}").into()
        }),
        Op::Pause(paused) => world.edit(web, |d| d["spec"]["paused"] = (*paused).into()),
        Op::Ready(i) => drop(nth_pod(world, *i).map(|pod| world.run_pod(&pod, true))),
        Op::Unready(i) => drop(nth_pod(world, *i).map(|pod| world.run_pod(&pod, false))),
        Op::Fail(i) => drop(
            nth_pod(world, *i).map(|pod| world.edit_status(&pod, |p| p["status"]["phase"] = "Failed".into())),
        ),
        Op::DeletePod(i) => drop(nth_pod(world, *i).map(|pod| world.delete(&pod, "Background"))),
        Op::Relabel(i) => drop(
            nth_pod(world, *i)
                .map(|pod| world.edit(&pod, |p| p["metadata"]["labels"] = json!({"app": "other"}))),
        ),
        Op::DeleteSet(i) => {
            let sets = world.all("replicasets.apps");
            if let Some((key, _)) = sets.get(*i) {
                world.delete(key, "Background");
            }
        }
        Op::EndPods => {
            for (key, _) in
                world.all("pods").iter().filter(|(_, p)| !p["metadata"]["deletionTimestamp"].is_null())
            {
                world.end_pod(key);
            }
        }
        Op::Settle => {
            world.is_blind = false;
            world.catch_up();
            world.settle_checked(check);
        }
        Op::Steps(n) => {
            for _ in 0..*n {
                world.step_checked(check);
            }
        }
        Op::Blind => world.is_blind = true,
        Op::See => {
            world.is_blind = false;
            world.catch_up();
        }
        Op::Pass(seconds) => world.pass(*seconds),
    }
}

fn bound(value: &Value, total: i64, up: bool) -> i64 {
    match value.as_str() {
        Some(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap();
            (total * percent + if up { 99 } else { 0 }) / 100
        }
        None => value.as_i64().unwrap(),
    }
}

/// Desired replicas and the bounds of a deployment.
fn bounds(web: &Value) -> (i64, i64, i64) {
    let desired = web["spec"]["replicas"].as_i64().unwrap();
    let rolling = &web["spec"]["strategy"]["rollingUpdate"];
    let surge = bound(&rolling["maxSurge"], desired, true);
    let unavailable = bound(&rolling["maxUnavailable"], desired, false);
    if surge == 0 && unavailable == 0 { (desired, 0, 1) } else { (desired, surge, unavailable) }
}

fn total(world: &World) -> i64 {
    world.all("replicasets.apps").iter().map(|(_, set)| set["spec"]["replicas"].as_i64().unwrap()).sum()
}

fn ready(world: &World) -> i64 {
    let ready = |pod: &Value| {
        pod["metadata"]["deletionTimestamp"].is_null()
            && pod["metadata"]["labels"]["app"] == "web"
            && pod["status"]["phase"] == "Running"
            && pod["status"]["conditions"][0]["status"] == "True"
    };
    i64::try_from(world.all("pods").iter().filter(|(_, pod)| ready(pod)).count()).unwrap()
}

/// The end every story must come to: one set at full size, all pods ready, nobody left with anything to do.
fn assert_done(world: &mut World, web: &Key) {
    world.is_blind = false;
    world.catch_up();
    world.edit(web, |d| d["spec"]["paused"] = false.into());
    world.converge();
    world.visit_everything();
    world.converge();
    world.assert_at_rest();
    let web = world.get(web).clone();
    let desired = web["spec"]["replicas"].as_i64().unwrap();
    assert_eq!(total(world), desired);
    assert_eq!(ready(world), desired);
    let image = &web["spec"]["template"]["spec"]["containers"][0]["image"];
    let ours = world
        .all("pods")
        .into_iter()
        .filter(|(_, p)| p["metadata"]["labels"]["app"] == "web" && p["status"]["phase"] != "Failed");
    assert!(ours.clone().all(|(_, pod)| pod["spec"]["containers"][0]["image"] == *image));
    assert_eq!(i64::try_from(ours.count()).unwrap(), desired);
    let status = &web["status"];
    assert_eq!(status["updatedReplicas"].as_i64().unwrap_or(0), desired, "{status}");
    assert_eq!(status["availableReplicas"].as_i64().unwrap_or(0), desired, "{status}");
    assert_eq!(status["observedGeneration"], web["metadata"]["generation"]);
    let progressing =
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Progressing").unwrap();
    assert_eq!(progressing["reason"], "NewReplicaSetAvailable", "{status}");
}

/// The same stories at every run; `PROPTEST_CASES=5000` tells other ones, and more.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(64),
        rng_seed: if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(7) },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn strategy() -> impl Strategy<Value = Value> {
    let number = |most: i64| {
        prop_oneof![
            (0..=most).prop_map(Value::from),
            (0..=10_i64).prop_map(|p| json!(format!("{}%", p * 10)))
        ]
    };
    (number(3), number(3)).prop_filter("one of the bounds must let it move", |(surge, unavailable)| {
        let none = |v: &Value| *v == json!(0) || *v == json!("0%");
        !none(surge) || !none(unavailable)
    })
    .prop_map(|(surge, unavailable)| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
}

proptest! {
    #![proptest_config(config())]

    /// Each event is seen before the next happens, so the bounds hold exactly, at every single write.
    #[test]
    fn a_rollout_keeps_its_bounds_at_every_write(strategy in strategy(), ops in prop::collection::vec(op(), 1..30)) {
        let mut world = World::new();
        let mut object = deployment("web", 4, "web:0");
        object["spec"]["strategy"] = strategy;
        let web = world.create(object);
        for op in ops.iter().filter(|op| !matches!(op, Op::Blind | Op::Steps(_) | Op::Relabel(_) | Op::DeleteSet(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
            let mut before = (total(&world), ready(&world));
            world.settle_checked(&mut |world, action| {
                let (desired, surge, unavailable) = bounds(world.get(&web));
                let after = (total(world), ready(world));
                let most = desired + if desired > 0 { surge } else { 0 };
                assert!(after.0 <= most.max(before.0), "{} replicas where {most} are allowed, by {action:?}", after.0);
                let fewest = (desired - unavailable).min(before.1);
                assert!(after.1 >= fewest, "{} ready pods where {fewest} are wanted, by {action:?}", after.1);
                before = after;
            });
        }
        assert_done(&mut world, &web);
    }

    /// Views lag, plans are written against a state that moved on, pods and sets vanish: all ends well.
    #[test]
    fn every_story_converges_whatever_the_view_missed(strategy in strategy(), ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        let mut object = deployment("web", 3, "web:0");
        object["spec"]["strategy"] = strategy;
        let web = world.create(object);
        for op in &ops {
            run(&mut world, &web, op, &mut |_, _| {});
        }
        assert_done(&mut world, &web);
    }

    #[test]
    fn a_recreated_deployment_never_runs_two_templates_at_once(ops in prop::collection::vec(op(), 1..30)) {
        let mut world = World::new();
        let mut object = deployment("web", 3, "web:0");
        object["spec"]["strategy"] = json!({"type": "Recreate"});
        let web = world.create(object);
        for op in ops.iter().filter(|op| !matches!(op, Op::Blind | Op::Steps(_) | Op::Relabel(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
            world.settle_checked(&mut |world, action| {
                let Action::Create { key, .. } = action else { return };
                if &*key.resource != "pods" {
                    return;
                }
                let live = world.all("pods").into_iter().filter(|(_, p)| p["status"]["phase"] != "Failed");
                let images: std::collections::BTreeSet<String> =
                    live.map(|(_, pod)| pod["spec"]["containers"][0]["image"].to_string()).collect();
                assert!(images.len() <= 1, "{images:?} run together");
            });
        }
        assert_done(&mut world, &web);
    }

    /// A plan that was written only in part, by a server that died, is continued by the next.
    #[test]
    fn a_server_may_die_between_any_two_writes(cut in 0..12_usize, image in 1..3_u8) {
        let mut world = World::new();
        let web = world.create(deployment("web", 5, "web:0"));
        world.converge();
        world.edit(&web, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = format!("web:{image}").into());
        let mut left = cut;
        while left > 0 {
            let due: Vec<_> = world.controllers.iter().flat_map(|c| c.all_keys(&world.cluster).into_iter().map(|k| (c.name(), k))).collect();
            let Some(action) = due.iter().find_map(|(name, key)| world.plan(name, key).actions.into_iter().find(|a| !matches!(a, Action::Event { .. }))) else { break };
            let _ = world.carry_out(&action);
            left -= 1;
        }
        world.visit_everything();
        assert_done(&mut world, &web);
    }

    #[test]
    fn nothing_is_left_of_a_deployment_that_was_deleted(
        policy in prop_oneof![Just("Background"), Just("Foreground")],
        ops in prop::collection::vec(op(), 1..20),
    ) {
        let mut world = World::new();
        let web = world.create(deployment("web", 3, "web:0"));
        for op in ops.iter().filter(|op| !matches!(op, Op::Relabel(_))) {
            run(&mut world, &web, op, &mut |_, _| {});
        }
        world.is_blind = false;
        world.catch_up();
        world.delete(&web, policy);
        world.converge();
        prop_assert!(world.all("deployments.apps").is_empty());
        prop_assert!(world.all("replicasets.apps").is_empty());
        prop_assert!(world.all("pods").is_empty());
    }

    #[test]
    fn an_orphaned_set_and_its_pods_stay(ready in 0..4_usize) {
        let mut world = World::new();
        let web = world.create(deployment("web", 3, "web:0"));
        world.settle();
        for i in 0..ready {
            run(&mut world, &web, &Op::Ready(i), &mut |_, _| {});
        }
        world.delete(&web, "Orphan");
        world.converge();
        prop_assert!(world.all("deployments.apps").is_empty());
        let sets = world.all("replicasets.apps");
        prop_assert_eq!(sets.len(), 1);
        prop_assert_eq!(&sets[0].1["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len), &0);
        prop_assert_eq!(world.all("pods").len(), 3);
    }
}

#[test]
fn a_pod_that_the_view_has_not_seen_is_not_deleted() {
    let mut world = World::new();
    let web = world.create(deployment("web", 2, "web:0"));
    world.converge();
    world.is_blind = true;
    // A pod is replaced by one of the same name behind the view's back.
    let (key, old) = world.all("pods").remove(0);
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: old["metadata"]["uid"].as_str().map(str::to_owned),
        ..DeleteOptions::default()
    };
    world.carry_out(&Action::Delete { key: key.clone(), options }).unwrap();
    let spec = json!({"containers": [{"name": "main", "image": "other"}]});
    world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": &*key.name}, "spec": spec}));
    world.is_blind = false;
    world.edit(&web, |d| d["spec"]["replicas"] = 0.into());
    world.converge();
    assert_eq!(world.get(&key)["spec"]["containers"][0]["image"], "other");
}
