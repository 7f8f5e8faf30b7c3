//! What to do about one pod: a pure function of what is assigned, what is observed, what probes say, and the
//! time.
mod status;
#[cfg(test)]
mod tests;

pub use status::{is_shown, status};

use crate::resize::{self, Pending};
use crate::runtime::{Container, Limits, ObservedPod, State};
use pilothouse_api::jiff::{Timestamp, ToSpan};
use serde_json::Value;
use std::collections::HashMap;

/// Back-off of a crashing container, in seconds: ten, doubling, five minutes at most.
const FIRST_PAUSE_SECONDS: i64 = 10;
const LONGEST_PAUSE_SECONDS: i64 = 300;
/// A container that ran this long is taken for healthy again.
const HEALTHY_AFTER_SECONDS: i64 = 600;
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// The reason of a pod that the node itself ended for want of resources.
pub const EVICTED: &str = "Evicted";
/// That of a pod that ends with its machine.
pub const TERMINATED: &str = "Terminated";
/// What a process has to end at least, once it was asked to.
const LEAST_GRACE_SECONDS: i64 = 2;
/// How long a failed pull is told as such, before it is told as a wait for the next one.
const PULL_ERROR_SHOWN_SECONDS: i64 = 2;
/// The sysctls that one pod cannot use against another (Kubernetes' list of safe ones).
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// What probes found out about one running container, by container id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The startup probe passed, or there is none.
    pub started: bool,
    pub ready: bool,
    /// The container must be ended, and why.
    pub unhealthy: Option<Unhealthy>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unhealthy {
    pub why: String,
    /// Seconds to end in, where the probe has its own.
    pub grace_seconds: Option<i64>,
}

/// What the agent remembers about a pod between two looks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub health: HashMap<String, Health>,
    /// Containers that could not be made: reason and message, and when to try again.
    pub failures: HashMap<String, Failure>,
    /// Which containers were asked to end.
    pub stopping: HashMap<String, Stopping>,
    /// The node ends the pod itself.
    pub verdict: Option<Verdict>,
    /// What ended containers left as their message, by container id.
    pub last_words: HashMap<String, String>,
    /// What the spec asks for and the node has not promised.
    pub resize: Option<Pending>,
    /// Limits that a container did not take, by its id.
    pub resize_failures: HashMap<String, ResizeFailure>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: String,
    pub message: String,
    pub tries: u32,
    pub failed_at: Timestamp,
    pub again_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResizeFailure {
    pub wanted: Limits,
    /// Empty: the runtime took them, and yet they are not in force.
    pub message: String,
    pub again_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopping {
    pub asked_at: Timestamp,
    /// The node ends it to start it anew, whatever it makes of its end.
    pub to_restart: bool,
    /// When it got its signal; None while its preStop hook runs.
    pub signalled_at: Option<Timestamp>,
}

/// Why a pod fails that nobody deleted: `Evicted`, `DeadlineExceeded` …
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
    /// Seconds to end in, where they are not the pod's own.
    pub grace_seconds: Option<i64>,
}

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub container: String,
    pub attempt: u32,
    pub crashes: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    CreateSandbox,
    Start(Start),
    /// Ask it to end within `grace_seconds`; `Kill` follows when they are over.
    Stop {
        id: String,
        container: String,
        why: String,
        grace_seconds: i64,
    },
    /// Give a running container other limits.
    Resize {
        id: String,
        container: String,
        limits: Limits,
    },
    Kill {
        id: String,
    },
    Remove {
        id: String,
    },
    /// All containers have ended and their results are kept in the status.
    RemoveSandbox {
        id: String,
    },
    /// Nothing is left of a pod that was to be deleted.
    Finished,
}

#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    pub steps: Vec<Step>,
    pub check_again_at: Option<Timestamp>,
}

