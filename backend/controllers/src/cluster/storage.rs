//! Who uses which claim and which volumes are to be had: what storage controllers would otherwise look for among all objects.
use pilothouse_api::Key;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::storage::{ATTACHMENTS, CLAIMS, Offer, VOLUMES, class_of, is_bound};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Namespace and name of a claim.
type Claim = (Arc<str>, Arc<str>);

/// Fed change by change.
#[derive(Default)]
pub struct StorageIndex {
    /// The claims that a pod on a node names, while it may run.
    pods: HashMap<Key, Box<[Claim]>>,
    users: HashMap<Claim, BTreeSet<Key>>,
    volumes: HashMap<Arc<str>, Volume>,
    /// Volumes that name a claim.
    kept_for: HashMap<Claim, BTreeSet<Arc<str>>>,
    /// Volumes that anybody may have, by class and size.
    free: HashMap<Arc<str>, BTreeSet<(Quantity, Arc<str>)>>,
    claims: HashMap<Key, Wish>,
    /// Claims without a volume, by class.
    unbound: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Claims that name a volume.
    wanted_by: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Of each VolumeAttachment its volume and its node.
    attachments: HashMap<Arc<str>, (Arc<str>, Arc<str>)>,
    attachments_of: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    attached_to: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

struct Volume {
    claim: Option<Claim>,
    /// Class and size of one that anybody may have.
    free: Option<(Arc<str>, Quantity)>,
}

struct Wish {
    /// Its class, while it has no volume.
    unbound: Option<Arc<str>>,
    volume: Option<Arc<str>>,
}

fn add<K: std::hash::Hash + Eq, V: Ord>(index: &mut HashMap<K, BTreeSet<V>>, at: K, value: V) {
    index.entry(at).or_default().insert(value);
}

impl StorageIndex {
    pub(super) fn apply(&mut self, key: &Key, object: Option<&Value>) {
        match &*key.resource {
            super::PODS => self.apply_pod(key, object),
            VOLUMES => self.apply_volume(&key.name, object),
            CLAIMS => self.apply_claim(key, object),
            ATTACHMENTS => self.apply_attachment(&key.name, object),
            _ => {}
        }
    }

    fn apply_pod(&mut self, key: &Key, object: Option<&Value>) {
        for claim in self.pods.remove(key).into_iter().flatten() {
            super::remove(&mut self.users, &claim, key);
        }
        let Some(pod) = object else { return };
        let is_placed = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        if !is_placed || crate::object::is_terminal(pod) {
            return;
        }
        let claims: Box<[Claim]> =
            claims_of(pod).map(|name| (key.namespace.clone(), Arc::from(name))).collect();
        if !claims.is_empty() {
            claims.iter().for_each(|claim| add(&mut self.users, claim.clone(), key.clone()));
            self.pods.insert(key.clone(), claims);
        }
    }

    fn apply_volume(&mut self, name: &Arc<str>, object: Option<&Value>) {
        if let Some(old) = self.volumes.remove(name) {
            if let Some(claim) = &old.claim {
                super::remove(&mut self.kept_for, claim, name);
            }
            if let Some((class, size)) = old.free {
                super::remove(&mut self.free, &class, &(size, name.clone()));
            }
        }
        let Some(offer) = object.map(Offer::new) else { return };
        let claim = offer.claim.as_ref().map(|c| (Arc::from(&*c.namespace), Arc::from(&*c.name)));
        let free = offer.is_free().then(|| (Arc::from(&*offer.class), offer.size));
        if let Some(claim) = &claim {
            add(&mut self.kept_for, Claim::clone(claim), name.clone());
        }
        if let Some((class, size)) = &free {
            add(&mut self.free, Arc::clone(class), (*size, name.clone()));
        }
        self.volumes.insert(name.clone(), Volume { claim, free });
    }

