//! Which node needs which objects: its own Node, its pods, what these lead to, and every service.
use parking_lot::Mutex;
use pilothouse_api::storage::{self, CLAIMS, VOLUMES};
use pilothouse_api::{Ipv4Cidr, Key};
use pilothouse_protocol::{ObjectChange, ServerMessage, needs};
use pilothouse_store::{Change, ChangeKind, Followed, Object, Store};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What nodes are told of.
const RESOURCES: &[&str] = &[
    "services",
    "endpointslices.discovery.k8s.io",
    storage::CSI_DRIVERS,
    "pods",
    "nodes",
    "configmaps",
    "secrets",
    CLAIMS,
    VOLUMES,
    storage::ATTACHMENTS,
    needs::RUNTIME_CLASSES,
];
/// Told to every node; the others to those that they concern, or whose pods lead to them.
const SHARED: &[&str] = RESOURCES.split_at(3).0;

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<'a> {
    Node(&'a str),
    /// Every node that has a line.
    All,
}

/// What is to be told of one change.
#[derive(Default)]
struct Told {
    to_all: Vec<ObjectChange>,
    to_nodes: BTreeMap<String, Vec<ObjectChange>>,
}

/// One pod's change touches its own node and what it names, never all pods.
#[derive(Default)]
struct State {
    /// The store's state has been taken in. Before that nothing is known, which is not the same as: there is nothing.
    known: bool,
    revision: u64,
    objects: HashMap<Key, Arc<Object>>,
    shared: HashSet<Key>,
    nodes: HashSet<Arc<str>>,
    /// The nodes of what a node is given for its own sake: pods on it, volumes that it is to make or to remove, and those that
    /// are attached to it.
    roots: HashMap<Key, String>,
    roots_of: HashMap<String, HashSet<Key>>,
    /// What an object leads to: a pod to its claims, a claim to its volume, a volume to its secrets.
    leads_to: HashMap<Key, HashSet<Key>>,
    /// How many of the objects that a node has lead to this one, by node.
    users: HashMap<Key, HashMap<String, usize>>,
}

pub struct Assignments {
    state: Mutex<State>,
    /// The addresses of all pods: what every node is told first.
    pods: Ipv4Cidr,
}

impl Assignments {
    pub fn new(pods: Ipv4Cidr) -> Self {
        Self { state: Mutex::default(), pods }
    }

    /// Hands over everything a node needs, as its first message. No change is told while `send` runs, so that a node
    /// hears of each once: in this set or after it. False: nothing is known yet, and nothing was sent.
    pub fn with_full(&self, node: &str, send: impl FnOnce(ServerMessage)) -> bool {
        let state = self.state.lock();
        if state.known {
            send(state.full(node, self.pods));
        }
        state.known
    }
}

impl State {
    fn full(&self, node: &str, pods: Ipv4Cidr) -> ServerMessage {
        let state = self;
        let mut keys: HashSet<&Key> = state.shared.iter().collect();
        let own = Key::new("nodes", "", node);
        keys.insert(&own);
        let mut next: Vec<&Key> = state.roots_of.get(node).into_iter().flatten().collect();
        while let Some(key) = next.pop() {
            if keys.insert(key) {
                next.extend(state.leads_to.get(key).into_iter().flatten());
            }
        }
        let changes = keys
            .into_iter()
            .filter_map(|key| state.objects.get(key))
            .map(|object| change(&object.key, Some(object)))
            .collect();
        ServerMessage::Objects { full: true, revision: state.revision, changes, pod_network: Some(pods) }
    }
}

fn change(key: &Key, object: Option<&Arc<Object>>) -> ObjectChange {
    let raw = object.and_then(|o| RawValue::from_string(String::from_utf8_lossy(&o.bytes).into_owned()).ok());
    ObjectChange {
        resource: key.resource.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        object: raw,
    }
}

