//! The view that controllers decide on: every object of the store at one revision, with the indexes they ask for.
mod ranges;
mod storage;

pub use ranges::lacks_range;
pub use storage::claims_of;

use crate::horizontal_pod_autoscaler::{Answers, Memory};
use crate::node::Node;
use crate::object::{controller_of, is_deleting, owners, text, uid};
use crate::pod::{self, Pod};
use bytes::Bytes;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::metrics::{Measured, NodeUsage};
use pilothouse_api::placement::Labels;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed, PodNetwork, Revision};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

pub const PODS: &str = "pods";
pub const NODES: &str = "nodes";
pub const REPLICA_SETS: &str = "replicasets.apps";
pub const CONTROLLER_REVISIONS: &str = "controllerrevisions.apps";
pub const JOBS: &str = "jobs.batch";
pub const DISRUPTION_BUDGETS: &str = "poddisruptionbudgets.policy";
pub const CLAIMS: &str = "persistentvolumeclaims";
pub const LEASES: &str = "leases.coordination.k8s.io";
pub const NODE_LEASES: &str = "kube-node-lease";
pub const HORIZONTAL_POD_AUTOSCALERS: &str = "horizontalpodautoscalers.autoscaling";
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Of what one controller may take over from another.
const ADOPTABLE: [&str; 3] = [PODS, REPLICA_SETS, CONTROLLER_REVISIONS];

/// Two names; of an object its namespace and name.
type Address = (Arc<str>, Arc<str>);

/// Names of pods by their labels.
type Groups = HashMap<Arc<Labels>, BTreeSet<Arc<str>>>;

/// What controllers cannot read from objects.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The authority that signed the server's certificate, in PEM: every namespace is given it. Empty: none is.
    pub root_ca: Arc<str>,
    /// What nodes' ranges of pod addresses are taken from.
    pub pods: PodNetwork,
}

