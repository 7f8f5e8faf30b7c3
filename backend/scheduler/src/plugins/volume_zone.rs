//! A volume that its labels place in a zone or region is used there.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;

pub struct VolumeZone;

const KEYS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

impl Filter for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        // Most pods have no volume that is anywhere; and a node that is in no zone is asked nothing.
        if cycle.storage.bound.is_empty() || !KEYS.iter().any(|key| node.facts.labels.contains_key(*key)) {
            return Verdict::Fits;
        }
        let fits = cycle.storage.bound.iter().all(|offer| {
            KEYS.iter().all(|key| match offer.labels.get(*key) {
                None => true,
                // A volume in several zones lists them so.
                Some(zones) => node.domain(key).is_some_and(|zone| zones.split("__").any(|z| z == zone)),
            })
        });
        if fits { Verdict::Fits } else { Verdict::no("node(s) had no available volume zone") }
    }

    fn helped_by(&self, event: Event) -> bool {
        matches!(event, Event::Node | Event::Volume)
    }
}
