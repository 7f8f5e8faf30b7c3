//! Removes pods whose node is gone: nobody is left to end them. They have failed first, so that who made them counts right.
use crate::cluster::{Cluster, NODES, PODS};
use crate::object::text;
use crate::{Controller, Part, Plan};
use pilothouse_api::disruption::{self, Cause};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::Value;

pub struct PodGarbageCollection;

impl Controller for PodGarbageCollection {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    /// Keys are nodes that pods name.
    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            NODES if change.object.is_none() => vec![change.key.clone()],
            PODS => {
                let node = change.object.as_deref().map_or("", |pod| text(&pod["spec"], "nodeName"));
                if node.is_empty() { Vec::new() } else { vec![Key::new(NODES, "", node)] }
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.nodes_with_pods().map(|node| Key::new(NODES, "", node.clone())).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if cluster.contains(key) {
            return plan;
        }
        for (pod_key, pod) in cluster.pods_on(&key.name) {
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

#[cfg(test)]
mod tests {
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn pods_of_a_node_that_is_gone_go_at_once_and_others_stay() {
        let mut world = World::new();
        let n2 = world.add_node("n2");
        let pod = |world: &mut World, name: &str, node: Option<&str>| {
            let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": "web"}]});
            world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
        };
        let lost = pod(&mut world, "lost", Some("n2"));
        let (here, waiting) = (pod(&mut world, "here", Some("n1")), pod(&mut world, "waiting", None));
        world.settle();
        world.delete(&n2, "Background");
        world.settle();
        assert!(!world.objects.contains_key(&lost));
        assert!(world.objects.contains_key(&here) && world.objects.contains_key(&waiting));
    }
}
