//! Removes pods whose node is gone: nobody is left to end them.
use crate::cluster::{Cluster, PODS};
use crate::object::{text, uid};
use crate::{Action, Controller, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Observed};

pub struct PodGarbageCollection;

const NODES: &str = "nodes";

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
        cluster.nodes_with_pods().map(|node| Key::new(NODES, "", node.as_str())).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if cluster.get(key).is_some() {
            return plan;
        }
        for (pod_key, pod) in cluster.pods_on(&key.name) {
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: Some(uid(pod).to_owned()),
                ..DeleteOptions::default()
            };
            plan.actions.push(Action::Delete { key: pod_key.clone(), options });
        }
        plan
    }
}