/// Fed in revision order; one change costs the same whatever the size of the cluster. Objects stay as bytes, shared
/// with the store, and are parsed when one is asked for; what is asked of all of them at once is kept as facts.
#[derive(Default)]
pub struct Cluster {
    pub revision: Revision,
    pub settings: Settings,
    objects: HashMap<Arc<str>, BTreeMap<Address, Entry>>,
    by_uid: HashMap<Arc<str>, Key>,
    /// Objects that name an owner, by its UID.
    dependents: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Pods of one namespace with equal labels: what a selector is matched against once.
    groups: HashMap<Arc<str>, Groups>,
    /// What nothing controls, by resource and namespace: what a controller may adopt.
    orphans: HashMap<Address, BTreeSet<Key>>,
    pods_by_node: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Nodes that pods name and that are not there, and since when this view knows that.
    missing_nodes: HashMap<Arc<str>, Timestamp>,
    /// Pods that ran to their end, oldest first.
    ended_pods: BTreeSet<(Option<Timestamp>, Key)>,
    ready_nodes: HashSet<Arc<str>>,
    /// When this view saw each node's Lease renewed, by its own clock: a server that was away itself must not take its
    /// nodes for lost.
    renewed: HashMap<Arc<str>, Timestamp>,
    /// Why the last plan of a key of a controller could not create what it wanted.
    refusals: HashMap<(&'static str, Key), Arc<str>>,
    /// What nodes measured lately.
    measured: Measured,
    /// What metrics APIs answered to autoscalers' questions.
    pub answers: Answers,
    /// What each autoscaler remembers.
    memories: HashMap<Key, Memory>,
    /// What people were told about a key by a controller, while that holds.
    told: HashMap<(&'static str, Key), String>,
    pub storage: storage::StorageIndex,
    pub ranges: ranges::Ranges,
}

/// One object of the view.
struct Entry {
    uid: Arc<str>,
    body: Body,
    /// What the object selects pods by.
    selector: Option<Arc<LabelSelector>>,
    owners: Box<[Arc<str>]>,
    is_deleting: bool,
    /// UID of the owner that controls it.
    controller: Option<Arc<str>>,
    pod: Option<Box<Pod>>,
    node: Option<Box<Node>>,
}

enum Body {
    /// For the few kinds whose objects are gone through together.
    Parsed(Arc<Value>),
    Bytes(Bytes),
}

impl Body {
    fn new(key: &Key, object: &Arc<Value>, bytes: &Bytes) -> Self {
        match () {
            () if matches!(&*key.resource, NODES | HORIZONTAL_POD_AUTOSCALERS) => {
                Self::Parsed(object.clone())
            }
            () if bytes.is_empty() => Self::Bytes(object.to_string().into()),
            () => Self::Bytes(bytes.clone()),
        }
    }

    fn value(&self) -> Arc<Value> {
        match self {
            Self::Parsed(value) => value.clone(),
            Self::Bytes(bytes) => Arc::new(serde_json::from_slice(bytes).unwrap_or_default()),
        }
    }
}

impl Cluster {
    pub fn new(settings: Settings) -> Self {
        Self { ranges: ranges::Ranges::new(settings.pods), settings, ..Self::default() }
    }

    /// The same before anything was seen of the store: what is not from there stays.
    #[must_use]
    pub fn emptied(&mut self) -> Self {
        Self {
            measured: std::mem::take(&mut self.measured),
            answers: std::mem::take(&mut self.answers),
            memories: std::mem::take(&mut self.memories),
            ..Self::new(self.settings.clone())
        }
    }

    /// Takes what nodes measured, all of them.
    pub fn measure(&mut self, measured: Measured) {
        self.measured = measured;
    }

    pub fn measured(&self, node: &str) -> Option<&NodeUsage> {
        self.measured.get(node).map(|usage| &**usage)
    }

    /// Takes what a plan for a key wants remembered.
    pub fn remember(&mut self, key: &Key, memory: Memory) {
        if self.contains(key) {
            self.memories.insert(key.clone(), memory);
        }
    }

    pub fn memory(&self, key: &Key) -> Option<&Memory> {
        self.memories.get(key)
    }

    /// Takes the next change. `now` is the time of observation.
    pub fn apply(&mut self, change: &Observed, now: Timestamp) {
        self.revision = self.revision.max(change.revision);
        let key = self.shared(&change.key);
        self.storage.apply(&key, change.object.as_deref());
        let address = (key.namespace.clone(), key.name.clone());
        let old = self.objects.get_mut(&key.resource).and_then(|objects| objects.remove(&address));
        let was_on = old.as_ref().and_then(|old| old.pod.as_ref()?.node.clone());
        if let Some(old) = old {
            self.unindex(&key, &old);
        }
        if let Some(object) = &change.object {
            let entry = self.entry(&key, object, &change.bytes);
            self.index(&key, &entry);
            self.objects.entry(key.resource.clone()).or_default().insert(address, entry);
        }
        match &*key.resource {
            HORIZONTAL_POD_AUTOSCALERS if change.object.is_none() => drop(self.memories.remove(&key)),
            LEASES if &*key.namespace == NODE_LEASES => match &change.object {
                Some(_) => drop(self.renewed.insert(key.name.clone(), now)),
                None => drop(self.renewed.remove(&key.name)),
            },
            PODS => {
                let is_on = change.object.as_deref().and_then(|pod| pod["spec"]["nodeName"].as_str());
                for node in was_on.as_deref().into_iter().chain(is_on) {
                    self.note_missing(node, now);
                }
            }
            NODES => {
                self.note_missing(&key.name, now);
                self.ranges.apply(&key.name, change.object.as_deref());
                let _ =
                    match change.object.as_deref().and_then(|node| crate::object::condition(node, "Ready")) {
                        Some(ready) if ready["status"] == "True" => self.ready_nodes.insert(key.name.clone()),
                        _ => self.ready_nodes.remove(&key.name),
                    };
            }
            _ => {}
        }
    }

    fn note_missing(&mut self, node: &str, now: Timestamp) {
        match self.pods_by_node.get_key_value(node) {
            Some((node, _)) if self.node(node).is_none() => {
                self.missing_nodes.entry(node.clone()).or_insert(now);
            }
            _ => drop(self.missing_nodes.remove(node)),
        }
    }

    /// What became of a controller's plan for a key: why something could not be created, or None. Only one that is told
    /// here is remembered, so that a controller can tell people, and try with less.
    pub fn note_outcome(&mut self, controller: &'static str, key: &Key, refusal: Option<&str>) {
        match refusal {
            Some(why) => drop(self.refusals.insert((controller, key.clone()), why.into())),
            None if self.refusals.is_empty() => {}
            None => drop(self.refusals.remove(&(controller, key.clone()))),
        }
    }

    /// What a controller's plan for a key told, once its event is out.
    pub fn note_told(&mut self, controller: &'static str, key: &Key, message: Option<&str>) {
        match message {
            Some(message) => drop(self.told.insert((controller, key.clone()), message.to_owned())),
            None if self.told.is_empty() => {}
            None => drop(self.told.remove(&(controller, key.clone()))),
        }
    }

    pub fn told(&self, controller: &'static str, key: &Key) -> Option<&str> {
        if self.told.is_empty() {
            return None;
        }
        self.told.get(&(controller, key.clone())).map(String::as_str)
    }

    /// Why the last plan for a key could not create what it wanted.
    pub fn refusal(&self, controller: &'static str, key: &Key) -> Option<&str> {
        if self.refusals.is_empty() {
            return None;
        }
        self.refusals.get(&(controller, key.clone())).map(|why| &**why)
    }

    /// The key with the resource's and namespace's names shared among all objects.
    fn shared(&self, key: &Key) -> Key {
        let resource =
            self.objects.get_key_value(&key.resource).map_or(&key.resource, |(resource, _)| resource);
        let namespace =
            self.groups.get_key_value(&key.namespace).map_or(&key.namespace, |(namespace, _)| namespace);
        Key { resource: resource.clone(), namespace: namespace.clone(), name: key.name.clone() }
    }

    fn entry(&self, key: &Key, object: &Arc<Value>, bytes: &Bytes) -> Entry {
        let shared = |uid: &str| match self.dependents.get_key_value(uid) {
            Some((uid, _)) => uid.clone(),
            None => self.by_uid.get_key_value(uid).map_or_else(|| uid.into(), |(uid, _)| uid.clone()),
        };
        Entry {
            uid: uid(object).into(),
            body: Body::new(key, object, bytes),
            selector: selector(&key.resource, object).map(Arc::new),
            owners: owners(object).map(|owner| shared(text(owner, "uid"))).collect(),
            is_deleting: is_deleting(object),
            controller: controller_of(object).map(|owner| shared(text(owner, "uid"))),
            pod: (&*key.resource == PODS).then(|| Box::new(self.pod_facts(key, object))),
            node: (&*key.resource == NODES).then(|| Box::new(Node::new(object))),
        }
    }

    /// Labels, controllers and node names are shared by the pods that have the same.
    fn pod_facts(&self, key: &Key, object: &Value) -> Pod {
        let mut pod = Pod::new(object);
        let groups = self.groups.get(&key.namespace);
        if let Some((labels, _)) = groups.and_then(|groups| groups.get_key_value(&pod.labels)) {
            pod.labels = labels.clone();
        }
        if let Some((node, _)) = pod.node.as_ref().and_then(|node| self.pods_by_node.get_key_value(node)) {
            pod.node = Some(node.clone());
        }
        if let Some(node) = pod.target.as_ref().and_then(|node| self.pods_by_node.get_key_value(node)) {
            pod.target = Some(node.0.clone());
        }
        if let Some(owner) = &mut pod.controller
            && let Some(same) = self.controller_known(owner)
        {
            *owner = same;
        }
        pod
    }

    /// The same controller as another of its pods keeps it.
    fn controller_known(&self, controller: &pod::Controller) -> Option<Arc<pod::Controller>> {
        let sibling = self.pod(self.dependents.get(&controller.uid)?.first()?)?;
        sibling.controller.clone().filter(|same| **same == *controller)
    }

    fn index(&mut self, key: &Key, entry: &Entry) {
        self.by_uid.insert(entry.uid.clone(), key.clone());
        for owner in &entry.owners {
            self.dependents.entry(owner.clone()).or_default().insert(key.clone());
        }
        if entry.controller.is_none() && ADOPTABLE.contains(&&*key.resource) {
            let address = (key.resource.clone(), key.namespace.clone());
            self.orphans.entry(address).or_default().insert(key.clone());
        }
        let Some(pod) = &entry.pod else { return };
        let group =
            self.groups.entry(key.namespace.clone()).or_default().entry(pod.labels.clone()).or_default();
        group.insert(key.name.clone());
        if let Some(node) = &pod.node {
            self.pods_by_node.entry(node.clone()).or_default().insert(key.clone());
        }
        if pod.is_terminal() {
            self.ended_pods.insert((pod.created, key.clone()));
        }
    }

    fn unindex(&mut self, key: &Key, entry: &Entry) {
        self.by_uid.remove(&entry.uid);
        for owner in &entry.owners {
            remove(&mut self.dependents, owner, key);
        }
        remove(&mut self.orphans, &(key.resource.clone(), key.namespace.clone()), key);
        let Some(pod) = &entry.pod else { return };
        if let Some(groups) = self.groups.get_mut(&key.namespace) {
            remove(groups, &pod.labels, &key.name);
            if groups.is_empty() {
                self.groups.remove(&key.namespace);
            }
        }
        if let Some(node) = &pod.node {
            remove(&mut self.pods_by_node, node, key);
        }
        if pod.is_terminal() {
            self.ended_pods.remove(&(pod.created, key.clone()));
        }
    }

    fn find_entry(&self, key: &Key) -> Option<&Entry> {
        self.objects.get(&key.resource)?.get(&(key.namespace.clone(), key.name.clone()))
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.find_entry(key).is_some()
    }

    /// The object, parsed.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        Some(self.find_entry(key)?.body.value())
    }

    pub fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        Some(self.objects.get(resource)?.get(&(namespace.into(), name.into()))?.body.value())
    }

