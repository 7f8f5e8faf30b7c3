//! `nodeSelector` and node affinity, required and preferred.
use crate::framework::{Cycle, Event, Filter, Score, Verdict, normalize_to_highest};
use crate::snapshot::NodeInfo;

pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        match cycle.wants.nodes.matches(&node.name, &node.facts.labels) {
            true => Verdict::Fits,
            false => Verdict::no("node(s) didn't match Pod's node affinity/selector"),
        }
    }

    fn helped_by(&self, event: Event) -> bool {
        event == Event::Node
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        let terms = cycle.wants.preferred_nodes.iter();
        terms.filter(|(_, term)| term.matches(&node.name, &node.facts.labels)).map(|(weight, _)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_highest(scores);
    }
}
