//! Taints keep pods away that do not tolerate them.
use crate::framework::{Filter, PodInfo, Score, Verdict};
use crate::snapshot::{NodeInfo, Snapshot};
use serde_json::Value;

pub struct TaintToleration;

/// Whether any of a pod's tolerations covers a taint (`v1.Toleration.ToleratesTaint`).
pub fn tolerated(pod: &Value, taint: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pod["spec"]["tolerations"].as_array().into_iter().flatten().any(|t| {
        let (key, effect) = (text(&t["key"]), text(&t["effect"]));
        let matches = (effect.is_empty() || effect == text(&taint["effect"])) && (key.is_empty() || key == text(&taint["key"]));
        matches
            && match text(&t["operator"]).as_str() {
                "Exists" => true,
                "" | "Equal" => !key.is_empty() && text(&t["value"]) == text(&taint["value"]),
                _ => false,
            }
    })
}

fn untolerated<'a>(pod: &'a PodInfo, node: &'a NodeInfo, effects: &'a [&'a str]) -> impl Iterator<Item = &'a Value> {
    let taints = node.node["spec"]["taints"].as_array().into_iter().flatten();
    taints.filter(|t| effects.iter().any(|e| t["effect"] == *e)).filter(|t| !tolerated(&pod.pod, t))
}

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> Verdict {
        match untolerated(pod, node, &["NoSchedule", "NoExecute"]).next() {
            None => Verdict::Fits,
            Some(taint) => {
                let key = taint["key"].as_str().unwrap_or_default();
                let value = taint["value"].as_str().unwrap_or_default();
                Verdict::No(vec![format!("node(s) had untolerated taint(s) {{{key}: {value}}}")])
            }
        }
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let soft = untolerated(pod, node, &["PreferNoSchedule"]).count();
        100 / (1 + i64::try_from(soft).unwrap_or(99))
    }
}
