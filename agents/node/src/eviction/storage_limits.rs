//! Limits of local storage: a container's, and those of a pod's containers together.
use super::Used;
use crate::pod_sync::Verdict;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::usage::quantity;
use serde_json::Value;

const RESOURCE: &str = "ephemeral-storage";

fn limits(pod: &Value) -> impl Iterator<Item = (&str, Option<Quantity>)> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .map(|c| (c["name"].as_str().unwrap_or_default(), quantity(&c["resources"]["limits"][RESOURCE])))
}

/// Whether counting is worth its while.
pub fn has_any(pod: &Value) -> bool {
    limits(pod).any(|(_, limit)| limit.is_some())
}

/// Why a pod ends that stores more than it may.
pub fn exceeded(pod: &Value, used: &Used) -> Option<Verdict> {
    let evicted = |message: String| Some(Verdict::evicted(message));
    let above = |used: u64, limit: Quantity| i128::from(used) > i128::from(limit.value());
    let all: Vec<_> = limits(pod).collect();
    // Without a limit of each of them there is none of all.
    let total = all.iter().try_fold(Quantity::ZERO, |sum, (_, limit)| limit.map(|limit| sum.plus(limit)));
    if let Some(total) = total.filter(|total| !total.is_zero() && above(used.total(), *total)) {
        return evicted(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
        ));
    }
    for (name, limit) in all {
        let stored = used.containers.get(name).copied().unwrap_or(0);
        if let Some(limit) = limit.filter(|limit| above(stored, *limit)) {
            return evicted(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{limit}\". "
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn a_container_is_held_to_its_own_limit_and_a_pod_to_the_sum() {
        let pod = |a: Value, b: Value| {
            json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": a}}, {"name": "b", "resources": {"limits": b}}]}})
        };
        let used = |a: u64, volumes: u64| Used { containers: BTreeMap::from([("a".into(), a)]), volumes };
        let limit = || json!({"ephemeral-storage": "1Ki"});
        let both = pod(limit(), limit());
        assert_eq!(exceeded(&both, &used(1000, 1000)), None);
        assert_eq!(
            exceeded(&both, &used(1000, 1100)).unwrap().message,
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Ki. "
        );
        assert_eq!(
            exceeded(&both, &used(1025, 0)).unwrap().message,
            "Container a exceeded its local ephemeral storage limit \"1Ki\". "
        );
        let one = pod(json!({}), limit());
        assert_eq!(exceeded(&one, &used(5000, 5000)), None, "who has no limit has none");
        assert!(has_any(&one) && !has_any(&pod(json!({}), json!({}))));
    }
}
