//! Pods that wait for a node: ready to be tried, in back-off, or refused until something changes.
use crate::framework::Event;
use crate::pod_info::PodInfo;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Kubernetes' `podInitialBackoffSeconds` and `podMaxBackoffSeconds`.
const FIRST_BACKOFF_SECONDS: i64 = 1;
const LONGEST_BACKOFF_SECONDS: i64 = 10;
/// A refused pod is tried again after so long though nothing seemed to help it (`podMaxInUnschedulablePodsDuration`).
const REFUSED_SECONDS: i64 = 300;

/// Higher priority first, then who became ready to be tried first.
type Turn = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    BackOff {
        until: Timestamp,
    },
    Refused {
        since: Timestamp,
    },
    /// Handed out: its binding is on the way.
    InFlight,
}

struct Waiting {
    pod: Arc<PodInfo>,
    state: State,
    arrival: u64,
    attempts: u32,
    tried_at: Timestamp,
    /// Plugins that refused it last time.
    refused_by: Vec<&'static str>,
}

impl Waiting {
    fn turn(&self) -> Turn {
        (Reverse(self.pod.priority), self.arrival)
    }

    fn backoff_until(&self) -> Timestamp {
        let doublings = self.attempts.saturating_sub(1).min(8);
        let seconds = (FIRST_BACKOFF_SECONDS << doublings).min(LONGEST_BACKOFF_SECONDS);
        self.tried_at.checked_add(seconds.seconds()).unwrap_or(self.tried_at)
    }
}

/// By UID, in each of its states.
#[derive(Default)]
pub struct Queue {
    waiting: HashMap<Arc<str>, Waiting>,
    active: BTreeMap<Turn, Arc<str>>,
    arrivals: u64,
    backing_off: BTreeSet<(Timestamp, Arc<str>)>,
    refused: BTreeSet<(Timestamp, Arc<str>)>,
}

impl Queue {
    /// A pod that wants a node, new or changed.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        let Some(waiting) = self.waiting.get_mut(&pod.uid) else {
            let (state, refused_by) = (State::Active, Vec::new());
            let waiting = Waiting { pod, state, arrival: 0, attempts: 0, tried_at: now, refused_by };
            return self.enter(waiting, State::Active);
        };
        let asks_otherwise = !same_demand(&waiting.pod, &pod);
        let uid = pod.uid.clone();
        if let State::Active = waiting.state
            && waiting.pod.priority != pod.priority
        {
            self.active.remove(&waiting.turn());
            waiting.pod = pod;
            self.active.insert(waiting.turn(), uid);
            return;
        }
        waiting.pod = pod;
        if asks_otherwise && matches!(waiting.state, State::Refused { .. }) {
            self.retry(&uid);
        }
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let waiting = self.waiting.remove(uid)?;
        self.leave(&waiting);
        Some(waiting.pod)
    }

    /// Whose turn it is. It stays in flight until told otherwise.
    pub fn next(&mut self, now: Timestamp) -> Option<Arc<PodInfo>> {
        self.wake(now);
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&uid)?;
        waiting.state = State::InFlight;
        waiting.attempts += 1;
        waiting.tried_at = now;
        Some(waiting.pod.clone())
    }

    /// No node would take it.
    pub fn refuse(&mut self, uid: &str, by: Vec<&'static str>, now: Timestamp) {
        let Some(mut waiting) = self.waiting.remove(uid) else {
            return;
        };
        self.leave(&waiting);
        waiting.refused_by = by;
        self.enter(waiting, State::Refused { since: now });
    }

    /// It could not be bound: again, a little later.
    pub fn retry(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.remove(uid) else {
            return;
        };
        self.leave(&waiting);
        let until = waiting.backoff_until();
        self.enter(waiting, State::BackOff { until });
    }

    /// What a refused pod waits for has come: it is tried at once.
    pub fn is_helped(&mut self, uid: &str) {
        if self.waiting.get(uid).is_some_and(|waiting| matches!(waiting.state, State::Refused { .. })) {
            self.activate(uid);
        }
    }

    /// Wakes refused pods that the event may help. `helped` answers for one plugin.
    pub fn happened(&mut self, event: Event, helped: impl Fn(&str, Event) -> bool) {
        if self.refused.is_empty() {
            return;
        }
        let woken: Vec<Arc<str>> = self
            .refused
            .iter()
            .filter(|(_, uid)| {
                let by = self.waiting.get(uid).map(|w| w.refused_by.as_slice()).unwrap_or_default();
                by.is_empty() || by.iter().any(|plugin| helped(plugin, event))
            })
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in woken {
            self.retry(&uid);
        }
    }

    /// When a pod becomes ready to be tried by time alone.
    pub fn check_again_at(&self) -> Option<Timestamp> {
        let backing_off = self.backing_off.first().map(|(until, _)| *until);
        let refused = self.refused.first().map(|(since, _)| after(*since, REFUSED_SECONDS));
        backing_off.into_iter().chain(refused).min()
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some((_, uid)) = self.backing_off.first().filter(|(until, _)| *until <= now).cloned() {
            self.activate(&uid);
        }
        while let Some((_, uid)) =
            self.refused.first().filter(|(since, _)| after(*since, REFUSED_SECONDS) <= now).cloned()
        {
            self.activate(&uid);
        }
    }

    fn activate(&mut self, uid: &str) {
        if let Some(waiting) = self.waiting.remove(uid) {
            self.leave(&waiting);
            self.enter(waiting, State::Active);
        }
    }

    fn enter(&mut self, mut waiting: Waiting, state: State) {
        let uid = waiting.pod.uid.clone();
        waiting.state = state;
        match state {
            State::Active => {
                self.arrivals += 1;
                waiting.arrival = self.arrivals;
                self.active.insert(waiting.turn(), uid.clone());
            }
            State::BackOff { until } => drop(self.backing_off.insert((until, uid.clone()))),
            State::Refused { since } => drop(self.refused.insert((since, uid.clone()))),
            State::InFlight => {}
        }
        self.waiting.insert(uid, waiting);
    }

    fn leave(&mut self, waiting: &Waiting) {
        let uid = waiting.pod.uid.clone();
        match waiting.state {
            State::Active => drop(self.active.remove(&waiting.turn())),
            State::BackOff { until } => drop(self.backing_off.remove(&(until, uid))),
            State::Refused { since } => drop(self.refused.remove(&(since, uid))),
            State::InFlight => {}
        }
    }
}

/// Whether two states of a pod ask for the same: what the scheduler itself writes into the status is no change.
fn same_demand(a: &PodInfo, b: &PodInfo) -> bool {
    a.wants == b.wants
        && a.requests == b.requests
        && a.labels == b.labels
        && a.host_ports == b.host_ports
        && a.anti_affinity == b.anti_affinity
        && a.priority == b.priority
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(seconds.seconds()).unwrap_or(at)
}
