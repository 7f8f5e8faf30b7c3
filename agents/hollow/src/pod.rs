//! One pod of a simulated node: the real decisions, carried out on a runtime that only takes its time.
use crate::behavior::Behavior;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_node::pod_sync::{self, Memory, Step};
use pilothouse_node::runtime::fake::FakePod;
use pilothouse_node::runtime::{ObservedPod, State};
use pilothouse_protocol::NodeMessage;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;

/// Milliseconds until a step that did not show yet is taken again, as in the real agent.
const STILL_AT_IT: i64 = 200;

/// When a pod wants to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    At(Timestamp),
    /// When something is said about it.
    Woken,
    /// Nothing is left of it.
    Over,
}

/// What one turn of a pod came to.
pub struct Turn {
    pub done: Option<Step>,
    pub next: Next,
}

pub struct Pod {
    pub uid: Arc<str>,
    /// None: not assigned, or not any more.
    assigned: Option<Arc<Value>>,
    memory: Memory,
    /// The last status told.
    status: Value,
    /// The server shows another.
    tells_again: bool,
    containers: FakePod,
    /// Decided on and not done yet; the first is under way.
    steps: VecDeque<Step>,
    busy_until: Option<Timestamp>,
    last_steps: Vec<Step>,
    /// When it is due, as its node has noted.
    pub(crate) due: Option<Timestamp>,
}

impl Pod {
    pub(crate) fn new(uid: &Arc<str>, pod: &Arc<Value>, behavior: &Behavior) -> Self {
        Self {
            uid: uid.clone(),
            assigned: None,
            memory: Memory::default(),
            status: Value::Null,
            tells_again: false,
            containers: FakePod::new("", behavior.lives(pod)),
            steps: VecDeque::new(),
            busy_until: None,
            last_steps: Vec::new(),
            due: None,
        }
    }

    pub(crate) fn assign(&mut self, pod: Option<Arc<Value>>) {
        if let Some(pod) = pod.as_ref().filter(|_| self.status.is_null()) {
            self.status = pod["status"].clone();
        }
        let shown = pod.as_ref().is_none_or(|pod| pod_sync::is_shown(&self.status, &pod["status"]));
        self.tells_again |= !shown;
        self.assigned = pod;
    }

    pub fn assigned(&self) -> Option<&Arc<Value>> {
        self.assigned.as_ref()
    }

    pub fn status(&self) -> &Value {
        &self.status
    }

    pub fn containers(&self) -> &ObservedPod {
        self.containers.seen()
    }

    pub(crate) fn wants_address(&self) -> bool {
        self.containers.seen().sandbox.is_none()
    }

    pub(crate) fn set_address(&mut self, address: &str) {
        self.containers.set_address(address);
    }

    pub(crate) fn is_named(&self, namespace: &str, name: &str) -> bool {
        self.assigned
            .as_ref()
            .is_some_and(|p| p["metadata"]["name"] == name && p["metadata"]["namespace"] == namespace)
    }

    /// The agent dies in the middle of what it does; the runtime finishes what it was asked for, where `is_done` says so.
    pub(crate) fn lose_agent(&mut self, is_done: bool, now: Timestamp) {
        let begun = self.steps.pop_front().filter(|_| is_done && self.busy_until.is_some());
        if let Some(step) = begun {
            self.containers.carry_out(&step, &mut self.memory, now);
        }
        (self.memory, self.status, self.assigned) = (Memory::default(), Value::Null, None);
        (self.busy_until, self.due) = (None, None);
        self.steps.clear();
        self.last_steps.clear();
    }

    pub(crate) fn stop_everything(&mut self, now: Timestamp) {
        self.containers.stop_everything(now);
    }

    /// A running container dies by itself. Its name; None: none runs.
    pub fn die(&mut self, exit_code: i64, now: Timestamp) -> Option<String> {
        let observed = self.containers.seen();
        let running = observed.containers.iter().find(|c| c.state == State::Running)?;
        let (id, name) = (running.id.clone(), running.name.clone());
        self.containers.die(&id, exit_code, now);
        Some(name)
    }

    /// Finishes the step under way if its time has come, begins the next one, or looks and decides.
    pub(crate) fn turn(
        &mut self,
        host_ip: &str,
        behavior: &Behavior,
        now: Timestamp,
        told: &mut Vec<NodeMessage>,
    ) -> Turn {
        let mut done = None;
        if let Some(until) = self.busy_until {
            if until > now {
                return Turn { done: None, next: Next::At(until) };
            }
            self.busy_until = None;
            done = self.steps.pop_front();
            if let Some(step) = &done {
                self.containers.carry_out(step, &mut self.memory, now);
            }
        }
        if !self.steps.is_empty() {
            let next = self.begin(behavior, now);
            return Turn { done, next };
        }
        Turn { done, next: self.look(host_ip, behavior, now, told) }
    }

    fn begin(&mut self, behavior: &Behavior, now: Timestamp) -> Next {
        let millis = self.steps.front().map_or(0, |step| behavior.millis(&self.uid, step));
        let until = later(now, millis);
        self.busy_until = Some(until);
        Next::At(until)
    }

    fn look(
        &mut self,
        host_ip: &str,
        behavior: &Behavior,
        now: Timestamp,
        told: &mut Vec<NodeMessage>,
    ) -> Next {
        let observed = self.containers.observe(now).clone();
        self.containers.probe(&mut self.memory, now);
        let Some(pod) = self.assigned.clone() else {
            self.steps = pod_sync::forget(&observed).into();
            return if self.steps.is_empty() { Next::Over } else { self.begin(behavior, now) };
        };
        let decision = pod_sync::decide(&pod, &observed, &self.memory, now);
        let text = |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
        let (namespace, name, uid) = (text("namespace"), text("name"), self.uid.clone());
        if decision.steps.contains(&Step::Finished) {
            told.push(NodeMessage::PodTerminated { namespace, name, uid });
            return Next::Over;
        }
        let status = pod_sync::status(&pod, &observed, &self.memory, &self.status, host_ip, now);
        if status != self.status || std::mem::take(&mut self.tells_again) {
            self.status = status.clone();
            told.push(NodeMessage::PodStatus { namespace, name, uid, status });
        }
        if decision.steps.is_empty() {
            self.last_steps.clear();
            let next = decision.check_again_at.into_iter().chain(self.containers.next_change(now)).min();
            return next.map_or(Next::Woken, Next::At);
        }
        if decision.steps == self.last_steps {
            self.last_steps.clear();
            return Next::At(later(now, STILL_AT_IT));
        }
        self.last_steps.clone_from(&decision.steps);
        self.steps = decision.steps.into();
        self.begin(behavior, now)
    }

    /// Its newest status, for a server that may have lost it.
    pub(crate) fn word(&self) -> Option<NodeMessage> {
        let pod = self.assigned.as_ref().filter(|_| !self.status.is_null())?;
        let text = |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
        let (namespace, name, uid) = (text("namespace"), text("name"), self.uid.clone());
        Some(NodeMessage::PodStatus { namespace, name, uid, status: self.status.clone() })
    }
}

fn later(at: Timestamp, millis: i64) -> Timestamp {
    at.checked_add(millis.milliseconds()).unwrap_or(at)
}
