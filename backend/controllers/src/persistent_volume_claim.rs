//! Binds claims to volumes: a volume that is kept for the claim, else the smallest that suits, else one that is made.
//!
//! The volume is written first: once it names the claim nobody else can have it, and only then is the claim written.
#[cfg(test)]
mod tests;

use crate::cluster::Cluster;
use crate::object::*;
use crate::persistent_volume::with_phase;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::*;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::sync::Arc;

pub struct PersistentVolumeClaims;

impl Controller for PersistentVolumeClaims {
    fn name(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let storage = &cluster.storage;
        match &*change.key.resource {
            CLAIMS => vec![change.key.clone()],
            VOLUMES => {
                let mut keys: Vec<Key> = storage.wanted_by(&change.key.name).cloned().collect();
                if let Some(volume) = change.object.as_deref() {
                    let offer = Offer::new(volume);
                    keys.extend(offer.claim.as_ref().map(|c| Key::new(CLAIMS, &*c.namespace, &*c.name)));
                    if offer.is_free() {
                        keys.extend(storage.unbound(&offer.class).cloned());
                    }
                }
                keys
            }
            CLASSES => {
                let named = storage.unbound(&change.key.name);
                named.chain(storage.unbound("")).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(CLAIMS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(claim) = cluster.get(key) else { return plan };
        let run = Run { key, claim: &claim, cluster, now };
        match annotation(&claim, BIND_COMPLETED) {
            Some(_) => run.keep(&mut plan),
            None if is_deleting(&claim) => {}
            None => run.bind(&mut plan),
        }
        plan.tell_news(&claim, cluster.told(self.name(), key));
        plan
    }
}

struct Run<'a> {
    key: &'a Key,
    claim: &'a Value,
    cluster: &'a Cluster,
    now: Timestamp,
}

impl Run<'_> {
    fn volume(&self, name: &str) -> Option<Arc<Value>> {
        self.cluster.find(VOLUMES, "", name)
    }

    /// A claim that was bound once.
    fn keep(&self, plan: &mut Plan) {
        let name = text(&self.claim["spec"], "volumeName");
        let lost = |plan: &mut Plan, reason, message: &str| {
            if self.claim["status"]["phase"] != "Lost" {
                let mut next = self.claim.clone();
                next["status"] = json!({"phase": "Lost"});
                plan.update(self.key.clone(), next, Part::Status);
                plan.event(self.claim, "Warning", reason, message);
            }
        };
        if name.is_empty() {
            let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return lost(plan, "ClaimLost", message);
        }
        let Some(volume) = self.volume(name) else {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return lost(plan, "ClaimLost", message);
        };
        let reference = &volume["spec"]["claimRef"];
        if reference.is_object() && reference["uid"] != *uid(self.claim) {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            return lost(plan, "ClaimMisbound", message);
        }
        self.bind_to(&volume, plan);
    }

    fn bind(&self, plan: &mut Plan) {
        let wanted = text(&self.claim["spec"], "volumeName");
        match wanted {
            "" => self.find(plan),
            name => self.take_named(name, plan),
        }
    }

    /// The user asked for one volume by its name.
    fn take_named(&self, name: &str, plan: &mut Plan) {
        let Some(volume) = self.volume(name) else { return };
        let offer = Offer::new(&volume);
        if offer.claim.is_none() {
            if let Some(why) = offer.mismatch(&Demand::new(self.claim)) {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                return plan.tell("Warning", "VolumeMismatch", message);
            }
            return self.bind_to(&volume, plan);
        }
        if offer.is_for(&self.key.namespace, &self.key.name, uid(self.claim)) {
            return self.bind_to(&volume, plan);
        }
        plan.tell("Warning", "FailedBinding", format!("volume {name:?} already bound to a different claim."));
    }

    fn find(&self, plan: &mut Plan) {
        let class = self.class_object();
        if leaves_class_open(self.claim)
            && let Some(name) = class.as_deref().map(name)
        {
            let mut next = self.claim.clone();
            next["spec"]["storageClassName"] = name.into();
            return plan.update(self.key.clone(), next, Part::Spec);
        }
        if let Some(volume) = self.kept() {
            return self.bind_to(&volume, plan);
        }
        let waits = class.as_deref().is_some_and(|c| c["volumeBindingMode"] == "WaitForFirstConsumer");
        if waits && annotation(self.claim, SELECTED_NODE).is_none() {
            let message = "waiting for first consumer to be created before binding";
            return plan.tell("Normal", "WaitForFirstConsumer", message);
        }
        // With a node chosen, the scheduler has looked for a volume there already: one is to be made.
        let found = if waits { None } else { self.smallest() };
        match found {
            Some(volume) => self.bind_to(&volume, plan),
            None => self.ask_for(class.as_deref(), plan),
        }
    }

    /// The class of the claim, or the one it is to be given.
    fn class_object(&self) -> Option<Arc<Value>> {
        if !leaves_class_open(self.claim) {
            return self.cluster.find(CLASSES, "", class_of(self.claim));
        }
        let classes: Vec<Arc<Value>> = self.cluster.all(CLASSES).map(|(_, class)| class).collect();
        let name = default_class(classes.iter().map(|class| &**class))?;
        classes.iter().find(|class| class["metadata"]["name"] == name).cloned()
    }

    /// A volume that is kept for this claim.
    fn kept(&self) -> Option<Arc<Value>> {
        let demand = Demand::new(self.claim);
        let volumes = self.cluster.storage.kept_for(self.key).filter_map(|name| self.volume(name));
        let fitting = volumes.filter(|volume| {
            let offer = Offer::new(volume);
            let ours = offer.is_for(&self.key.namespace, &self.key.name, uid(self.claim));
            ours && offer.is_enough_for(&demand) && !offer.is_deleting()
        });
        // One that names the UID was promised already; then the smallest.
        fitting.min_by_key(|volume| {
            let offer = Offer::new(volume);
            (offer.claim.is_some_and(|claim| claim.uid.is_empty()), offer.size)
        })
    }

    fn smallest(&self) -> Option<Arc<Value>> {
        let demand = Demand::new(self.claim);
        let names = self.cluster.storage.free(&demand.class, demand.size);
        names.filter_map(|name| self.volume(name)).find(|volume| Offer::new(volume).suits(&demand))
    }

    /// No volume is there: who makes one, if anybody does.
    fn ask_for(&self, class: Option<&Value>, plan: &mut Plan) {
        let named = class_of(self.claim);
        let Some(class) = class else {
            return match named {
                "" => {
                    let message =
                        "no persistent volumes available for this claim and no storage class is set";
                    plan.tell("Normal", "FailedBinding", message)
                }
                name => {
                    let message = format!("storageclass.storage.k8s.io {name:?} not found");
                    plan.tell("Warning", "ProvisioningFailed", message)
                }
            };
        };
        let provisioner = text(class, "provisioner");
        if provisioner == "kubernetes.io/no-provisioner" {
            let message =
                "no persistent volumes available for this claim and no volume is made for this class";
            return plan.tell("Normal", "FailedBinding", message);
        }
        if STORAGE_PROVISIONER.iter().any(|mark| annotation(self.claim, mark) != Some(provisioner)) {
            let mut next = self.claim.clone();
            for mark in STORAGE_PROVISIONER {
                annotations_mut(&mut next).insert(mark.into(), provisioner.into());
            }
            plan.update(self.key.clone(), next, Part::Spec);
        }
        if !OWN_PROVISIONERS.contains(&provisioner) {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
                 the system administrator. If volume creation is delayed, please verify that the provisioner is running \
                 and correctly registered."
            );
            plan.tell("Normal", "ExternalProvisioning", message);
        }
    }

