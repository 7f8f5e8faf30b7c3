//! What a node lets in. A pod can be bound to it past the scheduler, or by a scheduler that did not know better: the node
//! looks itself whether the pod fits (kubelet's `predicateAdmitHandler`).
use crate::agent::{Agent, NODES};
use crate::pod_sync::{Verdict, is_deleting};
use crate::pod_worker::Worker;
use crate::runtime::ObservedPod;
use crate::shutdown;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::meta;
use pilothouse_api::placement::{RequiredNodes, Taint, Toleration};
use pilothouse_api::quantity::Quantity;
use pilothouse_api::usage::{self, Amounts, Bound};
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;

const OS: &str = "kubernetes.io/os";

/// The pods that were let in, by UID.
#[derive(Default)]
pub struct Admitted(HashSet<String>);

impl Admitted {
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Judges a pod once, before anything of it runs. One that does not fit fails.
pub fn check(agent: &Agent, worker: &Worker, pod: &Value, observed: &ObservedPod) {
    if is_deleting(pod) || has_ended(pod) || worker.memory.lock().verdict.is_some() {
        return;
    }
    // Held to the end: of two pods that want the same, one comes first.
    let mut admitted = agent.admitted.lock();
    if admitted.0.contains(&worker.uid) {
        return;
    }
    let runs = observed.sandbox.is_some() || pod["status"]["phase"] == "Running";
    let begun = runs || !observed.containers.is_empty() || !worker.status.lock()["startTime"].is_null();
    if !begun && let Some(verdict) = refusal_now(agent, pod) {
        return worker.condemn(agent, pod, verdict);
    }
    let node = agent.assigned.lock().get(NODES, "", &agent.node);
    if let (Some(node), false) = (node, runs) {
        let mut others = agent.assigned.lock().all("pods");
        others.retain(|other| admitted.0.contains(meta::uid(other)) && !has_ended(other));
        if let Some(verdict) = refusal(pod, &node, &others) {
            let message = format!("Pod was rejected: {}", verdict.message);
            return worker.condemn(agent, pod, Verdict { message, ..verdict });
        }
    }
    admitted.0.insert(worker.uid.clone());
}

/// Why this node takes no such pod at the moment, whatever it asks for.
fn refusal_now(agent: &Agent, pod: &Value) -> Option<Verdict> {
    if agent.shutting_down.is_cancelled() {
        return Some(shutdown::refusal());
    }
    agent.pressure.lock().refusal(&agent.settings.eviction, pod, Timestamp::now())
}

/// Why this node does not run a pod beside `others`.
fn refusal(pod: &Value, node: &Value, others: &[Arc<Value>]) -> Option<Verdict> {
    let verdict = |reason: &str, message: String| {
        Some(Verdict { reason: reason.to_owned(), message, grace_seconds: None })
    };
    let failed =
        |predicate: &str, why: &str| verdict(predicate, format!("Predicate {predicate} failed: {why}"));
    if pod["metadata"]["labels"][OS].as_str().is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return verdict("PodOSSelectorNodeLabelDoesNotMatch", message.into());
    }
    if pod["spec"]["os"]["name"].as_str().is_some_and(|os| os != "linux") {
        return verdict(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS".into(),
        );
    }
    // The runtime always adds the groups that the image gives the user.
    if pod["spec"]["securityContext"]["supplementalGroupsPolicy"] == "Strict" {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return verdict("SupplementalGroupsPolicyNotSupported", message.into());
    }
    if let Some((reason, message)) = too_much(pod, node, others) {
        return verdict(&reason, message);
    }
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let labels =
        labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
    if !RequiredNodes::of_spec(&pod["spec"]).matches(meta::name(node), &labels) {
        return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let taken: Vec<Port<'_>> = others.iter().flat_map(|other| ports(other)).collect();
    if ports(pod).iter().any(|port| taken.iter().any(|other| port.collides(other))) {
        return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let tolerations = Toleration::of_pod(pod);
    let ends = |taint: &Taint| taint.effect == "NoExecute" && !tolerations.iter().any(|t| t.tolerates(taint));
    if Taint::of_node(node).iter().any(ends) {
        return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    None
}

/// The first resource that the pod asks more of than is left.
fn too_much(pod: &Value, node: &Value, others: &[Arc<Value>]) -> Option<(String, String)> {
    let allocatable = usage::amounts(&node["status"]["allocatable"]);
    let say = |resource: &str, asked: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}"
        );
        Some((format!("OutOf{resource}"), message))
    };
    let most = allocatable.get("pods").map_or(i64::MAX, |amount| amount.value());
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if running >= most {
        return say("pods", 1, running, most);
    }
    let asked = usage::of_pod(&pod["spec"], Bound::Requests);
    let used: Vec<Amounts> =
        others.iter().map(|other| usage::of_pod(&other["spec"], Bound::Requests)).collect();
    // What the node does not have is a resource of the whole cluster, and not the node's to give.
    for (resource, capacity) in &allocatable {
        let Some(wanted) = asked.get(resource).filter(|wanted| !wanted.is_zero()) else { continue };
        let taken = used
            .iter()
            .filter_map(|amounts| amounts.get(resource))
            .fold(Quantity::ZERO, |sum, a| sum.plus(*a));
        if capacity.minus(taken.plus(*wanted)).is_negative() {
            let number = |amount: Quantity| if resource == "cpu" { amount.milli() } else { amount.value() };
            return say(resource, number(*wanted), number(taken), number(*capacity));
        }
    }
    None
}

