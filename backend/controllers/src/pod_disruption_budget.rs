//! PodDisruptionBudget: tells evictions how many pods of a set may go now (`disruption.go` of Kubernetes).
use crate::cluster::{Cluster, DISRUPTION_BUDGETS as BUDGETS, PODS, REPLICA_SETS};
use crate::object::*;
use crate::pod::{Phase, Pod};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub struct PodDisruptionBudgets;

/// Kinds that pods are controlled by and that say how many they want.
const SCALABLE: [(&str, &str); 4] = [
    ("ReplicaSet", REPLICA_SETS),
    ("Deployment", "deployments.apps"),
    ("StatefulSet", "statefulsets.apps"),
    ("ReplicationController", "replicationcontrollers"),
];
/// An eviction that was let through and whose pod is still there after so long came to nothing.
const EVICTION_SECONDS: i64 = 120;

impl Controller for PodDisruptionBudgets {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let resource = &*change.key.resource;
        if resource == BUDGETS {
            return vec![change.key.clone()];
        }
        if resource == PODS {
            let [new, old] = [&change.object, &change.previous].map(|pod| pod.as_deref().map(Standing::of));
            if new == old {
                return Vec::new();
            }
            let labels: BTreeSet<_> =
                [new, old].into_iter().flatten().map(|standing| standing.labels).collect();
            let keys = labels.iter().flat_map(|l| cluster.selecting(BUDGETS, &change.key.namespace, l));
            return keys.collect::<BTreeSet<Key>>().into_iter().collect();
        }
        let is_scalable = SCALABLE.iter().any(|(_, scalable)| *scalable == resource);
        let scale =
            |object: &Option<std::sync::Arc<Value>>| object.as_ref().map(|o| o["spec"]["replicas"].clone());
        if is_scalable && scale(&change.object) != scale(&change.previous) {
            return cluster.keys_in(BUDGETS, &change.key.namespace).collect();
        }
        Vec::new()
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(BUDGETS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(budget) = cluster.get(key).filter(|budget| !is_deleting(budget)) else { return plan };
        let pods = cluster.selector(key).map(|selector| cluster.selected_pods(&key.namespace, selector));
        let pods: Vec<(Key, &Pod)> =
            pods.unwrap_or_default().into_iter().filter(|(_, p)| !p.is_terminal()).collect();
        let status = status(&budget, &pods, cluster, now, &mut plan);
        if let Some(next) = with_status(&budget, status) {
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

/// What of a pod its budgets are about.
#[derive(PartialEq)]
struct Standing {
    labels: BTreeMap<String, String>,
    is_healthy: bool,
    is_terminal: bool,
    is_deleting: bool,
    owner: String,
}

impl Standing {
    fn of(pod: &Value) -> Self {
        let ready = condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
        Self {
            labels: labels(pod),
            is_healthy: ready,
            is_terminal: is_terminal(pod),
            is_deleting: is_deleting(pod),
            owner: controller_of(pod).map(|owner| text(owner, "uid").to_owned()).unwrap_or_default(),
        }
    }
}

fn status(budget: &Value, pods: &[(Key, &Pod)], cluster: &Cluster, now: Timestamp, plan: &mut Plan) -> Value {
    let mut status = budget["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let generation = &budget["metadata"]["generation"];
    let disrupted = still_disrupted(&status["disruptedPods"], pods, now, plan);
    let note = |conditions: &mut Vec<Value>, status: &str, reason: &str, message: &str| {
        set_condition(conditions, "DisruptionAllowed", status, reason, message, now);
        if let Some(condition) = conditions.iter_mut().find(|c| c["type"] == "DisruptionAllowed") {
            condition["observedGeneration"] = generation.clone();
        }
    };
    match expected(budget, pods, cluster) {
        Err(why) => {
            // What cannot be judged is not disturbed.
            note(&mut conditions, "False", "SyncFailed", &why);
            status["disruptionsAllowed"] = 0.into();
        }
        Ok((expected, desired)) => {
            let is_spared = |key: &Key| disrupted.as_object().is_some_and(|d| d.contains_key(&*key.name));
            let is_healthy = |pod: &Pod| pod.is_ready() && !pod.is_deleting && pod.phase == Phase::Running;
            let healthy = pods.iter().filter(|(key, pod)| is_healthy(pod) && !is_spared(key)).count();
            let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
            let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            match allowed {
                0 => note(&mut conditions, "False", "InsufficientPods", ""),
                _ => note(&mut conditions, "True", "SufficientPods", ""),
            }
            let counts = [
                ("expectedPods", expected),
                ("desiredHealthy", desired),
                ("currentHealthy", healthy),
                ("disruptionsAllowed", allowed),
            ];
            for (field, value) in counts {
                status[field] = value.into();
            }
        }
    }
    status["conditions"] = conditions.into();
    status["observedGeneration"] = generation.clone();
    if let Some(fields) = status.as_object_mut() {
        match disrupted.as_object().is_some_and(|d| !d.is_empty()) {
            true => drop(fields.insert("disruptedPods".into(), disrupted)),
            false => drop(fields.remove("disruptedPods")),
        }
    }
    status
}

/// Evictions let through whose pods are not seen leaving yet: they count as gone already.
fn still_disrupted(disrupted: &Value, pods: &[(Key, &Pod)], now: Timestamp, plan: &mut Plan) -> Value {
    let mut kept = json!({});
    for (name, since) in disrupted.as_object().into_iter().flatten() {
        let stays = pods.iter().any(|(key, pod)| *key.name == **name && !pod.is_deleting);
        let until = time(since).map_or(now, |since| later(since, EVICTION_SECONDS));
        if stays && until > now {
            plan.check_again(until);
            kept[name] = since.clone();
        }
    }
    kept
}

/// How many pods there should be and how many of them must be healthy.
fn expected(budget: &Value, pods: &[(Key, &Pod)], cluster: &Cluster) -> Result<(i64, i64), String> {
    let (least, most_missing) = (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]);
    if !most_missing.is_null() {
        let expected = wanted_by_controllers(pods, cluster)?;
        return Ok((expected, (expected - bound(most_missing, expected, true)).max(0)));
    }
    if least.is_string() {
        let expected = wanted_by_controllers(pods, cluster)?;
        return Ok((expected, bound(least, expected, true)));
    }
    Ok((i64::try_from(pods.len()).unwrap_or(i64::MAX), count(least)))
}

/// The sizes of everything that controls one of the pods, added up.
fn wanted_by_controllers(pods: &[(Key, &Pod)], cluster: &Cluster) -> Result<i64, String> {
    let mut sizes: BTreeMap<&Key, i64> = BTreeMap::new();
    for (key, pod) in pods {
        // A pod that nothing controls has no size to be part of.
        if pod.controller.is_none() {
            continue;
        }
        let found = cluster.controller_of(key).map(|owner| cluster.controller_of(owner).unwrap_or(owner));
        let Some(owner) = found.filter(|o| SCALABLE.iter().any(|(_, scalable)| *scalable == &*o.resource))
        else {
            return Err(format!("found no controllers for pod {:?}", &*key.name));
        };
        if !sizes.contains_key(owner) {
            let size = cluster.get(owner).map_or(0, |o| o["spec"]["replicas"].as_i64().unwrap_or(1));
            sizes.insert(owner, size);
        }
    }
    Ok(sizes.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, deployment};

    fn budget(spec: Value) -> Value {
        let mut object = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        object
    }

    /// expected desired current allowed, and the reason.
    fn told(world: &World, key: &Key) -> String {
        let status = &world.get(key)["status"];
        let counts = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
            .map(|f| count(&status[f]));
        format!("{counts:?} {}", text(condition(world.get(key), "DisruptionAllowed").unwrap(), "reason"))
    }

    #[test]
    fn a_budget_is_a_number_or_a_share_of_what_the_controllers_want() {
        let rows = [
            (json!({"minAvailable": 3}), "[4, 3, 4, 1] SufficientPods"),
            (json!({"minAvailable": 4}), "[4, 4, 4, 0] InsufficientPods"),
            (json!({"minAvailable": "30%"}), "[4, 2, 4, 2] SufficientPods"),
            (json!({"maxUnavailable": 1}), "[4, 3, 4, 1] SufficientPods"),
            (json!({"maxUnavailable": "26%"}), "[4, 2, 4, 2] SufficientPods"),
            (json!({"maxUnavailable": 0}), "[4, 4, 4, 0] InsufficientPods"),
            (
                json!({"selector": {"matchLabels": {"app": "none"}}, "minAvailable": 0}),
                "[0, 0, 0, 0] InsufficientPods",
            ),
            (json!({"selector": {}, "minAvailable": 1}), "[4, 1, 4, 3] SufficientPods"),
        ];
        for (spec, expected) in rows {
            let mut world = World::new();
            world.create(deployment("web", 4, "web"));
            let key = world.create(budget(spec.clone()));
            world.converge();
            assert_eq!(told(&world, &key), expected, "{spec}");
            world.assert_at_rest();
        }
    }

    #[test]
    fn an_unready_pod_and_one_on_its_way_out_use_the_budget_up() {
        let mut world = World::new();
        let web = world.create(deployment("web", 4, "web"));
        let key = world.create(budget(json!({"maxUnavailable": 2})));
        world.converge();
        let (pod, _) = world.all(PODS).remove(0);
        world.run_pod(&pod, false);
        world.settle();
        assert_eq!(told(&world, &key), "[4, 2, 3, 1] SufficientPods");
        let (pod, _) = world.all(PODS).remove(1);
        world.delete(&pod, "Background");
        world.settle();
        assert_eq!(told(&world, &key), "[4, 2, 2, 0] InsufficientPods");
        world.edit(&web, |d| d["spec"]["replicas"] = 2.into());
        world.settle();
        assert!(told(&world, &key).starts_with("[2, 0, "), "{}", told(&world, &key));
    }

    #[test]
    fn an_eviction_counts_before_its_pod_is_seen_leaving_and_is_forgotten_if_it_does_not() {
        let mut world = World::new();
        world.create(deployment("web", 3, "web"));
        let key = world.create(budget(json!({"maxUnavailable": 2})));
        world.converge();
        let (pod, _) = world.all(PODS).remove(0);
        let now = stamp(world.now);
        world.edit_status(&key, |b| {
            b["status"]["disruptedPods"] = json!({&*pod.name: now, "gone": now});
            b["status"]["disruptionsAllowed"] = 1.into();
        });
        world.settle();
        assert_eq!(told(&world, &key), "[3, 1, 2, 1] SufficientPods");
        assert_eq!(world.get(&key)["status"]["disruptedPods"].as_object().unwrap().len(), 1);
        world.pass(EVICTION_SECONDS);
        world.settle();
        assert_eq!(told(&world, &key), "[3, 1, 3, 2] SufficientPods");
        assert_eq!(world.get(&key)["status"]["disruptedPods"], Value::Null);
    }

    #[test]
    fn pods_of_something_without_a_size_cannot_be_judged() {
        let mut world = World::new();
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]});
        world.create(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
            "spec": {"template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}},
        }));
        let share = world.create(budget(json!({"maxUnavailable": 1})));
        world.converge();
        assert_eq!(told(&world, &share), "[0, 0, 0, 0] SyncFailed");
        world.edit(&share, |b| {
            b["spec"] = json!({"selector": {"matchLabels": {"app": "web"}}, "minAvailable": 0})
        });
        world.converge();
        assert_eq!(told(&world, &share), "[1, 0, 1, 1] SufficientPods");
    }
}