impl Decision {
    fn check_again(&mut self, at: Timestamp) {
        self.check_again_at = Some(self.check_again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(seconds.seconds()).unwrap_or(at)
}

fn list<'a>(pod: &'a Value, field: &str) -> impl DoubleEndedIterator<Item = &'a Value> + use<'a> {
    pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// The spec of a container of any sort.
pub fn spec_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists.into_iter().flat_map(|field| list(pod, field)).find(|c| name(c) == container)
}

/// An init container that keeps running beside the others.
fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn restart_policy(pod: &Value) -> &str {
    pod["spec"]["restartPolicy"].as_str().unwrap_or("Always")
}

/// Seconds a pod has to end: what the deletion asked for, else its own.
pub fn grace_seconds(pod: &Value) -> i64 {
    let asked = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(DEFAULT_GRACE_SECONDS)
}

pub fn is_deleting(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// How a pod ends by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    Succeeded,
    Failed(Option<Verdict>),
}

/// Whether the pod has come to its end: nothing of it is started any more.
pub fn ending(pod: &Value, observed: &ObservedPod, memory: &Memory, now: Timestamp) -> Option<Ending> {
    match pod["status"]["phase"].as_str() {
        Some("Succeeded") => return Some(Ending::Succeeded),
        Some("Failed") => return Some(Ending::Failed(None)),
        _ => {}
    }
    let verdict = memory.verdict.clone().or_else(|| refusal(pod, observed));
    if let Some(verdict) = verdict.or_else(|| overdue(pod, now)) {
        return Some(Ending::Failed(Some(verdict)));
    }
    let policy = restart_policy(pod);
    let ended = |container: &Value| observed.latest(name(container)).filter(|c| c.state == State::Exited);
    if policy == "Never"
        && list(pod, "initContainers")
            .any(|c| !is_sidecar(c) && ended(c).is_some_and(|latest| latest.exit_code != 0))
    {
        return Some(Ending::Failed(None));
    }
    let stays_ended = |latest: &&Container| !restarts(policy, latest) && !restarted(policy, latest, memory);
    let mut mains = list(pod, "containers").map(|c| ended(c).filter(stays_ended));
    let mut succeeded = true;
    let over = policy != "Always"
        && mains.all(|main| {
            succeeded &= main.is_some_and(|latest| latest.exit_code == 0);
            main.is_some()
        });
    over.then_some(if succeeded { Ending::Succeeded } else { Ending::Failed(None) })
}

/// What this node does not run at all.
fn refusal(pod: &Value, observed: &ObservedPod) -> Option<Verdict> {
    if observed.sandbox.is_some() {
        return None;
    }
    let mut sysctls = pod["spec"]["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let unsafe_one = sysctls.find(|s| {
        let dotted = s["name"].as_str().unwrap_or_default().replace('/', ".");
        !SAFE_SYSCTLS.contains(&dotted.as_str())
    })?;
    Some(Verdict {
        reason: "SysctlForbidden".into(),
        message: format!("forbidden sysctl: {} not allowlisted", unsafe_one["name"]),
        grace_seconds: None,
    })
}

/// When the pod must have ended by its `activeDeadlineSeconds`.
fn deadline(pod: &Value) -> Option<Timestamp> {
    let started: Timestamp = pod["status"]["startTime"].as_str()?.parse().ok()?;
    Some(later(started, pod["spec"]["activeDeadlineSeconds"].as_i64()?))
}

fn overdue(pod: &Value, now: Timestamp) -> Option<Verdict> {
    deadline(pod).filter(|deadline| *deadline <= now).map(|_| Verdict {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
        grace_seconds: None,
    })
}

impl Verdict {
    /// The node takes its resources back, at once.
    pub fn evicted(message: String) -> Self {
        Self { reason: EVICTED.into(), message, grace_seconds: Some(0) }
    }
}

