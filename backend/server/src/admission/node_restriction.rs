//! NodeRestriction: a node changes its own Node only, and of its labels and taints nothing that decides which pods it gets.
use super::{Operation, Outcome, Request, Rule, done};
use pilothouse_api::Status;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Labels of Kubernetes' own that a kubelet sets.
const OWN: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];
const OWN_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Reserved for those who isolate nodes from each other.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

pub struct NodeRestriction;

fn is_in(namespace: &str, domain: &str) -> bool {
    namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn is_forbidden(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else { return false };
    if is_in(namespace, RESTRICTED) {
        return true;
    }
    let kubernetes = is_in(namespace, "kubernetes.io") || is_in(namespace, "k8s.io");
    kubernetes && !OWN.contains(&label) && !OWN_NAMESPACES.iter().any(|own| is_in(namespace, own))
}

/// The forbidden labels that differ.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let none = Map::new();
    let of = |object: &Value| object["metadata"]["labels"].as_object().unwrap_or(&none).clone();
    let (new, old) = (of(new), of(old));
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let changed = names.into_iter().filter(|name| new.get(*name) != old.get(*name));
    changed.filter(|name| is_forbidden(name)).cloned().collect()
}

fn judge(request: &Request<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let no = |why: String| Err(Status::forbidden("nodes", request.name, format!("node {node:?} {why}")));
    if object["metadata"]["name"] != node {
        return no(format!("is not allowed to modify node {}", object["metadata"]["name"]));
    }
    let old = request.old.unwrap_or(&Value::Null);
    let labels = forbidden_labels(object, old).join(", ");
    match request.operation {
        Operation::Create if !labels.is_empty() => {
            no(format!("is not allowed to set the following labels: {labels}"))
        }
        Operation::Update if !labels.is_empty() => no(format!("is not allowed to modify labels: {labels}")),
        Operation::Update if object["spec"]["taints"] != old["spec"]["taints"] => {
            no("is not allowed to modify taints".into())
        }
        _ => Ok(()),
    }
}

/// Which services lead to a pod is not its node's to say.
fn relabels(request: &Request<'_>, object: &Value) -> bool {
    let old = request.old.filter(|_| request.operation == Operation::Update);
    old.is_some_and(|old| old["metadata"]["labels"] != object["metadata"]["labels"])
}

impl Rule for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        match request.actor.node() {
            Some(node) if &*request.entry.resource == "nodes" => done(judge(request, node, object)),
            Some(node) if &*request.entry.resource == "pods" && relabels(request, object) => {
                let why = format!("node {node:?} cannot update labels through pod status");
                done(Err(Status::forbidden("pods", request.name, why)))
            }
            _ => done(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_sets_its_own_labels_and_none_that_isolate() {
        let rows = [
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("node.kubernetes.io/anything", false),
            ("example.com/disk", false),
            ("disk", false),
            ("node-restriction.kubernetes.io/team", true),
            ("a.node-restriction.kubernetes.io/team", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("x.k8s.io/y", true),
        ];
        for (label, forbidden) in rows {
            assert_eq!(is_forbidden(label), forbidden, "{label}");
        }
    }

    #[test]
    fn only_what_changes_counts() {
        let node = |team: &str| json!({"metadata": {"labels": {"node-restriction.kubernetes.io/team": team, "a": "b"}}});
        assert_eq!(forbidden_labels(&node("x"), &node("x")), Vec::<String>::new());
        assert_eq!(forbidden_labels(&node("x"), &node("y")), ["node-restriction.kubernetes.io/team"]);
        assert_eq!(forbidden_labels(&json!({}), &node("y")), ["node-restriction.kubernetes.io/team"]);
    }
}
