//! Spreads pods over hosts and zones: by the pod's own constraints, else its controller's pods evenly.
use crate::framework::{Cycle, Event, Filter, Score, Verdict, normalize_to_lowest};
use crate::pod_info::SpreadRule;
use crate::snapshot::NodeInfo;
use crate::topology::{ZONE, counted};

pub struct PodTopologySpread;

const REASON: &str = "node(s) didn't match pod topology spread constraints";

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        let rules = cycle.wants.spread.iter().zip(&cycle.topology.spread);
        for (rule, counts) in rules.filter(|(rule, _)| rule.is_required) {
            let Some(domain) = node.domain(&rule.topology_key) else {
                return Verdict::no(&format!("{REASON} (missing required label)"));
            };
            let fewest = match i64::try_from(counts.len()).unwrap_or(i64::MAX) < rule.min_domains {
                true => 0,
                false => counts.values().copied().min().unwrap_or(0),
            };
            let here = counts.get(domain).copied().unwrap_or(0);
            if here + i64::from(matches_itself(rule, cycle)) - fewest > rule.max_skew {
                return Verdict::no(REASON);
            }
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

fn matches_itself(rule: &SpreadRule, cycle: &Cycle<'_>) -> bool {
    rule.selector.as_ref().is_some_and(|s| s.matches(&cycle.pod.labels))
}

impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        let wanted =
            cycle.wants.spread.iter().zip(&cycle.topology.spread).filter(|(rule, _)| !rule.is_required);
        let mut pods: i64 =
            wanted.map(|(rule, counts)| counted(counts, node.domain(&rule.topology_key))).sum();
        if cycle.wants.spread.is_empty() {
            pods += cycle.pod.owner.as_ref().map_or(0, |owner| node.siblings(owner));
            if !cycle.topology.zones.is_empty() {
                pods += counted(&cycle.topology.zones, node.domain(ZONE));
            }
        }
        pods
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_lowest(scores);
    }
}
