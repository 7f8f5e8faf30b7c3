//! Makes volumes for the classes that this server serves itself: the object here, what it stands for by a node, which has the
//! disk and the mounts. Until that node has told that it is made, nobody is offered the volume.
mod local_path;
mod nfs;
mod s3;

use crate::cluster::{Cluster, NODES};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::*;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// THE LIST: one line a maker.
const MAKERS: &[&dyn Maker] = &[&local_path::LocalPath, &nfs::Nfs, &nfs::Efs, &s3::S3];

/// One way to make volumes.
trait Maker: Sync {
    /// `provisioner` of its classes.
    fn name(&self) -> &'static str;
    /// Fills in the source, and what else is particular, of a volume. An error is told on the claim.
    fn fill(&self, order: &Order<'_>, volume: &mut Value) -> Result<(), String>;
    /// Whether the volume lies on its node alone.
    fn is_local(&self) -> bool {
        false
    }
    /// The access modes it has.
    fn access_modes(&self) -> &'static [&'static str] {
        &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]
    }
}

/// What a volume is made from.
struct Order<'a> {
    claim: &'a Value,
    class: &'a Value,
    /// The volume's name.
    volume: &'a str,
    /// The node that is to make it.
    node: &'a Value,
}

impl Order<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.class["parameters"][name].as_str().filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, String> {
        self.parameter(name).ok_or_else(|| format!("parameter {name:?} of the storage class is required"))
    }

    /// A parameter with names of the claim and the volume put in, as drivers' provisioners know them.
    fn expanded(&self, template: &str) -> String {
        let (claim, namespace) = (name(self.claim), text(&self.claim["metadata"], "namespace"));
        let names = [
            ("${pvc.metadata.name}", claim),
            ("${pvc.metadata.namespace}", namespace),
            ("${pv.metadata.name}", self.volume),
            ("${pvc.name}", claim),
            ("${pvc.namespace}", namespace),
            ("${pv.name}", self.volume),
        ];
        names.iter().fold(template.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

pub struct VolumeProvisioning;

/// A node that can be given something to do: the same for a UID while the nodes stay.
pub fn any_node<'a>(cluster: &'a Cluster, uid: &str) -> Option<&'a str> {
    let nodes = cluster.nodes().filter(|(name, node)| !node.is_deleting && cluster.is_ready(name));
    nodes.map(|(name, _)| name).max_by_key(|name| hash(&[uid, name]))
}

impl Controller for VolumeProvisioning {
    fn name(&self) -> &'static str {
        "volume-provisioner"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            CLAIMS => vec![change.key.clone()],
            CLASSES => cluster.storage.unbound(&change.key.name).cloned().collect(),
            VOLUMES => {
                let volume = change.object.as_deref().or(change.previous.as_deref());
                let own = volume.filter(|volume| annotation(volume, DUTY).is_some());
                let claim = own.map(|volume| &volume["spec"]["claimRef"]);
                claim.map(|c| Key::new(CLAIMS, text(c, "namespace"), text(c, "name"))).into_iter().collect()
            }
            // Rare enough: a node came, went, or became ready or unready.
            NODES if readiness(change.object.as_deref()) != readiness(change.previous.as_deref()) => {
                let classes = cluster.all(CLASSES);
                let own = classes.filter(|(_, class)| maker(text(class, "provisioner")).is_some());
                own.flat_map(|(key, _)| cluster.storage.unbound(&key.name).cloned().collect::<Vec<_>>())
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(CLAIMS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(claim) = cluster.get(key).filter(|claim| !is_deleting(claim) && !is_bound(claim)) else {
            return plan;
        };
        if !text(&claim["spec"], "volumeName").is_empty() {
            return plan;
        }
        let Some(maker) = annotation(&claim, STORAGE_PROVISIONER[0]).and_then(maker) else { return plan };
        let Some(class) = cluster.find(CLASSES, "", class_of(&claim)) else { return plan };
        let run = Run { key, claim: &claim, class: &class, maker, cluster };
        run.make(&mut plan);
        plan.tell_news(&claim, cluster.told(self.name(), key));
        plan
    }
}

fn maker(provisioner: &str) -> Option<&'static dyn Maker> {
    MAKERS.iter().find(|maker| maker.name() == provisioner).copied()
}

fn readiness(node: Option<&Value>) -> Option<&str> {
    condition(node?, "Ready").and_then(|ready| ready["status"].as_str())
}

struct Run<'a> {
    key: &'a Key,
    claim: &'a Value,
    class: &'a Value,
    maker: &'static dyn Maker,
    cluster: &'a Cluster,
}

