//! The server's loops, one step at a time: controllers behind their barrier, and the scheduler. They may lag, be told
//! things twice, lose their watch, crash between two writes, and have a clock that jumps.
use super::api::Api;
use super::random::Random;
use super::rollouts;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Observed, Reason, Revision};
use pilothouse_controllers::horizontal_pod_autoscaler::Memory;
use pilothouse_controllers::{Action, Cluster, Controller, Part};
use pilothouse_scheduler::{Decision, Scheduler};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

type Task = (usize, Key);

/// Plans that are being carried out at the same time.
const CONCURRENCY: usize = 8;
/// The pause after a failed plan, doubled with each that follows.
const FIRST_PAUSE_MILLIS: i64 = 20;
const LONGEST_PAUSE_MILLIS: i64 = 60_000;
const LARGEST_SHIFT: u32 = 12;

/// A plan on its way into the store.
struct Flight {
    task: Task,
    left: Vec<Action>,
    written: Revision,
    failed: bool,
    refusal: Option<String>,
    memory: Option<Memory>,
    check_again_at: Option<Timestamp>,
}

pub struct Server {
    controllers: Vec<Box<dyn Controller>>,
    pub cluster: Cluster,
    /// How far it has read.
    place: usize,
    due: VecDeque<Task>,
    running: BTreeSet<Task>,
    again: BTreeSet<Task>,
    timers: BTreeSet<(Timestamp, Task)>,
    failures: BTreeMap<Task, u32>,
    flights: Vec<Flight>,
    /// Carried out, but not seen yet.
    waiting: Vec<Flight>,
    scheduler: Scheduler,
    scheduler_place: usize,
    /// By how much its clock is wrong, in seconds.
    pub skew_seconds: i64,
}

impl Server {
    pub fn new(api: &Api) -> Self {
        let mut server = Self {
            controllers: pilothouse_controllers::all(),
            cluster: Cluster::default(),
            place: 0,
            due: VecDeque::new(),
            running: BTreeSet::new(),
            again: BTreeSet::new(),
            timers: BTreeSet::new(),
            failures: BTreeMap::new(),
            flights: Vec::new(),
            waiting: Vec::new(),
            scheduler: Scheduler::default(),
            scheduler_place: 0,
            skew_seconds: 0,
        };
        server.start_over(api);
        server.restart_scheduler(api);
        server
    }

    fn now(&self, api: &Api) -> Timestamp {
        api.now.checked_add(self.skew_seconds.seconds()).unwrap_or(api.now)
    }

    /// Its watch is lost: everything is read anew.
    pub fn start_over(&mut self, api: &Api) {
        let now = self.now(api);
        self.cluster = Cluster::default();
        self.place = api.end_of_log();
        for change in api.everything() {
            self.cluster.apply(&change, now);
        }
        self.cluster.revision = self.cluster.revision.max(api.revision());
        self.visit_everything();
        self.pass_barrier(api);
    }

    pub fn restart_scheduler(&mut self, api: &Api) {
        let now = self.now(api);
        (self.scheduler, self.scheduler_place) = (Scheduler::default(), api.end_of_log());
        api.everything().for_each(|change| self.scheduler.observe(&change, now));
    }

    pub fn visit_everything(&mut self) {
        for at in 0..self.controllers.len() {
            for key in self.controllers[at].all_keys(&self.cluster) {
                self.add((at, key));
            }
        }
    }

    fn add(&mut self, task: Task) {
        if self.running.contains(&task) {
            self.again.insert(task);
        } else if !self.due.contains(&task) {
            self.due.push_back(task);
        }
    }

    /// Sees the next change, `times` times. False: there is none.
    pub fn observe(&mut self, api: &Api, times: usize) -> bool {
        let Some(change) = api.next(&mut self.place) else {
            self.cluster.revision = self.cluster.revision.max(api.revision());
            self.pass_barrier(api);
            return false;
        };
        for _ in 0..times {
            self.apply(change, api);
        }
        self.pass_barrier(api);
        true
    }

