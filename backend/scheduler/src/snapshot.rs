//! Nodes and what runs on them, followed change by change.
use crate::framework::{PodInfo, Resources, add, amounts};
use pilothouse_api::{Key, Observed};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node with its pods and what they take together.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub name: Arc<str>,
    pub node: Arc<Value>,
    pub allocatable: Resources,
    pub requested: Resources,
    pub pods: HashMap<String, PodInfo>,
    /// Pods of one workload here, by the owner's UID.
    pub owners: HashMap<String, usize>,
}

impl NodeInfo {
    fn put(&mut self, pod: PodInfo) {
        self.take(&pod.uid);
        add(&mut self.requested, &pod.requests);
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn take(&mut self, uid: &str) -> bool {
        let Some(pod) = self.pods.remove(uid) else { return false };
        for (resource, amount) in &pod.requests {
            *self.requested.entry(resource.clone()).or_default() -= amount;
        }
        if let Some(owner) = &pod.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
        true
    }
}

/// One change costs the same whatever the number of nodes and pods.
#[derive(Default)]
pub struct Snapshot {
    nodes: BTreeMap<Arc<str>, NodeInfo>,
    /// Which node has a pod, by UID.
    places: HashMap<String, Arc<str>>,
    /// Pods on nodes that are not known (yet), by node.
    strays: HashMap<Arc<str>, HashMap<String, PodInfo>>,
}

impl Snapshot {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    pub fn apply(&mut self, change: &Observed) {
        match &*change.key.resource {
            "nodes" => self.apply_node(change),
            "pods" => self.apply_pod(change),
            _ => {}
        }
    }

    fn apply_node(&mut self, change: &Observed) {
        let name = change.key.name.clone();
        let Some(node) = &change.object else {
            if let Some(gone) = self.nodes.remove(&name) {
                self.strays.insert(name, gone.pods);
            }
            return;
        };
        let allocatable = amounts(&node["status"]["allocatable"]);
        if let Some(info) = self.nodes.get_mut(&name) {
            info.node = node.clone();
            info.allocatable = allocatable;
            return;
        }
        let mut info = NodeInfo {
            name: name.clone(),
            node: node.clone(),
            allocatable,
            requested: Resources::new(),
            pods: HashMap::new(),
            owners: HashMap::new(),
        };
        for pod in self.strays.remove(&name).unwrap_or_default().into_values() {
            info.put(pod);
        }
        self.nodes.insert(name, info);
    }

    fn apply_pod(&mut self, change: &Observed) {
        for uid in [&change.object, &change.previous].into_iter().flatten().filter_map(|p| p["metadata"]["uid"].as_str()) {
            self.forget(uid);
        }
        let Some(pod) = &change.object else { return };
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if !node.is_empty() && !ended {
            self.place(PodInfo::new(change.key.clone(), pod.clone()), node);
        }
    }

    /// Counts a pod to a node: bound, or assumed while the binding is being written.
    pub fn place(&mut self, pod: PodInfo, node: &str) {
        self.forget(&pod.uid);
        let name: Arc<str> = node.into();
        self.places.insert(pod.uid.clone(), name.clone());
        match self.nodes.get_mut(&name) {
            Some(info) => info.put(pod),
            None => drop(self.strays.entry(name).or_default().insert(pod.uid.clone(), pod)),
        }
    }

    pub fn forget(&mut self, uid: &str) {
        let Some(node) = self.places.remove(uid) else { return };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.take(uid);
        }
        if let Some(pods) = self.strays.get_mut(&node) {
            pods.remove(uid);
        }
    }

    /// Where a pod is counted.
    pub fn place_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.places.get(uid)
    }

    /// The most pods of one workload that any node has.
    pub fn most_of(&self, owner: &str) -> usize {
        self.nodes.values().filter_map(|node| node.owners.get(owner)).copied().max().unwrap_or(0)
    }

    pub fn pod_key(&self, uid: &str) -> Option<&Key> {
        let node = self.nodes.get(self.places.get(uid)?)?;
        node.pods.get(uid).map(|pod| &pod.key)
    }
}
