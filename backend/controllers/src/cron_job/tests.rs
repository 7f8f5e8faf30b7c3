//! CronJobs as time passes.
use super::*;
use crate::cluster::PODS;
use crate::world::World;

fn backup(spec: Value) -> Value {
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]});
    let mut object = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "backup"},
        "spec": {"schedule": "*/10 * * * *", "jobTemplate": {"metadata": {"labels": {"app": "backup"}}, "spec": {"template": {"spec": pod}}}},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

/// The times that jobs were due, as minutes of the world's first hour; those on their way out with a minus.
fn jobs(world: &World) -> Vec<String> {
    let start = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second();
    let line = |job: &Value| {
        let minute = (due(job).unwrap().as_second() - start) / 60;
        format!("{minute}{}", if is_deleting(job) { "-" } else { "" })
    };
    world.all(JOBS).iter().map(|(_, job)| line(job)).collect()
}

fn finish_all(world: &mut World, exit_code: i64) {
    for (key, pod) in world.all(PODS) {
        if pod["status"]["phase"] == "Pending" {
            world.finish_pod(&key, exit_code);
        }
    }
    world.settle();
}

fn pass(world: &mut World, seconds: i64) {
    world.pass(seconds);
    world.settle();
}

#[test]
fn a_job_is_made_whenever_the_schedule_is_due_and_old_ones_go() {
    let mut world = World::new();
    let key = world.create(backup(json!({"timeZone": "Asia/Kolkata"})));
    world.settle();
    assert!(jobs(&world).is_empty());
    pass(&mut world, 600);
    assert_eq!(jobs(&world), ["10"]);
    let (job_key, job) = world.all(JOBS).remove(0);
    assert_eq!(&*job_key.name, format!("backup-{}", due(&job).unwrap().as_second() / 60));
    assert_eq!(annotation(&job, DUE), Some("2026-01-01T05:40:00+05:30"));
    assert_eq!(job["metadata"]["labels"]["app"], "backup");
    let status = &world.get(&key)["status"];
    assert_eq!(
        (&status["lastScheduleTime"], &status["active"][0]["name"]),
        (&json!("2026-01-01T00:10:00Z"), &json!(&*job_key.name))
    );
    finish_all(&mut world, 0);
    assert_eq!(world.get(&key)["status"]["lastSuccessfulTime"], "2026-01-01T00:10:00Z");
    assert_eq!(world.get(&key)["status"]["active"], Value::Null);
    for _ in 0..4 {
        pass(&mut world, 600);
        finish_all(&mut world, 0);
    }
    assert_eq!(jobs(&world), ["30", "40", "50"], "three are kept");
    world.assert_at_rest();
}

#[test]
fn only_the_last_of_the_missed_times_is_made_up_for_and_only_before_its_deadline() {
    for (deadline, passed, expected) in
        [(None, 3599, vec!["50"]), (Some(100), 3099, vec!["50"]), (Some(100), 3100, vec![])]
    {
        let mut world = World::new();
        world.is_blind = true;
        world.create(backup(json!({"startingDeadlineSeconds": deadline})));
        world.pass(passed);
        world.is_blind = false;
        world.catch_up();
        world.settle();
        assert_eq!(jobs(&world), expected, "{deadline:?}");
    }
}

#[test]
fn jobs_run_side_by_side_or_wait_or_take_the_place_of_the_last() {
    for (policy, expected) in [("Allow", vec!["10", "20"]), ("Forbid", vec!["10"]), ("Replace", vec!["20"])] {
        let mut world = World::new();
        world.create(backup(json!({"concurrencyPolicy": policy})));
        pass(&mut world, 600);
        pass(&mut world, 600);
        assert_eq!(jobs(&world), expected, "{policy}");
        pass(&mut world, 60);
        finish_all(&mut world, 0);
        if policy == "Forbid" {
            assert_eq!(jobs(&world), ["10", "20"], "the one that had to wait is made up for");
        }
    }
}

#[test]
fn the_next_job_is_made_once_the_one_it_replaces_is_seen_to_go() {
    let mut world = World::new();
    let key = world.create(backup(json!({"concurrencyPolicy": "Replace"})));
    pass(&mut world, 600);
    world.pass(600);
    let plan = world.plan("cronjob-controller", &key);
    let made = plan.actions.iter().filter(|action| matches!(action, crate::Action::Create { .. })).count();
    let deleted = plan.actions.iter().filter(|action| matches!(action, crate::Action::Delete { .. })).count();
    assert_eq!((made, deleted), (0, 1));
    world.settle();
    assert_eq!(jobs(&world), ["20"]);
}

#[test]
fn a_suspended_schedule_makes_nothing() {
    let mut world = World::new();
    let key = world.create(backup(json!({"suspend": true})));
    pass(&mut world, 6000);
    assert!(jobs(&world).is_empty());
    world.edit(&key, |cron| cron["spec"]["suspend"] = false.into());
    world.settle();
    assert_eq!(jobs(&world), ["100"]);
}

#[test]
fn a_job_that_goes_at_once_is_not_made_again() {
    let mut world = World::new();
    let mut object = backup(json!({"successfulJobsHistoryLimit": 0}));
    object["spec"]["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] = 0.into();
    let key = world.create(object);
    pass(&mut world, 600);
    finish_all(&mut world, 0);
    world.converge();
    assert!(jobs(&world).is_empty());
    assert_eq!(world.get(&key)["status"]["lastScheduleTime"], "2026-01-01T00:10:00Z");
    world.visit_everything();
    world.converge();
    assert!(jobs(&world).is_empty() && world.all(PODS).is_empty());
}

#[test]
fn a_wrong_time_zone_is_told() {
    let mut world = World::new();
    world.create(backup(json!({"timeZone": "Mars/Olympus"})));
    pass(&mut world, 600);
    assert!(jobs(&world).is_empty());
    assert!(world.events.iter().any(|e| e.starts_with("UnknownTimeZone")), "{:?}", world.events);
}

#[test]
fn a_job_that_somebody_deleted_is_told_as_missing() {
    let mut world = World::new();
    let key = world.create(backup(json!({})));
    pass(&mut world, 600);
    let (job, _) = world.all(JOBS).remove(0);
    world.delete(&job, "Background");
    world.settle();
    let expected = format!("MissingJob Active job went missing: {}", job.name);
    assert!(world.events.contains(&expected), "{:?}", world.events);
    assert_eq!(world.get(&key)["status"]["active"], Value::Null);
}