    fn apply(&mut self, change: &Observed, api: &Api) {
        self.cluster.apply(change, self.now(api));
        for at in 0..self.controllers.len() {
            for key in self.controllers[at].keys(change, &self.cluster) {
                self.add((at, key));
            }
        }
    }

    fn pass_barrier(&mut self, api: &Api) {
        let reached = self.cluster.revision;
        let (seen, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|f| f.written <= reached);
        self.waiting = waiting;
        let seen: Vec<Flight> = seen;
        seen.into_iter().for_each(|flight| self.finish(flight, api));
    }

    /// Decides about the next key that is due. What it decided, for the story; None: no key is due.
    ///
    /// # Errors
    /// What a plan does that no plan may do.
    pub fn decide(&mut self, api: &Api) -> Result<Option<String>, String> {
        let now = self.now(api);
        while let Some((_, task)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            self.timers.pop_first();
            self.add(task);
        }
        if self.flights.len() >= CONCURRENCY {
            return Ok(None);
        }
        let Some(task) = self.due.pop_front() else { return Ok(None) };
        self.running.insert(task.clone());
        let plan = self.controllers[task.0].reconcile(&task.1, &self.cluster, now);
        if &*task.1.resource == "deployments.apps" {
            rollouts::check(&task.1, &plan, &self.cluster)?;
        }
        let about = format!(
            "{} decides about {}: {} actions",
            self.controllers[task.0].name(),
            task.1,
            plan.actions.len()
        );
        let flight = Flight {
            task,
            left: plan.actions.into_iter().filter(|action| !matches!(action, Action::Event { .. })).collect(),
            written: 0,
            failed: false,
            refusal: None,
            memory: plan.memory,
            check_again_at: plan.check_again_at,
        };
        let quiet = flight.left.is_empty();
        if quiet {
            self.finish(flight, api)
        } else {
            self.flights.push(flight)
        }
        Ok(Some(if quiet { String::new() } else { about }))
    }

    /// Carries out one action of one plan: plans and their actions overtake each other.
    pub fn write(&mut self, api: &mut Api, random: &mut Random) -> Option<String> {
        if self.flights.is_empty() {
            return None;
        }
        let at = random.below(self.flights.len());
        let flight = &mut self.flights[at];
        let action = flight.left.swap_remove(random.below(flight.left.len()));
        let controller = self.controllers[flight.task.0].name();
        let what = match &action {
            Action::Create { key, .. } => format!("{controller} creates {key}"),
            Action::Update { key, part, .. } => format!("{controller} updates {key} ({part:?})"),
            Action::Delete { key, .. } => format!("{controller} deletes {key}"),
            Action::Event { .. } => String::new(),
        };
        let outcome = match api.carry_out(&action, random) {
            Ok(revision) => {
                flight.written = flight.written.max(revision);
                String::new()
            }
            Err(status) => {
                flight.failed = true;
                // Somebody was faster, or nobody knows whether it was written: the view must hold it in any case.
                flight.written = flight.written.max(api.revision());
                let expected =
                    matches!(status.reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists);
                if matches!(action, Action::Create { .. }) && !expected {
                    flight.refusal = Some(status.message.clone());
                }
                format!(": {}", status.message)
            }
        };
        if self.flights[at].left.is_empty() {
            let flight = self.flights.swap_remove(at);
            match flight.written > self.cluster.revision {
                true => self.waiting.push(flight),
                false => self.finish(flight, api),
            }
        }
        Some(what + &outcome)
    }

    fn finish(&mut self, flight: Flight, api: &Api) {
        let Flight { task, failed, refusal, memory, check_again_at, .. } = flight;
        self.cluster.note_outcome(self.controllers[task.0].name(), &task.1, refusal.as_deref());
        if let Some(memory) = memory.filter(|_| !failed) {
            self.cluster.remember(&task.1, memory);
        }
        self.running.remove(&task);
        let again = self.again.remove(&task);
        if let Some(at) = check_again_at {
            self.timers.insert((at, task.clone()));
        }
        if failed {
            let failures = self.failures.entry(task.clone()).or_default();
            *failures += 1;
            let pause = (FIRST_PAUSE_MILLIS << (*failures - 1).min(LARGEST_SHIFT)).min(LONGEST_PAUSE_MILLIS);
            let now = self.now(api);
            self.timers.insert((now.checked_add(pause.milliseconds()).unwrap_or(now), task));
        } else {
            self.failures.remove(&task);
            if again {
                self.add(task);
            }
        }
    }

