//! Jobs step by step.
use super::*;
use crate::world::World;

fn job(spec: Value) -> Value {
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]});
    let mut object = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
        "spec": {"template": {"spec": pod}},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

/// Those that work, in order of their names.
fn active(world: &World) -> Vec<Key> {
    let is_active = |key: &Key| world.cluster.pod(key).is_some_and(Pod::is_active);
    world.all(PODS).into_iter().map(|(key, _)| key).filter(is_active).collect()
}

fn indexes(world: &World) -> Vec<i64> {
    let mut indexes: Vec<i64> =
        active(world).iter().filter_map(|key| index_of(world.cluster.pod(key).unwrap())).collect();
    indexes.sort_unstable();
    indexes
}

fn pod_of_index(world: &World, index: i64) -> Key {
    active(world).into_iter().find(|key| index_of(world.cluster.pod(key).unwrap()) == Some(index)).unwrap()
}

/// `active succeeded failed` and the conditions that hold.
fn status(world: &World, key: &Key) -> String {
    let status = &world.get(key)["status"];
    let held = status["conditions"].as_array().into_iter().flatten().filter(|c| c["status"] == "True");
    let held: Vec<String> = held.map(|c| format!("{}:{}", text(c, "type"), text(c, "reason"))).collect();
    let counts = ["active", "succeeded", "failed"].map(|f| count(&status[f]));
    format!("{} {} {} {}", counts[0], counts[1], counts[2], held.join(" ")).trim().to_owned()
}

fn end(world: &mut World, key: &Key, exit_code: i64) {
    world.finish_pod(key, exit_code);
    world.settle();
}

fn tracked(world: &World) -> usize {
    world.all(PODS).iter().filter(|(key, _)| world.cluster.pod(key).unwrap().is_tracked).count()
}

#[test]
fn a_job_runs_its_pods_counts_each_once_and_is_complete() {
    let mut world = World::new();
    let key = world.create(job(json!({"completions": 3, "parallelism": 2})));
    world.settle();
    assert_eq!((active(&world).len(), tracked(&world)), (2, 2));
    assert_eq!(status(&world, &key), "2 0 0");
    let first = active(&world).remove(0);
    end(&mut world, &first, 0);
    assert_eq!(status(&world, &key), "2 1 0");
    assert_eq!(world.get(&key)["status"]["uncountedTerminatedPods"], json!({}));
    for pod in active(&world) {
        end(&mut world, &pod, 0);
    }
    let done = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    assert_eq!(status(&world, &key), format!("0 3 0 {done}"));
    assert_eq!((world.all(PODS).len(), tracked(&world)), (3, 0), "its pods stay, for their logs");
    assert_eq!(world.get(&key)["status"]["completionTime"], "2026-01-01T00:00:00Z");
    assert!(world.events.contains(&"Completed Job completed".to_owned()));
    world.assert_at_rest();
}

#[test]
fn the_criteria_are_told_before_the_end() {
    let mut world = World::new();
    let key = world.create(job(json!({"backoffLimit": 0, "parallelism": 2, "completions": 2})));
    world.settle();
    for pod in active(&world) {
        world.run_pod(&pod, true);
    }
    world.settle();
    let pod = active(&world).remove(0);
    end(&mut world, &pod, 1);
    assert_eq!(status(&world, &key), "0 0 2 FailureTarget:BackoffLimitExceeded", "the other is still ending");
    assert_eq!(world.get(&key)["status"]["terminating"], 1);
    world.converge();
    let told = "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded";
    assert_eq!(status(&world, &key), format!("0 0 2 {told}"));
    assert_eq!(tracked(&world), 0);
    world.assert_at_rest();
}

#[test]
fn a_failed_pod_is_replaced_later_and_later_until_the_limit() {
    let mut world = World::new();
    let key = world.create(job(json!({"backoffLimit": 2})));
    for pause in [10, 20] {
        world.settle();
        let pod = active(&world).remove(0);
        end(&mut world, &pod, 1);
        assert!(active(&world).is_empty());
        world.pass(pause - 1);
        world.settle();
        assert!(active(&world).is_empty());
        world.pass(1);
        world.settle();
        assert_eq!(active(&world).len(), 1);
    }
    let pod = active(&world).remove(0);
    end(&mut world, &pod, 1);
    let told = "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded";
    assert_eq!(status(&world, &key), format!("0 0 3 {told}"));
    world.assert_at_rest();
}

