//! The phases of volumes, and what becomes of one whose claim is gone.
use crate::cluster::Cluster;
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::*;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct PersistentVolumes;

/// The volume in a phase. The time of the change is the server's to know.
pub fn with_phase(volume: &Value, phase: &str, message: &str, now: Timestamp) -> Value {
    let mut next = volume.clone();
    if !next["status"].is_object() {
        next["status"] = json!({});
    }
    let status = &mut next["status"];
    if status["phase"] != phase {
        status["phase"] = phase.into();
        status["lastPhaseTransitionTime"] = stamp(now);
    }
    match (message, status.as_object_mut()) {
        ("", Some(fields)) => drop(fields.remove("message")),
        (message, Some(fields)) => drop(fields.insert("message".into(), message.into())),
        _ => {}
    }
    next
}

impl Controller for PersistentVolumes {
    fn name(&self) -> &'static str {
        "persistent-volume-reclaimer"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let volume = |name: &str| Key::new(VOLUMES, "", name);
        match &*change.key.resource {
            VOLUMES => vec![change.key.clone()],
            CLAIMS => cluster.storage.kept_for(&change.key).map(|name| volume(name)).collect(),
            // A node that is gone takes its volumes along, or leaves its duties to others.
            crate::cluster::NODES if change.object.is_none() => {
                cluster.keys(VOLUMES).filter(|key| cluster.is_deleting(key)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(VOLUMES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(volume) = cluster.get(key) else { return plan };
        let run = Run { key, volume: &volume, cluster, now };
        match is_deleting(&volume) {
            true => run.leave(&mut plan),
            false => run.follow_claim(&mut plan),
        }
        plan
    }
}

struct Run<'a> {
    key: &'a Key,
    volume: &'a Value,
    cluster: &'a Cluster,
    now: Timestamp,
}

impl Run<'_> {
    fn is_in(&self, phase: &str) -> bool {
        self.volume["status"]["phase"] == phase
    }

    fn set(&self, phase: &str, message: &str, plan: &mut Plan) {
        if !self.is_in(phase) {
            plan.update(self.key.clone(), with_phase(self.volume, phase, message, self.now), Part::Status);
        }
    }

    fn follow_claim(&self, plan: &mut Plan) {
        let reference = &self.volume["spec"]["claimRef"];
        let (namespace, claim) = (text(reference, "namespace"), text(reference, "name"));
        let is_named = reference.is_object() && !text(reference, "uid").is_empty();
        let claim = self.cluster.find(CLAIMS, namespace, claim).filter(|c| reference["uid"] == *uid(c));
        if is_unmade(self.volume) {
            // Nobody waits for it any more.
            if is_named && claim.is_none() {
                plan.delete_whatever(self.key.clone(), uid(self.volume), None);
            }
            return;
        }
        if !is_named {
            return self.set("Available", "", plan);
        }
        let Some(claim) = claim else { return self.reclaim(plan) };
        match text(&claim["spec"], "volumeName") {
            "" => {} // the claim is written next
            bound if *bound == *self.key.name => self.set("Bound", "", plan),
            _ if annotation(self.volume, PROVISIONED_BY).is_some() && self.policy() == "Delete" => {
                self.reclaim(plan)
            }
            _ => self.unbind(plan),
        }
    }

    fn policy(&self) -> &str {
        self.volume["spec"]["persistentVolumeReclaimPolicy"].as_str().unwrap_or("Retain")
    }

    /// The claim was bound to another volume: this one is to be had again, by everybody or by whom it was kept for.
    fn unbind(&self, plan: &mut Plan) {
        let mut next = with_phase(self.volume, "Available", "", self.now);
        if annotation(self.volume, BOUND_BY_CONTROLLER).is_some() {
            annotations_mut(&mut next).remove(BOUND_BY_CONTROLLER);
            if let Some(spec) = next["spec"].as_object_mut() {
                spec.remove("claimRef");
            }
        } else if let Some(reference) = next["spec"]["claimRef"].as_object_mut() {
            reference.remove("uid");
        }
        plan.update(self.key.clone(), next, Part::Whole);
    }

    fn reclaim(&self, plan: &mut Plan) {
        if !self.is_in("Released") && !self.is_in("Failed") {
            return self.set("Released", "", plan);
        }
        let fail = |plan: &mut Plan, reason, message: String| {
            if !self.is_in("Failed") {
                self.set("Failed", &message, plan);
                plan.event(self.volume, "Warning", reason, message);
            }
        };
        match self.policy() {
            "Delete" if has_finalizer(self.volume, DUTY_FINALIZER) => {
                plan.delete(self.key.clone(), self.volume)
            }
            // Whoever made it removes it, and the volume then.
            "Delete"
                if annotation(self.volume, PROVISIONED_BY)
                    .is_some_and(|by| !by.starts_with("kubernetes.io/")) => {}
            "Delete" if self.volume["spec"]["csi"].is_object() => {}
            "Delete" => {
                let message = format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                    self.key.name
                );
                fail(plan, "VolumeFailedDelete", message);
            }
            "Recycle" => fail(plan, "VolumeFailedRecycle", "No recycler plugin found for the volume!".into()),
            _ => {}
        }
    }

    /// Deleted: what it stands for goes with it if the policy says so and its node can.
    fn leave(&self, plan: &mut Plan) {
        if self.is_in("Bound") {
            return match self.claim_is_there() {
                true => {} // the claim goes first
                false => self.set("Released", "", plan),
            };
        }
        if !has_finalizer(self.volume, DUTY_FINALIZER) {
            return;
        }
        let node = annotation(self.volume, DUTY).unwrap_or_default();
        let is_there = self.cluster.node(node).is_some();
        if self.policy() != "Delete" || (!is_there && self.is_local()) {
            let free = without_finalizer(self.volume, DUTY_FINALIZER);
            return plan.update(self.key.clone(), free, Part::Spec);
        }
        if !is_there && let Some(other) = crate::volume_provisioning::any_node(self.cluster, uid(self.volume))
        {
            let mut next = self.volume.clone();
            annotations_mut(&mut next).insert(DUTY.into(), other.into());
            plan.update(self.key.clone(), next, Part::Spec);
        }
    }

    fn is_local(&self) -> bool {
        self.volume["spec"]["local"].is_object()
    }

    fn claim_is_there(&self) -> bool {
        let reference = &self.volume["spec"]["claimRef"];
        let claim = self.cluster.find(CLAIMS, text(reference, "namespace"), text(reference, "name"));
        claim.is_some_and(|claim| reference["uid"] == *uid(&claim))
    }
}
