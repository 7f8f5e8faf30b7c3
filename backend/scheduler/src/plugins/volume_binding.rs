//! A pod goes where its volumes are, or can be had.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;

pub struct VolumeBinding;

/// Also the name of whoever refuses a pod whose claims no node can help.
pub const NAME: &str = "VolumeBinding";

impl Filter for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        let storage = &cycle.storage;
        let mut reasons = Vec::new();
        if !storage.bound.iter().all(|offer| offer.is_reached_from(&node.name, &node.facts.labels)) {
            reasons.push("node(s) didn't match PersistentVolume's node affinity".to_owned());
        }
        if storage.choose(node).is_none() {
            reasons.push("node(s) didn't find available persistent volumes to bind".to_owned());
        }
        if storage.volume_is_gone {
            reasons
                .push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".to_owned());
        }
        if reasons.is_empty() { Verdict::Fits } else { Verdict::No(reasons) }
    }

    fn helped_by(&self, event: Event) -> bool {
        matches!(event, Event::Node | Event::Volume)
    }
}