    /// The facts of a pod.
    pub fn pod(&self, key: &Key) -> Option<&Pod> {
        self.find_entry(key)?.pod.as_deref()
    }

    /// The facts of all pods.
    pub fn pods(&self) -> impl Iterator<Item = (Key, &Pod)> {
        let found = self.objects.get_key_value(PODS).into_iter();
        found.flat_map(|(resource, pods)| {
            pods.iter().filter_map(|((namespace, name), entry)| {
                Some((key_of(resource, namespace, name), entry.pod.as_deref()?))
            })
        })
    }

    /// The object that controls it, if that is there.
    pub fn controller_of(&self, key: &Key) -> Option<&Key> {
        self.by_uid(self.find_entry(key)?.controller.as_ref()?)
    }

    pub fn uid(&self, key: &Key) -> Option<&Arc<str>> {
        Some(&self.find_entry(key)?.uid)
    }

    /// The UIDs of the objects it names as its owners.
    pub fn owner_uids(&self, key: &Key) -> &[Arc<str>] {
        self.find_entry(key).map_or(&[], |entry| &entry.owners)
    }

    /// The UID of the owner that controls it.
    pub fn controller_uid(&self, key: &Key) -> Option<&Arc<str>> {
        self.find_entry(key)?.controller.as_ref()
    }

