//! Which nodes a pod may run on: taints and tolerations, node selectors and node affinity.
//!
//! Follows "Taints and Tolerations" and "Assigning Pods to Nodes" of the Kubernetes documentation. The scheduler, the
//! DaemonSet controller and taint-based eviction ask the same questions.
use serde_json::Value;
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
}

impl Taint {
    /// `spec.taints` of a node.
    pub fn of_node(node: &Value) -> Vec<Taint> {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        taints
            .map(|t| Taint { key: text(t, "key"), value: text(t, "value"), effect: text(t, "effect") })
            .collect()
    }

    /// Whether it keeps pods away, rather than only making the node less wanted.
    pub fn repels(&self) -> bool {
        matches!(self.effect.as_str(), "NoSchedule" | "NoExecute")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// Empty with `exists`: every taint.
    pub key: String,
    pub exists: bool,
    pub value: String,
    /// Empty: every effect.
    pub effect: String,
    /// For how long a `NoExecute` taint is tolerated; None: for ever.
    pub seconds: Option<i64>,
}

impl Toleration {
    pub fn new(toleration: &Value) -> Self {
        Self {
            key: text(toleration, "key"),
            exists: toleration["operator"] == "Exists",
            value: text(toleration, "value"),
            effect: text(toleration, "effect"),
            seconds: toleration["tolerationSeconds"].as_i64(),
        }
    }

    /// `spec.tolerations` of a pod.
    pub fn of_pod(pod: &Value) -> Vec<Toleration> {
        pod["spec"]["tolerations"].as_array().into_iter().flatten().map(Toleration::new).collect()
    }

    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = if self.key.is_empty() { self.exists } else { self.key == taint.key };
        effect && key && (self.exists || self.value == taint.value)
    }
}

/// The first taint that keeps a pod with these tolerations from being placed.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints.iter().find(|taint| taint.repels() && !tolerations.iter().any(|t| t.tolerates(taint)))
}

/// One `matchExpressions` or `matchFields` entry of a node selector term.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Requirement {
    fn new(value: &Value) -> Self {
        let values = value["values"].as_array().into_iter().flatten();
        Self {
            key: text(value, "key"),
            operator: text(value, "operator"),
            values: values.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        }
    }

    fn holds(&self, label: Option<&str>) -> bool {
        let listed = || label.is_some_and(|label| self.values.iter().any(|v| v == label));
        let compared = |wanted: std::cmp::Ordering| {
            let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
            let found = label.and_then(|l| l.parse::<i64>().ok());
            found.zip(bound).is_some_and(|(found, bound)| found.cmp(&bound) == wanted)
        };
        match self.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            "Gt" => compared(std::cmp::Ordering::Greater),
            "Lt" => compared(std::cmp::Ordering::Less),
            _ => false,
        }
    }
}

/// A node selector term: all its requirements hold. One without any matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    pub fn new(term: &Value) -> Self {
        let read = |list: &Value| list.as_array().into_iter().flatten().map(Requirement::new).collect();
        Self { labels: read(&term["matchExpressions"]), fields: read(&term["matchFields"]) }
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field = |r: &Requirement| r.holds((r.key == "metadata.name").then_some(name));
        let any = !self.labels.is_empty() || !self.fields.is_empty();
        any && self.labels.iter().all(|r| r.holds(labels.get(&r.key).map(String::as_str)))
            && self.fields.iter().all(field)
    }
}

/// `spec.nodeSelector` and the required node affinity of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredNodes {
    selector: Labels,
    /// Any of these; None: no affinity is asked for.
    terms: Option<Vec<NodeTerm>>,
}

impl RequiredNodes {
    /// From a pod's `spec` or that of a template.
    pub fn of_spec(spec: &Value) -> Self {
        let selector = spec["nodeSelector"].as_object().into_iter().flatten();
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let terms = required["nodeSelectorTerms"].as_array();
        Self {
            selector: selector.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect(),
            terms: terms.map(|terms| terms.iter().map(NodeTerm::new).collect()),
        }
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_toleration_matches_by_key_value_and_effect() {
        let taint = Taint { key: "dedicated".into(), value: "db".into(), effect: "NoSchedule".into() };
        let rows = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "dedicated", "operator": "Exists"}), true),
            (json!({"key": "dedicated", "value": "db"}), true),
            (json!({"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoSchedule"}), true),
            (json!({"key": "dedicated", "value": "web"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"value": "db"}), false),
        ];
        for (toleration, expected) in rows {
            assert_eq!(Toleration::new(&toleration).tolerates(&taint), expected, "{toleration}");
        }
    }

    #[test]
    fn node_affinity_terms_are_alternatives_and_their_expressions_all_hold() {
        let labels: Labels =
            [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let term = |expressions: Value| json!({"matchExpressions": expressions});
        let rows = [
            (json!([term(json!([{"key": "zone", "operator": "In", "values": ["a", "b"]}]))]), true),
            (json!([term(json!([{"key": "zone", "operator": "NotIn", "values": ["a"]}]))]), false),
            (json!([term(json!([{"key": "gone", "operator": "NotIn", "values": ["a"]}]))]), true),
            (json!([term(json!([{"key": "cores", "operator": "Gt", "values": ["4"]}]))]), true),
            (json!([term(json!([{"key": "cores", "operator": "Lt", "values": ["4"]}]))]), false),
            (
                json!([
                    term(json!([{"key": "gone", "operator": "Exists"}])),
                    term(json!([{"key": "zone", "operator": "Exists"}]))
                ]),
                true,
            ),
            (json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]), true),
            (json!([{}]), false),
            (json!([]), false),
        ];
        for (terms, expected) in rows {
            let required =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            let spec = json!({"affinity": {"nodeAffinity": required}});
            assert_eq!(RequiredNodes::of_spec(&spec).matches("n1", &labels), expected, "{spec}");
        }
        let selector = |value: &str| RequiredNodes::of_spec(&json!({"nodeSelector": {"zone": value}}));
        assert!(selector("a").matches("n1", &labels));
        assert!(!selector("b").matches("n1", &labels));
    }
}
