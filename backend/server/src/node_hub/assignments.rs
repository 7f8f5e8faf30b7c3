//! Which node needs which objects: its own Node, its pods, what they mount, and every service.
use parking_lot::Mutex;
use pilothouse_api::Key;
use pilothouse_protocol::{ObjectChange, ServerMessage};
use pilothouse_store::{Object, Store, WatchItem};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Told to every node.
const SHARED: &[&str] = &["services", "endpointslices.discovery.k8s.io"];
/// Told to the nodes whose pods name them.
const MOUNTED: &[&str] = &["configmaps", "secrets"];
const RETRY_AFTER: Duration = Duration::from_millis(200);

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
    pods_of: HashMap<String, HashSet<Key>>,
    /// Where each pod is and what it names.
    pods: HashMap<Key, (String, HashSet<Key>)>,
    /// How many pods of each node name an object.
    users: HashMap<Key, HashMap<String, usize>>,
}

#[derive(Default)]
pub struct Assignments(Mutex<State>);

impl Assignments {
    /// Hands over everything a node needs, as its first message. No change is told while `send` runs, so that a node
    /// hears of each once: in this set or after it. False: nothing is known yet, and nothing was sent.
    pub fn with_full(&self, node: &str, send: impl FnOnce(ServerMessage)) -> bool {
        let state = self.0.lock();
        if state.known {
            send(state.full(node));
        }
        state.known
    }
}

impl State {
    fn full(&self, node: &str) -> ServerMessage {
        let state = self;
        let mut keys: HashSet<&Key> = state.shared.iter().collect();
        let own = Key::new("nodes", "", node);
        keys.insert(&own);
        for pod in state.pods_of.get(node).into_iter().flatten() {
            keys.insert(pod);
            keys.extend(state.pods.get(pod).into_iter().flat_map(|(_, named)| named));
        }
        let changes = keys
            .into_iter()
            .filter_map(|key| state.objects.get(key))
            .map(|object| change(&object.key, Some(object)))
            .collect();
        ServerMessage::Objects { full: true, revision: state.revision, changes }
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
        let (revision, objects) = store.everything();
        let Ok(mut watch) = store.watch(None, None, revision) else {
            tokio::time::sleep(RETRY_AFTER).await;
            continue;
        };
        {
            let mut state = assignments.0.lock();
            let before = std::mem::take(&mut state.nodes);
            *state = State { known: true, revision, ..State::default() };
            for object in objects {
                state.apply(&object.key.clone(), Some(object));
            }
            // Those without pods too: they route to services.
            for node in state.nodes.union(&before) {
                tell(To::Node(node), &state.full(node));
            }
        }
        loop {
            match watch.next().await {
                WatchItem::Change(change) => {
                    let mut state = assignments.0.lock();
                    state.revision = change.object.revision;
                    let gone = change.kind == pilothouse_store::ChangeKind::Deleted;
                    let key = change.object.key.clone();
                    let told = state.apply(&key, (!gone).then(|| change.object.clone()));
                    // Under the lock, so that a node that comes now gets the change once: in its full set or here.
                    let revision = state.revision;
                    let message = |changes| ServerMessage::Objects { full: false, revision, changes };
                    if !told.to_all.is_empty() {
                        tell(To::All, &message(told.to_all));
                    }
                    for (node, changes) in told.to_nodes {
                        tell(To::Node(&node), &message(changes));
                    }
                }
                WatchItem::Progress(_) => {}
                WatchItem::Lagged => break,
            }
        }
    }
}

impl State {
    /// Takes a change; what is to be told of it.
    fn apply(&mut self, key: &Key, object: Option<Arc<Object>>) -> Told {
        let mut told = Told::default();
        let resource = &*key.resource;
        let shared = SHARED.contains(&resource);
        if !shared && !MOUNTED.contains(&resource) && !matches!(resource, "pods" | "nodes") {
            return told;
        }
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
        } else if resource == "pods" {
            self.apply_pod(key, object.as_ref(), &mut told.to_nodes);
        } else {
            for node in self.users.get(key).into_iter().flat_map(HashMap::keys) {
                told.to_nodes.entry(node.clone()).or_default().push(line());
            }
        }
        told
    }

    fn apply_pod(
        &mut self,
        key: &Key,
        object: Option<&Arc<Object>>,
        told: &mut BTreeMap<String, Vec<ObjectChange>>,
    ) {
        let before = self.pods.remove(key);
        if let Some((node, named)) = &before {
            if let Some(pods) = self.pods_of.get_mut(node) {
                pods.remove(key);
            }
            for name in named {
                if let Some(count) = self.users.get_mut(name).and_then(|users| users.get_mut(node)) {
                    *count -= 1;
                }
                if let Some(users) = self.users.get_mut(name) {
                    users.retain(|_, count| *count > 0);
                    if users.is_empty() {
                        self.users.remove(name);
                    }
                }
            }
        }
        let pod = object.map(|o| o.value());
        let node = pod.as_ref().and_then(|p| p["spec"]["nodeName"].as_str()).unwrap_or_default().to_owned();
        let known = before;
        if let Some((old, _)) = known.as_ref().filter(|(old, _)| *old != node) {
            told.entry(old.clone()).or_default().push(change(key, None));
        }
        let Some(pod) = pod.filter(|_| !node.is_empty()) else { return };
        let known = known.filter(|(old, _)| *old == node).map(|(_, named)| named).unwrap_or_default();
        let named = pilothouse_protocol::needs::named_by(&pod);
        let named: HashSet<Key> =
            named.map(|(what, name)| Key::new(what, key.namespace.clone(), name)).collect();
        let changes = told.entry(node.clone()).or_default();
        for name in &named {
            let users = self.users.entry(name.clone()).or_default().entry(node.clone()).or_default();
            *users += 1;
            // What the pod named before, the node has: a status is no reason to send it again.
            if *users == 1
                && !known.contains(name)
                && let Some(object) = self.objects.get(name)
            {
                changes.push(change(name, Some(object))); // before the pod that needs it
            }
        }
        changes.push(change(key, object));
        self.pods_of.entry(node.clone()).or_default().insert(key.clone());
        self.pods.insert(key.clone(), (node, named));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn put(state: &mut State, resource: &str, name: &str, value: &Value) -> Vec<(String, String)> {
        let object = Object {
            key: Key::new(resource, "shop", name),
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
    fn a_service_is_told_once_for_all_and_forgotten_pods_leave_nothing() {
        let mut state = State::default();
        assert_eq!(put(&mut state, "services", "web", &json!({})), [("*".to_owned(), "web".to_owned())]);
        put(&mut state, "pods", "a", &pod("n1", "Pending"));
        state.apply(&Key::new("pods", "shop", "a"), None);
        assert!(state.pods.is_empty() && state.users.is_empty());
    }
}
