//! A pod without a runtime: containers are entries that start and end at planned times of a clock that is an
//! argument. For tests of whole lives of pods, and for simulated nodes.
use super::{Container, ObservedPod, State};
use crate::pod_sync::{Memory, Start, Step, Stopping};
use pilothouse_api::jiff::{Timestamp, ToSpan};

/// How one attempt of a container goes.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Seconds until it ends by itself; None: never.
    pub seconds: Option<i64>,
    pub exit_code: i64,
    /// Seconds until it is ready.
    pub ready_in: i64,
    /// Seconds it takes to end once it was asked to; None: it does not listen.
    pub stops_in: Option<i64>,
}

impl Default for Life {
    fn default() -> Self {
        Self { seconds: None, exit_code: 0, ready_in: 0, stops_in: Some(0) }
    }
}

type Plan = Box<dyn Fn(&str, u32) -> Life + Send>;

/// One pod's containers. They go on whatever becomes of their agent.
pub struct FakePod {
    observed: ObservedPod,
    /// When each running container ends, by id, and with what code.
    ends: Vec<(String, Timestamp, i64)>,
    plan: Plan,
    address: String,
    made: u64,
}

impl FakePod {
    /// `plan` says how each attempt of a container goes.
    pub fn new(address: &str, plan: impl Fn(&str, u32) -> Life + Send + 'static) -> Self {
        Self {
            observed: ObservedPod::default(),
            ends: Vec::new(),
            plan: Box::new(plan),
            address: address.to_owned(),
            made: 0,
        }
    }

    /// The address of sandboxes made from now on.
    pub fn set_address(&mut self, address: &str) {
        address.clone_into(&mut self.address);
    }

    /// The pod as it is now.
    pub fn observe(&mut self, now: Timestamp) -> &ObservedPod {
        for container in &mut self.observed.containers {
            let ends = self.ends.iter().filter(|(id, at, _)| *id == container.id && *at <= now);
            let first = ends.min_by_key(|(_, at, _)| *at);
            if let Some((_, at, code)) = first.filter(|_| container.state == State::Running) {
                container.state = State::Exited;
                (container.exit_code, container.finished_at) = (*code, Some(*at));
            }
        }
        self.ends.retain(|(_, at, _)| *at > now);
        &self.observed
    }

    /// The pod as it was looked at last.
    pub fn seen(&self) -> &ObservedPod {
        &self.observed
    }

    /// What probes find out: a container is ready when its time has come. An agent that comes back finds out again.
    pub fn probe(&self, memory: &mut Memory, now: Timestamp) {
        let running = || self.observed.containers.iter().filter(|c| c.state == State::Running);
        memory.health.retain(|id, _| running().any(|c| c.id == *id));
        for container in running() {
            let ready = self.ready_at(container).is_none_or(|at| at <= now);
            let health = memory.health.entry(container.id.clone()).or_default();
            health.started = true;
            health.ready |= ready;
        }
    }

    fn ready_at(&self, container: &Container) -> Option<Timestamp> {
        let life = (self.plan)(&container.name, container.attempt);
        Some(later(container.started_at?, life.ready_in))
    }

    /// When the next container ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.iter().map(|(_, at, _)| *at).min()
    }

    /// When something happens by itself after `now`: a container ends or becomes ready.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let running = self.observed.containers.iter().filter(|c| c.state == State::Running);
        let ready = running.filter_map(|c| self.ready_at(c)).filter(|at| *at > now);
        self.next_end().into_iter().chain(ready).min()
    }

    /// A process dies by itself.
    pub fn die(&mut self, id: &str, exit_code: i64, now: Timestamp) {
        self.ends.push((id.to_owned(), now, exit_code));
    }

    /// The machine starts over: nothing runs any more.
    pub fn stop_everything(&mut self, now: Timestamp) {
        for container in self.observed.containers.iter_mut().chain(&mut self.observed.sandbox) {
            if container.state == State::Running {
                container.state = State::Exited;
                (container.exit_code, container.finished_at) = (137, Some(now));
            }
        }
        self.ends.clear();
    }

    /// Does what a worker would.
    pub fn carry_out(&mut self, step: &Step, memory: &mut Memory, now: Timestamp) {
        match step {
            Step::CreateSandbox => {
                let id = self.id("sandbox");
                let address = self.address.clone();
                self.observed.sandbox =
                    Some(Container { id, address, state: State::Running, ..Container::default() });
            }
            Step::Start(Start { container, attempt, crashes }) => {
                let id = self.id(container);
                let life = (self.plan)(container, *attempt);
                if let Some(seconds) = life.seconds {
                    self.ends.push((id.clone(), later(now, seconds), life.exit_code));
                }
                self.observed.containers.push(Container {
                    id,
                    name: container.clone(),
                    attempt: *attempt,
                    crashes: *crashes,
                    sandbox: self.observed.sandbox.as_ref().map(|s| s.id.clone()).unwrap_or_default(),
                    state: State::Running,
                    created_at: Some(now),
                    started_at: Some(now),
                    ..Container::default()
                });
                self.probe(memory, now);
            }
            Step::Stop { id, container, .. } => {
                memory.stopping.insert(
                    id.clone(),
                    Stopping { asked_at: now, to_restart: false, signalled_at: Some(now) },
                );
                let attempt = self.observed.containers.iter().find(|c| c.id == *id).map_or(0, |c| c.attempt);
                if let Some(seconds) = (self.plan)(container, attempt).stops_in {
                    self.ends.push((id.clone(), later(now, seconds), 143));
                }
            }
            Step::Resize { id, limits, .. } => {
                if let Some(container) = self.observed.containers.iter_mut().find(|c| c.id == *id) {
                    container.limits = *limits;
                }
            }
            Step::Kill { id } => self.ends.push((id.clone(), now, 137)),
            Step::Remove { id } => self.observed.containers.retain(|c| c.id != *id),
            Step::RemoveSandbox { .. } => self.observed.sandbox = None,
            Step::Finished => {}
        }
    }

    fn id(&mut self, name: &str) -> String {
        self.made += 1;
        format!("{name}-{}", self.made)
    }
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(seconds.seconds()).unwrap_or(at)
}
