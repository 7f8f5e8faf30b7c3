//! THE LIST: one line a plugin.
use crate::framework::{Filter, Score};

mod balanced_allocation;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod taint_toleration;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;

/// Cheapest and most often decisive first.
pub fn filters() -> &'static [&'static dyn Filter] {
    &[
        &node_unschedulable::NodeUnschedulable,
        &node_name::NodeName,
        &taint_toleration::TaintToleration,
        &node_affinity::NodeAffinity,
        &node_ports::NodePorts,
        &node_resources_fit::NodeResourcesFit,
        &volume_restrictions::VolumeRestrictions,
        &node_volume_limits::NodeVolumeLimits,
        &volume_binding::VolumeBinding,
        &volume_zone::VolumeZone,
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
