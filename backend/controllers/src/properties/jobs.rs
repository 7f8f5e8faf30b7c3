//! What holds of Jobs: no index worked on twice, no completion too many, each pod counted exactly once.
use super::config;
use crate::world::World;
use pilothouse_api::Key;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    Parallelism(i64),
    Suspend(bool),
    Run(usize),
    Succeed(usize),
    Fail(usize),
    DeletePod(usize),
    RemovePod(usize),
    EndPods,
    Steps(usize),
    Settle,
    Blind,
    See,
    Pass(i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0..5_i64).prop_map(Op::Parallelism),
        1 => any::<bool>().prop_map(Op::Suspend),
        4 => (0..9_usize).prop_map(Op::Run),
        6 => (0..9_usize).prop_map(Op::Succeed),
        3 => (0..9_usize).prop_map(Op::Fail),
        1 => (0..9_usize).prop_map(Op::DeletePod),
        1 => (0..9_usize).prop_map(Op::RemovePod),
        4 => Just(Op::EndPods),
        4 => (1..6_usize).prop_map(Op::Steps),
        8 => Just(Op::Settle),
        2 => Just(Op::Blind),
        3 => Just(Op::See),
        3 => (1..700_i64).prop_map(Op::Pass),
    ]
}

fn spec() -> impl Strategy<Value = Value> {
    let plain = (1..6_i64, 1..4_i64).prop_map(|(completions, parallelism)| {
        json!({"completions": completions, "parallelism": parallelism, "backoffLimit": 1000})
    });
    let queue = (1..4_i64).prop_map(|parallelism| json!({"parallelism": parallelism, "backoffLimit": 1000}));
    let indexed =
        (1..6_i64, 1..4_i64, prop::option::of(0..3_i64)).prop_map(|(completions, parallelism, limit)| {
            let mut spec =
                json!({"completions": completions, "parallelism": parallelism, "completionMode": "Indexed"});
            match limit {
                Some(limit) => spec["backoffLimitPerIndex"] = limit.into(),
                None => spec["backoffLimit"] = 1000.into(),
            }
            spec
        });
    let replacement = prop_oneof![Just("Failed"), Just("TerminatingOrFailed")];
    (prop_oneof![plain, queue, indexed], replacement).prop_map(|(mut spec, replacement)| {
        spec["podReplacementPolicy"] = replacement.into();
        spec
    })
}

fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn nth(world: &World, at: usize) -> Option<Key> {
    let live = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null() && !is_over(pod);
    let live: Vec<Key> =
        world.all("pods").into_iter().filter(|(_, pod)| live(pod)).map(|(key, _)| key).collect();
    (!live.is_empty()).then(|| live[at % live.len()].clone())
}

fn run(world: &mut World, work: &Key, op: &Op) {
    let pod = |world: &World, at: &usize| nth(world, *at);
    match op {
        Op::Parallelism(n) => world.edit(work, |job| job["spec"]["parallelism"] = (*n).into()),
        Op::Suspend(suspend) => world.edit(work, |job| job["spec"]["suspend"] = (*suspend).into()),
        Op::Run(i) => drop(pod(world, i).map(|key| world.run_pod(&key, true))),
        Op::Succeed(i) => drop(pod(world, i).map(|key| world.finish_pod(&key, 0))),
        Op::Fail(i) => drop(pod(world, i).map(|key| world.finish_pod(&key, 1))),
        Op::DeletePod(i) => drop(pod(world, i).map(|key| world.delete(&key, "Background"))),
        Op::RemovePod(i) => {
            let pods = world.all("pods");
            if let Some((key, _)) = pods.get(*i) {
                world.end_pod(key);
            }
        }
        Op::EndPods => {
            let marked = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
            for (key, _) in world.all("pods").into_iter().filter(|(_, pod)| marked(pod)) {
                world.end_pod(&key);
            }
        }
        Op::Steps(n) => {
            for _ in 0..*n {
                world.step_checked(&mut |_, _| {});
            }
        }
        Op::Settle => {
            world.is_blind = false;
            world.catch_up();
            world.settle();
        }
        Op::Blind => world.is_blind = true,
        Op::See => {
            world.is_blind = false;
            world.catch_up();
        }
        Op::Pass(seconds) => world.pass(*seconds),
    }
}