impl Run<'_> {
    fn make(&self, plan: &mut Plan) {
        let volume = format!("pvc-{}", uid(self.claim));
        let key = Key::new(VOLUMES, "", volume.as_str());
        if let Some(begun) = self.cluster.get(&key) {
            return self.look_after(&key, &begun, plan);
        }
        let waits = self.class["volumeBindingMode"] == "WaitForFirstConsumer";
        let node = match annotation(self.claim, SELECTED_NODE) {
            Some(chosen) if self.cluster.node(chosen).is_none() => return self.choose_again(chosen, plan),
            // The scheduler means where the pod runs. What all nodes reach, another may make while that one is away.
            Some(chosen) if self.maker.is_local() || self.cluster.is_ready(chosen) => Some(chosen),
            None if waits => return,
            _ => self.allowed_node(),
        };
        let node = node.and_then(|node| self.cluster.find(NODES, "", node));
        let Some(node) = node else {
            return self.fail(plan, "no node is ready to make the volume");
        };
        let order = Order { claim: self.claim, class: self.class, volume: &volume, node: &node };
        match self.object(&order) {
            Ok(object) => {
                let place = format!("{}/{}", self.key.namespace, self.key.name);
                let message = format!("External provisioner is provisioning volume for claim {place:?}");
                plan.event(self.claim, "Normal", "Provisioning", message);
                plan.create(key, object);
            }
            Err(why) => self.fail(plan, &why),
        }
    }

    fn fail(&self, plan: &mut Plan, why: &str) {
        let message = format!("failed to provision volume with StorageClass {:?}: {why}", name(self.class));
        plan.tell("Warning", "ProvisioningFailed", message);
    }

    /// For a class without a node chosen by the scheduler.
    fn allowed_node(&self) -> Option<&str> {
        let nodes = self.cluster.nodes().filter(|(name, node)| {
            !node.is_deleting && self.cluster.is_ready(name) && class_allows(self.class, &node.labels)
        });
        nodes.map(|(name, _)| name).max_by_key(|name| hash(&[uid(self.claim), name]))
    }

    /// The chosen node is gone: the scheduler is to choose another.
    fn choose_again(&self, chosen: &str, plan: &mut Plan) {
        let mut next = self.claim.clone();
        annotations_mut(&mut next).remove(SELECTED_NODE);
        plan.update(self.key.clone(), next, Part::Spec);
        let message = format!(
            "failed to provision volume with StorageClass {:?}: node {chosen:?} is gone, another is chosen",
            name(self.class)
        );
        plan.event(self.claim, "Warning", "ProvisioningFailed", message);
    }

    /// A volume that its node is at. Where that node left, another takes its place if it can.
    fn look_after(&self, key: &Key, volume: &Value, plan: &mut Plan) {
        let node = annotation(volume, DUTY).unwrap_or_default();
        if !is_unmade(volume) || is_deleting(volume) {
            return;
        }
        if self.maker.is_local() {
            if self.cluster.node(node).is_none() {
                plan.delete_whatever(key.clone(), uid(volume), None);
            }
            return;
        }
        if self.cluster.is_ready(node) {
            return;
        }
        if let Some(other) = self.allowed_node().filter(|other| *other != node) {
            let mut next = volume.clone();
            annotations_mut(&mut next).insert(DUTY.into(), other.into());
            plan.update(key.clone(), next, Part::Spec);
        }
    }

    fn object(&self, order: &Order<'_>) -> Result<Value, String> {
        let claim = &self.claim["spec"];
        if claim["volumeMode"] == "Block" {
            return Err(format!("{} does not make block volumes", self.maker.name()));
        }
        if claim["dataSource"].is_object() || claim["dataSourceRef"].is_object() {
            return Err(format!("{} does not make volumes from other volumes", self.maker.name()));
        }
        let modes: Vec<&str> =
            claim["accessModes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(mode) = modes.iter().find(|mode| !self.maker.access_modes().contains(mode)) {
            return Err(format!("{} does not support the access mode {mode}", self.maker.name()));
        }
        let mut spec = json!({
            "capacity": {"storage": claim["resources"]["requests"]["storage"]},
            "accessModes": modes,
            "persistentVolumeReclaimPolicy": self.class["reclaimPolicy"].as_str().unwrap_or("Delete"),
            "storageClassName": name(self.class),
            "volumeMode": "Filesystem",
            "claimRef": {
                "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": &*self.key.namespace,
                "name": &*self.key.name, "uid": uid(self.claim),
                "resourceVersion": self.claim["metadata"]["resourceVersion"],
            },
        });
        if self.class["mountOptions"].is_array() {
            spec["mountOptions"] = self.class["mountOptions"].clone();
        }
        let annotations: BTreeMap<&str, &str> =
            [(PROVISIONED_BY, self.maker.name()), (DUTY, name(order.node))].into();
        let mut volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": order.volume, "annotations": annotations, "finalizers": [DUTY_FINALIZER, VOLUME_PROTECTION]},
            "spec": spec,
        });
        self.maker.fill(order, &mut volume)?;
        Ok(volume)
    }
}
