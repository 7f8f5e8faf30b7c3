//! Whom to send away so that a more important pod fits (`defaultpreemption`).
use crate::decision::Victim;
use crate::framework::{Cycle, Filter};
use crate::pod_info::PodInfo;
use crate::snapshot::NodeInfo;
use pilothouse_api::jiff::Timestamp;
use std::cmp::Reverse;
use std::sync::Arc;

/// The best node and the pods that must leave it. `candidates` are nodes that would do but for the pods on them.
pub fn choose<'a>(
    cycle: &Cycle<'_>,
    candidates: impl Iterator<Item = &'a NodeInfo>,
    filters: &[&dyn Filter],
) -> Option<(&'a NodeInfo, Vec<Victim>)> {
    let options = candidates.filter_map(|node| Some((node, victims(cycle, node, filters)?)));
    let (node, victims) = options.min_by_key(|(node, victims)| harm(node, victims))?;
    let victims = victims.iter().map(|pod| Victim { pod: pod.key.clone(), uid: pod.uid.to_string() });
    Some((node, victims.collect()))
}

/// How bad it is to lose them: the most important first, then all, then how many, then those that have run longest.
type Harm = (i32, i64, usize, Reverse<Option<Timestamp>>, Arc<str>);

fn harm(node: &NodeInfo, victims: &[Arc<PodInfo>]) -> Harm {
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|pod| i64::from(pod.priority)).sum();
    let started = victims.iter().filter(|pod| pod.priority == highest).filter_map(|pod| pod.created).min();
    (highest, sum, victims.len(), Reverse(started), node.name.clone())
}

/// The fewest pods of lower priority whose absence makes room; None where even all of them would not.
fn victims(cycle: &Cycle<'_>, node: &NodeInfo, filters: &[&dyn Filter]) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<_> =
        node.pods.values().filter(|pod| pod.priority < cycle.pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    // The most important and the oldest are spared first.
    lower.sort_by_key(|pod| (Reverse(pod.priority), pod.created, pod.uid.clone()));
    let fits = |without: &[Arc<str>]| {
        let rest = node.without(without);
        filters.iter().all(|filter| filter.filter(cycle, &rest).fits())
    };
    let mut leaving: Vec<Arc<str>> = lower.iter().map(|pod| pod.uid.clone()).collect();
    if !fits(&leaving) {
        return None;
    }
    for pod in &lower {
        let spared: Vec<_> = leaving.iter().filter(|uid| **uid != pod.uid).cloned().collect();
        if fits(&spared) {
            leaving = spared;
        }
    }
    lower.retain(|pod| leaving.contains(&pod.uid));
    Some(lower)
}