    /// It does not lead any more; of what it was writing some is written still, before another begins.
    pub fn resign(&mut self, api: &mut Api, random: &mut Random) {
        for action in self.flights.drain(..).flat_map(|flight| flight.left) {
            if random.chance(500) {
                let _ = api.carry_out(&action, random);
            }
        }
    }

    /// Dies between any two writes; another takes over, with an empty memory.
    pub fn crash(&mut self, api: &Api) {
        let skew_seconds = self.skew_seconds;
        *self = Self::new(api);
        self.skew_seconds = skew_seconds;
    }

    pub fn schedule_observes(&mut self, api: &Api, times: usize) -> bool {
        let now = self.now(api);
        let Some(change) = api.next(&mut self.scheduler_place) else { return false };
        (0..times).for_each(|_| self.scheduler.observe(change, now));
        true
    }

    pub fn schedule(&mut self, api: &mut Api) -> Option<String> {
        let now = self.now(api);
        match self.scheduler.next(now)? {
            Decision::Bind { pod, uid, node } => {
                let outcome = api.bind(&pod, &uid, &node);
                if outcome.is_err() {
                    let object = api.get(&pod).cloned();
                    self.scheduler.binding_failed(&pod, &uid, object, now);
                }
                let failed = if outcome.is_err() { ", in vain" } else { "" };
                Some(format!("the scheduler binds {pod} to {node}{failed}"))
            }
            // Nobody tells a story of claims here.
            Decision::BindVolumes { pod, uid, node, claims } => {
                self.scheduler.volumes_failed(&uid, claims.into_iter().map(|(claim, _)| claim));
                Some(format!("the scheduler would have volumes for {pod} on {node}"))
            }
            Decision::Unschedulable { pod, message, .. } => {
                Some(format!("the scheduler finds no node for {pod}: {message}"))
            }
            Decision::Preempt { pod, node, victims, .. } => {
                let _ = api.edit(&pod, Part::Status, |p| p["status"]["nominatedNodeName"] = json!(&*node));
                for victim in &victims {
                    let options = DeleteOptions { uid: Some(victim.uid.clone()), ..DeleteOptions::default() };
                    let _ = api.delete(&victim.pod, &options);
                }
                Some(format!("the scheduler makes room for {pod} on {node}"))
            }
        }
    }

    /// When something becomes due by time alone.
    pub fn next_at(&self) -> Option<Timestamp> {
        let controllers = self.timers.first().map(|(at, _)| *at);
        let next = controllers.into_iter().chain(self.scheduler.next_at()).min()?;
        next.checked_sub(self.skew_seconds.seconds()).ok()
    }

    /// Nothing is due, on its way, or unseen.
    pub fn is_quiet(&self) -> bool {
        self.due.is_empty() && self.flights.is_empty() && self.waiting.is_empty()
    }

    /// What is left to do, for the story of one that does not come to rest.
    pub fn busy_with(&self) -> Vec<String> {
        let name = |task: &Task| format!("{} {}", self.controllers[task.0].name(), task.1);
        self.due.iter().chain(&self.running).map(name).collect()
    }

    /// A key whose plan is not empty, once everything is settled.
    pub fn unrest(&self, api: &Api) -> Option<String> {
        let now = self.now(api);
        self.controllers.iter().find_map(|controller| {
            controller.all_keys(&self.cluster).into_iter().find_map(|key| {
                let plan = controller.reconcile(&key, &self.cluster, now);
                (!plan.is_empty())
                    .then(|| format!("{} is not at rest about {key}: {plan:?}", controller.name()))
            })
        })
    }
}
