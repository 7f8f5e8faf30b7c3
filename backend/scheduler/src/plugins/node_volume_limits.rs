//! A driver attaches only so many volumes to a node.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;

pub struct NodeVolumeLimits;

impl Filter for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        if cycle.pod.claims.is_empty() || cycle.storage.is_within_limits(cycle.pod, node) {
            return Verdict::Fits;
        }
        Verdict::no("node(s) exceed max volume count")
    }

    fn helped_by(&self, event: Event) -> bool {
        matches!(event, Event::Node | Event::PodLeft | Event::Volume)
    }

    fn is_about_pods(&self) -> bool {
        true
    }
}
