//! What controllers ask of a pod, so often and of so many that it is kept ready.
use crate::object::{
    annotation, condition, controller_of, count, is_deleting, is_terminal, labels, text, time,
};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::placement::Labels;
use serde_json::Value;
use std::sync::Arc;

/// Its life as Kubernetes tells it (`status.phase`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Controller {
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Arc<str>,
}

#[derive(Debug)]
pub struct Pod {
    pub labels: Arc<Labels>,
    pub controller: Option<Arc<Controller>>,
    pub node: Option<Arc<str>>,
    /// The one node that its affinity allows, while it has none: where a DaemonSet's pod belongs.
    pub target: Option<Arc<str>>,
    pub ip: Option<Box<str>>,
    pub hostname: Option<Box<str>>,
    pub subdomain: Option<Box<str>>,
    pub created: Option<Timestamp>,
    /// Since when it is ready; the beginning of time where that is not told.
    pub ready_since: Option<Timestamp>,
    pub restarts: i32,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    pub phase: Phase,
    pub is_deleting: bool,
    /// When it ended, if it has.
    pub finished_at: Option<Timestamp>,
    /// Its job has not counted it yet.
    pub is_tracked: bool,
    /// It is to be deleted, and no node has anything to do with it any more: only finalizers keep it.
    pub is_abandoned: bool,
}

/// The finalizer by which a job keeps its pods until they are counted.
pub const JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";

impl Pod {
    pub fn new(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let restarts =
            status["containerStatuses"].as_array().into_iter().flatten().map(|c| count(&c["restartCount"]));
        let ready = condition(pod, "Ready").filter(|c| c["status"] == "True");
        Self {
            labels: Arc::new(labels(pod)),
            controller: controller_of(pod).map(|owner| {
                let text = |field| text(owner, field);
                let (kind, name, uid) = (text("kind").into(), text("name").into(), text("uid").into());
                Arc::new(Controller { kind, name, uid })
            }),
            node: some(text(spec, "nodeName")).map(Arc::from),
            target: target(spec).map(Arc::from),
            ip: some(text(status, "podIP")).map(String::into_boxed_str),
            hostname: some(text(spec, "hostname")).map(String::into_boxed_str),
            subdomain: some(text(spec, "subdomain")).map(String::into_boxed_str),
            created: time(&pod["metadata"]["creationTimestamp"]),
            ready_since: ready.map(|c| time(&c["lastTransitionTime"]).unwrap_or(Timestamp::MIN)),
            restarts: i32::try_from(restarts.sum::<i64>()).unwrap_or(i32::MAX),
            deletion_cost: annotation(pod, "controller.kubernetes.io/pod-deletion-cost")
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
            phase: match text(status, "phase") {
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                _ => Phase::Pending,
            },
            is_deleting: is_deleting(pod),
            finished_at: finished_at(pod),
            is_tracked: pod["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|all| all.iter().any(|f| f == JOB_TRACKING)),
            is_abandoned: is_deleting(pod)
                && (count(&pod["metadata"]["deletionGracePeriodSeconds"]) == 0
                    || text(spec, "nodeName").is_empty()),
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Ended for good: it will not run again.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Counts for a workload: not ended and not ending.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && !self.is_deleting
    }

    /// Told to end, and its node is still at it.
    pub fn is_ending(&self) -> bool {
        !self.is_terminal() && self.is_deleting && !self.is_abandoned
    }

    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|owner| *owner.uid == *uid)
    }
}

/// Only asked of pods that have no node yet.
fn target(spec: &Value) -> Option<&str> {
    if spec["nodeName"].as_str().is_some_and(|node| !node.is_empty()) {
        return None;
    }
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let fields = required["nodeSelectorTerms"].as_array()?.first()?["matchFields"].as_array()?;
    let field = fields.iter().find(|field| field["key"] == "metadata.name" && field["operator"] == "In")?;
    match field["values"].as_array()?.as_slice() {
        [node] => node.as_str(),
        _ => None,
    }
}

/// When the last container ended; where no container tells, when the pod stopped being ready.
fn finished_at(pod: &Value) -> Option<Timestamp> {
    if !is_terminal(pod) {
        return None;
    }
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ended = containers.filter_map(|c| time(&c["state"]["terminated"]["finishedAt"])).max();
    let unready = || condition(pod, "Ready").and_then(|c| time(&c["lastTransitionTime"]));
    ended.or_else(unready).or_else(|| time(&pod["metadata"]["creationTimestamp"]))
}
