//! Node lifecycle: a silent node becomes Unknown, an unready one is tainted, and pods that do not tolerate it move on.
use crate::cluster::{Cluster, LEASES, NODE_LEASES, PODS};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct NodeLifecycle;

const NODES: &str = "nodes";
/// Kubernetes' `node-monitor-grace-period`, in seconds.
const GRACE_SECONDS: i64 = 40;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let node = |name: &str| vec![Key::new(NODES, "", name)];
        match &*change.key.resource {
            NODES => vec![change.key.clone()],
            LEASES if &*change.key.namespace == NODE_LEASES => {
                // A renewal matters only to a node that was given up; the timer sees the others.
                let lost = cluster.find(NODES, "", &change.key.name).filter(|n| taint_of(n) == Some(UNREACHABLE));
                if lost.is_some() { node(&change.key.name) } else { Vec::new() }
            }
            PODS => {
                let name = change.object.as_deref().map_or("", |pod| text(&pod["spec"], "nodeName"));
                let tainted = cluster.find(NODES, "", name).is_some_and(|n| !no_execute(n).is_empty());
                if tainted { node(name) } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.all(NODES).map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(node) = cluster.get(key).filter(|node| !is_deleting(node)) else { return plan };
        let created = time(&node["metadata"]["creationTimestamp"]).unwrap_or(now);
        let heard = cluster.renewed_at(&key.name).unwrap_or(created);
        let silent = later(heard, GRACE_SECONDS) <= now;
        if silent {
            mark_unknown(key, node, now, &mut plan);
        } else {
            plan.check_again(later(heard, GRACE_SECONDS));
        }
        let taint = match condition(node, "Ready").map(|c| text(c, "status")) {
            _ if silent => Some(UNREACHABLE),
            Some("True") => None,
            Some("Unknown") => Some(UNREACHABLE),
            _ => Some(NOT_READY),
        };
        if plan.is_empty() {
            set_taints(key, node, taint, now, &mut plan);
        }
        evict(key, node, cluster, now, &mut plan);
        plan
    }
}

fn mark_unknown(key: &Key, node: &Value, now: Timestamp, plan: &mut Plan) {
    let mut status = node["status"].clone();
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for kind in CONDITIONS {
        set_condition(&mut conditions, kind, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", now);
    }
    if !status.is_object() {
        status = json!({});
    }
    status["conditions"] = conditions.into();
    if let Some(next) = with_status(node, status) {
        plan.update(key.clone(), next, Part::Status);
        plan.event(node, "Normal", "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
    }
}

fn taints(node: &Value) -> Vec<Value> {
    node["spec"]["taints"].as_array().cloned().unwrap_or_default()
}

fn taint_of(node: &Value) -> Option<&'static str> {
    let taints = taints(node);
    [UNREACHABLE, NOT_READY].into_iter().find(|key| taints.iter().any(|t| t["key"] == *key))
}

fn no_execute(node: &Value) -> Vec<Value> {
    taints(node).into_iter().filter(|t| t["effect"] == "NoExecute").collect()
}

fn set_taints(key: &Key, node: &Value, wanted: Option<&str>, now: Timestamp, plan: &mut Plan) {
    let old = taints(node);
    let mut next: Vec<Value> =
        old.iter().filter(|t| ![UNREACHABLE, NOT_READY].iter().any(|k| t["key"] == *k && wanted != Some(k))).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let Some(wanted) = wanted else { break };
        if !next.iter().any(|t| t["key"] == wanted && t["effect"] == effect) {
            next.push(json!({"key": wanted, "effect": effect, "timeAdded": stamp(now)}));
        }
    }
    if next == old {
        return;
    }
    let mut object = node.clone();
    object["spec"]["taints"] = next.into();
    plan.update(key.clone(), object, Part::Spec);
}

/// Deletes pods that do not tolerate a NoExecute taint, or whose toleration has run out.
fn evict(key: &Key, node: &Value, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
    let taints = no_execute(node);
    if taints.is_empty() {
        return;
    }
    for (pod_key, pod) in cluster.pods_on(&key.name).filter(|(_, pod)| !is_deleting(pod) && !is_terminal(pod)) {
        let deadlines = taints.iter().map(|taint| deadline(pod, taint, now));
        match deadlines.min_by_key(|at| at.unwrap_or(Timestamp::MAX)).flatten() {
            None => {}
            Some(at) if at > now => plan.check_again(at),
            Some(_) => {
                plan.event(pod, "Normal", "TaintManagerEviction", format!("Marking for deletion Pod {}/{}", pod_key.namespace, pod_key.name));
                plan.delete(pod_key.clone(), pod);
            }
        }
    }
}

/// When a pod must leave because of a taint; None: never.
fn deadline(pod: &Value, taint: &Value, now: Timestamp) -> Option<Timestamp> {
    let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    let mut best: Option<Option<i64>> = None;
    for toleration in tolerations.filter(|t| tolerates(t, taint)) {
        let seconds = toleration["tolerationSeconds"].as_i64();
        best = Some(match best {
            None => seconds,
            Some(previous) => previous.zip(seconds).map(|(a, b)| a.min(b)).or(previous).or(seconds),
        });
    }
    match best {
        None => Some(now),
        Some(None) => None,
        Some(Some(seconds)) => Some(later(time(&taint["timeAdded"]).unwrap_or(now), seconds.max(0))),
    }
}

/// `v1.Toleration.ToleratesTaint`.
pub fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let field = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let effect = field(toleration, "effect");
    if !effect.is_empty() && effect != field(taint, "effect") {
        return false;
    }
    let key = field(toleration, "key");
    if !key.is_empty() && key != field(taint, "key") {
        return false;
    }
    match field(toleration, "operator").as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && field(toleration, "value") == field(taint, "value"),
        _ => false,
    }
}
