//! A machine of the simulation: a node's agent with the real decisions about its pods, and its line to the server, which
//! may be cut, delay what is said, and lose what was told.
use super::api::Api;
use super::random::Random;
use pilothouse_api::Key;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_controllers::Part;
use pilothouse_hollow::{Behavior, Node, Said};
use pilothouse_node::pod_sync::Step;
use pilothouse_protocol::{NodeMessage, status};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const NODE_LEASES: &str = "kube-node-lease";
const RENEW_SECONDS: i64 = 10;

pub struct Machine {
    pub node: Node,
    /// Whether the network carries anything.
    pub is_connected: bool,
    /// The server knows this agent's line.
    has_line: bool,
    /// How far it has been told the changes.
    place: usize,
    /// What waits to be told, of each pod the newest of a sort.
    outbox: BTreeMap<Arc<str>, Vec<NodeMessage>>,
    renewed_at: Option<Timestamp>,
    /// By how much its clock is wrong, in seconds.
    pub skew_seconds: i64,
}

/// What a machine did.
#[derive(Default)]
pub struct Did {
    pub line: Option<String>,
    /// A container was started.
    pub started: bool,
}

impl Did {
    fn told(line: String) -> Self {
        Self { line: Some(line), started: false }
    }
}

impl Machine {
    pub fn new(number: usize, behavior: &Arc<Behavior>) -> Self {
        let node = Node::new(&format!("n{number}"), &format!("192.0.2.{number}").into(), behavior);
        Self {
            node,
            is_connected: true,
            has_line: false,
            place: 0,
            outbox: BTreeMap::new(),
            renewed_at: None,
            skew_seconds: 0,
        }
    }

    fn now(&self, api: &Api) -> Timestamp {
        api.now.checked_add(self.skew_seconds.seconds()).unwrap_or(api.now)
    }