/// The next steps for an assigned pod.
pub fn decide(pod: &Value, observed: &ObservedPod, memory: &Memory, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if is_deleting(pod) || ending(pod, observed, memory, now).is_some() {
        wind_down(pod, observed, memory, now, &mut decision);
        return decision;
    }
    if let Some(at) = deadline(pod) {
        decision.check_again(at);
    }
    remove_old_attempts(observed, &mut decision);
    let Some(sandbox) = observed.sandbox.as_ref().filter(|s| s.state == State::Running) else {
        restart_sandbox(observed, &mut decision);
        return decision;
    };
    if sandbox.address.is_empty() && pod["spec"]["hostNetwork"] != true {
        restart_sandbox(observed, &mut decision);
        return decision;
    }
    end_unwanted(pod, observed, memory, now, &mut decision);
    for container in list(pod, "ephemeralContainers") {
        let target = container["targetContainerName"].as_str().filter(|target| !target.is_empty());
        let runs = |name: &str| observed.latest(name).is_some_and(|c| c.state == State::Running);
        if observed.latest(name(container)).is_none() && target.is_none_or(runs) {
            start(pod, container, observed, memory, now, &mut decision);
        }
    }
    for container in list(pod, "initContainers") {
        match init_state(container, observed, memory, &sandbox.id) {
            InitState::Done => {}
            InitState::Running => return decision,
            InitState::Start => {
                start(pod, container, observed, memory, now, &mut decision);
                // A sidecar that died comes back beside the others; they do not wait for it again.
                let mains_began = list(pod, "containers").any(|c| observed.latest(name(c)).is_some());
                if !(is_sidecar(container) && mains_began) {
                    return decision;
                }
            }
        }
    }
    for container in list(pod, "containers") {
        let running = observed.latest(name(container)).is_some_and(|c| c.state == State::Running);
        if !running {
            start(pod, container, observed, memory, now, &mut decision);
        }
    }
    decision
}

enum InitState {
    Done,
    Running,
    Start,
}

fn init_state(container: &Value, observed: &ObservedPod, memory: &Memory, sandbox: &str) -> InitState {
    let Some(latest) = observed.latest(name(container)) else { return InitState::Start };
    match latest.state {
        State::Running if is_sidecar(container) => {
            let started = memory.health.get(&latest.id).is_some_and(|h| h.started);
            if started { InitState::Done } else { InitState::Running }
        }
        State::Running => InitState::Running,
        State::Exited if is_sidecar(container) => InitState::Start,
        // With a new sandbox the pod starts over.
        State::Exited if latest.exit_code == 0 && is_of(latest, sandbox) => InitState::Done,
        State::Exited | State::Created => InitState::Start,
    }
}

/// Containers of older agents do not tell their sandbox.
fn is_of(container: &Container, sandbox: &str) -> bool {
    container.sandbox.is_empty() || container.sandbox == sandbox
}

/// A pod whose sandbox is gone starts over: its containers shared the sandbox's namespaces.
fn restart_sandbox(observed: &ObservedPod, decision: &mut Decision) {
    let mut alive = observed.containers.iter().filter(|c| c.state == State::Running).peekable();
    if alive.peek().is_some() {
        decision.steps.extend(alive.map(|c| Step::Kill { id: c.id.clone() }));
        return;
    }
    match &observed.sandbox {
        Some(dead) => decision.steps.push(Step::RemoveSandbox { id: dead.id.clone() }),
        None => decision.steps.push(Step::CreateSandbox),
    }
}

fn restarts(policy: &str, ended: &Container) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => ended.exit_code != 0,
        _ => true,
    }
}

/// Whether the node itself ended a container to start it anew.
fn restarted(policy: &str, ended: &Container, memory: &Memory) -> bool {
    policy != "Never" && memory.stopping.get(&ended.id).is_some_and(|stopping| stopping.to_restart)
}

/// Keeps the newest attempt and, for its logs and exit code, the one before.
fn remove_old_attempts(observed: &ObservedPod, decision: &mut Decision) {
    for container in &observed.containers {
        let newer = observed
            .containers
            .iter()
            .filter(|c| c.name == container.name && c.attempt > container.attempt)
            .count();
        if newer >= 2 && container.state != State::Running {
            decision.steps.push(Step::Remove { id: container.id.clone() });
        }
    }
}

