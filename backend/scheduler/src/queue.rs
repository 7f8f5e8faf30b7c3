//! The scheduling queue: pods that wait, in order of priority; those that do not fit come again when something changed.
use crate::framework::{PodInfo, schedule};
use crate::snapshot::Snapshot;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::{Key, Observed};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The scheduler whose pods are ours.
const NAME: &str = "default-scheduler";
const FIRST_PAUSE_SECONDS: i64 = 1;
const LONGEST_PAUSE_SECONDS: i64 = 10;
/// A pod that fits nowhere is tried again after this, whatever has happened.
const UNSCHEDULABLE_SECONDS: i64 = 300;

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Bind { pod: Key, uid: String, node: Arc<str> },
    Unschedulable { pod: Key, uid: String, message: String },
}

struct Waiting {
    pod: PodInfo,
    tries: u32,
    /// Not before this.
    ready_at: Timestamp,
    place: Place,
}

#[derive(PartialEq)]
enum Place {
    Active(Order),
    BackOff,
    Unschedulable,
}

/// Higher priority first, then older.
type Order = (Reverse<i64>, u64);

/// Fed with the same changes as the controllers; decides one pod at a time.
#[derive(Default)]
pub struct Scheduler {
    pub snapshot: Snapshot,
    waiting: HashMap<String, Waiting>,
    active: BTreeMap<Order, String>,
    /// By the time they may be tried again.
    resting: BTreeSet<(Timestamp, String)>,
    arrivals: u64,
}

impl Scheduler {
    pub fn observe(&mut self, change: &Observed, now: Timestamp) {
        self.snapshot.apply(change);
        match &*change.key.resource {
            "pods" => self.observe_pod(change, now),
            // A node came, or has more to give, or lost a taint: those that fitted nowhere may now.
            "nodes" => self.reconsider(now),
            _ => {}
        }
    }

    fn observe_pod(&mut self, change: &Observed, now: Timestamp) {
        if let Some(uid) = change.latest().and_then(|pod| pod["metadata"]["uid"].as_str()).map(str::to_owned) {
            let pending = change.object.as_ref().filter(|pod| is_ours(pod));
            match pending {
                Some(pod) => self.enqueue(PodInfo::new(change.key.clone(), pod.clone()), now),
                None => self.drop_waiting(&uid),
            }
        }
        let frees = change.object.as_ref().is_none_or(|p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
        if frees {
            self.reconsider(now);
        }
    }

    fn enqueue(&mut self, pod: PodInfo, now: Timestamp) {
        if let Some(waiting) = self.waiting.get_mut(&pod.uid) {
            waiting.pod = pod; // its place in the queue stays
            return;
        }
        self.arrivals += 1;
        let order = (Reverse(pod.priority), self.arrivals);
        self.active.insert(order, pod.uid.clone());
        self.waiting.insert(pod.uid.clone(), Waiting { pod, tries: 0, ready_at: now, place: Place::Active(order) });
    }

    fn drop_waiting(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.remove(uid) else { return };
        match waiting.place {
            Place::Active(order) => drop(self.active.remove(&order)),
            Place::BackOff | Place::Unschedulable => drop(self.resting.remove(&(waiting.ready_at, uid.to_owned()))),
        }
    }

    /// Moves pods that fitted nowhere to their back-off.
    fn reconsider(&mut self, now: Timestamp) {
        let stuck: Vec<String> =
            self.waiting.iter().filter(|(_, w)| w.place == Place::Unschedulable).map(|(uid, _)| uid.clone()).collect();
        for uid in stuck {
            let Some(waiting) = self.waiting.get_mut(&uid) else { continue };
            self.resting.remove(&(waiting.ready_at, uid.clone()));
            waiting.ready_at = after(now, pause(waiting.tries));
            waiting.place = Place::BackOff;
            self.resting.insert((waiting.ready_at, uid));
        }
    }

    /// The next decision; None when no pod is to be tried now. A pod that is bound counts to its node at once
    /// ("assumed"), until the binding is seen or [`Scheduler::binding_failed`] says otherwise.
    pub fn next(&mut self, now: Timestamp) -> Option<Decision> {
        self.wake(now);
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&uid)?;
        match schedule(&waiting.pod, &self.snapshot) {
            Ok(node) => {
                let pod = self.waiting.remove(&uid)?.pod;
                let key = pod.key.clone();
                self.snapshot.place(pod, &node);
                Some(Decision::Bind { pod: key, uid, node })
            }
            Err(message) => {
                waiting.tries += 1;
                waiting.ready_at = after(now, UNSCHEDULABLE_SECONDS);
                waiting.place = Place::Unschedulable;
                self.resting.insert((waiting.ready_at, uid.clone()));
                Some(Decision::Unschedulable { pod: waiting.pod.key.clone(), uid, message })
            }
        }
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.resting.first() {
            if *at > now {
                return;
            }
            let Some((_, uid)) = self.resting.pop_first() else { return };
            let Some(waiting) = self.waiting.get_mut(&uid) else { continue };
            self.arrivals += 1;
            let order = (Reverse(waiting.pod.priority), self.arrivals);
            waiting.place = Place::Active(order);
            self.active.insert(order, uid);
        }
    }