    pub fn is_deleting(&self, key: &Key) -> bool {
        self.find_entry(key).is_some_and(|entry| entry.is_deleting)
    }

    /// What an object selects pods by.
    pub fn selector(&self, key: &Key) -> Option<&Arc<LabelSelector>> {
        self.find_entry(key)?.selector.as_ref()
    }

    pub fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    /// The keys of all objects of a resource, in order.
    pub fn keys(&self, resource: &str) -> impl Iterator<Item = Key> {
        let found = self.objects.get_key_value(resource);
        found.into_iter().flat_map(|(resource, objects)| {
            objects.keys().map(|(namespace, name)| key_of(resource, namespace, name))
        })
    }

    /// All objects of a resource, parsed one by one.
    pub fn all(&self, resource: &str) -> impl Iterator<Item = (Key, Arc<Value>)> {
        let found = self.objects.get_key_value(resource);
        found.into_iter().flat_map(|(resource, objects)| {
            let parsed = |((namespace, name), entry): (&Address, &Entry)| {
                (key_of(resource, namespace, name), entry.body.value())
            };
            objects.iter().map(parsed)
        })
    }

    pub fn count(&self, resource: &str) -> usize {
        self.objects.get(resource).map_or(0, BTreeMap::len)
    }

    /// The keys of a resource's objects in one namespace.
    pub fn keys_in(&self, resource: &str, namespace: &str) -> impl Iterator<Item = Key> {
        self.range(resource, namespace).map(|(key, _)| key)
    }

    /// Those objects of a namespace that select pods with these labels.
    pub fn selecting(&self, resource: &str, namespace: &str, labels: &Labels) -> impl Iterator<Item = Key> {
        let all = self.range(resource, namespace);
        all.filter(|(_, entry)| entry.selector.as_ref().is_some_and(|s| s.matches(labels)))
            .map(|(key, _)| key)
    }

    fn range(&self, resource: &str, namespace: &str) -> impl Iterator<Item = (Key, &Entry)> {
        let namespace: Arc<str> = namespace.into();
        let found = self.objects.get_key_value(resource);
        found.into_iter().flat_map(move |(resource, objects)| {
            let wanted = namespace.clone();
            let from = Bound::Included((namespace.clone(), Arc::from("")));
            let range = objects.range((from, Bound::Unbounded)).take_while(move |((ns, _), _)| *ns == wanted);
            range.map(|((namespace, name), entry)| (key_of(resource, namespace, name), entry))
        })
    }

