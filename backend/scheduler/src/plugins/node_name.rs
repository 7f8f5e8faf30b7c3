//! A pod may name its node.
use crate::framework::{Filter, PodInfo, Verdict};
use crate::snapshot::{NodeInfo, Snapshot};

pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> Verdict {
        match pod.pod["spec"]["nodeName"].as_str().unwrap_or_default() {
            "" => Verdict::Fits,
            name if *name == *node.name => Verdict::Fits,
            _ => Verdict::No(vec!["node(s) didn't match the requested node name".into()]),
        }
    }
}
