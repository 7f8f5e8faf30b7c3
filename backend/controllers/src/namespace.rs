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
        let namespace = cluster.find(NAMESPACES, "", &change.key.namespace).filter(|n| is_deleting(n));
        namespace.map(|_| Key::new(NAMESPACES, "", change.key.namespace.clone())).into_iter().collect()
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.all(NAMESPACES).map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(namespace) = cluster.get(key) else { return plan };
        let finalizers: Vec<&Value> = namespace["spec"]["finalizers"].as_array().into_iter().flatten().collect();
        if !is_deleting(namespace) || !finalizers.iter().any(|f| **f == FINALIZER) {
            return plan;
        }
        let mut left = 0;
        for resource in cluster.resources().cloned().collect::<Vec<_>>() {
            for (object_key, object) in cluster.in_namespace(&resource, &key.name) {
                left += 1;
                if !is_deleting(object) {
                    plan.delete(object_key, object);
                }
            }
        }
        if left == 0 {
            let mut next = Value::clone(namespace);
            let kept: Vec<Value> = finalizers.into_iter().filter(|f| **f != FINALIZER).cloned().collect();
            next["spec"]["finalizers"] = json!(kept);
            plan.update(key.clone(), next, Part::Whole);
        } else if text(&namespace["status"], "phase") != "Terminating" {
            let mut next = Value::clone(namespace);
            next["status"]["phase"] = "Terminating".into();
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}
