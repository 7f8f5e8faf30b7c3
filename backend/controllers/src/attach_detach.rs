//! Which volumes of storage drivers are at which nodes: a VolumeAttachment is the wish, the driver's attacher carries it out, and
//! the node waits for it. A volume leaves a node when no pod wants it there and the node has let go of it.
#[cfg(test)]
mod tests;

use crate::cluster::{Cluster, NODES, PODS};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::storage::*;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Seconds for which a node that is not well may hold a volume that nobody wants there (`maxWaitForUnmountDuration`).
const PATIENCE_SECONDS: i64 = 360;
/// The annotation of a VolumeAttachment that tells since when nobody wants it.
const UNWANTED_SINCE: &str = "storage.pilothouse.io/unwanted-since";

pub struct AttachDetach;

impl Controller for AttachDetach {
    fn name(&self) -> &'static str {
        "attachdetach-controller"
    }

    /// Keys are volumes, and nodes for what their status tells.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let (new, old) = (change.object.as_deref(), change.previous.as_deref());
        match &*change.key.resource {
            VOLUMES => vec![change.key.clone()],
            CLAIMS => {
                let names = [new, old].into_iter().flatten().map(|claim| text(&claim["spec"], "volumeName"));
                let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
                names.into_iter().map(|name| Key::new(VOLUMES, "", name)).collect()
            }
            PODS if placement(new) != placement(old) => {
                let pods = [new, old].into_iter().flatten();
                let claims = pods.flat_map(crate::cluster::claims_of).collect::<BTreeSet<String>>();
                let claims =
                    claims.into_iter().map(|name| Key::new(CLAIMS, change.key.namespace.clone(), name));
                claims
                    .filter_map(|claim| cluster.storage.volume_of(&claim).cloned())
                    .map(|name| Key::new(VOLUMES, "", name))
                    .collect()
            }
            ATTACHMENTS => {
                let attachment = new.or(old).unwrap_or(&Value::Null);
                let volume = text(&attachment["spec"]["source"], "persistentVolumeName");
                [(VOLUMES, volume), (NODES, text(&attachment["spec"], "nodeName"))]
                    .into_iter()
                    .filter(|(_, name)| !name.is_empty())
                    .map(|(resource, name)| Key::new(resource, "", name))
                    .collect()
            }
            NODES if holding(new) != holding(old) => {
                let attached = cluster.storage.attached_to(&change.key.name).filter_map(|name| {
                    cluster
                        .storage
                        .volume_attached_by(name)
                        .map(|volume| Key::new(VOLUMES, "", volume.clone()))
                });
                attached.chain([change.key.clone()]).collect()
            }
            CSI_DRIVERS => cluster.keys(VOLUMES).collect(),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let attached = cluster.storage.attached_volumes().map(|name| Key::new(VOLUMES, "", name.clone()));
        let nodes = cluster.storage.nodes_with_volumes().map(|name| Key::new(NODES, "", name.clone()));
        cluster.keys(VOLUMES).chain(attached).chain(nodes).collect::<BTreeSet<Key>>().into_iter().collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if &*key.resource == NODES {
            tell_attached(key, cluster, &mut plan);
            return plan;
        }
        let volume = cluster.get(key);
        let run = Run { key, volume: volume.as_deref(), cluster, now };
        let about = run.settle(&mut plan);
        if let Some(pod) = about {
            plan.tell_news(&pod, cluster.told(self.name(), key));
        }
        plan
    }
}

/// What of a pod decides where its volumes are.
fn placement(pod: Option<&Value>) -> Option<(&str, bool)> {
    pod.map(|pod| (text(&pod["spec"], "nodeName"), is_terminal(pod)))
}

/// What of a node decides whether its volumes may leave.
fn holding(node: Option<&Value>) -> Option<(&Value, &Value, &Value, bool)> {
    let node = node?;
    let ready = condition(node, "Ready").is_some_and(|ready| ready["status"] == "True");
    Some((
        &node["status"]["volumesInUse"],
        &node["status"]["volumesAttached"],
        &node["spec"]["taints"],
        ready,
    ))
}

/// `status.volumesAttached` of a Node.
fn tell_attached(key: &Key, cluster: &Cluster, plan: &mut Plan) {
    let Some(node) = cluster.get(key) else { return };
    let attachments = cluster.storage.attached_to(&key.name);
    let attachments = attachments.filter_map(|name| cluster.find(ATTACHMENTS, "", name));
    let attached = attachments.filter(|attachment| attachment["status"]["attached"] == true);
    let names: BTreeSet<String> = attached
        .filter_map(|attachment| {
            let volume = text(&attachment["spec"]["source"], "persistentVolumeName");
            let volume = cluster.find(VOLUMES, "", volume)?;
            driver_of(&volume).map(|(driver, handle)| name_in_use(driver, handle))
        })
        .collect();
    let list: Value = names.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    let told = &node["status"]["volumesAttached"];
    if *told == list || (told.is_null() && names.is_empty()) {
        return;
    }
    let mut next = (*node).clone();
    next["status"]["volumesAttached"] = list;
    plan.update(key.clone(), next, Part::Status);
}

struct Run<'a> {
    key: &'a Key,
    volume: Option<&'a Value>,
    cluster: &'a Cluster,
    now: Timestamp,
}