    /// Every resource that has objects, or had.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<str>> {
        self.objects.keys()
    }

    /// What garbage collection may have to do with: objects with owners and objects on their way out.
    pub fn owned_or_deleting(&self) -> impl Iterator<Item = Key> {
        self.objects.iter().flat_map(|(resource, objects)| {
            let found = objects.iter().filter(|(_, entry)| entry.is_deleting || !entry.owners.is_empty());
            found.map(|((namespace, name), _)| key_of(resource, namespace, name))
        })
    }

    /// Objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Objects of `resource` that `uid` controls, parsed.
    pub fn controlled(&self, uid: &str, resource: &str) -> impl Iterator<Item = (&Key, Arc<Value>)> {
        let keys = self.dependents(uid).filter(move |key| &*key.resource == resource);
        let objects = keys.filter_map(|key| Some((key, self.get(key)?)));
        objects.filter(move |(_, object)| controller_of(object).is_some_and(|owner| owner["uid"] == uid))
    }

    /// The pods that `uid` controls.
    pub fn controlled_pods(&self, uid: &str) -> impl Iterator<Item = (&Key, &Pod)> {
        let pods = self.dependents(uid).filter_map(|key| Some((key, self.pod(key)?)));
        pods.filter(move |(_, pod)| pod.is_controlled_by(uid))
    }

    /// The pods of a namespace that a selector matches, in order.
    pub fn selected_pods(&self, namespace: &str, selector: &LabelSelector) -> Vec<(Key, &Pod)> {
        let Some((namespace, groups)) = self.groups.get_key_value(namespace) else {
            return Vec::new();
        };
        let Some((resource, _)) = self.objects.get_key_value(PODS) else {
            return Vec::new();
        };
        let names = groups.iter().filter(|(labels, _)| selector.matches(labels)).flat_map(|(_, names)| names);
        let keys = names.map(|name| key_of(resource, namespace, name));
        let mut pods: Vec<(Key, &Pod)> =
            keys.filter_map(|key| self.pod(&key).map(|pod| (key, pod))).collect();
        pods.sort_by(|a, b| a.0.cmp(&b.0));
        pods
    }

    /// What nothing controls, of a resource that has controllers.
    pub fn orphans(&self, resource: &str, namespace: &str) -> impl Iterator<Item = &Key> {
        self.orphans.get(&(resource.into(), namespace.into())).into_iter().flatten()
    }

    /// The facts of a node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.objects.get(NODES)?.get(&("".into(), name.into()))?.node.as_deref()
    }

    /// All nodes by name, in order.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        let nodes = self.objects.get(NODES).into_iter().flatten();
        nodes.filter_map(|((_, name), entry)| Some((&**name, entry.node.as_deref()?)))
    }

    pub fn is_ready(&self, node: &str) -> bool {
        self.ready_nodes.contains(node)
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&Key, &Pod)> {
        let keys = self.pods_by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.pod(key)?)))
    }

    /// Nodes that pods name, whether they exist or not.
    pub fn nodes_with_pods(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods_by_node.keys()
    }

    /// Since when a node that pods name is known not to be there.
    pub fn missing_since(&self, node: &str) -> Option<Timestamp> {
        self.missing_nodes.get(node).copied()
    }

    /// Pods that ran to their end, oldest first.
    pub fn ended_pods(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.ended_pods.iter().map(|(_, key)| key)
    }

    pub fn renewed_at(&self, node: &str) -> Option<Timestamp> {
        self.renewed.get(node).copied()
    }

    /// Whether a node besides this one is ready and was heard of after `since`.
    pub fn another_node_serves(&self, name: &str, since: Timestamp) -> bool {
        let mut others = self.ready_nodes.iter().filter(|other| ***other != *name);
        others.any(|other| self.renewed_at(other).is_none_or(|at| at > since))
    }
}

fn key_of(resource: &Arc<str>, namespace: &Arc<str>, name: &Arc<str>) -> Key {
    Key { resource: resource.clone(), namespace: namespace.clone(), name: name.clone() }
}

/// `spec.selector`, in whichever of its two shapes. None where it selects nothing by itself.
fn selector(resource: &str, object: &Value) -> Option<LabelSelector> {
    // A budget with an empty selector is about every pod of its namespace.
    if resource == DISRUPTION_BUDGETS && object["spec"]["selector"].as_object().is_some_and(|s| s.is_empty())
    {
        return Some(LabelSelector::default());
    }
    let selector = object["spec"]["selector"].as_object().filter(|s| !s.is_empty())?;
    if selector.contains_key("matchLabels") || selector.contains_key("matchExpressions") {
        return LabelSelector::from_object(&object["spec"]["selector"]).ok();
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let labels: Option<Labels> =
        selector.iter().map(|(key, value)| Some((key.clone(), text(value)?))).collect();
    labels.map(|labels| LabelSelector::from_labels(&labels))
}

fn remove<K, Q, V>(index: &mut HashMap<K, BTreeSet<V>>, at: &Q, value: &V)
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
    V: Ord,
{
    if let Some(values) = index.get_mut(at) {
        values.remove(value);
        if values.is_empty() {
            index.remove(at);
        }
    }
}
