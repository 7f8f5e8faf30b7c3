//! Node selectors and node affinity: where a pod must run, and where it would rather.
use crate::framework::{Filter, PodInfo, Score, Verdict};
use crate::snapshot::{NodeInfo, Snapshot};
use pilothouse_api::selector::LabelSelector;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub struct NodeAffinity;

fn labels(node: &NodeInfo) -> BTreeMap<String, String> {
    let labels = node.node["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// A term matches when all its expressions do; an empty one matches nothing.
fn term_matches(term: &Value, node: &NodeInfo, labels: &BTreeMap<String, String>) -> bool {
    let (expressions, fields) = (&term["matchExpressions"], &term["matchFields"]);
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    if empty(expressions) && empty(fields) {
        return false;
    }
    let all = |list: &Value, values: &BTreeMap<String, String>| {
        list.as_array().into_iter().flatten().all(|expression| expression_matches(expression, values))
    };
    let own = BTreeMap::from([("metadata.name".to_owned(), node.name.to_string())]);
    all(expressions, labels) && all(fields, &own)
}

/// Node selectors know `Gt` and `Lt` besides what label selectors know.
fn expression_matches(expression: &Value, values: &BTreeMap<String, String>) -> bool {
    let key = expression["key"].as_str().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let pair = || Some((number(values.get(key).map(String::as_str))?, number(expression["values"][0].as_str())?));
    match expression["operator"].as_str() {
        Some("Gt") => pair().is_some_and(|(has, than)| has > than),
        Some("Lt") => pair().is_some_and(|(has, than)| has < than),
        _ => LabelSelector::from_object(&json!({"matchExpressions": [expression]})).is_ok_and(|s| s.matches(values)),
    }
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> Verdict {
        let (selector, affinity) = (&pod.pod["spec"]["nodeSelector"], &pod.pod["spec"]["affinity"]["nodeAffinity"]);
        let required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].as_array();
        if selector.is_null() && required.is_none() {
            return Verdict::Fits;
        }
        let labels = labels(node);
        let selected = selector.as_object().into_iter().flatten().all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str());
        let near = required.is_none_or(|terms| terms.iter().any(|term| term_matches(term, node, &labels)));
        match selected && near {
            true => Verdict::Fits,
            false => Verdict::No(vec!["node(s) didn't match Pod's node affinity/selector".into()]),
        }
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let wishes = &pod.pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        let Some(wishes) = wishes.as_array() else { return 0 };
        let labels = labels(node);
        let weight = |wish: &Value| wish["weight"].as_i64().unwrap_or(0);
        let total: i64 = wishes.iter().map(weight).sum();
        let met: i64 = wishes.iter().filter(|w| term_matches(&w["preference"], node, &labels)).map(weight).sum();
        if total == 0 { 0 } else { met * 100 / total }
    }
}
