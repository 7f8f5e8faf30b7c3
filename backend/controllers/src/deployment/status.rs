//! What a deployment tells: counts, availability, progress (`deployment/progress.go` and `sync.go` of Kubernetes).
use super::{REVISION, Rollout, Set};
use crate::object::*;
use crate::{Part, Plan};
use serde_json::{Value, json};

const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";

impl Rollout<'_> {
    /// The revision annotation and the status, in one write.
    pub(super) fn write_deployment(&self, paused: bool, plan: &mut Plan) {
        let mut next = self.deployment.clone();
        let revision = self.revision.to_string();
        let noted = self.revision == 0 || annotation(self.deployment, REVISION) == Some(revision.as_str());
        if !noted {
            annotations_mut(&mut next).insert(REVISION.into(), revision.into());
        }
        next["status"] = self.status(paused, plan);
        let part = match (noted, next["status"] == self.deployment["status"]) {
            (true, true) => return,
            (true, false) => Part::Status,
            (false, true) => Part::Spec,
            (false, false) => Part::Whole,
        };
        plan.update(self.key.clone(), next, part);
    }

    fn status(&self, paused: bool, plan: &mut Plan) -> Value {
        let sum = |field: &str| -> i64 { self.sets.iter().map(|set| set.status(field)).sum() };
        let available = sum("availableReplicas");
        let counts = [
            ("replicas", sum("replicas")),
            ("updatedReplicas", self.new.map_or(0, |at| self.sets[at].status("replicas"))),
            ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", self.total() - available),
            ("collisionCount", self.collisions),
        ];
        let mut status = json!({"observedGeneration": self.deployment["metadata"]["generation"]});
        for (field, value) in counts.into_iter().filter(|(_, value)| *value > 0) {
            status[field] = value.into();
        }
        let conditions = self.conditions(&status, paused, plan);
        status["conditions"] = conditions.into();
        status
    }

    /// All replicas are of the new template and serve, and nothing else is left.
    pub(super) fn is_complete(&self, status: &Value) -> bool {
        ["updatedReplicas", "replicas", "availableReplicas"]
            .iter()
            .all(|field| count(&status[field]) == self.desired())
            && count(&status["observedGeneration"]) >= count(&self.deployment["metadata"]["generation"])
    }

    fn conditions(&self, status: &Value, paused: bool, plan: &mut Plan) -> Vec<Value> {
        let mut conditions: Vec<Value> =
            self.deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let enough = count(&status["availableReplicas"]) >= self.desired() - self.bounds().1;
        match enough {
            true => self.note(
                &mut conditions,
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            ),
            false => {
                let message = "Deployment does not have minimum availability.";
                self.note(&mut conditions, "Available", "False", "MinimumReplicasUnavailable", message);
            }
        }
        self.progress(&mut conditions, status, paused, plan);
        let failure =
            self.sets.iter().rev().find_map(|set: &Set| {
                condition(&set.seen, "ReplicaFailure").filter(|c| c["status"] == "True")
            });
        match failure {
            Some(c) => {
                self.note(&mut conditions, "ReplicaFailure", "True", text(c, "reason"), text(c, "message"))
            }
            None => conditions.retain(|c| c["type"] != "ReplicaFailure"),
        }
        conditions
    }

    fn progress(&self, conditions: &mut Vec<Value>, status: &Value, paused: bool, plan: &mut Plan) {
        let seconds = self.spec()["progressDeadlineSeconds"].as_i64().filter(|d| *d < i64::from(i32::MAX));
        let Some(seconds) = seconds else {
            conditions.retain(|c| c["type"] != PROGRESSING);
            return;
        };
        let current = conditions.iter().find(|c| c["type"] == PROGRESSING).cloned();
        let reason = current.as_ref().map_or("", |c| text(c, "reason"));
        if paused {
            // A deadline that was missed stays told.
            if reason != "ProgressDeadlineExceeded" {
                self.note(conditions, PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused");
            }
            return;
        }
        if let Some((set_name, _)) = &self.created {
            let message = format!("Created new replica set {set_name:?}");
            return self.renew(conditions, "NewReplicaSetCreated", &message);
        }
        if reason == "DeploymentPaused" {
            self.note(conditions, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
        // Once complete, a pod that fails does not start the deadline again: only a new template does.
        let settled = count(&status["replicas"]) == count(&status["updatedReplicas"]) && reason == COMPLETE;
        if settled {
            return;
        }
        let about = self.new.map_or_else(
            || format!("Deployment {:?}", name(self.deployment)),
            |at| format!("ReplicaSet {:?}", &*self.sets[at].key.name),
        );
        if self.is_complete(status) {
            return self.renew(conditions, COMPLETE, &format!("{about} has successfully progressed."));
        }
        if let Some(at) = self.new.filter(|_| current.is_none()) {
            self.renew(
                conditions,
                "FoundNewReplicaSet",
                &format!("Found new replica set {:?}", &*self.sets[at].key.name),
            );
        }
        if self.moved(status) {
            self.renew(conditions, "ReplicaSetUpdated", &format!("{about} is progressing."));
        }
        self.watch_deadline(conditions, seconds, &about, plan);
    }

    fn watch_deadline(&self, conditions: &mut Vec<Value>, seconds: i64, about: &str, plan: &mut Plan) {
        let current = conditions.iter().find(|c| c["type"] == PROGRESSING && c["reason"] != COMPLETE);
        let Some(since) = current.filter(|c| c["status"] != "False").and_then(|c| time(&c["lastUpdateTime"]))
        else {
            return;
        };
        let at = later(since, seconds);
        if at > self.now {
            plan.check_again(at);
        } else {
            let message = format!("{about} has timed out progressing.");
            self.note(conditions, PROGRESSING, "False", "ProgressDeadlineExceeded", &message);
        }
    }

    /// Whether the counts came closer to the end than those written last.
    fn moved(&self, status: &Value) -> bool {
        let old = &self.deployment["status"];
        let grew = |field: &str| count(&status[field]) > count(&old[field]);
        let outdated = |status: &Value| count(&status["replicas"]) - count(&status["updatedReplicas"]);
        grew("updatedReplicas")
            || grew("readyReplicas")
            || grew("availableReplicas")
            || outdated(status) < outdated(old)
    }

    /// Progress now: the deadline counts from here.
    fn renew(&self, conditions: &mut Vec<Value>, reason: &str, message: &str) {
        self.note(conditions, PROGRESSING, "True", reason, message);
        if let Some(condition) = conditions.iter_mut().find(|c| c["type"] == PROGRESSING) {
            condition["lastUpdateTime"] = stamp(self.now);
        }
    }

    /// A deployment's condition, which also tells when it was last updated.
    fn note(&self, conditions: &mut Vec<Value>, r#type: &str, status: &str, reason: &str, message: &str) {
        let before = conditions.iter().find(|c| c["type"] == r#type).cloned();
        set_condition(conditions, r#type, status, reason, message, self.now);
        let Some(after) = conditions.iter_mut().find(|c| c["type"] == r#type) else {
            return;
        };
        let same = before
            .is_some_and(|b| ["status", "reason", "message"].iter().all(|field| b[field] == after[field]));
        if !same || after["lastUpdateTime"].is_null() {
            after["lastUpdateTime"] = stamp(self.now);
        }
    }
}
