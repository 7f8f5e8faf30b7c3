//! ReplicaSet: keeps so many pods of a template alive.
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::sync::Arc;

pub struct ReplicaSets;

pub const REPLICA_SETS: &str = "replicasets.apps";
/// The most pods one plan creates or deletes: the rest follows once these are seen.
const BURST: usize = 500;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            REPLICA_SETS => vec![change.key.clone()],
            PODS => pod_keys(change, cluster),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.all(REPLICA_SETS).map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = cluster.get(key) else { return plan };
        let Ok(selector) = LabelSelector::from_object(&set["spec"]["selector"]) else { return plan };
        let pods = claim(set, &selector, cluster, &mut plan);
        if !is_deleting(set) {
            scale(key, set, &pods, cluster, &mut plan);
        }
        if let Some(next) = with_status(set, status(set, &pods, now, &mut plan)) {
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

/// The sets that a pod's change concerns: its controller now and before, or those that might adopt it.
fn pod_keys(change: &Observed, cluster: &Cluster) -> Vec<Key> {
    let mut keys: Vec<Key> = [&change.object, &change.previous]
        .into_iter()
        .flatten()
        .filter_map(|pod| controller_of(pod))
        .filter(|owner| owner["kind"] == "ReplicaSet")
        .map(|owner| Key::new(REPLICA_SETS, change.key.namespace.clone(), text(owner, "name")))
        .collect();
    keys.dedup();
    let orphan = change.object.as_deref().filter(|pod| controller_of(pod).is_none());
    if let Some(pod) = orphan {
        let labels = labels(pod);
        let matching = cluster.in_namespace(REPLICA_SETS, &change.key.namespace).filter(|(_, set)| {
            LabelSelector::from_object(&set["spec"]["selector"]).is_ok_and(|selector| selector.matches(&labels))
        });
        keys.extend(matching.map(|(key, _)| key));
    }
    keys
}

/// The set's active pods. Pods that match and have no controller are adopted, those that match no longer are let go.
fn claim<'a>(
    set: &'a Value,
    selector: &LabelSelector,
    cluster: &'a Cluster,
    plan: &mut Plan,
) -> Vec<(&'a Key, &'a Arc<Value>)> {
    let mut claimed = Vec::new();
    for (key, pod) in cluster.controlled(uid(set), PODS).filter(|(_, pod)| Cluster::is_active(pod)) {
        if selector.matches(&labels(pod)) {
            claimed.push((key, pod));
        } else {
            let mut freed = Value::clone(pod);
            let kept: Vec<Value> = owners(pod).filter(|owner| owner["uid"] != uid(set)).cloned().collect();
            freed["metadata"]["ownerReferences"] = kept.into();
            plan.update(key.clone(), freed, Part::Spec);
        }
    }
    if is_deleting(set) {
        return claimed;
    }
    for (key, pod) in cluster.orphan_pods(text(&set["metadata"], "namespace")) {
        if Cluster::is_active(pod) && selector.matches(&labels(pod)) {
            let mut adopted = Value::clone(pod);
            let mut all: Vec<Value> = owners(pod).cloned().collect();
            all.push(controller_reference(set));
            adopted["metadata"]["ownerReferences"] = all.into();
            plan.update(key.clone(), adopted, Part::Spec);
            claimed.push((key, pod));
        }
    }
    claimed
}

fn scale(key: &Key, set: &Value, pods: &[(&Key, &Arc<Value>)], cluster: &Cluster, plan: &mut Plan) {
    let desired = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    if pods.len() < desired {
        for i in 0..(desired - pods.len()).min(BURST) {
            // Derived from the view: two plans of one view name the same pod, so a repeat is refused, not doubled.
            let suffix = letters(hash(&[uid(set), &cluster.revision.to_string(), &i.to_string()]), 5);
            let pod_name = format!("{}-{suffix}", prefix(name(set)));
            let pod = pod_from_template(set, &pod_name);
            plan.create(Key::new(PODS, key.namespace.clone(), pod_name.as_str()), pod);
            plan.event(set, "Normal", "SuccessfulCreate", format!("Created pod: {pod_name}"));
        }
        return;
    }
    let mut ranked: Vec<_> = pods.iter().map(|(key, pod)| (deletion_rank(pod, cluster), *key, *pod)).collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    for (_, pod_key, pod) in ranked.into_iter().take((pods.len() - desired).min(BURST)) {
        plan.delete(pod_key.clone(), pod);
        plan.event(set, "Normal", "SuccessfulDelete", format!("Deleted pod: {}", pod_key.name));
    }
}

/// Leaves room for the suffix in a name of at most 63 letters, which the pod's host name needs.
fn prefix(name: &str) -> &str {
    name.get(..57).unwrap_or(name)
}

/// A pod of the owner's template, controlled by the owner.
pub fn pod_from_template(owner: &Value, name: &str) -> Value {
    let template = &owner["spec"]["template"];
    let mut metadata = template["metadata"].as_object().cloned().unwrap_or_default();
    metadata.remove("creationTimestamp");
    metadata.insert("name".into(), name.into());
    metadata.insert("generateName".into(), format!("{}-", self::name(owner)).into());
    metadata.insert("namespace".into(), owner["metadata"]["namespace"].clone());
    metadata.insert("ownerReferences".into(), json!([controller_reference(owner)]));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Whom to delete first, smallest first: those that give least (`ActivePodsWithRanks`).
#[allow(clippy::type_complexity)]
fn deletion_rank(
    pod: &Value,
    cluster: &Cluster,
) -> (bool, i32, bool, i64, Reverse<usize>, Reverse<Option<Timestamp>>, Reverse<i64>, Reverse<Option<Timestamp>>) {
    let node = text(&pod["spec"], "nodeName");
    let phase = match text(&pod["status"], "phase") {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = annotation(pod, "controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse().ok()).unwrap_or(0);
    let owner = controller_of(pod).map_or("", |owner| text(owner, "uid"));
    let together = match node {
        "" => 0,
        node => cluster.pods_on(node).filter(|(_, p)| controller_of(p).is_some_and(|o| o["uid"] == owner)).count(),
    };
    let restarts: i64 = pod["status"]["containerStatuses"].as_array().into_iter().flatten().map(|c| count(&c["restartCount"])).sum();
    (
        !node.is_empty(),
        phase,
        is_ready(pod),
        cost,
        Reverse(together),
        Reverse(ready_since(pod)),
        Reverse(restarts),
        Reverse(time(&pod["metadata"]["creationTimestamp"])),
    )
}

fn status(set: &Value, pods: &[(&Key, &Arc<Value>)], now: Timestamp, plan: &mut Plan) -> Value {
    let min_ready = count(&set["spec"]["minReadySeconds"]);
    let template = pilothouse_api::selector::LabelSelector::from_object(&json!({"matchLabels": set["spec"]["template"]["metadata"]["labels"]}));
    let (mut labeled, mut ready, mut available) = (0, 0, 0);
    for (_, pod) in pods {
        labeled += i64::from(template.as_ref().is_ok_and(|t| t.matches(&labels(pod))));
        let Some(since) = ready_since(pod) else { continue };
        ready += 1;
        let available_at = later(since, min_ready);
        if available_at <= now {
            available += 1;
        } else {
            plan.check_again(available_at);
        }
    }
    let mut status = json!({"replicas": pods.len(), "observedGeneration": set["metadata"]["generation"]});
    for (field, value) in [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)] {
        if value > 0 {
            status[field] = value.into();
        }
    }
    if set["status"]["conditions"].is_array() {
        status["conditions"] = set["status"]["conditions"].clone();
    }
    status
}
