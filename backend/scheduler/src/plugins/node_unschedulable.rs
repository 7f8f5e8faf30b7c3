//! A cordoned node takes only pods that tolerate `node.kubernetes.io/unschedulable`.
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::snapshot::NodeInfo;
use pilothouse_api::placement::Taint;

pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        if !node.facts.is_unschedulable {
            return Verdict::Fits;
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        };
        match cycle.wants.tolerations.iter().any(|t| t.tolerates(&taint)) {
            true => Verdict::Fits,
            false => Verdict::no("node(s) were unschedulable"),
        }
    }

    fn helped_by(&self, event: Event) -> bool {
        event == Event::Node
    }
}
