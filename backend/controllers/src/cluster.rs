//! The view that controllers decide on: every object of the store at one revision, with the indexes they ask for.
use crate::object::{controller_of, is_terminal, owners, text, uid};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed, Revision};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

type Address = (Arc<str>, Arc<str>);

/// Fed in revision order; one change costs the same whatever the size of the cluster.
#[derive(Default)]
pub struct Cluster {
    pub revision: Revision,
    objects: HashMap<Arc<str>, BTreeMap<Address, Arc<Value>>>,
    by_uid: HashMap<String, Key>,
    /// Objects that name an owner, by its UID.
    dependents: HashMap<String, BTreeSet<Key>>,
    /// Pods that nothing controls, by namespace: what a controller may adopt.
    orphan_pods: HashMap<Arc<str>, BTreeSet<Key>>,
    pods_by_node: HashMap<String, BTreeSet<Key>>,
    /// When this view saw each node's Lease renewed, by its own clock: a server that was away itself must not take its
    /// nodes for lost.
    renewed: HashMap<Arc<str>, Timestamp>,
}

pub const PODS: &str = "pods";
pub const LEASES: &str = "leases.coordination.k8s.io";
pub const NODE_LEASES: &str = "kube-node-lease";

impl Cluster {
    /// Takes the next change. `now` is the time of observation.
    pub fn apply(&mut self, change: &Observed, now: Timestamp) {
        self.revision = self.revision.max(change.revision);
        let address = (change.key.namespace.clone(), change.key.name.clone());
        let objects = self.objects.entry(change.key.resource.clone()).or_default();
        let old = match &change.object {
            Some(object) => objects.insert(address, object.clone()),
            None => objects.remove(&address),
        };
        if let Some(old) = &old {
            self.unindex(&change.key, old);
        }
        if let Some(new) = &change.object {
            self.index(&change.key, new);
        }
        if &*change.key.resource == LEASES && &*change.key.namespace == NODE_LEASES {
            match &change.object {
                Some(_) => drop(self.renewed.insert(change.key.name.clone(), now)),
                None => drop(self.renewed.remove(&change.key.name)),
            }
        }
    }

    fn index(&mut self, key: &Key, object: &Value) {
        self.by_uid.insert(uid(object).to_owned(), key.clone());
        for owner in owners(object) {
            self.dependents.entry(text(owner, "uid").to_owned()).or_default().insert(key.clone());
        }
        if &*key.resource != PODS {
            return;
        }
        if controller_of(object).is_none() {
            self.orphan_pods.entry(key.namespace.clone()).or_default().insert(key.clone());
        }
        let node = text(&object["spec"], "nodeName");
        if !node.is_empty() {
            self.pods_by_node.entry(node.to_owned()).or_default().insert(key.clone());
        }
    }

    fn unindex(&mut self, key: &Key, object: &Value) {
        self.by_uid.remove(uid(object));
        for owner in owners(object) {
            remove(&mut self.dependents, text(owner, "uid"), key);
        }
        if &*key.resource != PODS {
            return;
        }
        if let Some(orphans) = self.orphan_pods.get_mut(&key.namespace) {
            orphans.remove(key);
        }
        remove(&mut self.pods_by_node, text(&object["spec"], "nodeName"), key);
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&key.resource)?.get(&(key.namespace.clone(), key.name.clone()))
    }

    pub fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(resource)?.get(&(namespace.into(), name.into()))
    }

    pub fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    /// All objects of a resource with their keys, in order.
    pub fn all<'a>(&'a self, resource: &str) -> impl Iterator<Item = (Key, &'a Arc<Value>)> + use<'a> {
        let found = self.objects.get_key_value(resource);
        found.into_iter().flat_map(|(resource, objects)| {
            objects.iter().map(|((namespace, name), object)| {
                (Key { resource: resource.clone(), namespace: namespace.clone(), name: name.clone() }, object)
            })
        })
    }

    /// The objects of a resource in one namespace.
    pub fn in_namespace<'a>(
        &'a self,
        resource: &str,
        namespace: &str,
    ) -> impl Iterator<Item = (Key, &'a Arc<Value>)> + use<'a> {
        let namespace: Arc<str> = namespace.into();
        let found = self.objects.get_key_value(resource);
        found.into_iter().flat_map(move |(resource, objects)| {
            let wanted = namespace.clone();
            let from = Bound::Included((namespace.clone(), Arc::from("")));
            let range = objects.range((from, Bound::Unbounded)).take_while(move |((ns, _), _)| *ns == wanted);
            range.map(|((namespace, name), object)| {
                (Key { resource: resource.clone(), namespace: namespace.clone(), name: name.clone() }, object)
            })
        })
    }

    /// Every resource that has objects.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<str>> {
        self.objects.keys()
    }

    /// Objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let keys = self.dependents.get(uid).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.get(key)?)))
    }

    /// Objects of `resource` that `uid` controls.
    pub fn controlled<'a>(&'a self, uid: &'a str, resource: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        self.dependents(uid)
            .filter(move |(key, _)| &*key.resource == resource)
            .filter(move |(_, object)| controller_of(object).is_some_and(|owner| owner["uid"] == uid))
    }

    pub fn orphan_pods(&self, namespace: &str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let keys = self.orphan_pods.get(namespace).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.get(key)?)))
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let keys = self.pods_by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.get(key)?)))
    }

    /// Nodes that pods name, whether they exist or not.
    pub fn nodes_with_pods(&self) -> impl Iterator<Item = &String> {
        self.pods_by_node.keys()
    }

    pub fn renewed_at(&self, node: &str) -> Option<Timestamp> {
        self.renewed.get(node).copied()
    }

    /// Pods that count for a workload: not ended and not ending.
    pub fn is_active(pod: &Value) -> bool {
        !is_terminal(pod) && !crate::object::is_deleting(pod)
    }
}

fn remove(index: &mut HashMap<String, BTreeSet<Key>>, at: &str, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
