//! What a plan for a Deployment may do, judged on the view it was made on: how much of it must stay available, and that
//! Recreate keeps the old apart from the new.
use pilothouse_api::Key;
use pilothouse_controllers::{Action, Cluster, Plan};
use serde_json::Value;

const SETS: &str = "replicasets.apps";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";

/// Errors: what the plan must not do.
pub fn check(key: &Key, plan: &Plan, cluster: &Cluster) -> Result<(), String> {
    let Some(deployment) = cluster.get(key) else { return Ok(()) };
    let uid = deployment["metadata"]["uid"].as_str().unwrap_or_default();
    let desired = deployment["spec"]["replicas"].as_i64().unwrap_or(0);
    let sets: Vec<(&Key, std::sync::Arc<Value>)> = cluster.controlled(uid, SETS).collect();
    // After somebody scaled it, all sets shrink in proportion, whoever is available.
    let scaled = |set: &Value| set["metadata"]["annotations"][DESIRED] != desired.to_string().as_str();
    if sets.iter().any(|(_, set)| size(set) > 0 && scaled(set)) {
        return Ok(());
    }
    let planned = |set: &Key| {
        plan.actions.iter().find_map(|action| match action {
            Action::Update { key, object, .. } if key == set => Some(size(object)),
            _ => None,
        })
    };
    let strategy = &deployment["spec"]["strategy"];
    if strategy["type"] == "Recreate" {
        return old_go_before_new_come(key, plan, &sets, planned, cluster);
    }
    let bounds = &strategy["rollingUpdate"];
    let (surge, unavailable) =
        (allowed(&bounds["maxSurge"], desired, 99), allowed(&bounds["maxUnavailable"], desired, 0));
    // With neither nothing could move.
    let least = desired - if surge == 0 { unavailable.max(1) } else { unavailable };
    let available = |set: &Value| set["status"]["availableReplicas"].as_i64().unwrap_or(0);
    let before: i64 = sets.iter().map(|(_, set)| available(set).min(size(set))).sum();
    let after: i64 =
        sets.iter().map(|(key, set)| available(set).min(planned(key).unwrap_or_else(|| size(set)))).sum();
    if after < before.min(least) {
        return Err(format!("a plan for {key} leaves {after} of {before} available where {least} must stay"));
    }
    Ok(())
}

fn old_go_before_new_come(
    key: &Key,
    plan: &Plan,
    sets: &[(&Key, std::sync::Arc<Value>)],
    planned: impl Fn(&Key) -> Option<i64>,
    cluster: &Cluster,
) -> Result<(), String> {
    let runs = |set: &Value| {
        let uid = set["metadata"]["uid"].as_str().unwrap_or_default();
        cluster.controlled_pods(uid).any(|(_, pod)| !pod.is_terminal())
    };
    let grows = |set: &Key, object: &Value| planned(set).is_some_and(|size_then| size_then > size(object));
    let made = plan.actions.iter().any(
        |action| matches!(action, Action::Create { key, object } if &*key.resource == SETS && size(object) > 0),
    );
    for (old, set) in sets.iter().filter(|(_, set)| runs(set)) {
        let another = sets.iter().any(|(other, set)| other != old && grows(other, set));
        if made || another {
            return Err(format!(
                "a plan for {key} makes new pods while those of {old} run: {}",
                set["spec"]["replicas"]
            ));
        }
    }
    Ok(())
}

fn size(set: &Value) -> i64 {
    set["spec"]["replicas"].as_i64().unwrap_or(0)
}

/// A number, or a percentage of `total` that is rounded up by `round` hundredths.
pub fn allowed(bound: &Value, total: i64, round: i64) -> i64 {
    match bound.as_str() {
        Some(percent) => (total * percent.trim_end_matches('%').parse::<i64>().unwrap_or(0) + round) / 100,
        None => bound.as_i64().unwrap_or(0),
    }
}
