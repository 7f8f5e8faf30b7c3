//! One pod after another: filter the nodes, score those that pass, assume the best.
use crate::decision::Decision;
use crate::framework::{Cycle, Event, Filter, Verdict};
use crate::pod_info::PodInfo;
use crate::queue::Queue;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::storage::{Choice, ClaimName, News, Storage};
use crate::topology::Topology;
use crate::{plugins, preemption};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::CLAIMS;
use pilothouse_api::{Key, Observed};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

const PODS: &str = "pods";
const NODES: &str = "nodes";
/// `spec.schedulerName` of the pods that are ours.
const NAME: &str = "default-scheduler";
/// In a large cluster not every node is asked: from so many that will do, the best is good enough.
const ENOUGH_NODES: usize = 100;
/// The share of nodes asked falls from half to a twentieth (`numFeasibleNodesToFind`).
const SMALLEST_PERCENTAGE: usize = 5;

/// Owns its view; the clock is an argument.
#[derive(Default)]
pub struct Scheduler {
    snapshot: Snapshot,
    queue: Queue,
    /// UIDs of the pods known, by key: a deletion may come without its last state.
    uids: HashMap<Key, Arc<str>>,
    /// Pods placed by a decision whose binding was not observed yet, as they waited.
    assumed: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Pods that room was made for, by node.
    nominated: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<PodInfo>>>,
    storage: Storage,
    /// UIDs of pods that wait for a node, by their claims.
    waiting_with: HashMap<ClaimName, BTreeSet<Arc<str>>>,
    /// Where the last search ended, so that all nodes get their turn.
    start: usize,
}

impl Scheduler {
    /// Takes the next change; those of other resources than pods, nodes and [`crate::storage::RESOURCES`] are ignored.
    pub fn observe(&mut self, change: &Observed, now: Timestamp) {
        match &*change.key.resource {
            PODS => self.observe_pod(&change.key, change.object.as_deref(), now),
            NODES => match change.object.as_deref() {
                Some(node) => {
                    if self.snapshot.put_node(&change.key.name, node) {
                        self.happened(Event::Node);
                    }
                }
                None => self.snapshot.remove_node(&change.key.name),
            },
            _ => match self.storage.observe(&change.key, change.object.as_deref()) {
                News::Claim(claim) => {
                    for uid in self.waiting_with.get(&claim).into_iter().flatten() {
                        self.queue.is_helped(uid);
                    }
                }
                News::Everybody => self.happened(Event::Volume),
                News::Nothing => {}
            },
        }
    }

    /// The next pod's outcome; None when no pod is ready to be tried.
    pub fn next(&mut self, now: Timestamp) -> Option<Decision> {
        loop {
            let pod = self.queue.next(now)?;
            if let Some(decision) = self.decide(&pod, now) {
                return Some(decision);
            }
        }
    }