/// Follows the store for ever and tells what concerns whom.
pub async fn follow(assignments: &Assignments, store: Store, tell: impl Fn(To<'_>, &ServerMessage)) {
    loop {
        let (revision, objects, mut following) = store.follow(Some(RESOURCES));
        {
            let mut state = assignments.state.lock();
            let before = std::mem::take(&mut state.nodes);
            *state = State { known: true, revision, ..State::default() };
            for object in objects {
                state.apply(&object.key.clone(), Some(object));
            }
            // Those without pods too: they route to services.
            for node in state.nodes.union(&before) {
                tell(To::Node(node), &state.full(node, assignments.pods));
            }
        }
        loop {
            match following.next().await {
                Followed::Changes(changes, _) => {
                    changes.into_iter().for_each(|change| assignments.take(change, &tell));
                }
                Followed::Quiet(_) => {}
                Followed::Lost => break,
            }
        }
    }
}

impl Assignments {
    /// Tells under the lock, so that a node that comes now gets the change once: in its full set or here.
    fn take(&self, change: Change, tell: &impl Fn(To<'_>, &ServerMessage)) {
        let mut state = self.state.lock();
        let revision = change.object.revision;
        state.revision = revision;
        let gone = change.kind == ChangeKind::Deleted;
        let key = change.object.key.clone();
        let told = state.apply(&key, (!gone).then_some(change.object));
        let message = |changes| ServerMessage::Objects { full: false, revision, changes, pod_network: None };
        if !told.to_all.is_empty() {
            tell(To::All, &message(told.to_all));
        }
        for (node, changes) in told.to_nodes {
            tell(To::Node(&node), &message(changes));
        }
    }
}

impl State {
    /// Takes a change; what is to be told of it.
    fn apply(&mut self, key: &Key, object: Option<Arc<Object>>) -> Told {
        let mut told = Told::default();
        let resource = &*key.resource;
        let shared = SHARED.contains(&resource);
        match &object {
            Some(object) => drop(self.objects.insert(key.clone(), object.clone())),
            None => drop(self.objects.remove(key)),
        }
        let line = || change(key, object.as_ref());
        if shared {
            if object.is_some() {
                self.shared.insert(key.clone())
            } else {
                self.shared.remove(key)
            };
            told.to_all.push(line());
        } else if resource == "nodes" {
            if object.is_some() {
                self.nodes.insert(key.name.clone())
            } else {
                self.nodes.remove(&key.name)
            };
            told.to_nodes.entry(key.name.to_string()).or_default().push(line());
        } else {
            self.apply_named(key, object.as_ref(), &mut told.to_nodes);
        }
        told
    }

    fn apply_named(
        &mut self,
        key: &Key,
        object: Option<&Arc<Object>>,
        told: &mut BTreeMap<String, Vec<ObjectChange>>,
    ) {
        let value = match (&*key.resource, object) {
            ("pods" | CLAIMS | VOLUMES | storage::ATTACHMENTS, Some(object)) => object.value(),
            _ => serde_json::Value::Null,
        };
        let (root, leads_to) = (root(key, &value), leads_to(key, &value));
        let old = match leads_to.is_empty() {
            true => self.leads_to.remove(key),
            false => self.leads_to.insert(key.clone(), leads_to.clone()),
        };
        let old = old.unwrap_or_default();
        for node in self.nodes_with(key) {
            // What it led to before, the node has: a status is no reason to send it again.
            for named in leads_to.difference(&old) {
                self.take(named, &node, told); // before what needs it
            }
            told.entry(node.clone()).or_default().push(change(key, object));
            for named in old.difference(&leads_to) {
                self.give_back(named, &node);
            }
        }
        let before = self.roots.get(key).cloned();
        if before == root {
            return;
        }
        if let Some(node) = root {
            let taken = self.take_root(key, &node);
            self.roots.insert(key.clone(), node.clone());
            if taken {
                self.tell_with_what_it_leads_to(key, &node, told);
            }
        } else {
            self.roots.remove(key);
        }
        if let Some(node) = before {
            if let Some(roots) = self.roots_of.get_mut(&node) {
                roots.remove(key);
                if roots.is_empty() {
                    self.roots_of.remove(&node);
                }
            }
            if !self.has(key, &node) {
                for named in self.leads_to.get(key).cloned().unwrap_or_default() {
                    self.give_back(&named, &node);
                }
                if object.is_some() {
                    told.entry(node).or_default().push(change(key, None));
                }
            }
        }
    }

    /// The nodes that have an object.
    fn nodes_with(&self, key: &Key) -> Vec<String> {
        let users = self.users.get(key).into_iter().flat_map(HashMap::keys).cloned();
        let mut nodes: Vec<String> = users.chain(self.roots.get(key).cloned()).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    fn has(&self, key: &Key, node: &str) -> bool {
        self.users.get(key).is_some_and(|users| users.contains_key(node))
            || self.roots_of.get(node).is_some_and(|roots| roots.contains(key))
    }

    /// Whether it is new to the node.
    fn take_root(&mut self, key: &Key, node: &str) -> bool {
        let is_new = !self.has(key, node);
        self.roots_of.entry(node.to_owned()).or_default().insert(key.clone());
        is_new
    }

    fn tell_with_what_it_leads_to(
        &mut self,
        key: &Key,
        node: &str,
        told: &mut BTreeMap<String, Vec<ObjectChange>>,
    ) {
        for named in self.leads_to.get(key).cloned().unwrap_or_default() {
            self.take(&named, node, told);
        }
        if let Some(object) = self.objects.get(key) {
            told.entry(node.to_owned()).or_default().push(change(key, Some(object)));
        }
    }

    /// One more object of a node leads to this one.
    fn take(&mut self, key: &Key, node: &str, told: &mut BTreeMap<String, Vec<ObjectChange>>) {
        let had = self.has(key, node);
        *self.users.entry(key.clone()).or_default().entry(node.to_owned()).or_default() += 1;
        if !had {
            self.tell_with_what_it_leads_to(key, node, told);
        }
    }

    /// One object less.
    fn give_back(&mut self, key: &Key, node: &str) {
        let Some(users) = self.users.get_mut(key) else { return };
        let Some(count) = users.get_mut(node) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        users.remove(node);
        if users.is_empty() {
            self.users.remove(key);
        }
        if !self.has(key, node) {
            for named in self.leads_to.get(key).cloned().unwrap_or_default() {
                self.give_back(&named, node);
            }
        }
    }
}

/// The node that is given an object for its own sake.
fn root(key: &Key, object: &serde_json::Value) -> Option<String> {
    let node = match &*key.resource {
        "pods" | storage::ATTACHMENTS => object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()),
        VOLUMES => storage::duty_of(object),
        _ => None,
    };
    node.map(str::to_owned)
}

fn leads_to(key: &Key, object: &serde_json::Value) -> HashSet<Key> {
    match &*key.resource {
        "pods" => {
            let own = needs::named_by(object);
            let own =
                own.map(|(resource, name)| Key::new(resource, key.namespace.clone(), name.into_owned()));
            let class =
                needs::runtime_class_of(object).map(|class| Key::new(needs::RUNTIME_CLASSES, "", class));
            own.chain(class).collect()
        }
        CLAIMS => {
            let volume = object["spec"]["volumeName"].as_str().filter(|name| !name.is_empty());
            volume.map(|name| Key::new(VOLUMES, "", name)).into_iter().collect()
        }
        VOLUMES => {
            needs::secrets_of(object).map(|(namespace, name)| Key::new("secrets", namespace, name)).collect()
        }
        _ => HashSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn put(state: &mut State, resource: &str, name: &str, value: &Value) -> Vec<(String, String)> {
        put_in(state, Key::new(resource, "shop", name), value)
    }

    fn put_cluster(state: &mut State, resource: &str, name: &str, value: &Value) -> Vec<(String, String)> {
        put_in(state, Key::new(resource, "", name), value)
    }

    fn put_in(state: &mut State, key: Key, value: &Value) -> Vec<(String, String)> {
        let object = Object {
            key,
            uid: "1".into(),
            revision: 1,
            bytes: value.to_string().into(),
            labels: Default::default(),
            fields: Vec::new(),
        };
        let told = state.apply(&object.key.clone(), Some(Arc::new(object)));
        let all = told.to_all.into_iter().map(|c| ("*".to_owned(), c.name.to_string()));
        let each = told.to_nodes.into_iter();
        let each =
            each.flat_map(|(node, all)| all.into_iter().map(move |c| (node.clone(), c.name.to_string())));
        all.chain(each).collect()
    }

    fn pod(node: &str, phase: &str) -> Value {
        json!({"spec": {"nodeName": node, "volumes": [{"configMap": {"name": "settings"}}]}, "status": {"phase": phase}})
    }

    #[test]
    fn what_a_pod_mounts_goes_to_its_node_once_and_again_only_when_it_changes() {
        let mut state = State::default();
        let to = |node: &str, names: &[&str]| {
            names.iter().map(|n| (node.to_owned(), (*n).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(put(&mut state, "configmaps", "settings", &json!({})), []);
        assert_eq!(put(&mut state, "pods", "a", &pod("n1", "Pending")), to("n1", &["settings", "a"]));
        assert_eq!(put(&mut state, "pods", "a", &pod("n1", "Running")), to("n1", &["a"]));
        assert_eq!(put(&mut state, "configmaps", "settings", &json!({"data": {}})), to("n1", &["settings"]));
        assert_eq!(put(&mut state, "pods", "b", &pod("n2", "Pending")), to("n2", &["settings", "b"]));
    }

    #[test]
    fn a_pods_runtime_class_goes_to_its_node() {
        let mut state = State::default();
        put_cluster(&mut state, needs::RUNTIME_CLASSES, "boxed", &json!({"handler": "kata"}));
        let mut boxed = pod("n1", "Running");
        boxed["spec"]["runtimeClassName"] = "boxed".into();
        let told = put(&mut state, "pods", "a", &boxed);
        assert!(told.iter().any(|(node, what)| node == "n1" && what.contains("boxed")), "{told:?}");
    }

    #[test]
    fn a_service_is_told_once_for_all_and_forgotten_pods_leave_nothing() {
        let mut state = State::default();
        assert_eq!(put(&mut state, "services", "web", &json!({})), [("*".to_owned(), "web".to_owned())]);
        put(&mut state, "pods", "a", &pod("n1", "Pending"));
        state.apply(&Key::new("pods", "shop", "a"), None);
        assert!(state.roots.is_empty() && state.roots_of.is_empty());
        assert!(state.leads_to.is_empty() && state.users.is_empty());
    }

    #[test]
    fn a_claim_brings_its_volume_and_the_volumes_secret_along_as_they_become_known() {
        let mut state = State::default();
        let to =
            |names: &[&str]| names.iter().map(|n| ("n1".to_owned(), (*n).to_owned())).collect::<Vec<_>>();
        let pod = json!({"spec": {"nodeName": "n1", "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]}});
        let volume =
            json!({"spec": {"csi": {"nodePublishSecretRef": {"name": "keys", "namespace": "shop"}}}});
        assert_eq!(put(&mut state, "secrets", "keys", &json!({})), []);
        assert_eq!(put(&mut state, "secrets", "other", &json!({})), []);
        put_cluster(&mut state, VOLUMES, "pv", &volume);
        assert_eq!(put(&mut state, CLAIMS, "data", &json!({})), []);
        assert_eq!(put(&mut state, "pods", "a", &pod), to(&["data", "a"]));
        let bound = json!({"spec": {"volumeName": "pv"}});
        assert_eq!(put(&mut state, CLAIMS, "data", &bound), to(&["keys", "pv", "data"]));
        assert_eq!(
            put_cluster(&mut state, VOLUMES, "pv", &volume),
            to(&["pv"]),
            "secrets are not sent again"
        );
        assert_eq!(put(&mut state, "secrets", "keys", &json!({"data": {}})), to(&["keys"]));
        state.apply(&Key::new("pods", "shop", "a"), None);
        assert!(state.users.is_empty());
        assert_eq!(put(&mut state, "secrets", "keys", &json!({})), []);
    }

    #[test]
    fn a_volume_goes_to_the_node_that_is_to_make_it_and_leaves_when_it_is_made() {
        let mut state = State::default();
        let volume = |phase: &str, deleted: Value| {
            json!({"metadata": {"annotations": {storage::DUTY: "n1"}, "finalizers": [storage::DUTY_FINALIZER], "deletionTimestamp": deleted},
                "spec": {"persistentVolumeReclaimPolicy": "Delete"}, "status": {"phase": phase}})
        };
        let told = vec![("n1".to_owned(), "pv".to_owned())];
        assert_eq!(put_cluster(&mut state, VOLUMES, "pv", &volume("Pending", Value::Null)), told);
        assert_eq!(
            put_cluster(&mut state, VOLUMES, "pv", &volume("Bound", Value::Null)).len(),
            2,
            "told, and that it is no duty"
        );
        assert_eq!(put_cluster(&mut state, VOLUMES, "pv", &volume("Released", Value::Null)), []);
        assert_eq!(
            put_cluster(&mut state, VOLUMES, "pv", &volume("Released", "2026-01-01T00:00:00Z".into())),
            told
        );
        state.apply(&Key::new(VOLUMES, "", "pv"), None);
        assert!(state.roots.is_empty() && state.roots_of.is_empty());
    }
}
