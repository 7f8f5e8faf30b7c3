//! The cluster at a glance.
use super::status::{Status, Tone};
use super::{at, list, name, namespace, pairs, pod, text, units, workload};
use crate::api::Resource;
use crate::api::resource::{DEPLOYMENTS, NODES, PODS};
use serde_json::Value;

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    pub resource: &'static Resource,
    pub namespace: String,
    pub name: String,
    pub status: Status,
}

/// Worst first: nodes, then Deployments, then pods.
pub fn concerns<'a>(
    nodes: impl Iterator<Item = &'a Value>,
    deployments: impl Iterator<Item = &'a Value>,
    pods: impl Iterator<Item = &'a Value>,
) -> Vec<Concern> {
    let concern = |resource: &'static Resource, object: &Value, status: Status| Concern {
        resource,
        namespace: namespace(object).to_owned(),
        name: name(object).to_owned(),
        status,
    };
    let mut out: Vec<_> = nodes
        .map(|node| concern(&NODES, node, workload::node(node)))
        .chain(deployments.map(|object| concern(&DEPLOYMENTS, object, workload::deployment(object))))
        .chain(pods.map(|object| concern(&PODS, object, pod::status(object))))
        .filter(|concern| matches!(concern.status.tone, Tone::Bad | Tone::Warn))
        .collect();
    out.sort_by_key(|concern| concern.status.tone);
    out
}

/// What the pods asked for and what the nodes have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub milli_cpu: i64,
    pub memory_bytes: i64,
    pub pods: i64,
}

pub fn allocatable(node: &Value) -> Capacity {
    let amount = |name: &str| text(node, &["status", "allocatable", name]);
    Capacity {
        milli_cpu: units::milli(amount("cpu")),
        memory_bytes: units::whole(amount("memory")),
        pods: units::whole(amount("pods")),
    }
}

/// Requests of the pods that still hold them; all nodes where `node` is empty.
pub fn requested<'a>(pods: impl Iterator<Item = &'a Value>, node: &str) -> Capacity {
    let mut sum = Capacity::default();
    for pod in pods {
        let on = text(pod, &["spec", "nodeName"]);
        let is_over = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
        if is_over || on.is_empty() || (!node.is_empty() && on != node) {
            continue;
        }
        sum.pods += 1;
        for container in list(pod, &["spec", "containers"]) {
            for (name, amount) in pairs(container, &["resources", "requests"]) {
                match name.as_str() {
                    "cpu" => sum.milli_cpu += units::milli(&amount),
                    "memory" => sum.memory_bytes += units::whole(&amount),
                    _ => {}
                }
            }
        }
    }
    sum
}

pub fn plus(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        milli_cpu: a.milli_cpu + b.milli_cpu,
        memory_bytes: a.memory_bytes + b.memory_bytes,
        pods: a.pods + b.pods,
    }
}

/// Pods by how they are: good, busy, bad or warned, done.
pub fn pod_counts<'a>(pods: impl Iterator<Item = &'a Value>) -> [usize; 4] {
    let mut counts = [0; 4];
    for pod in pods {
        let slot = match pod::status(pod).tone {
            Tone::Good => 0,
            Tone::Busy => 1,
            Tone::Bad | Tone::Warn => 2,
            Tone::Muted => 3,
        };
        counts[slot] += 1;
    }
    counts
}

/// When an event was last seen, in milliseconds.
pub fn event_time(event: &Value) -> i64 {
    [
        &["series", "lastObservedTime"][..],
        &["lastTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ]
    .iter()
    .find_map(|path| at(event, path).and_then(Value::as_str).and_then(super::time::parse))
    .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_needs_a_look_is_a_concern_and_the_worst_comes_first() {
        let good = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let paused = json!({"metadata": {"name": "d"}, "spec": {"paused": true}});
        let failed = json!({"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": "Evicted"}});
        let concerns = concerns([&good].into_iter(), [&paused].into_iter(), [&failed].into_iter());
        assert_eq!(concerns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["p", "d"]);
    }

    #[test]
    fn requests_of_pods_that_are_over_or_unplaced_do_not_count() {
        let pod = |phase: &str, node: &str| {
            json!({"spec": {"nodeName": node, "containers": [
            {"resources": {"requests": {"cpu": "250m", "memory": "1Ki"}}}]}, "status": {"phase": phase}})
        };
        let pods = [pod("Running", "a"), pod("Running", "b"), pod("Succeeded", "a"), pod("Pending", "")];
        let expected = Capacity { milli_cpu: 250, memory_bytes: 1024, pods: 1 };
        assert_eq!(requested(pods.iter(), "a"), expected);
        assert_eq!(requested(pods.iter(), ""), plus(expected, expected));
    }
}
