//! What the scheduler wants done about one pod.
use crate::storage::Choice;
use pilothouse_api::Key;
use std::sync::Arc;

/// A pod that must go so that another fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    pub pod: Key,
    pub uid: String,
}

/// One pod's outcome. The shell carries it out; where a binding fails it says so with
/// [`crate::Scheduler::binding_failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write the binding. The pod counts on that node from now on.
    Bind { pod: Key, uid: String, node: Arc<str> },
    /// The pod's claims get their volumes on that node: write the node on each claim whose volume is to be made, the claim on
    /// each volume chosen, and name `node` in the pod's `status.nominatedNodeName`. The pod is tried again once they are bound.
    /// Where a write fails: [`crate::Scheduler::volumes_failed`].
    BindVolumes { pod: Key, uid: String, node: Arc<str>, claims: Vec<(Key, Choice)> },
    /// No node will do: tell the pod (condition `PodScheduled`, event `FailedScheduling`). `message` reads
    /// `0/1 nodes are available: 1 Insufficient cpu.`
    Unschedulable { pod: Key, uid: String, message: String },
    /// Tell the pod as above, name `node` in its `status.nominatedNodeName`, and delete the victims, each with its own
    /// grace: the pod is tried again once they are gone.
    Preempt { pod: Key, uid: String, node: Arc<str>, victims: Vec<Victim>, message: String },
}
