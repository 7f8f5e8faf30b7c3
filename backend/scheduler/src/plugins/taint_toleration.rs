//! Pods stay off nodes whose taints they do not tolerate, and rather off those with `PreferNoSchedule`.
use crate::framework::{Cycle, Event, Filter, Score, Verdict, normalize_to_lowest};
use crate::snapshot::NodeInfo;
use pilothouse_api::placement::untolerated;

pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        match untolerated(&node.facts.taints, &cycle.wants.tolerations) {
            None => Verdict::Fits,
            Some(taint) => {
                let reason = format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
                Verdict::no(&reason)
            }
        }
    }

    fn helped_by(&self, event: Event) -> bool {
        event == Event::Node
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        let disliked = node.facts.taints.iter().filter(|taint| {
            taint.effect == "PreferNoSchedule" && !cycle.wants.tolerations.iter().any(|t| t.tolerates(taint))
        });
        i64::try_from(disliked.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_lowest(scores);
    }
}
