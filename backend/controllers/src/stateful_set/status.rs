//! What a StatefulSet tells: counts by revision, and which revision is the current one.
use super::Run;
use crate::history::History;
use crate::object::*;
use crate::pod::Phase;
use crate::{Part, Plan};
use serde_json::json;

impl Run<'_> {
    pub(super) fn write_status(&self, history: &History, plan: &mut Plan) {
        let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
        for member in self.members.values() {
            ready += i64::from(member.pod.phase == Phase::Running && member.pod.is_ready());
            available += i64::from(member.is_healthy);
            if member.pod.is_deleting {
                continue;
            }
            current += i64::from(member.revision() == self.current.name());
            updated += i64::from(member.revision() == self.update.name());
        }
        let replicas = i64::try_from(self.members.len()).unwrap_or(i64::MAX);
        let wanted = self.end - self.start;
        let mut current_revision = self.current.name();
        let is_rolled_out = [updated, ready, replicas].iter().all(|count| *count == wanted);
        if is_rolled_out && self.set["spec"]["updateStrategy"]["type"] != "OnDelete" {
            current = updated;
            current_revision = self.update.name();
        }
        let mut status = json!({
            "observedGeneration": self.set["metadata"]["generation"], "replicas": replicas,
            "availableReplicas": available, "collisionCount": history.collisions,
            "currentRevision": current_revision, "updateRevision": self.update.name(),
        });
        for (field, value) in
            [("readyReplicas", ready), ("currentReplicas", current), ("updatedReplicas", updated)]
        {
            if value > 0 {
                status[field] = value.into();
            }
        }
        if self.set["status"]["conditions"].is_array() {
            status["conditions"] = self.set["status"]["conditions"].clone();
        }
        if let Some(next) = with_status(self.set, status) {
            plan.update(self.key.clone(), next, Part::Status);
        }
    }
}
