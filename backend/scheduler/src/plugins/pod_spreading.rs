//! Spreads the pods of one workload over the nodes.
use crate::framework::{PodInfo, Score};
use crate::snapshot::{NodeInfo, Snapshot};

pub struct PodSpreading;

impl Score for PodSpreading {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let Some(owner) = &pod.owner else { return 0 };
        let most = i64::try_from(snapshot.most_of(owner)).unwrap_or(0);
        let here = i64::try_from(node.owners.get(owner).copied().unwrap_or(0)).unwrap_or(0);
        if most == 0 { 100 } else { (most - here) * 100 / most }
    }
}
