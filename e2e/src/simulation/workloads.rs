//! What people run in a story: a few of all the kinds, each in one of its ways.
use super::random::Random;
use serde_json::{Value, json};

/// The budget's floor.
pub const LEAST_WEB: i64 = 2;

/// What a story begins with: seldom everything, never nothing.
pub fn some(random: &mut Random) -> Vec<Value> {
    let mut all = Vec::new();
    if random.chance(650) {
        all.push(deployment(random));
        if random.chance(500) {
            all.push(object(
                "policy/v1",
                "PodDisruptionBudget",
                "web",
                json!({"minAvailable": LEAST_WEB, "selector": selector("web")}),
            ));
        }
        if random.chance(400) {
            all.push(object(
                "v1",
                "Service",
                "web",
                json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                "selector": {"app": "web"}, "ports": [{"port": 80}]}),
            ));
        }
    }
    if random.chance(500) {
        all.push(stateful_set(random));
    }
    if random.chance(400) {
        all.push(daemon_set(random));
    }
    if random.chance(350) {
        all.push(cron_job(random));
    }
    if random.chance(200) {
        all.push(object("v1", "ReplicationController", "old", json!({
            "replicas": random.between(0, 4), "selector": {"app": "old"}, "template": template("old", "Always", random)})));
    }
    if random.chance(150) {
        all.push(object("apps/v1", "ReplicaSet", "bare", json!({
            "replicas": random.between(0, 4), "selector": selector("bare"), "template": template("bare", "Always", random)})));
    }
    if all.is_empty() {
        all.push(deployment(random));
    }
    all
}

fn deployment(random: &mut Random) -> Value {
    let strategy = match random.below(6) {
        0 => json!({"type": "Recreate"}),
        1 => json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": random.between(1, 2)}}),
        2 => json!({"rollingUpdate": {"maxSurge": random.between(1, 3), "maxUnavailable": 0}}),
        3 => json!({"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": "50%"}}),
        _ => json!({}),
    };
    let spec = json!({"replicas": random.between(1, 6), "selector": selector("web"), "strategy": strategy,
        "minReadySeconds": if random.chance(300) { 5 } else { 0 }, "revisionHistoryLimit": random.between(0, 3),
        "template": template("web", "Always", random)});
    object("apps/v1", "Deployment", "web", spec)
}

fn stateful_set(random: &mut Random) -> Value {
    let update = match random.below(5) {
        0 => json!({"type": "OnDelete"}),
        1 => json!({"type": "RollingUpdate", "rollingUpdate": {"partition": random.between(0, 2)}}),
        2 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}),
        _ => json!({"type": "RollingUpdate"}),
    };
    let spec = json!({"replicas": random.between(1, 4), "serviceName": "db", "selector": selector("db"),
        "updateStrategy": update, "minReadySeconds": if random.chance(200) { 5 } else { 0 },
        "podManagementPolicy": if random.chance(400) { "Parallel" } else { "OrderedReady" },
        "template": template("db", "Always", random)});
    object("apps/v1", "StatefulSet", "db", spec)
}

fn daemon_set(random: &mut Random) -> Value {
    let (app, update) = match random.below(4) {
        0 => (
            "surging",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ),
        1 => ("agent", json!({"type": "OnDelete"})),
        _ => (
            "agent",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": random.between(1, 2)}}),
        ),
    };
    let template = template(app, "Always", random);
    object(
        "apps/v1",
        "DaemonSet",
        "agent",
        json!({"selector": selector(app), "updateStrategy": update, "template": template}),
    )
}

fn cron_job(random: &mut Random) -> Value {
    let policy = ["Forbid", "Replace", "Allow"][random.below(3)];
    let job = json!({"spec": {"completions": 1, "backoffLimit": 1000, "template": template("tick", "Never", random)}});
    object(
        "batch/v1",
        "CronJob",
        "tick",
        json!({"schedule": "*/2 * * * *", "concurrencyPolicy": policy,
        "successfulJobsHistoryLimit": random.between(0, 3), "jobTemplate": job}),
    )
}

pub fn job(number: usize, random: &mut Random) -> Value {
    let restart = if random.chance(200) { "OnFailure" } else { "Never" };
    let mut spec = json!({
        "completions": random.between(1, 6), "parallelism": random.between(1, 3),
        "backoffLimit": if random.chance(250) { random.between(0, 3) } else { 1000 },
        "podReplacementPolicy": if random.chance(500) { "Failed" } else { "TerminatingOrFailed" },
        "template": template("work", restart, random),
    });
    if random.chance(500) {
        spec["completionMode"] = "Indexed".into();
        if restart == "Never" && random.chance(300) {
            spec["backoffLimitPerIndex"] = random.between(0, 2).into();
            spec["maxFailedIndexes"] = random.between(0, 3).into();
        }
    }
    if random.chance(150) {
        spec["activeDeadlineSeconds"] = random.between(20, 200).into();
    }
    if random.chance(150) {
        spec["ttlSecondsAfterFinished"] = random.between(0, 60).into();
    }
    if random.chance(100) {
        spec["suspend"] = true.into();
    }
    object("batch/v1", "Job", &format!("job-{number}"), spec)
}

fn object(version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn selector(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

fn template(app: &str, restart: &str, random: &mut Random) -> Value {
    let resources = json!({"requests": {"cpu": "200m"}});
    let mut spec = json!({
        "restartPolicy": restart, "containers": [{"name": "main", "image": "image:0", "resources": resources}],
    });
    if random.chance(200) {
        spec["initContainers"] = json!([{"name": "prepare", "image": "image:0"}]);
    }
    if random.chance(150) {
        spec["initContainers"] = json!([{"name": "beside", "image": "image:0", "restartPolicy": "Always"}]);
    }
    if random.chance(150) {
        spec["terminationGracePeriodSeconds"] = random.between(0, 60).into();
    }
    json!({"metadata": {"labels": {"app": app}}, "spec": spec})
}
