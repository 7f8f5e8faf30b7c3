//! Namespace: when it is deleted, everything in it goes first.
use crate::cluster::Cluster;
use crate::object::{is_deleting, text};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct Namespaces;

const NAMESPACES: &str = "namespaces";
const FINALIZER: &str = "kubernetes";

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource == NAMESPACES {
            return vec![change.key.clone()];
        }
        // Anything that comes or goes in a namespace on its way out.
        let namespace = Key::new(NAMESPACES, "", change.key.namespace.clone());
        if cluster.is_deleting(&namespace) { vec![namespace] } else { Vec::new() }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(NAMESPACES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(namespace) = cluster.get(key) else {
            return plan;
        };
        let finalizers: Vec<&Value> =
            namespace["spec"]["finalizers"].as_array().into_iter().flatten().collect();
        if !is_deleting(&namespace) || !finalizers.iter().any(|f| **f == FINALIZER) {
            return plan;
        }
        let mut left = 0;
        for object_key in cluster.resources().flat_map(|resource| cluster.keys_in(resource, &key.name)) {
            left += 1;
            let uid = cluster.uid(&object_key).filter(|_| !cluster.is_deleting(&object_key));
            if let Some(uid) = uid {
                plan.delete_whatever(object_key, uid, None);
            }
        }
        if left == 0 {
            let mut next = Value::clone(&namespace);
            let kept: Vec<Value> = finalizers.into_iter().filter(|f| **f != FINALIZER).cloned().collect();
            next["spec"]["finalizers"] = json!(kept);
            plan.update(key.clone(), next, Part::Whole);
        } else if text(&namespace["status"], "phase") != "Terminating" {
            let mut next = Value::clone(&namespace);
            next["status"]["phase"] = "Terminating".into();
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, deployment};

    #[test]
    fn a_namespace_goes_after_everything_in_it() {
        let mut world = World::new();
        let other =
            world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
        let mut web = deployment("web", 2, "web");
        web["metadata"]["namespace"] = "other".into();
        world.create(web);
        let held = json!({"name": "held", "namespace": "other", "finalizers": ["example.com/slow"]});
        let held = world.create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": held}));
        let kept =
            world.create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}));
        world.converge();
        world.delete(&other, "Background");
        world.converge();
        assert_eq!(world.get(&other)["status"]["phase"], "Terminating");
        assert_eq!(
            world.objects.keys().filter(|key| &*key.namespace == "other").count(),
            1,
            "one has a finalizer"
        );
        world.edit(&held, |map| map["metadata"]["finalizers"] = json!([]));
        world.converge();
        assert!(!world.objects.contains_key(&other));
        assert!(world.objects.contains_key(&kept));
        world.assert_at_rest();
    }

    #[test]
    fn every_namespace_has_a_default_account_and_gets_it_back() {
        let mut world = World::new();
        world.settle();
        let account = Key::new("serviceaccounts", "default", "default");
        assert!(world.objects.contains_key(&account));
        world.delete(&account, "Background");
        world.settle();
        assert!(world.objects.contains_key(&account));
    }
}