    /// When [`Scheduler::next`] may have something though nothing changes.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.queue.check_again_at()
    }

    /// A decided binding was not written: the pod gives its place back and is tried again after a back-off. `pod` is as
    /// it is now; None where it is gone.
    pub fn binding_failed(&mut self, key: &Key, uid: &str, pod: Option<Arc<Value>>, now: Timestamp) {
        if self.assumed.remove(uid).is_none() {
            return; // What was observed meanwhile has the last word.
        }
        self.snapshot.remove_pod(uid);
        self.queue.retry(uid);
        self.observe_pod(key, pod.as_deref(), now);
        self.happened(Event::PodLeft);
    }

    /// What [`Decision::BindVolumes`] asked for was not written: the pod is tried again after a back-off.
    pub fn volumes_failed(&mut self, uid: &str, claims: impl Iterator<Item = Key>) {
        self.storage.take_back(claims.map(|claim| (claim.namespace, claim.name)));
        self.queue.retry(uid);
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn happened(&mut self, event: Event) {
        self.queue.happened(event, |plugin, event| {
            plugins::filters().iter().any(|filter| filter.name() == plugin && filter.helped_by(event))
        });
    }

    fn observe_pod(&mut self, key: &Key, object: Option<&Value>, now: Timestamp) {
        let lives = |pod: &&Value| !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let pod = object.filter(lives).map(|pod| {
            let mut pod = PodInfo::new(key.clone(), pod);
            self.snapshot.share_labels(&mut pod);
            Arc::new(pod)
        });
        let uid = pod.as_ref().map(|pod| pod.uid.clone());
        let known = match &uid {
            Some(uid) => self.uids.insert(key.clone(), uid.clone()),
            None => self.uids.remove(key),
        };
        if let Some(gone) = known.filter(|known| Some(known) != uid.as_ref()) {
            self.forget(&gone);
        }
        let Some(pod) = pod else { return };
        if pod.node.is_some() {
            return self.observe_placed(pod);
        }
        if self.assumed.contains_key(&pod.uid) && !pod.is_deleting {
            // Its binding is on the way; this is an older state, or its status alone.
            return;
        }
        let ours =
            object.is_none_or(|pod| pod["spec"]["schedulerName"].as_str().is_none_or(|name| name == NAME));
        if !ours || pod.is_deleting || pod.is_gated {
            self.forget(&pod.uid);
            return;
        }
        self.nominate(&pod, pod.nominated.clone());
        for (claim, _) in &pod.claims {
            let name = (key.namespace.clone(), claim.clone());
            self.waiting_with.entry(name).or_default().insert(pod.uid.clone());
        }
        self.queue.put(pod, now);
    }

    /// The pod waits for no node any more.
    fn leave_queue(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.queue.remove(uid) else { return };
        for (claim, _) in &pod.claims {
            let name = (pod.key.namespace.clone(), claim.clone());
            if let Some(waiting) = self.waiting_with.get_mut(&name) {
                waiting.remove(uid);
                if waiting.is_empty() {
                    self.waiting_with.remove(&name);
                }
            }
        }
    }

    fn observe_placed(&mut self, pod: Arc<PodInfo>) {
        self.assumed.remove(&pod.uid);
        self.leave_queue(&pod.uid);
        self.nominate(&pod, None);
        let old = self.snapshot.placed(&pod.uid).cloned();
        if old.as_ref() == Some(&pod) {
            return;
        }
        let shrank = old.as_ref().is_some_and(|old| old.requests != pod.requests || old.node != pod.node);
        self.snapshot.put_pod(pod);
        self.happened(Event::PodPlaced);
        if shrank {
            self.happened(Event::PodLeft);
        }
    }

    /// The pod is gone, has ended, or is not for this scheduler.
    fn forget(&mut self, uid: &Arc<str>) {
        self.leave_queue(uid);
        self.assumed.remove(uid);
        self.nominated.values_mut().for_each(|pods| drop(pods.remove(uid)));
        self.nominated.retain(|_, pods| !pods.is_empty());
        if self.snapshot.remove_pod(uid).is_some() {
            self.happened(Event::PodLeft);
        }
    }

    fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<Arc<str>>) {
        self.nominated.retain(|at, pods| {
            if Some(at) != node.as_ref() {
                pods.remove(&pod.uid);
            }
            !pods.is_empty()
        });
        if let Some(node) = node {
            self.nominated.entry(node).or_default().insert(pod.uid.clone(), pod.clone());
        }
    }

    /// None: the pod's volumes are being made, and there is nothing new to say.
    fn decide(&mut self, pod: &Arc<PodInfo>, now: Timestamp) -> Option<Decision> {
        let attempt = self.attempt(pod);
        Some(match attempt {
            Attempt::Waits => {
                self.queue.refuse(&pod.uid, vec![plugins::volume_binding::NAME], now);
                return None;
            }
            Attempt::FitsWith(node, choices) => {
                self.nominate(pod, Some(node.clone()));
                self.storage.promise(&choices);
                self.queue.refuse(&pod.uid, vec![plugins::volume_binding::NAME], now);
                let key = |(namespace, name): ClaimName| Key::new(CLAIMS, namespace, name);
                let claims = choices.into_iter().map(|(claim, choice)| (key(claim), choice)).collect();
                Decision::BindVolumes { pod: pod.key.clone(), uid: pod.uid.to_string(), node, claims }
            }
            Attempt::Fits(node) => {
                self.nominate(pod, None);
                self.assumed.insert(pod.uid.clone(), pod.clone());
                self.snapshot.put_pod(Arc::new(pod.placed_on(&node)));
                self.happened(Event::PodPlaced);
                Decision::Bind { pod: pod.key.clone(), uid: pod.uid.to_string(), node }
            }
            Attempt::Refused(refused) => {
                self.queue.refuse(&pod.uid, refused.by.iter().copied().collect(), now);
                let uid = pod.uid.to_string();
                match refused.room {
                    Some((node, victims)) => {
                        self.nominate(pod, Some(node.clone()));
                        let (pod, message) = (pod.key.clone(), refused.message);
                        Decision::Preempt { pod, uid, node, victims, message }
                    }
                    None => Decision::Unschedulable { pod: pod.key.clone(), uid, message: refused.message },
                }
            }
        })
    }

    fn attempt(&mut self, pod: &PodInfo) -> Attempt {
        let Some(wants) = pod.wants.as_deref() else {
            return Attempt::Refused(Refused::default());
        };
        let topology = Topology::of(pod, wants, &self.snapshot);
        let storage = self.storage.of_pod(pod, &self.snapshot);
        let cycle = Cycle { pod, wants, topology, storage };
        let count = self.snapshot.count();
        if count == 0 {
            let message = "no nodes available to schedule pods".to_owned();
            return Attempt::Refused(Refused { message, ..Refused::default() });
        }
        if let Some(why) = &cycle.storage.blocked {
            let helpless = "Preemption is not helpful for scheduling";
            let message = format!(
                "0/{count} nodes are available: {why}. preemption: 0/{count} nodes are available: {count} {helpless}."
            );
            let by = [plugins::volume_binding::NAME].into();
            return Attempt::Refused(Refused { message, by, room: None });
        }
        if cycle.storage.is_waiting {
            return Attempt::Waits;
        }
        let room_was_made = pod.nominated.as_deref().and_then(|name| self.snapshot.node(name));
        if let Some(node) = room_was_made.filter(|node| self.admit(&cycle, node).is_none()) {
            return Attempt::on(&cycle, node);
        }
        let enough = enough(count);
        let (mut fitting, mut refusals) = (Vec::new(), Vec::new());
        let mut asked_last = self.start;
        for (at, node) in self.snapshot.nodes_from(self.start) {
            asked_last = at;
            match self.admit(&cycle, node) {
                None => fitting.push(node),
                Some((by, reasons)) => refusals.push(Refusal { node, by, reasons }),
            }
            if fitting.len() >= enough {
                break;
            }
        }
        let outcome = match self.best(&cycle, &fitting) {
            Some(node) => Attempt::on(&cycle, node),
            None => Attempt::Refused(self.refused(&cycle, count, &refusals)),
        };
        self.start = asked_last + 1;
        outcome
    }

    /// Whether a node will do, also once the more important pods are there that room was made for.
    fn admit(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Option<(&'static dyn Filter, Vec<String>)> {
        let nominated = self.nominated.get(&node.name).map(|pods| {
            pods.values().filter(|other| other.priority >= cycle.pod.priority && other.uid != cycle.pod.uid)
        });
        match nominated.map(|pods| node.with(pods)) {
            Some(fuller) => refused_by(cycle, &fuller),
            None => refused_by(cycle, node),
        }
    }

    fn best<'a>(&self, cycle: &Cycle<'_>, nodes: &[&'a NodeInfo]) -> Option<&'a NodeInfo> {
        if let [] | [_] = nodes {
            return nodes.first().copied();
        }
        let mut totals = vec![0; nodes.len()];
        for plugin in plugins::scores() {
            let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(cycle, node)).collect();
            plugin.normalize(&mut scores);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * plugin.weight());
        }
        // Of equals the one with fewest pods; the turning start spreads the rest.
        let ranked = nodes.iter().zip(totals).enumerate();
        let best = ranked.max_by_key(|(at, (node, total))| {
            (*total, std::cmp::Reverse(node.pods.len()), std::cmp::Reverse(*at))
        });
        best.map(|(_, (node, _))| *node)
    }

    fn refused(&self, cycle: &Cycle<'_>, count: usize, refusals: &[Refusal<'_>]) -> Refused {
        let by = refusals.iter().map(|refusal| refusal.by.name()).collect();
        let reasons = refusals.iter().flat_map(|refusal| refusal.reasons.iter().map(String::as_str));
        let mut message = explain(count, reasons);
        if cycle.wants.never_preempts {
            message += " preemption: not eligible due to preemptionPolicy=Never.";
            return Refused { message, by, room: None };
        }
        if self.awaits_victims(cycle.pod) {
            return Refused { message, by, room: None };
        }
        let movable =
            refusals.iter().filter(|refusal| refusal.by.is_about_pods()).map(|refusal| refusal.node);
        let room = preemption::choose(cycle, movable.take(ENOUGH_NODES), plugins::filters());
        if room.is_none() {
            let helpless = refusals.iter().map(|refusal| match refusal.by.is_about_pods() {
                true => "No preemption victims found for incoming pod",
                false => "Preemption is not helpful for scheduling",
            });
            message += &format!(" preemption: {}", explain(count, helpless));
        }
        let room = room.map(|(node, victims)| (node.name.clone(), victims));
        Refused { message, by, room }
    }

    /// Room is being made for it: pods less important are on their way out of the node it was promised.
    fn awaits_victims(&self, pod: &PodInfo) -> bool {
        let promised = self.nominated.iter().find(|(_, pods)| pods.contains_key(&pod.uid));
        let node = promised.and_then(|(node, _)| self.snapshot.node(node));
        node.is_some_and(|node| {
            node.pods.values().any(|other| other.is_deleting && other.priority < pod.priority)
        })
    }
}

