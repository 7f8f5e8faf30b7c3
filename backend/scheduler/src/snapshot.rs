//! Nodes and the pods on them, kept up to date change by change: what plugins look at.
use crate::pod_info::{PodInfo, Resources, labels_of};
use crate::storage::ClaimName;
use crate::topology::ZONE;
use pilothouse_api::placement::{Labels, Taint};
use pilothouse_api::quantity::Quantity;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// One node with what is promised on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: Arc<str>,
    pub facts: NodeFacts,
    pub requested: Resources,
    /// By UID.
    pub pods: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Pods of one controller here.
    siblings: HashMap<Arc<str>, i64>,
    /// False while pods name a node that is not known: it takes no more.
    exists: bool,
}

/// What the Node object says, as far as scheduling asks: heartbeats do not change it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub is_unschedulable: bool,
    pub allocatable: Resources,
    pub max_pods: i64,
}

impl NodeFacts {
    fn new(node: &Value) -> Self {
        let status = &node["status"];
        let amounts =
            if status["allocatable"].is_object() { &status["allocatable"] } else { &status["capacity"] };
        let text = amounts["pods"].as_str().map(str::to_owned).unwrap_or_else(|| amounts["pods"].to_string());
        Self {
            labels: labels_of(node),
            taints: Taint::of_node(node),
            is_unschedulable: node["spec"]["unschedulable"] == true,
            allocatable: Resources::read(amounts),
            max_pods: Quantity::parse(&text).map_or(0, Quantity::value),
        }
    }
}

impl NodeInfo {
    /// The topology domain it belongs to.
    pub fn domain(&self, topology_key: &str) -> Option<&str> {
        self.facts.labels.get(topology_key).map(String::as_str)
    }

    fn is_in_zone(&self) -> bool {
        self.exists && self.facts.labels.contains_key(ZONE)
    }

    /// How many pods of that controller run here.
    pub fn siblings(&self, owner: &str) -> i64 {
        self.siblings.get(owner).copied().unwrap_or(0)
    }

    fn put(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        if let Some(owner) = &pod.owner {
            *self.siblings.entry(owner.clone()).or_default() += 1;
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn take(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        if let Some(owner) = &pod.owner {
            let left = self.siblings.get_mut(owner).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left <= 0 {
                self.siblings.remove(owner);
            }
        }
        Some(pod)
    }

    /// The node as it would be without some of its pods.
    pub fn without(&self, uids: &[Arc<str>]) -> NodeInfo {
        let mut rest = self.clone();
        for uid in uids {
            rest.take(uid);
        }
        rest
    }

    /// The node as it would be with more pods on it.
    pub fn with<'a>(&self, pods: impl IntoIterator<Item = &'a Arc<PodInfo>>) -> NodeInfo {
        let mut more = self.clone();
        pods.into_iter().for_each(|pod| more.put(pod.clone()));
        more
    }
}

/// Pods of one namespace with equal labels, by node: what selectors count without looking at each pod.
type Group = HashMap<Arc<str>, i64>;

/// Fed change by change; each costs the same however large the cluster is.
#[derive(Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<Arc<str>, usize>,
    /// UIDs of placed pods, with their node.
    placed: HashMap<Arc<str>, Arc<str>>,
    groups: HashMap<Arc<str>, HashMap<Arc<Labels>, Group>>,
    /// Placed pods with required anti-affinity, by UID.
    repelling: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Placed pods with a claim: UID and node.
    claim_users: HashMap<ClaimName, HashMap<Arc<str>, Arc<str>>>,
    /// How many placed pods a controller has, by its UID and by node.
    siblings: HashMap<Arc<str>, Group>,
    /// Nodes that exist, and those of them that are in a zone.
    existing: usize,
    zoned: usize,
}

impl Snapshot {
    /// How many nodes exist.
    pub fn count(&self) -> usize {
        self.existing
    }

    /// The nodes in zones that have pods of a controller, and how many.
    pub fn zoned_siblings(&self, owner: &str) -> impl Iterator<Item = (&str, i64)> {
        let group = self.siblings.get(owner).filter(|_| self.zoned > 0);
        let by_node = group.into_iter().flatten();
        by_node.filter_map(|(node, count)| Some((self.node(node)?.domain(ZONE)?, *count)))
    }