/// What must hold at every moment, of the true state.
fn check(world: &World, work: &Key, made: &mut BTreeSet<String>) {
    let job = world.get(work);
    let tracked = |pod: &Value| pod["metadata"]["finalizers"].to_string().contains("job-tracking");
    let mut working: BTreeMap<String, i64> = BTreeMap::new();
    for (_, pod) in world.all("pods") {
        made.insert(pod["metadata"]["uid"].as_str().unwrap().to_owned());
        let index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"].as_str();
        let works = !is_over(&pod) && pod["metadata"]["deletionTimestamp"].is_null() && tracked(&pod);
        if let Some(index) = index.filter(|_| works) {
            *working.entry(index.to_owned()).or_default() += 1;
        }
    }
    assert!(working.values().all(|count| *count == 1), "an index is worked on twice: {working:?}");
    let status = &job["status"];
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let waiting =
        |field: &str| status["uncountedTerminatedPods"][field].as_array().map_or(0, Vec::len) as i64;
    if let Some(completions) = job["spec"]["completions"].as_i64() {
        let succeeded = number("succeeded") + waiting("succeeded");
        assert!(succeeded <= completions, "{succeeded} of {completions} completions");
    }
    let counted = number("succeeded") + number("failed") + waiting("succeeded") + waiting("failed");
    assert!(counted <= made.len() as i64, "{counted} pods counted, {} made: {status}", made.len());
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_job_counts_each_pod_once_and_ends_whatever_the_view_missed(spec in spec(), ops in prop::collection::vec(op(), 1..50)) {
        let mut world = World::new();
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]});
        let mut object = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
            "spec": {"template": {"spec": pod}},
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let work = world.create(object);
        let mut made = BTreeSet::new();
        let (mut succeeded, mut failed) = (0, 0);
        for op in &ops {
            run(&mut world, &work, op);
            check(&world, &work, &mut made);
            let status = &world.get(&work)["status"];
            let now = (status["succeeded"].as_i64().unwrap_or(0), status["failed"].as_i64().unwrap_or(0));
            prop_assert!(now.0 >= succeeded && now.1 >= failed, "counts only grow: {status}");
            (succeeded, failed) = now;
        }
        // From here on everything goes well, and it must come to its end.
        world.is_blind = false;
        world.catch_up();
        world.edit(&work, |job| {
            job["spec"]["suspend"] = false.into();
            job["spec"]["parallelism"] = 2.into();
        });
        for _ in 0..30 {
            world.settle();
            check(&world, &work, &mut made);
            while let Some(pod) = nth(&world, 0) {
                world.finish_pod(&pod, 0);
            }
            run(&mut world, &work, &Op::EndPods);
            world.pass(600);
        }
        world.converge();
        world.visit_everything();
        world.converge();
        world.assert_at_rest();
        let job = world.get(&work);
        let held = |kind: &str| {
            job["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
        };
        prop_assert!(held("Complete") != held("Failed"), "{}", job["status"]);
        prop_assert!(held("Complete") == held("SuccessCriteriaMet") && held("Failed") == held("FailureTarget"));
        prop_assert_eq!(&job["status"]["uncountedTerminatedPods"], &json!({}));
        if let Some(completions) = job["spec"]["completions"].as_i64().filter(|_| held("Complete")) {
            prop_assert_eq!(job["status"]["succeeded"].as_i64(), Some(completions));
        }
        let pods = world.all("pods");
        prop_assert!(pods.iter().all(|(_, pod)| !pod["metadata"]["finalizers"].to_string().contains("job-tracking")));
    }
}
