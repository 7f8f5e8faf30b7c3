//! Which pod runs where: pure, over a snapshot that follows the cluster change by change.
pub mod framework;
pub mod plugins;
pub mod queue;
pub mod snapshot;

pub use framework::{Filter, PodInfo, Score, Verdict};
pub use queue::{Decision, Scheduler};
pub use snapshot::{NodeInfo, Snapshot};