/// A port of the node that a pod asks for.
struct Port<'a> {
    ip: &'a str,
    protocol: &'a str,
    number: i64,
}

impl Port<'_> {
    fn collides(&self, other: &Port<'_>) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0");
        self.protocol == other.protocol
            && self.number == other.number
            && (self.ip == other.ip || any(self.ip) || any(other.ip))
    }
}

fn ports(pod: &Value) -> Vec<Port<'_>> {
    let spec = &pod["spec"];
    let sidecars =
        spec["initContainers"].as_array().into_iter().flatten().filter(|c| c["restartPolicy"] == "Always");
    let containers = spec["containers"].as_array().into_iter().flatten().chain(sidecars);
    let all = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let asked = all.filter_map(|port| {
        Some(Port {
            ip: port["hostIP"].as_str().unwrap_or_default(),
            protocol: port["protocol"].as_str().unwrap_or("TCP"),
            number: port["hostPort"].as_i64().filter(|number| *number > 0)?,
        })
    });
    asked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": "p"}, "spec": spec}))
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": cpu, "vendor.example/far": "3"}}}]})
    }

    fn opens(port: i64, ip: &str, protocol: &str) -> Value {
        json!({"containers": [{"ports": [{"hostPort": port, "containerPort": 1, "hostIP": ip, "protocol": protocol}]}]})
    }

    #[test]
    fn a_pod_that_was_bound_past_the_scheduler_must_fit_all_the_same() {
        let node = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "1", "pods": "3"}}});
        let others = [pod(asks("600m")), pod(opens(80, "", "TCP"))];
        let tolerant = |mut spec: Value| {
            spec["tolerations"] = json!([{"key": "gone", "operator": "Exists"}]);
            spec
        };
        let rows = [
            (tolerant(asks("400m")), None),
            (tolerant(asks("401m")), Some("OutOfcpu")),
            (tolerant(opens(81, "", "TCP")), None),
            (tolerant(opens(80, "10.0.0.1", "TCP")), Some("NodePorts")),
            (tolerant(opens(80, "", "UDP")), None),
            (tolerant(json!({"nodeSelector": {"disk": "hdd"}})), Some("NodeAffinity")),
            (tolerant(json!({"nodeSelector": {"disk": "ssd"}})), None),
            (tolerant(json!({"os": {"name": "windows"}})), Some("PodOSNotSupported")),
            (tolerant(json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}})), None),
            (
                tolerant(json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}})),
                Some("SupplementalGroupsPolicyNotSupported"),
            ),
            (json!({}), Some("TaintToleration")),
        ];
        for (spec, expected) in rows {
            let refused = refusal(&pod(spec.clone()), &node, &others);
            assert_eq!(refused.as_ref().map(|v| v.reason.as_str()), expected, "{spec}");
        }
        let full = [pod(json!({})), pod(json!({})), pod(json!({}))];
        let refused = refusal(&pod(tolerant(json!({}))), &node, &full).unwrap();
        assert_eq!(
            refused.message,
            "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
        );
    }
}