    /// When a pod here is due, by the cluster's clock.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.node.next_at()?.checked_sub(self.skew_seconds.seconds()).ok()
    }

    /// One of the things it has to do, if it has any.
    pub fn work(&mut self, api: &mut Api, random: &mut Random) -> Did {
        if self.is_connected && !self.has_line {
            return self.dial(api);
        }
        match random.below(4) {
            0 if self.is_connected => {
                self.renew(api);
                let times = 1 + random.below(5);
                (0..times).for_each(|_| _ = self.hear(api));
                Did::default()
            }
            1 if self.is_connected => self.tell(api, random),
            _ => self.act(api),
        }
    }

    /// Everything that can be done now.
    pub fn work_off(&mut self, api: &mut Api, random: &mut Random) -> Vec<Did> {
        let mut all = Vec::new();
        if self.is_connected && !self.has_line {
            all.push(self.dial(api));
        }
        self.renew(api);
        loop {
            while self.hear(api) {}
            let mut before = all.len();
            while self.node.next_at().is_some_and(|at| at <= self.now(api)) {
                all.push(self.act(api));
            }
            while !self.outbox.is_empty() {
                before = usize::MAX;
                all.push(self.tell(api, random));
            }
            if before == all.len() {
                return all;
            }
        }
    }

    /// The line is new: the agent registers, is told everything, and tells everything.
    fn dial(&mut self, api: &mut Api) -> Did {
        let key = Key::new("nodes", "", &*self.node.name);
        if api.get(&key).is_none() {
            let name = &*self.node.name;
            let _ = api.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
                "labels": {"kubernetes.io/hostname": name}}}));
        }
        let fresh = its_status();
        let _ = api.edit(&key, Part::Status, |node| node["status"] = status::of_node(&node["status"], fresh));
        self.renewed_at = None;
        self.renew(api);
        self.has_line = true;
        self.place = api.end_of_log();
        let name = self.node.name.clone();
        let mine = |(key, object): (&Key, &Arc<Value>)| said(key, Some(object), &name);
        let own = api.get(&key).and_then(|node| said(&key, Some(node), &name));
        let everything: Vec<Said> = own.into_iter().chain(api.list("pods").filter_map(mine)).collect();
        self.node.hear(true, everything, self.now(api));
        self.node.tell_everything();
        self.take_told();
        Did::told(format!("{} registers", self.node.name))
    }

    /// The next change that concerns it. False: there is none.
    fn hear(&mut self, api: &Api) -> bool {
        while let Some(change) = api.next(&mut self.place) {
            let concerns = match &*change.key.resource {
                "nodes" => *change.key.name == *self.node.name,
                "pods" => {
                    let here =
                        |pod: &Option<Arc<Value>>| pod.as_ref().is_some_and(|p| is_on(p, &self.node.name));
                    here(&change.object) || here(&change.previous)
                }
                _ => false,
            };
            if concerns {
                let gone = || Said {
                    resource: change.key.resource.clone(),
                    namespace: change.key.namespace.clone(),
                    name: change.key.name.clone(),
                    object: None,
                };
                let said = said(&change.key, change.object.as_ref(), &self.node.name).unwrap_or_else(gone);
                self.node.hear(false, [said], self.now(api));
                return true;
            }
        }
        false
    }

    /// One turn of the pod that is due.
    fn act(&mut self, api: &Api) -> Did {
        let Some((uid, step)) = self.node.turn(self.now(api)) else { return Did::default() };
        self.take_told();
        let Some(step) = step else { return Did::default() };
        let what = match &step {
            Step::CreateSandbox => "makes the sandbox".to_owned(),
            Step::Start(start) => format!("starts {} ({})", start.container, start.attempt),
            Step::Stop { container, .. } => format!("asks {container} to end"),
            Step::Kill { id } => format!("kills {id}"),
            Step::Remove { id } => format!("removes {id}"),
            Step::RemoveSandbox { .. } => "removes the sandbox".to_owned(),
            Step::Resize { container, .. } => format!("resizes {container}"),
            Step::Finished => "is done".to_owned(),
        };
        let started = matches!(step, Step::Start(_));
        Did { line: Some(format!("{} {what} of {uid}", self.node.name)), started }
    }

    fn take_told(&mut self) {
        for message in self.node.told.drain(..) {
            let (NodeMessage::PodStatus { uid, .. } | NodeMessage::PodTerminated { uid, .. }) = &message
            else {
                continue;
            };
            let waiting = self.outbox.entry(uid.clone()).or_default();
            waiting.retain(|old| std::mem::discriminant(old) != std::mem::discriminant(&message));
            waiting.push(message);
        }
    }

    /// One message reaches the server.
    fn tell(&mut self, api: &mut Api, random: &mut Random) -> Did {
        if !self.has_line || self.outbox.is_empty() {
            return Did::default();
        }
        let at = random.below(self.outbox.len());
        let Some(uid) = self.outbox.keys().nth(at).cloned() else { return Did::default() };
        let Some(waiting) = self.outbox.get_mut(&uid) else { return Did::default() };
        let message = waiting.remove(0);
        if waiting.is_empty() {
            self.outbox.remove(&uid);
        }
        self.deliver(message, api)
    }

    /// What the server does with what a node tells.
    fn deliver(&self, message: NodeMessage, api: &mut Api) -> Did {
        let me = &*self.node.name;
        match message {
            NodeMessage::PodStatus { namespace, name, uid, status: fresh } => {
                let key = Key::new("pods", namespace, name);
                let own = |pod: &Arc<Value>| pod["metadata"]["uid"] == *uid && is_on(pod, me);
                if !api.get(&key).is_some_and(own) {
                    return Did::default();
                }
                let ready = |status: &Value| {
                    let conditions = status["conditions"].as_array().into_iter().flatten();
                    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
                };
                let word = if ready(&fresh) { " and ready" } else { "" };
                let line = format!("{me} tells that {} is {}{word}", key.name, fresh["phase"]);
                let outcome = api.edit(&key, Part::Status, |pod| {
                    pod["status"] = status::of_pod(&pod["status"], fresh);
                });
                Did::told(match outcome {
                    Ok(_) => line,
                    Err(refused) => format!("{line}, and is refused: {}", refused.message),
                })
            }
            NodeMessage::PodTerminated { namespace, name, uid } => {
                let key = Key::new("pods", namespace, name);
                if !api.get(&key).is_some_and(|pod| is_on(pod, me)) {
                    return Did::default();
                }
                let options = DeleteOptions {
                    uid: Some(uid.to_string()),
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::default()
                };
                let _ = api.delete(&key, &options);
                Did::told(format!("{me} is done with {}", key.name))
            }
            _ => Did::default(),
        }
    }

    /// The network carries nothing any more; what was on its way is lost.
    pub fn cut(&mut self, random: &mut Random) {
        self.is_connected = false;
        self.has_line = false;
        if random.chance(500) {
            self.outbox.clear();
        }
    }

    /// The agent dies in the middle of what it does and is started again.
    pub fn lose_agent(&mut self, api: &Api, random: &mut Random) {
        let now = self.now(api);
        self.node.lose_agent(|| random.chance(500), now);
        self.has_line = false;
        self.outbox.clear();
    }

    /// The machine starts over: nothing runs, what there was is still known.
    pub fn reboot(&mut self, api: &Api) {
        let now = self.now(api);
        self.node.lose_agent(|| false, now);
        self.node.stop_everything(now);
        self.has_line = false;
        self.outbox.clear();
    }

    /// The machine is lost for good; another comes in its place.
    pub fn replace(&mut self) {
        self.node.lose_machine();
        self.has_line = false;
        self.outbox.clear();
    }

    /// A container dies by itself. What died.
    pub fn crash_one(&mut self, api: &Api, random: &mut Random) -> Option<String> {
        let now = self.now(api);
        let uids: Vec<Arc<str>> = self.node.pods().map(|pod| pod.uid.clone()).collect();
        let uid = random.pick(&uids)?;
        let name = self.node.pod_mut(uid, now)?.die(1, now)?;
        Some(format!("{name} of {uid} dies"))
    }

    fn renew(&mut self, api: &mut Api) {
        let due = self.renewed_at.is_none_or(|at| api.now.as_second() - at.as_second() >= RENEW_SECONDS);
        if !due || !self.is_connected {
            return;
        }
        self.renewed_at = Some(api.now);
        let time = json!(format!("{:.6}", api.now));
        let lease = Key::new("leases.coordination.k8s.io", NODE_LEASES, &*self.node.name);
        let before = api.end_of_log();
        if api.edit(&lease, Part::Spec, |lease| lease["spec"]["renewTime"] = time.clone()).is_err() {
            let _ = api.create(json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": &*self.node.name, "namespace": NODE_LEASES},
                "spec": {"holderIdentity": &*self.node.name, "renewTime": time},
            }));
        }
        api.heartbeats += api.end_of_log() - before;
        // A node that was taken for lost tells that it is not.
        let key = Key::new("nodes", "", &*self.node.name);
        let is_ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        if self.has_line && api.get(&key).is_some_and(|node| !is_ready(node)) {
            let fresh = its_status();
            let _ =
                api.edit(&key, Part::Status, |node| node["status"] = status::of_node(&node["status"], fresh));
        }
    }
}

fn its_status() -> Value {
    json!({
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "20"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    })
}

fn is_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

/// An object as it is told to a node. None: it is not for it.
fn said(key: &Key, object: Option<&Arc<Value>>, node: &str) -> Option<Said> {
    let object = object.filter(|object| &*key.resource != "pods" || is_on(object, node))?;
    Some(Said {
        resource: key.resource.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        object: Some(object.clone()),
    })
}
