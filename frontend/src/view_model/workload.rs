//! Deployments, ReplicaSets, Nodes and Namespaces in one word.
use super::status::{Status, Tone};
use super::{at, condition, number, text};
use serde_json::Value;

/// Replica counts of a Deployment or ReplicaSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    pub wanted: i64,
    pub current: i64,
    pub updated: i64,
    pub ready: i64,
    pub available: i64,
}

impl Replicas {
    pub fn of(object: &Value) -> Self {
        let status = |name: &str| number(object, &["status", name]).unwrap_or(0);
        Self {
            wanted: number(object, &["spec", "replicas"]).unwrap_or(1),
            current: status("replicas"),
            updated: status("updatedReplicas"),
            ready: status("readyReplicas"),
            available: status("availableReplicas"),
        }
    }
}

/// A rollout's state as `kubectl rollout status` judges it.
pub fn deployment(object: &Value) -> Status {
    if at(object, &["metadata", "deletionTimestamp"]).is_some() {
        return Status::new(Tone::Busy, "Deleting");
    }
    let replicas = Replicas::of(object);
    let progressing = condition(object, "Progressing");
    let reason = progressing.map(|c| text(c, &["reason"])).unwrap_or_default();
    if reason == "ProgressDeadlineExceeded" {
        let detail = progressing.map(|c| text(c, &["message"])).unwrap_or_default();
        return Status::new(Tone::Bad, "Rollout stuck").with_detail(detail);
    }
    if let Some(failure) = condition(object, "ReplicaFailure").filter(|c| c["status"] == "True") {
        return Status::new(Tone::Bad, "Can't create pods").with_detail(text(failure, &["message"]));
    }
    if at(object, &["spec", "paused"]).is_some_and(|paused| paused == true) {
        return Status::new(Tone::Warn, "Paused");
    }
    let seen = number(object, &["status", "observedGeneration"]).unwrap_or(0);
    if seen < number(object, &["metadata", "generation"]).unwrap_or(0) {
        return Status::new(Tone::Busy, "Waiting for the controller");
    }
    match () {
        () if replicas.updated < replicas.wanted => {
            progress("Rolling out", replicas.updated, replicas.wanted, "updated")
        }
        () if replicas.current > replicas.updated => {
            let old = replicas.current - replicas.updated;
            Status::new(Tone::Busy, "Rolling out").with_detail(format!("{old} old pods are ending"))
        }
        () if replicas.available < replicas.updated => {
            progress("Starting", replicas.available, replicas.updated, "available")
        }
        () if replicas.wanted == 0 => Status::new(Tone::Muted, "Scaled to zero"),
        () => Status::new(Tone::Good, "Available"),
    }
}

fn progress(word: &str, part: i64, whole: i64, what: &str) -> Status {
    Status::new(Tone::Busy, word).with_detail(format!("{part} of {whole} {what}"))
}

pub fn replica_set(object: &Value) -> Status {
    let replicas = Replicas::of(object);
    match () {
        () if replicas.wanted == 0 && replicas.current == 0 => Status::new(Tone::Muted, "Idle"),
        () if replicas.ready == replicas.wanted && replicas.current == replicas.wanted => {
            Status::new(Tone::Good, "Ready")
        }
        () => progress("Scaling", replicas.ready, replicas.wanted, "ready"),
    }
}

pub fn node(object: &Value) -> Status {
    let ready = condition(object, "Ready");
    let status = match ready.map(|c| text(c, &["status"])) {
        Some("True") => Status::new(Tone::Good, "Ready"),
        Some("False") => Status::new(Tone::Bad, "Not ready"),
        _ => Status::new(Tone::Bad, "Silent").with_detail("the node has not reported for a while"),
    };
    let status = match ready.filter(|_| status.tone == Tone::Bad).map(|c| text(c, &["message"])) {
        Some(message) if !message.is_empty() => status.with_detail(message),
        _ => status,
    };
    match object["spec"]["unschedulable"] == true {
        true if status.tone == Tone::Good => {
            Status::new(Tone::Warn, "Cordoned").with_detail("takes no new pods")
        }
        _ => status,
    }
}

pub fn namespace(object: &Value) -> Status {
    match text(object, &["status", "phase"]) {
        "Terminating" => Status::new(Tone::Busy, "Terminating"),
        _ => Status::new(Tone::Good, "Active"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn web(status: Value) -> Value {
        json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status})
    }

    #[test]
    fn a_rollout_is_judged_as_kubectl_judges_it() {
        for (status, word) in [
            (json!({}), "Waiting for the controller"),
            (json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 3}), "Rolling out"),
            (json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}), "Rolling out"),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                "Starting",
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                "Available",
            ),
            (
                json!({"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
                "Rollout stuck",
            ),
        ] {
            assert_eq!(deployment(&web(status.clone())).word, word, "{status}");
        }
    }

    #[test]
    fn a_cordoned_node_says_so_and_a_silent_one_is_bad() {
        let ready = json!({"spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(node(&ready).word, "Cordoned");
        assert_eq!(node(&json!({})).tone, Tone::Bad);
    }
}
