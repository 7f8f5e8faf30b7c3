//! What a scheduling plugin is, and what it may ask.
use crate::pod_info::{PodInfo, Wants};
use crate::snapshot::NodeInfo;
use crate::storage::PodStorage;
use crate::topology::Topology;

/// The best score a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// A filter's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Why not, as the pod's event says it: `Insufficient cpu`.
    No(Vec<String>),
}

impl Verdict {
    pub fn no(reason: &str) -> Self {
        Self::No(vec![reason.to_owned()])
    }

    pub fn fits(&self) -> bool {
        *self == Self::Fits
    }
}

/// What happened in the cluster that may let a pod in that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node came, or its labels, taints or size changed.
    Node,
    /// A pod left a node, or shrank.
    PodLeft,
    /// A pod was placed on a node, or its labels changed.
    PodPlaced,
    /// A volume or a class of storage came.
    Volume,
}

/// What plugins compute once a pod, before the nodes are asked one by one.
pub struct Cycle<'a> {
    pub pod: &'a PodInfo,
    pub wants: &'a Wants,
    pub topology: Topology<'a>,
    pub storage: PodStorage<'a>,
}

pub trait Filter: Send + Sync {
    fn name(&self) -> &'static str;
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict;
    /// Whether a pod this plugin refused should be tried again.
    fn helped_by(&self, event: Event) -> bool;
    /// Whether pods in the way are the reason: a more important pod may send them away.
    fn is_about_pods(&self) -> bool {
        false
    }
}

pub trait Score: Send + Sync {
    fn name(&self) -> &'static str;
    fn weight(&self) -> i64;
    /// Of the nodes that passed. Any scale where [`Score::normalize`] brings it to 0..=[`MAX_SCORE`].
    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64;
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Brings scores of 0 or more to 0..=[`MAX_SCORE`] in proportion to the highest.
pub fn normalize_to_highest(scores: &mut [i64]) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    if highest > 0 {
        scores.iter_mut().for_each(|score| *score = *score * MAX_SCORE / highest);
    }
}

/// The same where less is better.
pub fn normalize_to_lowest(scores: &mut [i64]) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = if highest > 0 { (highest - *score) * MAX_SCORE / highest } else { MAX_SCORE };
    }
}
