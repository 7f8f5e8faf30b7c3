//! ReplicaSet: keeps so many pods of a template alive.
use crate::cluster::{Cluster, PODS, REPLICA_SETS};
use crate::object::*;
use crate::pod::{Phase, Pod};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

pub struct ReplicaSets;

/// The most pods one plan creates or deletes: the rest follows once these are seen.
const BURST: usize = 500;
/// Room for the suffix in a name of at most 63 letters, which the pod's host name needs.
const LONGEST_PREFIX: usize = 57;
const SUFFIX_LENGTH: usize = 5;

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
        cluster.keys(REPLICA_SETS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = cluster.get(key) else { return plan };
        let Some(selector) = cluster.selector(key) else {
            return plan;
        };
        let pods = claim(&set, selector, cluster, &mut plan);
        if !is_deleting(&set) {
            scale(key, &set, &pods, cluster, &mut plan);
        }
        if let Some(next) = with_status(&set, status(&set, &pods, now, &mut plan)) {
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

/// The sets that a pod's change concerns: its controller now and before, or those that might adopt it.
fn pod_keys(change: &Observed, cluster: &Cluster) -> Vec<Key> {
    let states = [&change.object, &change.previous].into_iter().flatten();
    let owners = states.filter_map(|pod| controller_of(pod)).filter(|owner| owner["kind"] == "ReplicaSet");
    let mut keys: Vec<Key> = owners
        .map(|owner| Key::new(REPLICA_SETS, change.key.namespace.clone(), text(owner, "name")))
        .collect();
    keys.dedup();
    if let Some(pod) = cluster.pod(&change.key).filter(|pod| pod.controller.is_none()) {
        keys.extend(cluster.selecting(REPLICA_SETS, &change.key.namespace, &pod.labels));
    }
    keys
}

/// The set's active pods. Pods that match and have no controller are adopted, those that match no longer are let go.
fn claim<'a>(
    set: &Value,
    selector: &LabelSelector,
    cluster: &'a Cluster,
    plan: &mut Plan,
) -> Vec<(&'a Key, &'a Pod)> {
    let mut claimed = Vec::new();
    for (key, pod) in cluster.controlled_pods(uid(set)).filter(|(_, pod)| pod.is_active()) {
        if selector.matches(&pod.labels) {
            claimed.push((key, pod));
        } else if let Some(object) = cluster.get(key) {
            plan.update(key.clone(), released(&object, uid(set)), Part::Spec);
        }
    }
    if is_deleting(set) {
        return claimed;
    }
    for key in cluster.orphans(PODS, text(&set["metadata"], "namespace")) {
        let pod = cluster.pod(key).filter(|pod| pod.is_active() && selector.matches(&pod.labels));
        if let Some((pod, object)) = pod.zip(cluster.get(key)) {
            plan.update(key.clone(), adopted(&object, set), Part::Spec);
            claimed.push((key, pod));
        }
    }
    claimed
}

fn scale(key: &Key, set: &Value, pods: &[(&Key, &Pod)], cluster: &Cluster, plan: &mut Plan) {
    let desired = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    if pods.len() < desired {
        for pod_name in new_names(key, set, cluster, (desired - pods.len()).min(BURST)) {
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

/// Names for new pods. They follow from what is seen of the set and its pods: two plans on the same view, or one plan on
/// a view that lags, name the same pods, so that a repeat is refused by the store instead of doubled.
fn new_names(key: &Key, set: &Value, cluster: &Cluster, count: usize) -> Vec<String> {
    let seen = cluster.dependents(uid(set)).fold(0_u64, |seen, key| seen ^ hash(&[&key.name]));
    let salt = format!("{}/{}/{seen}", uid(set), text(&set["metadata"], "resourceVersion"));
    let prefix = name(set).get(..LONGEST_PREFIX).unwrap_or(name(set));
    let candidates =
        (0_u64..).map(|i| format!("{prefix}-{}", letters(hash(&[&salt, &i.to_string()]), SUFFIX_LENGTH)));
    let mut names = BTreeSet::new();
    let free = candidates.filter(|candidate| {
        !cluster.contains(&Key::new(PODS, key.namespace.clone(), candidate.as_str()))
            && names.insert(candidate.clone())
    });
    free.take(count).collect()
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
        let Some(since) = pod.ready_since else { continue };
        ready += 1;
        let available_at = if min_ready > 0 { later(since, min_ready) } else { now };
        if available_at <= now {
            available += 1;
        } else {
            plan.check_again(available_at);
        }
    }
    let mut status = json!({"replicas": pods.len(), "observedGeneration": set["metadata"]["generation"]});
    for (field, value) in
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
        if value > 0 {
            status[field] = value.into();
        }
    }
    if set["status"]["conditions"].is_array() {
        status["conditions"] = set["status"]["conditions"].clone();
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
}