    fn apply_claim(&mut self, key: &Key, object: Option<&Value>) {
        if let Some(old) = self.claims.remove(key) {
            if let Some(class) = &old.unbound {
                super::remove(&mut self.unbound, class, key);
            }
            if let Some(volume) = &old.volume {
                super::remove(&mut self.wanted_by, volume, key);
            }
        }
        let Some(claim) = object else { return };
        let unbound: Option<Arc<str>> = (!is_bound(claim)).then(|| class_of(claim).into());
        let volume: Option<Arc<str>> =
            claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty()).map(Arc::from);
        if let Some(class) = &unbound {
            add(&mut self.unbound, class.clone(), key.clone());
        }
        if let Some(volume) = &volume {
            add(&mut self.wanted_by, volume.clone(), key.clone());
        }
        self.claims.insert(key.clone(), Wish { unbound, volume });
    }

    fn apply_attachment(&mut self, name: &Arc<str>, object: Option<&Value>) {
        if let Some((volume, node)) = self.attachments.remove(name) {
            super::remove(&mut self.attachments_of, &volume, name);
            super::remove(&mut self.attached_to, &node, name);
        }
        let Some(attachment) = object else { return };
        let spec = &attachment["spec"];
        let text = |value: &Value| Arc::<str>::from(value.as_str().unwrap_or_default());
        let (volume, node) = (text(&spec["source"]["persistentVolumeName"]), text(&spec["nodeName"]));
        add(&mut self.attachments_of, volume.clone(), name.clone());
        add(&mut self.attached_to, node.clone(), name.clone());
        self.attachments.insert(name.clone(), (volume, node));
    }

    /// The names of a volume's VolumeAttachments.
    pub fn attachments_of(&self, volume: &str) -> impl Iterator<Item = &Arc<str>> {
        self.attachments_of.get(volume).into_iter().flatten()
    }

    /// The names of the VolumeAttachments to a node.
    pub fn attached_to(&self, node: &str) -> impl Iterator<Item = &Arc<str>> {
        self.attached_to.get(node).into_iter().flatten()
    }

    /// Of a VolumeAttachment the volume.
    pub fn volume_attached_by(&self, attachment: &str) -> Option<&Arc<str>> {
        self.attachments.get(attachment).map(|(volume, _)| volume)
    }

    pub fn attached_volumes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.attachments_of.keys()
    }

    /// Nodes that volumes are attached to.
    pub fn nodes_with_volumes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.attached_to.keys()
    }

    /// The volume that a claim names.
    pub fn volume_of(&self, claim: &Key) -> Option<&Arc<str>> {
        self.claims.get(claim)?.volume.as_ref()
    }

    /// Pods on nodes that use a claim, and have not ended.
    pub fn users(&self, claim: &Key) -> impl Iterator<Item = &Key> {
        self.users.get(&(claim.namespace.clone(), claim.name.clone())).into_iter().flatten()
    }

    /// Volumes that name a claim as theirs.
    pub fn kept_for(&self, claim: &Key) -> impl Iterator<Item = &Arc<str>> {
        self.kept_for.get(&(claim.namespace.clone(), claim.name.clone())).into_iter().flatten()
    }

    /// The volumes of a class that anybody may have and that are large enough, smallest first.
    pub fn free(&self, class: &str, size: Quantity) -> impl Iterator<Item = &Arc<str>> {
        let volumes = self.free.get(class).into_iter();
        volumes.flat_map(move |volumes| volumes.range((size, Arc::from(""))..)).map(|(_, name)| name)
    }

    /// Claims of a class that have no volume.
    pub fn unbound(&self, class: &str) -> impl Iterator<Item = &Key> {
        self.unbound.get(class).into_iter().flatten()
    }

    /// Claims that name a volume.
    pub fn wanted_by(&self, volume: &str) -> impl Iterator<Item = &Key> {
        self.wanted_by.get(volume).into_iter().flatten()
    }
}

/// The names of a pod's claims, those that are made for its ephemeral volumes among them.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| {
        if volume["ephemeral"].is_object() {
            let pod = crate::object::name(pod);
            return Some(format!("{pod}-{}", volume["name"].as_str()?));
        }
        volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
    })
}
