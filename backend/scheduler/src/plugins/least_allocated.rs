//! Prefers the node with the most left.
use crate::framework::{PodInfo, Score};
use crate::snapshot::{NodeInfo, Snapshot};

pub struct LeastAllocated;

/// What a pod that asks for nothing is taken to use, so that such pods spread too.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// Share of `resource` in use with the pod, in percent.
pub fn usage(pod: &PodInfo, node: &NodeInfo, resource: &str) -> Option<i64> {
    let has = node.allocatable.get(resource).copied().filter(|has| *has > 0)?;
    let assumed = if resource == "cpu" { DEFAULT_CPU_MILLI } else { DEFAULT_MEMORY_BYTES };
    let of = |requests: &crate::framework::Resources| requests.get(resource).copied().filter(|r| *r > 0).unwrap_or(assumed);
    let silent = node.pods.values().filter(|p| p.requests.get(resource).is_none_or(|r| *r == 0)).count();
    let taken = node.requested.get(resource).copied().unwrap_or(0) + assumed * i64::try_from(silent).unwrap_or(0);
    Some(((taken + of(&pod.requests)) * 100 / has).min(100))
}

impl Score for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let shares: Vec<i64> = ["cpu", "memory"].iter().filter_map(|r| usage(pod, node, r)).collect();
        if shares.is_empty() {
            return 0;
        }
        shares.iter().map(|used| 100 - used).sum::<i64>() / i64::try_from(shares.len()).unwrap_or(1)
    }
}
