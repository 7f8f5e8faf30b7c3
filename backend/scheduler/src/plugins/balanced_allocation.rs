//! Prefers nodes whose CPU and memory fill evenly, so that neither is left over alone.
use super::least_allocated::usage;
use crate::framework::{PodInfo, Score};
use crate::snapshot::{NodeInfo, Snapshot};

pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        match (usage(pod, node, "cpu"), usage(pod, node, "memory")) {
            (Some(cpu), Some(memory)) => 100 - (cpu - memory).abs() / 2,
            _ => 0,
        }
    }
}