impl Run<'_> {
    /// The pod that what is told concerns.
    fn settle(&self, plan: &mut Plan) -> Option<Arc<Value>> {
        let wanted = self.wanted();
        let mut held: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut failed = None;
        let names: Vec<Arc<str>> = self.cluster.storage.attachments_of(&self.key.name).cloned().collect();
        for name in names {
            let Some(attachment) = self.cluster.find(ATTACHMENTS, "", &name) else { continue };
            let node: Arc<str> = text(&attachment["spec"], "nodeName").into();
            let is_own = self.is_own(&name, &node);
            let key = Key::new(ATTACHMENTS, "", name);
            match wanted.get(&node) {
                Some(_) if is_deleting(&attachment) => {} // once it is gone, it is made anew
                Some(pod) => {
                    self.keep(key, &attachment, plan);
                    failed = failed.or_else(|| self.failure(&attachment, pod, plan));
                }
                None if is_deleting(&attachment) || !is_own => {}
                None => self.detach(key, &attachment, &node, plan),
            }
            held.insert(node);
        }
        let volume = self.volume?;
        let (driver, handle) = driver_of(volume)?;
        for (node, pod) in &wanted {
            if held.contains(node) {
                continue;
            }
            if is_for_one_node(volume) && !held.is_empty() {
                let about = self.cluster.get(pod)?;
                plan.tell("Warning", "FailedAttachVolume", self.multi_attach(&held, &wanted));
                return Some(about);
            }
            let name = attachment_name(driver, handle, node);
            let attachment = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
                "spec": {"attacher": driver, "nodeName": &**node, "source": {"persistentVolumeName": &*self.key.name}}});
            plan.create(Key::new(ATTACHMENTS, "", name), attachment);
            held.insert(node.clone());
        }
        failed
    }

    /// What somebody else attached by a name of their own is theirs to detach.
    fn is_own(&self, name: &str, node: &str) -> bool {
        match self.volume.and_then(driver_of) {
            Some((driver, handle)) => name == attachment_name(driver, handle, node),
            None => is_attachment_name(name),
        }
    }

    /// The nodes that pods want the volume at, each with one of the pods.
    fn wanted(&self) -> BTreeMap<Arc<str>, Key> {
        let Some(volume) = self.volume else { return BTreeMap::new() };
        let Some((driver, _)) = driver_of(volume) else { return BTreeMap::new() };
        if !is_attached(self.cluster.find(CSI_DRIVERS, "", driver).as_deref()) {
            return BTreeMap::new();
        }
        let reference = &volume["spec"]["claimRef"];
        let claim = Key::new(CLAIMS, text(reference, "namespace"), text(reference, "name"));
        let is_ours = self.cluster.uid(&claim).is_some_and(|uid| reference["uid"] == **uid)
            && self.cluster.storage.volume_of(&claim).is_some_and(|name| **name == *self.key.name);
        if !is_ours {
            return BTreeMap::new();
        }
        let users = self.cluster.storage.users(&claim);
        users.filter_map(|pod| Some((self.cluster.pod(pod)?.node.clone()?, pod.clone()))).collect()
    }

    fn keep(&self, key: Key, attachment: &Value, plan: &mut Plan) {
        if annotation(attachment, UNWANTED_SINCE).is_some() {
            let mut next = attachment.clone();
            annotations_mut(&mut next).remove(UNWANTED_SINCE);
            plan.update(key, next, Part::Spec);
        }
    }

    fn failure(&self, attachment: &Value, pod: &Key, plan: &mut Plan) -> Option<Arc<Value>> {
        let why = attachment["status"]["attachError"]["message"].as_str()?;
        let pod = self.cluster.get(pod)?;
        let message = format!("AttachVolume.Attach failed for volume {:?} : {why}", self.key.name);
        plan.tell("Warning", "FailedAttachVolume", message);
        Some(pod)
    }

    /// Not under the node's hands, unless it is lost.
    fn detach(&self, key: Key, attachment: &Value, node: &str, plan: &mut Plan) {
        let found = self.cluster.find(NODES, "", node);
        let shown = self.volume.and_then(driver_of).map(|(driver, handle)| name_in_use(driver, handle));
        let is_free = match (&found, shown) {
            (Some(node), Some(shown)) => {
                let in_use = node["status"]["volumesInUse"].as_array().map(Vec::as_slice).unwrap_or_default();
                !in_use.iter().any(|name| *name == *shown)
            }
            // A volume that is no more is nobody's; a node that is no more may yet run.
            (_, None) => true,
            (None, Some(_)) => false,
        };
        let is_off = self.cluster.node(node).is_some_and(|node| node.is_out_of_service());
        if is_free || is_off {
            return plan.delete(key, attachment);
        }
        let Some(since) = annotation(attachment, UNWANTED_SINCE).and_then(|at| at.parse::<Timestamp>().ok())
        else {
            let mut next = attachment.clone();
            annotations_mut(&mut next).insert(UNWANTED_SINCE.into(), stamp(self.now));
            return plan.update(key, next, Part::Spec);
        };
        if self.cluster.is_ready(node) {
            return; // it will let go
        }
        let end = since.checked_add(PATIENCE_SECONDS.seconds()).unwrap_or(Timestamp::MAX);
        match self.now >= end {
            true => plan.delete(key, attachment),
            false => plan.check_again(end),
        }
    }

    fn multi_attach(&self, held: &BTreeSet<Arc<str>>, wanted: &BTreeMap<Arc<str>, Key>) -> String {
        let users: Vec<&str> = held.iter().filter_map(|node| Some(&*wanted.get(node)?.name)).collect();
        let volume = &self.key.name;
        match users.is_empty() {
            true => format!(
                "Multi-Attach error for volume {volume:?} Volume is already exclusively attached to one node and can't be attached to another"
            ),
            false => {
                format!(
                    "Multi-Attach error for volume {volume:?} Volume is already used by pod(s) {}",
                    users.join(", ")
                )
            }
        }
    }
}

/// Whether a volume is at one node at a time.
fn is_for_one_node(volume: &Value) -> bool {
    let modes = volume["spec"]["accessModes"].as_array().map(Vec::as_slice).unwrap_or_default();
    !modes.is_empty() && !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}
