//! Nodes whose CPU and memory fill up alike are better: neither is left over.
use super::node_resources_fit::usage;
use crate::framework::{Cycle, MAX_SCORE, Score};
use crate::snapshot::NodeInfo;

pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        // In thousandths: the distance of two shares is twice their standard deviation.
        let share = |(used, size): (i64, i64)| {
            if size <= 0 { 1000 } else { (used.saturating_mul(1000) / size).min(1000) }
        };
        let [cpu, memory] = usage(cycle, node).map(share);
        MAX_SCORE - (cpu - memory).abs() * MAX_SCORE / 2000
    }
}
