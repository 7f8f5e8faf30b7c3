//! A host port is one pod's at a time.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;

pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        if cycle.pod.host_ports.is_empty() {
            return Verdict::Fits;
        }
        let mut taken = node.pods.values().flat_map(|pod| pod.host_ports.iter());
        match taken.any(|taken| cycle.pod.host_ports.iter().any(|port| port.conflicts(taken))) {
            false => Verdict::Fits,
            true => Verdict::no("node(s) didn't have free ports for the requested pod ports"),
        }
    }

    fn helped_by(&self, event: Event) -> bool {
        matches!(event, Event::Node | Event::PodLeft)
    }

    fn is_about_pods(&self) -> bool {
        true
    }
}
