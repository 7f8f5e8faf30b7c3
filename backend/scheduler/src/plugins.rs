//! THE LIST: one line a plugin.
use crate::framework::{Filter, Score};

mod balanced_allocation;
mod least_allocated;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod pod_spreading;
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
    ]
}

pub fn scores() -> &'static [&'static dyn Score] {
    &[
        &least_allocated::LeastAllocated,
        &balanced_allocation::BalancedAllocation,
        &node_affinity::NodeAffinity,
        &pod_spreading::PodSpreading,
        &taint_toleration::TaintToleration,
    ]
}

#[cfg(test)]
pub mod test_support {
    use crate::{PodInfo, Snapshot};
    use pilothouse_api::{Key, Observed};
    use serde_json::Value;
    use std::sync::Arc;

    pub fn snapshot(nodes: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            let key = Key::new("nodes", "", node["metadata"]["name"].as_str().unwrap());
            snapshot.apply(&Observed { key, revision: 1, object: Some(Arc::new(node.clone())), previous: None, bytes: Default::default() });
        }
        snapshot
    }

    pub fn pod(name: &str, spec: Value) -> PodInfo {
        let pod = serde_json::json!({"metadata": {"name": name, "uid": name, "namespace": "default"}, "spec": spec});
        PodInfo::new(Key::new("pods", "default", name), Arc::new(pod))
    }
}