/// Ends containers whose probes failed for good, and those that run another image than they should; gives the others the
/// limits they were promised.
fn end_unwanted(
    pod: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    now: Timestamp,
    decision: &mut Decision,
) {
    for container in observed.containers.iter().filter(|c| c.state == State::Running) {
        let unhealthy = memory.health.get(&container.id).and_then(|h| h.unhealthy.as_ref());
        if let Some(Unhealthy { why, grace_seconds: own }) = unhealthy {
            end(container, own.unwrap_or_else(|| grace_seconds(pod)), None, memory, now, why, decision);
            continue;
        }
        let wanted = resizable_spec(pod, container);
        if !container.image.is_empty() && wanted.is_some_and(|c| c["image"] != container.image.as_str()) {
            let why = format!("Container {} definition changed, will be restarted", container.name);
            end(container, grace_seconds(pod), None, memory, now, &why, decision);
            continue;
        }
        fit_limits(pod, container, memory, now, decision);
    }
}

/// What differs from what a running container was promised is changed, where it must by a restart.
fn fit_limits(pod: &Value, container: &Container, memory: &Memory, now: Timestamp, decision: &mut Decision) {
    let Some(spec) = resizable_spec(pod, container) else { return };
    let wanted = resize::limits_of(spec);
    let changes = resize::differing(&container.limits, &wanted);
    if changes.is_empty() {
        return;
    }
    if resize::needs_restart(spec, &changes) {
        let why = format!("Container {} resize requires restart", container.name);
        return end(container, grace_seconds(pod), None, memory, now, &why, decision);
    }
    match memory.resize_failures.get(&container.id).filter(|f| f.wanted == wanted && f.again_at > now) {
        Some(failure) => decision.check_again(failure.again_at),
        None => decision.steps.push(Step::Resize {
            id: container.id.clone(),
            container: container.name.clone(),
            limits: wanted,
        }),
    }
}

/// The spec of a container that can be resized.
fn resizable_spec<'a>(pod: &'a Value, container: &Container) -> Option<&'a Value> {
    let wanted = list(pod, "containers").chain(list(pod, "initContainers").filter(|c| is_sidecar(c)));
    wanted.into_iter().find(|c| name(c) == container.name)
}

/// Asks a running container to end, then makes it. Its grace begins with the asking, or with `begun`.
fn end(
    container: &Container,
    grace_seconds: i64,
    begun: Option<Timestamp>,
    memory: &Memory,
    now: Timestamp,
    why: &str,
    decision: &mut Decision,
) {
    let id = container.id.clone();
    if grace_seconds == 0 {
        return decision.steps.push(Step::Kill { id });
    }
    let until = |begun: Timestamp| later(begun, grace_seconds);
    match memory.stopping.get(&container.id) {
        None => {
            let left = until(begun.unwrap_or(now)).as_second() - now.as_second();
            decision.steps.push(Step::Stop {
                id,
                container: container.name.clone(),
                why: why.to_owned(),
                grace_seconds: left.max(LEAST_GRACE_SECONDS),
            });
        }
        Some(stopping) => {
            let until = until(begun.unwrap_or(stopping.asked_at));
            // The hook took from the grace; something is left for the process in any case.
            let signalled = stopping.signalled_at.unwrap_or(until.max(stopping.asked_at));
            let until = until.max(later(signalled, LEAST_GRACE_SECONDS));
            match until > now {
                true => decision.check_again(until),
                false => decision.steps.push(Step::Kill { id }),
            }
        }
    }
}

fn ran_seconds(ended: &Container) -> i64 {
    let finished = ended.finished_at.or(ended.created_at);
    ended.started_at.zip(finished).map_or(0, |(started, finished)| finished.as_second() - started.as_second())
}

/// Seconds that a container waits after its `crashes`th restart ended too. The first restart is immediate.
fn pause_seconds(crashes: u32) -> i64 {
    match crashes {
        0 => 0,
        n => (FIRST_PAUSE_SECONDS << (n - 1).min(10)).min(LONGEST_PAUSE_SECONDS),
    }
}