#[test]
fn restarts_inside_a_pod_count_against_the_limit() {
    let mut world = World::new();
    let mut object = job(json!({"backoffLimit": 3}));
    object["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
    let key = world.create(object);
    world.settle();
    let pod = active(&world).remove(0);
    world.run_pod(&pod, true);
    for restarts in [2, 3] {
        world.edit_status(&pod, |p| {
            p["status"]["containerStatuses"] = json!([{"name": "main", "image": "work", "imageID": "", "ready": true, "restartCount": restarts}]);
        });
        world.settle();
    }
    world.converge();
    assert!(status(&world, &key).ends_with("Failed:BackoffLimitExceeded"), "{}", status(&world, &key));
}

#[test]
fn a_work_queue_is_done_when_one_succeeded_and_the_rest_has_ended() {
    let mut world = World::new();
    let key = world.create(job(json!({"parallelism": 3, "backoffLimit": 6})));
    world.settle();
    assert_eq!(active(&world).len(), 3);
    for (pod, code) in active(&world).into_iter().zip([0, 1, 0]) {
        end(&mut world, &pod, code);
    }
    assert!(status(&world, &key).starts_with("0 2 1 "), "{}", status(&world, &key));
    assert!(is_true(world.get(&key), "Complete"));
}

#[test]
fn an_indexed_job_gives_each_index_a_pod_with_its_name_and_number() {
    let mut world = World::new();
    let key = world.create(job(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"})));
    world.settle();
    assert_eq!(indexes(&world), [0, 1]);
    let pod = world.get(&pod_of_index(&world, 1)).clone();
    assert_eq!(pod["spec"]["hostname"], "work-1");
    assert!(name(&pod).starts_with("work-1-"));
    assert_eq!(annotation(&pod, INDEX), Some("1"));
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    let one = pod_of_index(&world, 1);
    end(&mut world, &one, 0);
    assert_eq!(indexes(&world), [0, 2]);
    let two = pod_of_index(&world, 2);
    end(&mut world, &two, 1);
    world.pass(10);
    world.settle();
    assert_eq!(indexes(&world), [0, 2], "the index that failed comes again");
    for _ in 0..3 {
        let pod = active(&world).remove(0);
        end(&mut world, &pod, 0);
    }
    assert_eq!(world.get(&key)["status"]["completedIndexes"], "0-3");
    assert!(status(&world, &key).starts_with("0 4 1 "), "{}", status(&world, &key));
    world.assert_at_rest();
}

#[test]
fn each_index_has_its_own_limit_and_too_many_given_up_end_the_job() {
    let mut world = World::new();
    let spec =
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    let key = world.create(job(spec));
    world.settle();
    let pod = pod_of_index(&world, 0);
    end(&mut world, &pod, 1);
    assert_eq!((indexes(&world), tracked(&world)), (vec![1, 2], 3), "the failed pod remembers the failure");
    world.pass(10);
    world.settle();
    assert_eq!((indexes(&world), tracked(&world)), (vec![0, 1, 2], 3));
    let pod = pod_of_index(&world, 0);
    assert_eq!(annotation(world.get(&pod), "batch.kubernetes.io/job-index-failure-count"), Some("1"));
    end(&mut world, &pod, 1);
    world.pass(3600);
    world.settle();
    assert_eq!(indexes(&world), [1, 2]);
    assert_eq!(world.get(&key)["status"]["failedIndexes"], "0");
    for index in [1, 2] {
        let pod = pod_of_index(&world, index);
        end(&mut world, &pod, 0);
    }
    let told = "FailureTarget:FailedIndexes Failed:FailedIndexes";
    assert_eq!(status(&world, &key), format!("0 2 2 {told}"));
    assert_eq!(world.get(&key)["status"]["completedIndexes"], "1,2");
    assert_eq!(tracked(&world), 0);
    world.assert_at_rest();
}

#[test]
fn more_failed_indexes_than_allowed_end_the_job_at_once() {
    let mut world = World::new();
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 0});
    let key = world.create(job(spec));
    world.settle();
    let pod = pod_of_index(&world, 2);
    end(&mut world, &pod, 1);
    world.converge();
    assert!(status(&world, &key).ends_with("Failed:MaxFailedIndexesExceeded"), "{}", status(&world, &key));
}

#[test]
fn a_failure_policy_ignores_disruptions_and_ends_the_job_for_a_bug() {
    let mut world = World::new();
    let rules = json!([
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
    ]);
    let key = world.create(job(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}})));
    world.settle();
    let pod = active(&world).remove(0);
    world.edit_status(&pod, |p| {
        p["status"]["phase"] = "Failed".into();
        p["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    });
    world.settle();
    world.pass(10);
    world.settle();
    assert_eq!(status(&world, &key), "1 0 0");
    let pod = active(&world).remove(0);
    end(&mut world, &pod, 42);
    let told = "FailureTarget:PodFailurePolicy Failed:PodFailurePolicy";
    assert_eq!(status(&world, &key), format!("0 0 1 {told}"));
    assert!(
        text(condition(world.get(&key), "Failed").unwrap(), "message").contains("failed with exit code 42")
    );
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let mut world = World::new();
    let spec = json!({
        "completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    });
    let key = world.create(job(spec));
    world.settle();
    let leader = pod_of_index(&world, 0);
    end(&mut world, &leader, 0);
    world.converge();
    let told = "SuccessCriteriaMet:SuccessPolicy Complete:SuccessPolicy";
    assert!(status(&world, &key).ends_with(told), "{}", status(&world, &key));
    assert_eq!(count(&world.get(&key)["status"]["succeeded"]), 1);
    world.assert_at_rest();
}

#[test]
fn a_suspended_job_has_no_pods_and_those_it_had_do_not_count() {
    let mut world = World::new();
    let key = world.create(job(json!({"completions": 2, "parallelism": 2, "activeDeadlineSeconds": 100})));
    world.converge();
    world.edit(&key, |job| job["spec"]["suspend"] = true.into());
    world.converge();
    assert_eq!(status(&world, &key), "0 0 0 Suspended:JobSuspended");
    assert!(world.all(PODS).is_empty());
    world.pass(1000);
    world.settle();
    world.edit(&key, |job| job["spec"]["suspend"] = false.into());
    world.converge();
    assert_eq!(status(&world, &key), "2 0 0");
    assert_eq!(condition(world.get(&key), "Suspended").unwrap()["reason"], "JobResumed");
    assert_eq!(world.get(&key)["status"]["startTime"], "2026-01-01T00:16:40Z");
    world.pass(100);
    world.converge();
    assert!(status(&world, &key).ends_with("Failed:DeadlineExceeded"), "{}", status(&world, &key));
}

#[test]
fn less_parallelism_takes_pods_back_uncounted() {
    let mut world = World::new();
    let key = world.create(job(json!({"completions": 9, "parallelism": 4})));
    world.converge();
    world.edit(&key, |job| job["spec"]["parallelism"] = 1.into());
    world.converge();
    assert_eq!(status(&world, &key), "1 0 0");
    assert_eq!(world.all(PODS).len(), 1);
}

#[test]
fn a_deleted_pod_is_replaced_at_once_or_when_it_has_failed() {
    for (policy, meanwhile) in [("TerminatingOrFailed", 1), ("Failed", 0)] {
        let mut world = World::new();
        let key = world.create(job(json!({"podReplacementPolicy": policy})));
        world.converge();
        let pod = active(&world).remove(0);
        world.delete(&pod, "Background");
        world.settle();
        assert_eq!(active(&world).len(), meanwhile, "{policy}");
        assert_eq!(world.get(&key)["status"]["terminating"], 1);
        world.end_pod(&pod);
        world.pass(10);
        world.converge();
        assert_eq!(active(&world).len(), 1, "{policy}");
        assert_eq!(status(&world, &key), "1 0 1");
        assert!(!world.objects.contains_key(&pod));
    }
}

#[test]
fn nothing_is_left_of_a_deleted_job() {
    for policy in ["Background", "Foreground"] {
        let mut world = World::new();
        let key = world.create(job(json!({"completions": 3, "parallelism": 3})));
        world.settle();
        world.run_pod(&active(&world)[0], true);
        world.delete(&key, policy);
        world.converge();
        assert!(world.all(PODS).is_empty() && world.all(JOBS).is_empty(), "{policy}");
        world.assert_at_rest();
    }
}

#[test]
fn a_job_that_someone_else_manages_is_left_alone() {
    let mut world = World::new();
    world.create(job(json!({"managedBy": "example.com/other"})));
    world.settle();
    assert!(world.all(PODS).is_empty());
}