    /// One half of a binding after the other: the next run sees what this one wrote.
    fn bind_to(&self, volume: &Value, plan: &mut Plan) {
        if is_unmade(volume) {
            return; // its node is at it
        }
        let key = Key::new(VOLUMES, "", name(volume));
        let reference = &volume["spec"]["claimRef"];
        if reference["uid"] != *uid(self.claim) {
            let mut next = with_phase(volume, "Bound", "", self.now);
            next["spec"]["claimRef"] = json!({
                "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": &*self.key.namespace, "name": &*self.key.name,
                "uid": uid(self.claim), "resourceVersion": self.claim["metadata"]["resourceVersion"],
            });
            if !reference.is_object() {
                annotations_mut(&mut next).insert(BOUND_BY_CONTROLLER.into(), "yes".into());
            }
            return plan.update(key, next, Part::Whole);
        }
        if volume["status"]["phase"] != "Bound" {
            plan.update(key, with_phase(volume, "Bound", "", self.now), Part::Status);
        }
        let mut next = self.claim.clone();
        if self.claim["spec"]["volumeName"] != *name(volume) {
            next["spec"]["volumeName"] = name(volume).into();
            annotations_mut(&mut next).insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        }
        if annotation(&next, BIND_COMPLETED).is_none() {
            annotations_mut(&mut next).insert(BIND_COMPLETED.into(), "yes".into());
        }
        if next["status"]["phase"] != "Bound" {
            // Later it may differ: the file system grows after its volume.
            next["status"]["capacity"] = json!({"storage": volume["spec"]["capacity"]["storage"]});
            next["status"]["phase"] = "Bound".into();
        }
        next["status"]["accessModes"] = volume["spec"]["accessModes"].clone();
        if next != *self.claim {
            plan.update(self.key.clone(), next, Part::Whole);
        }
    }
}
