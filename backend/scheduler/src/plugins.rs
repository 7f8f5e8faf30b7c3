//! THE LIST: one line a plugin.
use crate::framework::{Filter, Score};

mod balanced_allocation;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;

/// Cheapest and most often decisive first.
pub fn filters() -> &'static [&'static dyn Filter] {
    &[
        &node_unschedulable::NodeUnschedulable,
        &node_name::NodeName,
        &taint_toleration::TaintToleration,
        &node_affinity::NodeAffinity,
        &node_ports::NodePorts,
        &node_resources_fit::NodeResourcesFit,
        &pod_topology_spread::PodTopologySpread,
        &inter_pod_affinity::InterPodAffinity,
    ]
}

pub fn scores() -> &'static [&'static dyn Score] {
    &[
        &taint_toleration::TaintToleration,
        &node_affinity::NodeAffinity,
        &node_resources_fit::NodeResourcesFit,
        &balanced_allocation::BalancedAllocation,
        &pod_topology_spread::PodTopologySpread,
        &inter_pod_affinity::InterPodAffinity,
    ]
}
