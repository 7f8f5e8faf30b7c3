//! ReplicaSet: keeps so many pods of a template alive. ReplicationController, its elder, does the same.
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::pod::{Phase, Pod};
use crate::workload::{BURST, Names, burst, claim, is_available, owner_keys, pod_from_template};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::HashMap;

/// The controller of one of the two kinds.
pub struct Replicas {
    pub name: &'static str,
    pub kind: &'static str,
    pub resource: &'static str,
}

pub const REPLICA_SETS: Replicas =
    Replicas { name: "replicaset-controller", kind: "ReplicaSet", resource: crate::cluster::REPLICA_SETS };

impl Controller for Replicas {
    fn name(&self) -> &'static str {
        self.name
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            resource if resource == self.resource => vec![change.key.clone()],
            PODS => owner_keys(change, self.kind, self.resource, cluster),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(self.resource).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = cluster.get(key) else { return plan };
        let Some(selector) = cluster.selector(key) else {
            return plan;
        };
        let pods = claim(&set, selector, cluster, &mut plan, |_, pod| pod.is_active());
        if !is_deleting(&set) {
            scale(key, &set, &pods, burst(self.name, key, cluster), cluster, &mut plan);
        }
        let mut next = status(&set, &pods, now, &mut plan);
        let refusal = cluster.refusal(self.name, key).filter(|_| pods.len() < desired(&set));
        tell_failure(&set, &mut next, refusal, now);
        if let Some(next) = with_status(&set, next) {
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

fn desired(set: &Value) -> usize {
    usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0)
}

/// `ReplicaFailure`: pods are missing and may not be made.
fn tell_failure(set: &Value, status: &mut Value, refusal: Option<&str>, now: Timestamp) {
    let mut conditions = set["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_told = condition(set, "ReplicaFailure").is_some_and(|c| c["status"] == "True");
    match refusal {
        // The reason given names a pod that has another name at each attempt: written each time, it would never rest.
        Some(_) if is_told => {}
        Some(why) => set_condition(&mut conditions, "ReplicaFailure", "True", "FailedCreate", why, now),
        None => conditions.retain(|c| c["type"] != "ReplicaFailure"),
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
}

fn scale(key: &Key, set: &Value, pods: &[(&Key, &Pod)], burst: usize, cluster: &Cluster, plan: &mut Plan) {
    let desired = desired(set);
    if pods.len() < desired {
        for pod_name in Names::new(set, cluster).free(name(set), (desired - pods.len()).min(burst)) {
            let pod = pod_from_template(set, &pod_name);
            plan.create(Key::new(PODS, key.namespace.clone(), pod_name.as_str()), pod);
            plan.event(set, "Normal", "SuccessfulCreate", format!("Created pod: {pod_name}"));
        }
        return;
    }
    let surplus = (pods.len() - desired).min(BURST);
    if surplus == 0 {
        return;
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for node in pods.iter().filter_map(|(_, pod)| pod.node.as_deref()) {
        *on_node.entry(node).or_default() += 1;
    }
    let together = |pod: &Pod| pod.node.as_deref().and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    let mut ranked: Vec<_> =
        pods.iter().map(|(key, pod)| (deletion_rank(pod, together(pod)), *key)).collect();
    ranked.sort();
    for (_, pod_key) in ranked.into_iter().take(surplus) {
        // A pod that is being adopted in this very plan is not ours to delete before that is seen.
        let Some(pod) = cluster.get(pod_key).filter(|pod| controller_of(pod).is_some()) else {
            continue;
        };
        plan.delete(pod_key.clone(), &pod);
        plan.event(set, "Normal", "SuccessfulDelete", format!("Deleted pod: {}", pod_key.name));
    }
}

/// Whom to delete first, smallest first: those that give least (`ActivePodsWithRanks` of Kubernetes' controllers).
type DeletionRank = (
    bool,
    Phase,
    bool,
    i32,
    Reverse<usize>,
    Reverse<Option<Timestamp>>,
    Reverse<i32>,
    Reverse<Option<Timestamp>>,
);

/// `together` is how many of the set's pods share its node.
fn deletion_rank(pod: &Pod, together: usize) -> DeletionRank {
    (
        pod.node.is_some(),
        pod.phase,
        pod.is_ready(),
        pod.deletion_cost,
        Reverse(together),
        Reverse(pod.ready_since),
        Reverse(pod.restarts),
        Reverse(pod.created),
    )
}

fn status(set: &Value, pods: &[(&Key, &Pod)], now: Timestamp, plan: &mut Plan) -> Value {
    let min_ready = count(&set["spec"]["minReadySeconds"]);
    let template = labels(&set["spec"]["template"]);
    let (mut labeled, mut ready, mut available) = (0, 0, 0);
    for (_, pod) in pods {
        labeled += i64::from(template.iter().all(|(key, value)| pod.labels.get(key) == Some(value)));
        ready += i64::from(pod.is_ready());
        available += i64::from(is_available(pod, min_ready, now, plan));
    }
    let mut status = json!({"replicas": pods.len(), "observedGeneration": set["metadata"]["generation"]});
    for (field, value) in
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
        if value > 0 {
            status[field] = value.into();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;
    use crate::world::World;

    fn set(replicas: i64) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "web"}]}},
            },
        })
    }

    fn pod(name: &str, labels: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "main", "image": "web"}]},
        })
    }

    #[test]
    fn two_plans_on_one_view_name_the_same_pods_and_a_later_one_names_others() {
        let mut world = World::new();
        let web = world.create(set(3));
        let names = |world: &World| -> Vec<Key> {
            let plan = world.plan("replicaset-controller", &web);
            plan.actions
                .iter()
                .filter_map(|a| if let Action::Create { key, .. } = a { Some(key.clone()) } else { None })
                .collect()
        };
        let first = names(&world);
        assert_eq!(first.len(), 3);
        world.create(pod("unrelated", json!({})));
        assert_eq!(names(&world), first);
        world.converge();
        let one = world.all("pods").into_iter().find(|(key, _)| first.contains(key)).unwrap().0;
        world.delete(&one, "Background");
        world.end_pod(&one);
        assert!(names(&world).iter().all(|name| !first.contains(name)), "a name is not used twice");
    }

    #[test]
    fn pods_that_match_are_adopted_and_those_that_match_no_longer_are_let_go() {
        let mut world = World::new();
        let stray = world.create(pod("stray", json!({"app": "web"})));
        let web = world.create(set(2));
        world.converge();
        assert_eq!(world.get(&stray)["metadata"]["ownerReferences"][0]["name"], "web");
        assert_eq!(world.all("pods").len(), 2);
        world.edit(&stray, |pod| pod["metadata"]["labels"] = json!({"debug": "me"}));
        world.converge();
        assert_eq!(world.get(&stray)["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len), 0);
        assert_eq!(world.all("pods").len(), 3, "the set made another in its place");
        assert_eq!(world.get(&web)["status"]["readyReplicas"], 2);
    }

    #[test]
    fn the_pods_that_give_least_go_first() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let rows = [
            json!({"status": {"phase": "Pending"}}),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}),
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}, "ready": 9}),
            json!({"ready": 9, "status": {"containerStatuses": [{"restartCount": 3}]}}),
            json!({"ready": 9}),
            json!({"ready": 50}),
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "7"}}, "ready": 1}),
        ];
        let ranks: Vec<DeletionRank> = rows
            .into_iter()
            .map(|mut row| {
                if let Some(seconds_ago) = row["ready"].as_i64() {
                    row["spec"]["nodeName"] = "n".into();
                    row["status"]["phase"] = "Running".into();
                    let since = stamp(later(now, -seconds_ago));
                    row["status"]["conditions"] =
                        json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
                }
                deletion_rank(&Pod::new(&row), 1)
            })
            .collect();
        assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:#?}");
        assert!(
            deletion_rank(&Pod::new(&json!({})), 2) < deletion_rank(&Pod::new(&json!({})), 1),
            "doubled up on a node"
        );
    }

    #[test]
    fn a_pod_is_available_only_when_ready_for_so_long() {
        let mut world = World::new();
        let mut object = set(1);
        object["spec"]["minReadySeconds"] = 30.into();
        let web = world.create(object);
        world.converge();
        assert_eq!(
            (&world.get(&web)["status"]["readyReplicas"], &world.get(&web)["status"]["availableReplicas"]),
            (&json!(1), &Value::Null)
        );
        world.pass(29);
        world.settle();
        assert_eq!(world.get(&web)["status"]["availableReplicas"], Value::Null);
        world.pass(1);
        world.settle();
        assert_eq!(world.get(&web)["status"]["availableReplicas"], 1);
    }

    #[test]
    fn a_failed_pod_is_replaced_and_a_thousand_are_made_in_bursts() {
        let mut world = World::new();
        let web = world.create(set(1000));
        assert_eq!(
            world
                .plan("replicaset-controller", &web)
                .actions
                .iter()
                .filter(|a| matches!(a, Action::Create { .. }))
                .count(),
            BURST
        );
        world.settle();
        assert_eq!(world.all("pods").len(), 1000);
        let victim = world.all("pods").remove(0).0;
        world.edit_status(&victim, |pod| pod["status"]["phase"] = "Failed".into());
        world.settle();
        assert_eq!(world.all("pods").len(), 1001);
        assert_eq!(world.get(&web)["status"]["replicas"], 1000);
    }

    #[test]
    fn a_set_that_may_not_make_pods_says_why_and_tries_with_one() {
        let mut world = World::new();
        world.refuses = Some("exceeded quota: small".into());
        let web = world.create(set(3));
        world.settle();
        let condition = condition(world.get(&web), "ReplicaFailure").cloned().unwrap_or_default();
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("FailedCreate")));
        assert!(text(&condition, "message").contains("exceeded quota: small"), "{condition}");
        let creates = |plan: Plan| plan.actions.iter().filter(|a| matches!(a, Action::Create { .. })).count();
        assert_eq!(creates(world.plan("replicaset-controller", &web)), 1);
        world.refuses = None;
        world.pass(60);
        world.converge();
        assert_eq!(world.all("pods").len(), 3);
        assert_eq!(world.get(&web)["status"]["conditions"], Value::Null);
        world.assert_at_rest();
    }
}
