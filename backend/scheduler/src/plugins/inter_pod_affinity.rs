//! Pods near some pods and away from others, by topology domain.
use crate::framework::{Cycle, Event, Filter, MAX_SCORE, Score, Verdict};
use crate::snapshot::NodeInfo;
use crate::topology::counted;

pub struct InterPodAffinity;

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        if !affine(cycle, node) {
            return Verdict::no("node(s) didn't match pod affinity rules");
        }
        let terms = cycle.pod.anti_affinity.iter().zip(&cycle.topology.anti_affinity);
        if terms.into_iter().any(|(term, counts)| counted(counts, node.domain(&term.topology_key)) > 0) {
            return Verdict::no("node(s) didn't match pod anti-affinity rules");
        }
        if cycle.topology.kept_out.iter().any(|(key, domain)| node.domain(key) == Some(domain)) {
            return Verdict::no("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Verdict::Fits
    }

    fn helped_by(&self, _event: Event) -> bool {
        true
    }

    fn is_about_pods(&self) -> bool {
        true
    }
}

fn affine(cycle: &Cycle<'_>, node: &NodeInfo) -> bool {
    let terms = || cycle.wants.affinity.iter().zip(&cycle.topology.affinity);
    if terms().any(|(term, _)| node.domain(&term.topology_key).is_none()) {
        return false;
    }
    if terms().all(|(term, counts)| counted(counts, node.domain(&term.topology_key)) > 0) {
        return true;
    }
    // The first of a group that wants to be together finds nobody yet.
    let nobody = terms().all(|(_, counts)| counts.values().sum::<i64>() == 0);
    nobody && terms().all(|(term, _)| term.matches(&cycle.pod.key.namespace, &cycle.pod.labels))
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        let terms = cycle.wants.preferred.iter().zip(&cycle.topology.preferred);
        terms.map(|(term, counts)| term.weight * counted(counts, node.domain(&term.topology_key))).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let lowest = scores.iter().copied().min().unwrap_or(0);
        let span = scores.iter().copied().max().unwrap_or(0) - lowest;
        for score in scores {
            *score = if span > 0 { (*score - lowest) * MAX_SCORE / span } else { 0 };
        }
    }
}