    /// The nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| node.exists)
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(*self.index.get(name)?).filter(|node| node.exists)
    }

    /// Nodes from `start` round once, for fair sampling.
    pub fn nodes_from(&self, start: usize) -> impl Iterator<Item = (usize, &NodeInfo)> {
        let count = self.nodes.len().max(1);
        let turned = (0..self.nodes.len()).map(move |i| (start + i) % count);
        turned.map(|i| (i, &self.nodes[i])).filter(|(_, node)| node.exists)
    }

    #[cfg(test)]
    pub fn holds_no_pod(&self) -> bool {
        self.placed.is_empty()
            && self.groups.is_empty()
            && self.repelling.is_empty()
            && self.siblings.is_empty()
    }

    pub fn repelling(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.repelling.values()
    }

    /// Calls `found(node, count)` for the nodes on which pods match.
    pub fn count_matching<'a>(
        &'a self,
        namespaces: Option<&[String]>,
        matches: impl Fn(&Labels) -> bool,
        mut found: impl FnMut(&'a NodeInfo, i64),
    ) {
        for (namespace, groups) in &self.groups {
            if namespaces.is_some_and(|wanted| !wanted.iter().any(|n| **n == **namespace)) {
                continue;
            }
            for (_, group) in groups.iter().filter(|(labels, _)| matches(labels)) {
                for (node, count) in group {
                    if let Some(node) = self.node(node) {
                        found(node, *count);
                    }
                }
            }
        }
    }

    /// Takes a node's new state. Whether anything changed that scheduling asks for.
    pub fn put_node(&mut self, name: &Arc<str>, node: &Value) -> bool {
        let facts = NodeFacts::new(node);
        let slot = self.slot(name);
        let changed = !slot.exists || slot.facts != facts;
        let (had, had_zone) = (slot.exists, slot.is_in_zone());
        slot.exists = true;
        slot.facts = facts;
        let has_zone = slot.is_in_zone();
        self.existing += usize::from(!had);
        self.zoned = self.zoned + usize::from(has_zone) - usize::from(had_zone);
        changed
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.get(name).copied() else {
            return;
        };
        let node = &mut self.nodes[at];
        self.zoned -= usize::from(node.is_in_zone());
        self.existing -= usize::from(node.exists);
        node.exists = false;
        self.drop_if_unused(name);
    }

    fn slot(&mut self, name: &Arc<str>) -> &mut NodeInfo {
        let at = match self.index.get(name) {
            Some(at) => *at,
            None => {
                self.nodes.push(NodeInfo { name: name.clone(), ..NodeInfo::default() });
                self.index.insert(name.clone(), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        &mut self.nodes[at]
    }

    fn drop_if_unused(&mut self, name: &str) {
        let Some(at) = self.index.get(name).copied() else {
            return;
        };
        if self.nodes[at].exists || !self.nodes[at].pods.is_empty() {
            return;
        }
        self.index.remove(name);
        self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name.clone(), at);
        }
    }

    /// Pods of one template have equal labels: they are kept once.
    pub fn share_labels(&self, pod: &mut PodInfo) {
        let groups = self.groups.get(&pod.key.namespace);
        if let Some((labels, _)) = groups.and_then(|groups| groups.get_key_value(&pod.labels)) {
            pod.labels = labels.clone();
        }
    }

    /// Puts a pod on its node, in place of what was known of it.
    pub fn put_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        let Some(node) = pod.node.clone() else { return };
        let group =
            self.groups.entry(pod.key.namespace.clone()).or_default().entry(pod.labels.clone()).or_default();
        // A pod on its way out does not count for spreading and affinity (podtopologyspread.countPodsMatchSelector).
        if !pod.is_deleting {
            *group.entry(node.clone()).or_default() += 1;
        }
        if !pod.anti_affinity.is_empty() {
            self.repelling.insert(pod.uid.clone(), pod.clone());
        }
        self.placed.insert(pod.uid.clone(), node.clone());
        if let Some(owner) = &pod.owner {
            *self.siblings.entry(owner.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        for (claim, _) in &pod.claims {
            let users = self.claim_users.entry((pod.key.namespace.clone(), claim.clone())).or_default();
            users.insert(pod.uid.clone(), node.clone());
        }
        self.slot(&node).put(pod);
    }

    /// Takes a pod off its node; what it was.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.placed.remove(uid)?;
        let at = self.index.get(&node).copied()?;
        let pod = self.nodes[at].take(uid)?;
        self.repelling.remove(uid);
        if let Some(owner) = &pod.owner
            && let Some(group) = self.siblings.get_mut(owner)
        {
            leave(group, &node);
            if group.is_empty() {
                self.siblings.remove(owner);
            }
        }
        for (claim, _) in &pod.claims {
            let name = (pod.key.namespace.clone(), claim.clone());
            if let Some(users) = self.claim_users.get_mut(&name) {
                users.remove(uid);
                if users.is_empty() {
                    self.claim_users.remove(&name);
                }
            }
        }
        self.leave_group(&pod, &node);
        self.drop_if_unused(&node);
        Some(pod)
    }

    fn leave_group(&mut self, pod: &PodInfo, node: &str) {
        let Some(groups) = self.groups.get_mut(&pod.key.namespace) else {
            return;
        };
        if let Some(group) = groups.get_mut(&pod.labels) {
            if !pod.is_deleting {
                leave(group, node);
            }
            if group.is_empty() {
                groups.remove(&pod.labels);
            }
        }
        if groups.is_empty() {
            self.groups.remove(&pod.key.namespace);
        }
    }

    /// The placed pods that have a claim: UID and node.
    pub fn claim_users(&self, claim: &ClaimName) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.claim_users.get(claim).into_iter().flatten()
    }

    pub fn placed(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        let node = self.placed.get(uid)?;
        self.nodes.get(*self.index.get(node)?)?.pods.get(uid)
    }
}

/// One pod less on a node.
fn leave(group: &mut Group, node: &str) {
    if let Some(count) = group.get_mut(node) {
        *count -= 1;
        if *count <= 0 {
            group.remove(node);
        }
    }
}
