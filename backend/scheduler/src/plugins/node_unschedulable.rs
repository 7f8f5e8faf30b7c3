//! A cordoned node takes no new pods but those that tolerate it.
use crate::framework::{Filter, PodInfo, Verdict};
use crate::plugins::taint_toleration::tolerated;
use crate::snapshot::{NodeInfo, Snapshot};
use serde_json::json;

pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> Verdict {
        let taint = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if node.node["spec"]["unschedulable"] != true || tolerated(&pod.pod, &taint) {
            return Verdict::Fits;
        }
        Verdict::No(vec!["node(s) were unschedulable".into()])
    }
}
