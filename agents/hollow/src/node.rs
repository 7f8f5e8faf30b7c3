//! One simulated node as a plain value: takes what the server says and the time, gives what is to be told.
use crate::behavior::Behavior;
use crate::pod::{Next, Pod, Turn};
use pilothouse_api::jiff::Timestamp;
use pilothouse_node::pod_sync::Step;
use pilothouse_protocol::NodeMessage;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Where addresses of pods come from while their node has no range: the block for benchmarks (RFC 2544).
const NO_RANGE: (Ipv4Addr, u32) = (Ipv4Addr::new(198, 18, 0, 0), 1 << 17);

/// What the server said of one object; None: it is gone.
pub struct Said {
    pub resource: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub object: Option<Arc<Value>>,
}

pub struct Node {
    pub name: Arc<str>,
    host_ip: Arc<str>,
    behavior: Arc<Behavior>,
    pods: BTreeMap<Arc<str>, Pod>,
    due: BTreeSet<(Timestamp, Arc<str>)>,
    /// The first full set has come: before it, nothing may be taken for gone.
    complete: bool,
    /// Its first pod address and how many there are.
    range: (Ipv4Addr, u32),
    addresses: u32,
    /// What is to be told: of each pod its newest status, and its end.
    pub told: Vec<NodeMessage>,
}

impl Node {
    pub fn new(name: &str, host_ip: &Arc<str>, behavior: &Arc<Behavior>) -> Self {
        Self {
            name: name.into(),
            host_ip: host_ip.clone(),
            behavior: behavior.clone(),
            pods: BTreeMap::new(),
            due: BTreeSet::new(),
            complete: false,
            range: NO_RANGE,
            addresses: 0,
            told: Vec::new(),
        }
    }

    pub fn host_ip(&self) -> &str {
        &self.host_ip
    }

    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    pub fn pod_mut(&mut self, uid: &str, now: Timestamp) -> Option<&mut Pod> {
        let uid = self.pods.get_key_value(uid)?.0.clone();
        self.wake(&uid, now);
        self.pods.get_mut(&uid)
    }

    /// Takes what the server says. `full`: what is not listed is gone.
    pub fn hear(&mut self, full: bool, said: impl IntoIterator<Item = Said>, now: Timestamp) {
        let mut listed = BTreeSet::new();
        for change in said {
            match &*change.resource {
                "nodes" => self.take_range(change.object.as_deref()),
                "pods" => {
                    let uid = self.hear_of_pod(&change, now);
                    listed.extend(uid.filter(|_| full));
                }
                _ => {} // there is nothing to mount and nobody to talk to
            }
        }
        if full {
            self.complete = true;
            let gone: Vec<Arc<str>> =
                self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
            gone.iter().for_each(|uid| self.unassign(uid, now));
        }
    }

    fn hear_of_pod(&mut self, said: &Said, now: Timestamp) -> Option<Arc<str>> {
        let uid: Option<Arc<str>> =
            said.object.as_ref().and_then(|pod| pod["metadata"]["uid"].as_str()).map(Arc::from);
        // Another pod of that name, or none: what ran under it is not assigned any more.
        let others = self.pods.values().filter(|pod| Some(&pod.uid) != uid.as_ref());
        let others: Vec<Arc<str>> = others
            .filter(|pod| pod.is_named(&said.namespace, &said.name))
            .map(|pod| pod.uid.clone())
            .collect();
        others.iter().for_each(|uid| self.unassign(uid, now));
        let (pod, uid) = (said.object.as_ref()?, uid?);
        let behavior = &self.behavior;
        let entry = self.pods.entry(uid.clone()).or_insert_with(|| Pod::new(&uid, pod, behavior));
        entry.assign(Some(pod.clone()));
        if entry.wants_address() {
            self.addresses = self.addresses % (self.range.1 - 2).max(1) + 1; // the first is the gateway's
            let address = Ipv4Addr::from_bits(self.range.0.to_bits() + self.addresses);
            entry.set_address(&address.to_string());
        }
        self.wake(&uid, now);
        Some(uid)
    }

    fn unassign(&mut self, uid: &Arc<str>, now: Timestamp) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.assign(None);
        }
        self.wake(uid, now);
    }

    fn take_range(&mut self, node: Option<&Value>) {
        let range = node.and_then(|node| node["spec"]["podCIDR"].as_str()?.split_once('/'));
        let Some((Ok(first), Ok(bits))) = range.map(|(first, bits)| (first.parse(), bits.parse::<u32>()))
        else {
            return;
        };
        self.range = (first, 1_u32.checked_shl(32 - bits.min(30)).unwrap_or(1 << 8));
    }

    fn wake(&mut self, uid: &Arc<str>, at: Timestamp) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if let Some(before) = pod.due.replace(at) {
            self.due.remove(&(before, uid.clone()));
        }
        self.due.insert((at, uid.clone()));
    }

    /// When the next pod is due; None: nothing happens unless something is said.
    pub fn next_at(&self) -> Option<Timestamp> {
        if self.complete { self.due.first().map(|(at, _)| *at) } else { None }
    }

    /// One turn of the pod that is due first, if one is. What was done, of which pod.
    pub fn turn(&mut self, now: Timestamp) -> Option<(Arc<str>, Option<Step>)> {
        if self.next_at().is_none_or(|at| at > now) {
            return None;
        }
        let (_, uid) = self.due.pop_first()?;
        let pod = self.pods.get_mut(&uid)?;
        pod.due = None;
        let Turn { done, next } = pod.turn(&self.host_ip, &self.behavior, now, &mut self.told);
        match next {
            Next::At(at) => self.wake(&uid, at),
            Next::Woken => {}
            Next::Over => drop(self.pods.remove(&uid)),
        }
        Some((uid, done))
    }

    /// Every pod's newest status is told again.
    pub fn tell_everything(&mut self) {
        self.told.extend(self.pods.values().filter_map(Pod::word));
    }

    /// The agent dies and comes back knowing nothing; containers go on. Of the steps under way those are still done that
    /// `is_done` says so of.
    pub fn lose_agent(&mut self, mut is_done: impl FnMut() -> bool, now: Timestamp) {
        self.pods.values_mut().for_each(|pod| pod.lose_agent(is_done(), now));
        self.due.clear();
        self.told.clear();
        self.complete = false;
    }

    /// Every process ends at once, as when the machine starts over; containers that ended are still known.
    pub fn stop_everything(&mut self, now: Timestamp) {
        self.pods.values_mut().for_each(|pod| pod.stop_everything(now));
    }

    /// The machine is gone, with everything that ran on it.
    pub fn lose_machine(&mut self) {
        self.pods.clear();
        self.due.clear();
        self.told.clear();
        self.complete = false;
    }
}
