//! Which pod runs where: pure, over a snapshot that follows the cluster change by change.
//!
//! The shell feeds every change of pods and nodes to [`Scheduler::observe`], asks [`Scheduler::next`] until it says None,
//! carries the decisions out, and comes again at [`Scheduler::next_at`] or after the next change.
pub mod framework;
pub mod plugins;
pub mod queue;
pub mod snapshot;
pub mod storage;

mod decision;
mod pod_info;
mod preemption;
mod scheduler;
#[cfg(test)]
mod tests;
mod topology;

pub use decision::{Decision, Victim};
pub use framework::{Filter, Score, Verdict};
pub use pod_info::PodInfo;
pub use scheduler::Scheduler;
pub use snapshot::{NodeInfo, Snapshot};
