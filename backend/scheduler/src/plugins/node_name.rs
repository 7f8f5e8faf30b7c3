//! A pod may name its node.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;

pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        match &cycle.pod.node {
            Some(name) if *name != node.name => Verdict::no("node(s) didn't match the requested node name"),
            _ => Verdict::Fits,
        }
    }

    fn helped_by(&self, event: Event) -> bool {
        event == Event::Node
    }
}
