//! Claims that pods use and volumes that claims are bound to are not removed under them.
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::*;
use pilothouse_api::{Key, Observed};
use serde_json::Value;

/// One controller for each of the two kinds.
pub struct Protection {
    name: &'static str,
    resource: &'static str,
    finalizer: &'static str,
    is_used: fn(&Key, &Value, &Cluster) -> bool,
}

pub const CLAIM: Protection = Protection {
    name: "pvc-protection-controller",
    resource: CLAIMS,
    finalizer: CLAIM_PROTECTION,
    is_used: |key, _, cluster| cluster.storage.users(key).next().is_some(),
};

pub const VOLUME: Protection = Protection {
    name: "pv-protection-controller",
    resource: VOLUMES,
    finalizer: VOLUME_PROTECTION,
    is_used: |_, volume, _| volume["status"]["phase"] == "Bound",
};

impl Controller for Protection {
    fn name(&self) -> &'static str {
        self.name
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            resource if resource == self.resource => vec![change.key.clone()],
            PODS if self.resource == CLAIMS => {
                // Of pods with claims only those that go may set a claim free.
                let before = change.previous.as_deref().or(change.object.as_deref());
                let volumes = before.map(|pod| &pod["spec"]["volumes"]);
                let volumes = volumes.and_then(Value::as_array).into_iter().flatten();
                let pod = before.map(name).unwrap_or_default();
                let names = volumes.filter_map(|volume| match volume["ephemeral"].is_object() {
                    true => Some(format!("{pod}-{}", text(volume, "name"))),
                    false => volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned),
                });
                let keys = names.map(|name| Key::new(CLAIMS, change.key.namespace.clone(), name));
                keys.filter(|key| cluster.is_deleting(key)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(self.resource).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(object) = cluster.get(key) else { return plan };
        let is_held = has_finalizer(&object, self.finalizer);
        match is_deleting(&object) {
            true if is_held && !(self.is_used)(key, &object, cluster) => {
                plan.update(key.clone(), without_finalizer(&object, self.finalizer), Part::Spec);
            }
            false if !is_held => {
                let mut next = (*object).clone();
                let mut all = next["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
                all.push(self.finalizer.into());
                next["metadata"]["finalizers"] = all.into();
                plan.update(key.clone(), next, Part::Spec);
            }
            _ => {}
        }
        plan
    }
}