    /// When [`Scheduler::next`] may have something though nothing changes.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.resting.first().map(|(at, _)| *at)
    }

    /// A decided binding was not written: the pod waits again. `pod` is as it is now; None where it is gone.
    pub fn binding_failed(&mut self, key: &Key, uid: &str, pod: Option<Arc<serde_json::Value>>, now: Timestamp) {
        self.snapshot.forget(uid);
        if let Some(pod) = pod.filter(|pod| is_ours(pod) && pod["metadata"]["uid"] == uid) {
            self.enqueue(PodInfo::new(key.clone(), pod), now);
        }
    }
}

fn is_ours(pod: &serde_json::Value) -> bool {
    let spec = &pod["spec"];
    spec["nodeName"].as_str().is_none_or(str::is_empty)
        && spec["schedulerName"].as_str().unwrap_or(NAME) == NAME
        && spec["schedulingGates"].as_array().is_none_or(Vec::is_empty)
        && pod["metadata"]["deletionTimestamp"].is_null()
        && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pause(tries: u32) -> i64 {
    FIRST_PAUSE_SECONDS.checked_shl(tries.saturating_sub(1)).unwrap_or(LONGEST_PAUSE_SECONDS).min(LONGEST_PAUSE_SECONDS)
}

fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(seconds.seconds()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn put(scheduler: &mut Scheduler, resource: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let change = Observed { key: Key::new(resource, "", name), revision: 1, object: Some(Arc::new(object)), previous: None, bytes: Default::default() };
        scheduler.observe(&change, Timestamp::UNIX_EPOCH);
    }

    fn pod(name: &str, priority: i64) -> Value {
        json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": "1"}}}]}})
    }

    fn node(cpu: &str) -> Value {
        json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": cpu, "pods": "10"}}})
    }

    #[test]
    fn the_most_important_pod_goes_first_and_an_assumed_pod_takes_its_room() {
        let mut scheduler = Scheduler::default();
        put(&mut scheduler, "nodes", node("1"));
        put(&mut scheduler, "pods", pod("low", 0));
        put(&mut scheduler, "pods", pod("high", 9));
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(scheduler.next(now), Some(Decision::Bind { uid, .. }) if uid == "high"));
        assert!(matches!(scheduler.next(now), Some(Decision::Unschedulable { uid, .. }) if uid == "low"));
        assert_eq!(scheduler.next(now), None);
    }

    #[test]
    fn a_pod_that_fitted_nowhere_comes_again_when_a_node_grows() {
        let mut scheduler = Scheduler::default();
        put(&mut scheduler, "nodes", node("500m"));
        put(&mut scheduler, "pods", pod("a", 0));
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(scheduler.next(now), Some(Decision::Unschedulable { .. })));
        put(&mut scheduler, "nodes", node("2"));
        assert_eq!(scheduler.next(now), None, "it rests first");
        let later = after(now, LONGEST_PAUSE_SECONDS);
        assert!(matches!(scheduler.next(later), Some(Decision::Bind { .. })));
    }
}
