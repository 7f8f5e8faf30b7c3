//! The condition `DisruptionTarget`: a pod that is ended for reasons that are not its own says so, for those who count
//! failures (<https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions>).
use crate::lifecycle::seconds;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Who ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    EvictionApi,
    PodGarbageCollection,
    Preemption,
    Taint,
}

impl Cause {
    fn reason_and_message(self) -> (&'static str, &'static str) {
        match self {
            Self::EvictionApi => ("EvictionByEvictionAPI", "Eviction API: evicting"),
            Self::PodGarbageCollection => ("DeletionByPodGC", "PodGC: node no longer exists"),
            Self::Preemption => (
                "PreemptionByScheduler",
                "default-scheduler: preempting to accommodate a higher priority pod",
            ),
            Self::Taint => ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
        }
    }
}

const TYPE: &str = "DisruptionTarget";

/// The pod with its condition; None: it says so already.
pub fn marked(pod: &Value, cause: Cause, now: Timestamp) -> Option<Value> {
    let conditions = pod["status"]["conditions"].as_array();
    if conditions.is_some_and(|all| all.iter().any(|c| c["type"] == TYPE && c["status"] == "True")) {
        return None;
    }
    let (reason, message) = cause.reason_and_message();
    let condition = json!({
        "type": TYPE, "status": "True", "reason": reason, "message": message, "lastProbeTime": null,
        "lastTransitionTime": seconds(now),
    });
    let mut marked = pod.clone();
    let status = &mut marked["status"];
    if !status.is_object() {
        *status = json!({});
    }
    let mut all = conditions.cloned().unwrap_or_default();
    all.retain(|c| c["type"] != TYPE);
    all.push(condition);
    status["conditions"] = all.into();
    Some(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_says_once_why_it_is_ended() {
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let told = marked(&pod, Cause::EvictionApi, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(told["status"]["conditions"][1]["reason"], "EvictionByEvictionAPI");
        assert_eq!(marked(&told, Cause::Taint, Timestamp::UNIX_EPOCH), None);
        assert!(marked(&json!({}), Cause::Taint, Timestamp::UNIX_EPOCH).is_some());
    }
}
