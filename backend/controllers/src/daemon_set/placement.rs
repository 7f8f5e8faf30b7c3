//! Which nodes a DaemonSet's pods belong on, and how such a pod is tied to its node.
use super::Wish;
use crate::node::Node;
use pilothouse_api::placement::{RequiredNodes, Toleration};
use serde_json::{Value, json};

/// What a daemon bears with, whatever its template says: it runs on a node in trouble, too.
const BORNE: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Of a pod on the node's own network, which needs no other.
const BORNE_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a template asks of nodes.
pub struct Placement {
    required: RequiredNodes,
    tolerations: Vec<Toleration>,
    /// `nodeName` of the template.
    only: Option<String>,
}

impl Placement {
    pub fn of(spec: &Value) -> Self {
        let mut borne = spec.clone();
        tolerate(&mut borne);
        Self {
            required: RequiredNodes::of_spec(spec),
            tolerations: Toleration::of_pod(&json!({"spec": borne})),
            only: spec["nodeName"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
        }
    }

    pub fn wish(&self, name: &str, node: &Node) -> Wish {
        if self.only.as_deref().is_some_and(|only| only != name) || !self.required.matches(name, &node.labels)
        {
            return Wish::None;
        }
        let mut wish = if node.is_deleting { Wish::Keep } else { Wish::Run };
        for taint in
            node.taints.iter().filter(|t| t.repels() && !self.tolerations.iter().any(|by| by.tolerates(t)))
        {
            if taint.effect == "NoExecute" {
                return Wish::None;
            }
            wish = Wish::Keep;
        }
        wish
    }
}

fn tolerate(spec: &mut Value) {
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let network = Some(BORNE_ON_HOST_NETWORK).filter(|_| spec["hostNetwork"] == true);
    for (key, effect) in BORNE.into_iter().chain(network) {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec["tolerations"] = tolerations.into();
}

/// The scheduler binds it, as it does every pod, but can choose only this node.
pub fn tie_to_node(spec: &mut Value, node: &str) {
    tolerate(spec);
    let field = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required = &mut spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    match required["nodeSelectorTerms"].as_array_mut().filter(|terms| !terms.is_empty()) {
        Some(terms) => terms.iter_mut().for_each(|term| term["matchFields"] = field.clone()),
        None => *required = json!({"nodeSelectorTerms": [{"matchFields": field}]}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_wanted_kept_or_left_by_its_labels_and_taints() {
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let rows = [
            (json!({}), json!([]), Wish::Run),
            (json!({"nodeSelector": {"disk": "ssd"}}), json!([]), Wish::Run),
            (json!({"nodeSelector": {"disk": "hdd"}}), json!([]), Wish::None),
            (json!({"nodeName": "other"}), json!([]), Wish::None),
            (json!({}), taint("mine", "NoSchedule"), Wish::Keep),
            (json!({}), taint("mine", "NoExecute"), Wish::None),
            (json!({}), taint("mine", "PreferNoSchedule"), Wish::Run),
            (json!({"tolerations": [{"operator": "Exists"}]}), taint("mine", "NoExecute"), Wish::Run),
            (json!({}), taint("node.kubernetes.io/unreachable", "NoExecute"), Wish::Run),
            (json!({}), taint("node.kubernetes.io/unreachable", "NoSchedule"), Wish::Keep),
            (json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), Wish::Run),
            (json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Wish::Keep),
            (
                json!({"hostNetwork": true}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                Wish::Run,
            ),
        ];
        for (spec, taints, expected) in rows {
            let node = json!({"metadata": {"labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
            assert_eq!(Placement::of(&spec).wish("n1", &Node::new(&node)), expected, "{spec} {taints}");
        }
    }

    #[test]
    fn a_pod_is_tied_to_its_node_besides_what_its_template_asks() {
        let zone = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
        let required = json!({"nodeSelectorTerms": [zone, zone]});
        let mut spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}});
        tie_to_node(&mut spec, "n1");
        let placed = RequiredNodes::of_spec(&spec);
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        assert!(placed.matches("n1", &labels));
        assert!(!placed.matches("n2", &labels) && !placed.matches("n1", &Default::default()));
        let mut plain = json!({});
        tie_to_node(&mut plain, "n1");
        assert!(RequiredNodes::of_spec(&plain).matches("n1", &Default::default()));
        assert!(!RequiredNodes::of_spec(&plain).matches("n2", &Default::default()));
    }
}
