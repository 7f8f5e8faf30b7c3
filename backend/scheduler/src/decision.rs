//! What the scheduler wants done about one pod.
use pilothouse_api::Key;
use pilothouse_api::jiff::Timestamp;
use serde_json::{Value, json};

/// A pod that must go so that another fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    pub pod: Key,
    pub uid: String,
}

/// One pod's outcome. The shell carries it out and answers a failure with [`crate::Scheduler::forgotten`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write the binding. The pod counts on that node from now on.
    Bind { pod: Key, uid: String, node: String },
    /// No node will do: tell the pod (condition `PodScheduled` and event `FailedScheduling`). `message` reads
    /// `0/1 nodes are available: 1 Insufficient cpu.`
    Unschedulable { pod: Key, uid: String, message: String },
    /// Delete the victims with their own grace, name `node` in `status.nominatedNodeName`, and tell the pod as above.
    Preempt { pod: Key, uid: String, node: String, victims: Vec<Victim>, message: String },
}

impl Decision {
    pub fn pod(&self) -> &Key {
        match self {
            Decision::Bind { pod, .. } | Decision::Unschedulable { pod, .. } | Decision::Preempt { pod, .. } => pod,
        }
    }

    /// The pod with what this decision tells it in its status; None where it says so already, or where the pod needs
    /// no word (a binding writes its own condition).
    pub fn told(&self, pod: &Value, now: Timestamp) -> Option<Value> {
        let (message, nominated) = match self {
            Decision::Bind { .. } => return None,
            Decision::Unschedulable { message, .. } => (message, None),
            Decision::Preempt { message, node, .. } => (message, Some(node)),
        };
        let mut next = pod.clone();
        if !next["status"].is_object() {
            next["status"] = json!({});
        }
        if let Some(node) = nominated {
            next["status"]["nominatedNodeName"] = node.as_str().into();
        }
        let mut conditions = next["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let at = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        let old = conditions.iter().position(|c| c["type"] == "PodScheduled");
        let since = old.filter(|i| conditions[*i]["status"] == "False").map(|i| conditions[i]["lastTransitionTime"].clone());
        let fresh = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": since.unwrap_or_else(|| at.into()),
        });
        match old {
            Some(i) => conditions[i] = fresh,
            None => conditions.push(fresh),
        }
        next["status"]["conditions"] = conditions.into();
        (next != *pod).then_some(next)
    }
}
