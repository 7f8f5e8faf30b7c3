//! Removes pods that nobody is left to end: those of a node that is gone, and those that are ending on one that an
//! administrator declared out of service. They have failed first, so that who made them counts right. And of the pods that
//! ran to their end, the oldest above a number.
use crate::cluster::{Cluster, NODES, PODS};
use crate::object::{later, text};
use crate::{Controller, Part, Plan};
use pilothouse_api::disruption::{self, Cause};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::Value;

/// For how long a node may be gone before its pods are: it may come back under its name, with all of them running.
const QUARANTINE_SECONDS: i64 = 40;
/// How many pods that ran to their end are kept (`--terminated-pod-gc-threshold`).
const ENDED: usize = 12_500;
/// The most deletions of one run.
const BATCH: usize = 500;

pub struct PodGarbageCollection;

/// The key under which pods that ran to their end are looked after.
fn ended() -> Key {
    Key::new(PODS, "", "")
}

impl Controller for PodGarbageCollection {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    /// Keys are nodes that pods name.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            NODES if cluster.node(&change.key.name).is_none_or(|node| node.is_out_of_service()) => {
                vec![change.key.clone()]
            }
            PODS => {
                let node = change.object.as_deref().map_or("", |pod| text(&pod["spec"], "nodeName"));
                let node = (!node.is_empty()).then(|| Key::new(NODES, "", node));
                let too_many = cluster.ended_pods().len() > ENDED;
                node.into_iter().chain(too_many.then(ended)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let nodes = cluster.nodes_with_pods().map(|node| Key::new(NODES, "", node.clone()));
        nodes.chain([ended()]).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if *key == ended() {
            remove_oldest(cluster, &mut plan);
            return plan;
        }
        let node = cluster.node(&key.name);
        let is_off = node.is_some_and(|node| node.is_out_of_service() && !cluster.is_ready(&key.name));
        if !is_off {
            let Some(since) = cluster.missing_since(&key.name) else { return plan };
            let gone_at = later(since, QUARANTINE_SECONDS);
            if gone_at > now {
                plan.check_again(gone_at);
                return plan;
            }
        }
        for (pod_key, pod) in cluster.pods_on(&key.name).filter(|(_, pod)| !is_off || pod.is_deleting) {
            if !pod.is_terminal()
                && let Some(object) = cluster.get(pod_key)
            {
                let marked = disruption::marked(&object, Cause::PodGarbageCollection, now);
                let mut failed = marked.unwrap_or_else(|| Value::clone(&object));
                failed["status"]["phase"] = "Failed".into();
                plan.update(pod_key.clone(), failed, Part::Status);
            } else if let Some(uid) = cluster.uid(pod_key) {
                plan.delete_whatever(pod_key.clone(), uid, Some(0));
            }
        }
        plan
    }
}

fn remove_oldest(cluster: &Cluster, plan: &mut Plan) {
    let ended = cluster.ended_pods();
    let too_many = ended.len().saturating_sub(ENDED);
    let may_go = ended.filter(|key| cluster.pod(key).is_some_and(|pod| !pod.is_deleting));
    for key in may_go.take(too_many.min(BATCH)) {
        if let Some(uid) = cluster.uid(key) {
            plan.delete_whatever(key.clone(), uid, Some(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::json;

    fn pod(world: &mut World, name: &str, node: Option<&str>) -> Key {
        let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": "web"}]});
        world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
    }

    fn wait(world: &mut World, seconds: i64) {
        world.settle();
        world.pass(seconds);
        world.settle();
    }

    #[test]
    fn pods_of_a_node_that_stays_away_go_and_others_stay() {
        let mut world = World::new();
        let n2 = world.add_node("n2");
        let lost = pod(&mut world, "lost", Some("n2"));
        let (here, waiting) = (pod(&mut world, "here", Some("n1")), pod(&mut world, "waiting", None));
        world.settle();
        world.delete(&n2, "Background");
        wait(&mut world, QUARANTINE_SECONDS - 5);
        assert!(world.objects.contains_key(&lost), "the node may come back");
        world.add_node("n2");
        wait(&mut world, 2 * QUARANTINE_SECONDS);
        assert!(world.objects.contains_key(&lost), "the node came back");
        world.delete(&n2, "Background");
        wait(&mut world, QUARANTINE_SECONDS + 5);
        assert!(!world.objects.contains_key(&lost));
        assert!(world.objects.contains_key(&here) && world.objects.contains_key(&waiting));
    }

    #[test]
    fn what_is_ending_on_a_node_out_of_service_goes_at_once() {
        let mut world = World::new();
        let n2 = world.add_node("n2");
        let (ending, running) =
            (pod(&mut world, "ending", Some("n2")), pod(&mut world, "running", Some("n2")));
        for key in [&ending, &running] {
            world.run_pod(key, true);
        }
        world.delete(&ending, "Background");
        world.settle();
        assert!(world.objects.contains_key(&ending), "its node ends it");
        world.edit(&n2, |node| {
            let taint =
                json!({"key": "node.kubernetes.io/out-of-service", "value": "shut", "effect": "NoSchedule"});
            node["spec"]["taints"] = json!([taint]);
        });
        world.settle();
        assert!(world.objects.contains_key(&ending), "its node is ready: it is mistaken to be off");
        world.edit_status(&n2, |node| node["status"]["conditions"][0]["status"] = "False".into());
        let plan = world.plan("pod-garbage-collector", &n2);
        let touched: Vec<&Key> = plan.actions.iter().filter_map(|action| action.key()).collect();
        assert_eq!(touched, [&ending], "{running} goes on");
        world.settle();
        assert!(!world.objects.contains_key(&ending));
    }

    #[test]
    fn of_the_pods_that_ended_the_oldest_go_above_a_number() {
        let mut world = World::new();
        let mut oldest = None;
        for n in 0..ENDED + 2 {
            world.now = later(world.now, 1);
            let key = Key::new(PODS, "default", format!("pod-{n:05}"));
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": &*key.name, "uid": format!("of-{n}"), "creationTimestamp": world.now.to_string()},
                "spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"},
            });
            let change = Observed {
                key: key.clone(),
                revision: 1_000_000 + n as u64,
                object: Some(pod.into()),
                previous: None,
                bytes: Default::default(),
            };
            world.cluster.apply(&change, world.now);
            oldest.get_or_insert(change);
        }
        let collects = PodGarbageCollection;
        let change = oldest.unwrap();
        assert!(collects.keys(&change, &world.cluster).contains(&ended()));
        let plan = collects.reconcile(&ended(), &world.cluster, world.now);
        let gone: Vec<&str> = plan.actions.iter().filter_map(|action| Some(&*action.key()?.name)).collect();
        assert_eq!(gone, ["pod-00000", "pod-00001"]);
    }
}
