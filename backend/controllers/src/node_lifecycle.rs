//! Node lifecycle: a silent node becomes Unknown, an unready one is tainted, and pods that do not tolerate it move on.
use crate::cluster::{Cluster, LEASES, NODE_LEASES, NODES, PODS};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::disruption;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::placement::{Taint, Toleration};
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct NodeLifecycle;

/// Kubernetes' `node-monitor-grace-period`, in seconds.
const GRACE_SECONDS: i64 = 40;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away, with their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let node = |name: &str| vec![Key::new(NODES, "", name)];
        match &*change.key.resource {
            NODES => vec![change.key.clone()],
            LEASES if &*change.key.namespace == NODE_LEASES => {
                // A renewal matters only to a node that was given up; the timer sees the others.
                let lost = cluster
                    .find(NODES, "", &change.key.name)
                    .is_some_and(|n| taints(&n).iter().any(|t| t["key"] == UNREACHABLE));
                if lost { node(&change.key.name) } else { Vec::new() }
            }
            PODS => {
                let name = cluster.pod(&change.key).and_then(|pod| pod.node.as_deref()).unwrap_or_default();
                let tainted = cluster.find(NODES, "", name).is_some_and(|n| no_execute(&n).next().is_some());
                if tainted { node(name) } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(NODES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(node) = cluster.get(key).filter(|node| !is_deleting(node)) else {
            return plan;
        };
        let created = time(&node["metadata"]["creationTimestamp"]).unwrap_or(now);
        let deadline = later(cluster.renewed_at(&key.name).unwrap_or(created), GRACE_SECONDS);
        let silent = deadline <= now;
        let mut next = Value::clone(&node);
        match silent {
            true => mark_unknown(key, &node, &mut next, now, &mut plan),
            false => plan.check_again(deadline),
        }
        let evicts = cluster.another_node_serves(&key.name, later(now, -GRACE_SECONDS));
        set_taints(&mut next, silent, evicts, now);
        match (next["spec"] != node["spec"], next["status"] != node["status"]) {
            (false, false) => {}
            (true, false) => plan.update(key.clone(), next, Part::Spec),
            (false, true) => plan.update(key.clone(), next, Part::Status),
            (true, true) => plan.update(key.clone(), next, Part::Whole),
        }
        if silent {
            mark_pods_not_ready(key, cluster, now, &mut plan);
        }
        evict(key, &node, cluster, now, &mut plan);
        plan
    }
}

fn mark_unknown(key: &Key, node: &Value, next: &mut Value, now: Timestamp, plan: &mut Plan) {
    let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for kind in CONDITIONS {
        set_condition(
            &mut conditions,
            kind,
            "Unknown",
            "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
            now,
        );
    }
    if !next["status"].is_object() {
        next["status"] = json!({});
    }
    next["status"]["conditions"] = conditions.into();
    if next["status"] != node["status"] {
        plan.event(node, "Normal", "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
    }
}

fn taints(node: &Value) -> &[Value] {
    node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn no_execute(node: &Value) -> impl Iterator<Item = &Value> {
    taints(node).iter().filter(|taint| taint["effect"] == "NoExecute")
}

/// The taints a node should have because of its state, as key and effect.
fn due_taints(node: &Value, silent: bool, evicts: bool) -> Vec<(&'static str, &'static str)> {
    let status = |kind: &str| condition(node, kind).map(|c| text(c, "status").to_owned()).unwrap_or_default();
    let mut due = Vec::new();
    let lost = match status("Ready").as_str() {
        _ if silent => Some(UNREACHABLE),
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    if let Some(lost) = lost {
        due.push((lost, "NoSchedule"));
        if evicts {
            due.push((lost, "NoExecute"));
        }
    }
    due.extend(
        PRESSURES.iter().filter(|(kind, _)| status(kind) == "True").map(|(_, taint)| (*taint, "NoSchedule")),
    );
    if node["spec"]["unschedulable"] == true {
        due.push((UNSCHEDULABLE, "NoSchedule"));
    }
    due
}

/// Without another node that serves there is nowhere to move to, and the fault is rather ours than theirs: `evicts` is
/// false then (`fullDisruption` of Kubernetes' node lifecycle controller).
fn set_taints(node: &mut Value, silent: bool, evicts: bool, now: Timestamp) {
    let due = due_taints(node, silent, evicts);
    let ours = |taint: &Value| {
        let key = text(taint, "key");
        let ours = key == NOT_READY
            || key == UNREACHABLE
            || key == UNSCHEDULABLE
            || PRESSURES.iter().any(|(_, p)| key == *p);
        ours && (taint["effect"] == "NoSchedule" || key == NOT_READY || key == UNREACHABLE)
    };
    let is_due =
        |taint: &Value| due.iter().any(|(key, effect)| taint["key"] == *key && taint["effect"] == *effect);
    let mut next: Vec<Value> = taints(node).iter().filter(|t| !ours(t) || is_due(t)).cloned().collect();
    for (key, effect) in &due {
        if !next.iter().any(|t| t["key"] == *key && t["effect"] == *effect) {
            next.push(json!({"key": key, "effect": effect, "timeAdded": stamp(now)}));
        }
    }
    if next != taints(node) {
        node["spec"]["taints"] = next.into();
    }
}

/// A pod on a silent node serves nobody that we know of: its endpoints leave the services.
fn mark_pods_not_ready(key: &Key, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
    for (pod_key, _) in cluster.pods_on(&key.name).filter(|(_, pod)| pod.is_ready() && pod.is_active()) {
        let Some(object) = cluster.get(pod_key) else {
            continue;
        };
        let mut next = Value::clone(&object);
        for condition in next["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["type"] == "Ready" {
                condition["status"] = "False".into();
                condition["lastTransitionTime"] = stamp(now);
            }
        }
        plan.update(pod_key.clone(), next, Part::Status);
        plan.event(&object, "Warning", "NodeNotReady", "Node is not ready");
    }
}

/// Deletes pods that do not tolerate a NoExecute taint, or whose toleration has run out.
fn evict(key: &Key, node: &Value, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
    let taints: Vec<&Value> = no_execute(node).collect();
    if taints.is_empty() {
        return;
    }
    for (pod_key, _) in cluster.pods_on(&key.name).filter(|(_, pod)| pod.is_active()) {
        let Some(pod) = cluster.get(pod_key) else { continue };
        let tolerations = Toleration::of_pod(&pod);
        let deadlines = taints.iter().filter_map(|taint| deadline(&tolerations, taint, now));
        match deadlines.min() {
            None => {}
            Some(at) if at > now => plan.check_again(at),
            Some(_) => {
                let written = plan
                    .actions
                    .iter()
                    .any(|a| matches!(a, crate::Action::Update { key, .. } if key == pod_key));
                if written {
                    // Two writes of one pod do not go together; the first brings us back.
                    continue;
                }
                if let Some(marked) = disruption::marked(&pod, disruption::Cause::Taint, now) {
                    // Seen with this, it is deleted.
                    plan.update(pod_key.clone(), marked, Part::Status);
                    continue;
                }
                let message = format!("Marking for deletion Pod {}/{}", pod_key.namespace, pod_key.name);
                plan.event(&pod, "Normal", "TaintManagerEviction", message);
                plan.delete(pod_key.clone(), &pod);
            }
        }
    }
}

/// When a pod must leave because of a taint; None: never.
fn deadline(tolerations: &[Toleration], taint: &Value, now: Timestamp) -> Option<Timestamp> {
    let read = Taint {
        key: text(taint, "key").into(),
        value: text(taint, "value").into(),
        effect: text(taint, "effect").into(),
    };
    let mut covering = tolerations.iter().filter(|t| t.tolerates(&read)).peekable();
    if covering.peek().is_none() {
        return Some(now);
    }
    // The shortest of those that name a time.
    let seconds = covering.filter_map(|t| t.seconds).min()?;
    Some(later(time(&taint["timeAdded"]).unwrap_or(now), seconds.max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    /// A pod on node `n2` that tolerates an unreachable node for so long.
    fn pod_on_n2(world: &mut World, name: &str, seconds: Option<i64>) -> Key {
        let mut spec = json!({"nodeName": "n2", "containers": [{"name": "main", "image": "web"}]});
        if let Some(seconds) = seconds {
            let keys = [UNREACHABLE, NOT_READY];
            let toleration = |key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
            spec["tolerations"] = keys.map(toleration).to_vec().into();
        }
        let key = world
            .create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}));
        world.run_pod(&key, true);
        key
    }

    fn tainted(world: &World, node: &Key) -> Vec<String> {
        taints(world.get(node)).iter().map(|t| format!("{}:{}", text(t, "key"), text(t, "effect"))).collect()
    }

    #[test]
    fn a_silent_node_is_given_up_its_pods_leave_the_services_then_move_on_and_it_may_come_back() {
        let mut world = World::new();
        let n2 = world.add_node("n2");
        let (hasty, patient) =
            (pod_on_n2(&mut world, "hasty", None), pod_on_n2(&mut world, "patient", Some(300)));
        world.settle();
        world.pass(GRACE_SECONDS - 1);
        world.settle();
        assert_eq!(tainted(&world, &n2), Vec::<String>::new());
        world.alive.remove("n2");
        world.pass(GRACE_SECONDS);
        world.settle();
        assert_eq!(
            tainted(&world, &n2),
            [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")]
        );
        assert_eq!(condition(world.get(&n2), "Ready").unwrap()["status"], "Unknown");
        assert!(is_deleting(world.get(&hasty)), "it tolerates nothing");
        assert!(!is_deleting(world.get(&patient)));
        assert_eq!(condition(world.get(&patient), "Ready").unwrap()["status"], "False");
        world.pass(299);
        world.settle();
        assert!(!is_deleting(world.get(&patient)));

        world.renew("n2");
        world.alive.insert("n2".into());
        world.edit_status(&n2, |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}])
        });
        world.settle();
        assert_eq!(tainted(&world, &n2), Vec::<String>::new());
        world.pass(600);
        world.settle();
        assert!(!is_deleting(world.get(&patient)), "the node came back in time");
        world.assert_at_rest();
    }

    #[test]
    fn a_toleration_runs_out() {
        let mut world = World::new();
        world.add_node("n2");
        let patient = pod_on_n2(&mut world, "patient", Some(300));
        world.settle();
        world.alive.remove("n2");
        world.pass(GRACE_SECONDS);
        world.settle();
        world.pass(300);
        world.settle();
        assert!(is_deleting(world.get(&patient)));
        let target = condition(world.get(&patient), "DisruptionTarget").unwrap();
        assert_eq!(target["reason"], "DeletionByTaintManager");
        assert!(
            world.events.iter().any(|e| e == "TaintManagerEviction Marking for deletion Pod default/patient"),
            "{:?}",
            world.events
        );
    }

    #[test]
    fn when_every_node_is_silent_nothing_is_evicted() {
        let mut world = World::new();
        let n2 = world.add_node("n2");
        let hasty = pod_on_n2(&mut world, "hasty", None);
        world.settle();
        world.alive.clear();
        world.pass(GRACE_SECONDS);
        world.settle();
        world.pass(3600);
        world.visit_everything();
        world.settle();
        assert_eq!(tainted(&world, &n2), [format!("{UNREACHABLE}:NoSchedule")]);
        assert!(!is_deleting(world.get(&hasty)));
    }

    #[test]
    fn cordon_and_pressure_are_taints_and_other_peoples_taints_stay() {
        let mut world = World::new();
        let n1 = Key::new(NODES, "", "n1");
        world.edit(&n1, |node| {
            node["spec"]["unschedulable"] = true.into();
            node["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]);
        });
        world.edit_status(&n1, |node| {
            node["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]);
        });
        world.settle();
        let expected = ["mine", "node.kubernetes.io/disk-pressure", UNSCHEDULABLE]
            .map(|key| format!("{key}:NoSchedule"));
        assert_eq!(tainted(&world, &n1), expected);
        world.edit(&n1, |node| node["spec"]["unschedulable"] = false.into());
        world.settle();
        assert_eq!(tainted(&world, &n1), expected[..2]);
        world.assert_at_rest();
    }

    #[test]
    fn the_shortest_time_counts_and_one_without_time_is_for_ever() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = json!({"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let toleration = |seconds: Option<i64>| Toleration {
            key: "k".into(),
            exists: true,
            value: String::new(),
            effect: String::new(),
            seconds,
        };
        let rows = [
            (vec![], Some(0)),
            (vec![toleration(None)], None),
            (vec![toleration(Some(90))], Some(30)),
            (vec![toleration(Some(90)), toleration(Some(70)), toleration(None)], Some(10)),
        ];
        for (tolerations, expected) in rows {
            let left = deadline(&tolerations, &taint, now).map(|at| at.as_second() - now.as_second());
            assert_eq!(left, expected, "{tolerations:?}");
        }
    }
}
