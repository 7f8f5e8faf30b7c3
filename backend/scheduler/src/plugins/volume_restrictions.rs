//! A claim that only one pod may have is one pod's at a time.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;

pub struct VolumeRestrictions;

impl Filter for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        let mut users = cycle.storage.exclusive_users.iter();
        // One on this very node may be thought away, to see whether that helps.
        match users.any(|(uid, at)| **at != node.name || node.pods.contains_key(*uid)) {
            true => Verdict::no(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ),
            false => Verdict::Fits,
        }
    }

    fn helped_by(&self, event: Event) -> bool {
        event == Event::PodLeft
    }

    fn is_about_pods(&self) -> bool {
        true
    }
}
