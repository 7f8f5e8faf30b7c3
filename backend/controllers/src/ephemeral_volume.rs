//! Claims for generic ephemeral volumes: made for one pod, and gone with it.
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::{Controller, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::CLAIMS;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct EphemeralVolumes;

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter(|volume| volume["ephemeral"]["volumeClaimTemplate"].is_object())
}

impl Controller for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn keys(&self, change: &Observed, _: &Cluster) -> Vec<Key> {
        match (&*change.key.resource, change.object.as_deref()) {
            (PODS, Some(pod)) if volumes(pod).next().is_some() => vec![change.key.clone()],
            // A claim of another owner is gone: the pod of that name may have its own now.
            (CLAIMS, None) => {
                let owner = change.previous.as_deref().and_then(controller_of);
                let pod = owner.filter(|owner| owner["kind"] == "Pod").map(|owner| text(owner, "name"));
                pod.map(|pod| Key::new(PODS, change.key.namespace.clone(), pod)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        // Of those without claims the change itself has told.
        cluster.keys(PODS).filter(|key| cluster.pod(key).is_some_and(|pod| pod.node.is_none())).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(pod) = cluster.get(key).filter(|pod| !is_deleting(pod) && !is_terminal(pod)) else {
            return plan;
        };
        for volume in volumes(&pod) {
            let claim =
                Key::new(CLAIMS, key.namespace.clone(), format!("{}-{}", key.name, text(volume, "name")));
            if cluster.contains(&claim) {
                continue; // whose it is, the scheduler and the node look at
            }
            let template = &volume["ephemeral"]["volumeClaimTemplate"];
            let mut metadata = json!({"name": &*claim.name, "namespace": &*claim.namespace});
            for field in ["labels", "annotations"] {
                if template["metadata"][field].is_object() {
                    metadata[field] = template["metadata"][field].clone();
                }
            }
            metadata["ownerReferences"] = json!([controller_reference(&pod)]);
            let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": template["spec"]});
            plan.create(claim, object);
        }
        plan
    }
}