/// When a container that ended may run again; None: now.
fn back_off_until(ended: &Container) -> Option<Timestamp> {
    if ended.crashes == 0 || ran_seconds(ended) >= HEALTHY_AFTER_SECONDS {
        return None;
    }
    Some(later(ended.finished_at.or(ended.created_at)?, pause_seconds(ended.crashes)))
}

fn start(
    pod: &Value,
    container: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    now: Timestamp,
    decision: &mut Decision,
) {
    let container_name = name(container);
    if let Some(failure) = memory.failures.get(container_name).filter(|f| f.again_at > now) {
        decision.check_again(failure.again_at);
        let shown = later(failure.failed_at, PULL_ERROR_SHOWN_SECONDS);
        if failure.reason == "ErrImagePull" && shown > now {
            decision.check_again(shown);
        }
        return;
    }
    let (mut attempt, mut crashes) = (0, 0);
    if let Some(latest) = observed.latest(container_name) {
        (attempt, crashes) = (latest.attempt, latest.crashes);
        if latest.state == State::Exited {
            let policy = restart_policy(pod);
            let init = list(pod, "initContainers").any(|c| name(c) == container_name);
            let again = match (is_sidecar(container), init) {
                (true, _) => true,
                (false, true) => policy != "Never" || latest.exit_code == 0,
                (false, false) => restarts(policy, latest) || restarted(policy, latest, memory),
            };
            if !again {
                return;
            }
            if let Some(at) = back_off_until(latest).filter(|at| *at > now) {
                decision.check_again(at);
                return;
            }
            attempt += 1;
            crashes = if ran_seconds(latest) >= HEALTHY_AFTER_SECONDS { 1 } else { crashes + 1 };
        }
    }
    decision.steps.push(Step::Start(Start { container: container_name.to_owned(), attempt, crashes }));
}

/// Ends what runs, the sidecars last; a deleted pod also leaves nothing behind.
fn wind_down(pod: &Value, observed: &ObservedPod, memory: &Memory, now: Timestamp, decision: &mut Decision) {
    let running: Vec<_> = observed.containers.iter().filter(|c| c.state == State::Running).collect();
    if !running.is_empty() {
        let own = memory.verdict.as_ref().and_then(|verdict| verdict.grace_seconds);
        let grace = own.filter(|_| !is_deleting(pod)).unwrap_or_else(|| grace_seconds(pod));
        let (sidecars, others): (Vec<&Container>, Vec<&Container>) = running
            .into_iter()
            .partition(|c| list(pod, "initContainers").any(|spec| is_sidecar(spec) && name(spec) == c.name));
        for container in &others {
            end(container, grace, None, memory, now, "", decision);
        }
        let begun = memory.stopping.values().map(|s| s.asked_at).min().unwrap_or(now);
        let over = later(begun, grace) <= now;
        if others.is_empty() || over {
            // In the reverse of their order, one after the other while there is time.
            let order = list(pod, "initContainers").rev();
            let mut ordered = order.filter_map(|spec| sidecars.iter().find(|c| c.name == name(spec)));
            let first = ordered.next();
            let rest = if over { ordered.collect() } else { Vec::new() };
            for container in first.into_iter().chain(rest) {
                end(container, grace, Some(begun), memory, now, "", decision);
            }
        }
        return;
    }
    let remove = is_deleting(pod);
    if let Some(sandbox) = observed.sandbox.as_ref().filter(|s| remove || s.state == State::Running) {
        decision.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
    }
    if remove {
        decision.steps.extend(observed.containers.iter().map(|c| Step::Remove { id: c.id.clone() }));
        if decision.steps.is_empty() {
            decision.steps.push(Step::Finished);
        }
    }
}

/// A pod that is not assigned any more: whatever is left of it goes.
pub fn forget(observed: &ObservedPod) -> Vec<Step> {
    let containers = observed.containers.iter().map(|c| Step::Remove { id: c.id.clone() });
    containers.chain(observed.sandbox.iter().map(|s| Step::RemoveSandbox { id: s.id.clone() })).collect()
}
