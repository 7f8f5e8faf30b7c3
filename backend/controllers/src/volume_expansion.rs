//! Claims that ask for more than they have: volumes without walls grow at once, those of drivers by their drivers.
use crate::cluster::Cluster;
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::storage::*;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct VolumeExpansion;

fn amount(value: &Value) -> Quantity {
    value.as_str().and_then(Quantity::parse).unwrap_or(Quantity::ZERO)
}

impl Controller for VolumeExpansion {
    fn name(&self) -> &'static str {
        "expand-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            CLAIMS => vec![change.key.clone()],
            VOLUMES => cluster.storage.wanted_by(&change.key.name).cloned().collect(),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(CLAIMS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(claim) = cluster.get(key).filter(|claim| claim["status"]["phase"] == "Bound") else {
            return plan;
        };
        let wanted = &claim["spec"]["resources"]["requests"]["storage"];
        if amount(wanted) <= amount(&claim["status"]["capacity"]["storage"]) {
            return plan;
        }
        let Some(volume) = cluster.find(VOLUMES, "", text(&claim["spec"], "volumeName")) else { return plan };
        let maker = annotation(&volume, PROVISIONED_BY).unwrap_or_default();
        if !OWN_PROVISIONERS.contains(&maker) {
            if volume["spec"]["csi"].is_object() {
                plan.tell(
                    "Normal",
                    "ExternalExpanding",
                    "waiting for an external controller to expand this PVC",
                );
            }
        } else if amount(&volume["spec"]["capacity"]["storage"]) < amount(wanted) {
            // First the volume, then the claim that sees it.
            let mut next = (*volume).clone();
            next["spec"]["capacity"]["storage"] = wanted.clone();
            plan.update(Key::new(VOLUMES, "", name(&volume)), next, Part::Spec);
        } else {
            let mut next = (*claim).clone();
            next["status"]["capacity"] = json!({"storage": volume["spec"]["capacity"]["storage"]});
            plan.update(key.clone(), next, Part::Status);
            plan.event(
                &claim,
                "Normal",
                "VolumeResizeSuccessful",
                format!("Resized volume {}", name(&volume)),
            );
        }
        plan.tell_news(&claim, cluster.told(self.name(), key));
        plan
    }
}