/// One node's no.
struct Refusal<'a> {
    node: &'a NodeInfo,
    by: &'static dyn Filter,
    reasons: Vec<String>,
}

/// The first filter that says no, and why.
fn refused_by(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<(&'static dyn Filter, Vec<String>)> {
    plugins::filters().iter().find_map(|filter| match filter.filter(cycle, node) {
        Verdict::Fits => None,
        Verdict::No(reasons) => Some((*filter, reasons)),
    })
}

enum Attempt {
    Fits(Arc<str>),
    /// Once its claims have these volumes.
    FitsWith(Arc<str>, Vec<(ClaimName, Choice)>),
    /// Its volumes are being made.
    Waits,
    Refused(Refused),
}

impl Attempt {
    fn on(cycle: &Cycle<'_>, node: &NodeInfo) -> Self {
        match cycle.storage.choose(node) {
            Some(choices) if !choices.is_empty() => Self::FitsWith(node.name.clone(), choices),
            _ => Self::Fits(node.name.clone()),
        }
    }
}

#[derive(Default)]
struct Refused {
    message: String,
    by: BTreeSet<&'static str>,
    /// A node with the pods that could make room.
    room: Option<(Arc<str>, Vec<crate::Victim>)>,
}

/// How many nodes that will do are enough to choose from.
fn enough(count: usize) -> usize {
    if count <= ENOUGH_NODES {
        return count;
    }
    let percentage = 50_usize.saturating_sub(count / 125).max(SMALLEST_PERCENTAGE);
    (count * percentage / 100).max(ENOUGH_NODES)
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn explain<'a>(count: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{count} nodes are available: {}.", parts.join(", "))
}
