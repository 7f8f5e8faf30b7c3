//! One pod's worker: looks, decides and acts, one step at a time, until nothing is left of the pod.
pub use crate::agent::Agent;

use crate::fault::{self, Point};
use crate::health;
use crate::pod_sync::{self, Decision, Failure, Memory, ResizeFailure, Step, Stopping, Verdict};
use crate::runtime::{Limits, ObservedPod, State};
use crate::{admission, containers, hooks, network, static_pods, termination, usage, volumes};
use anyhow::Result;
use parking_lot::Mutex;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_protocol::{NodeMessage, needs};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Before a failed step is tried again; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Milliseconds until a step that did not show yet is taken again.
const STILL_AT_IT: i64 = 200;
/// Seconds between two tries to make a container: ten, doubling for pulls, five minutes at most.
const FIRST_FAILURE_PAUSE: i64 = 10;
const LONGEST_FAILURE_PAUSE: i64 = 300;
/// Seconds between two tries to give a container limits that it did not take.
const RESIZE_PAUSE_SECONDS: i64 = 10;

/// The exit code of a process that SIGKILL ended.
const KILLED: i64 = 137;

pub struct Worker {
    pub uid: String,
    pub wake: Notify,
    /// The pod as it is assigned; None: not assigned any more.
    pub pod: watch::Sender<Option<Arc<Value>>>,
    pub memory: Mutex<Memory>,
    /// The last status told.
    pub status: Mutex<Value>,
    /// Brought by this machine itself.
    is_static: bool,
    /// Containers of which the kernel ended a process for want of memory. Docker forgets it where it hears of the end first.
    pub out_of_memory: Mutex<HashSet<String>>,
    /// Its containers that ran at the last look.
    pub running: Mutex<Vec<Running>>,
    /// Containers that were made with the sandbox and not started yet.
    pub made: Mutex<Vec<containers::Made>>,
}

/// Where a running container is measured.
#[derive(Clone, Debug)]
pub struct Running {
    pub name: String,
    pub pid: i64,
    /// The file of its log on this machine.
    pub log: String,
}

impl Worker {
    pub fn new(uid: &str, pod: Option<Arc<Value>>) -> Self {
        Self {
            uid: uid.to_owned(),
            is_static: pod.as_deref().is_some_and(static_pods::is_static),
            wake: Notify::new(),
            status: Mutex::new(pod.as_ref().map(|p| p["status"].clone()).unwrap_or_default()),
            pod: watch::Sender::new(pod),
            memory: Mutex::default(),
            out_of_memory: Mutex::default(),
            running: Mutex::default(),
            made: Mutex::default(),
        }
    }

    pub fn is_named(&self, namespace: &str, name: &str) -> bool {
        let pod = self.pod.borrow();
        pod.as_ref().is_some_and(|p| p["metadata"]["name"] == name && p["metadata"]["namespace"] == namespace)
    }

    /// Whether nothing about `new` is news: it differs from what is assigned in versions and in the worker's
    /// own status.
    pub fn knows(&self, new: &Value) -> bool {
        let metadata = |pod: &Value| {
            let mut metadata = pod["metadata"].clone();
            if let Some(fields) = metadata.as_object_mut() {
                fields.remove("resourceVersion");
                fields.remove("managedFields");
            }
            metadata
        };
        // Conditions that gate the pod's readiness are others' to set.
        let gates = |pod: &Value| -> Vec<Value> {
            let gates = pod["spec"]["readinessGates"].as_array().into_iter().flatten();
            let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            gates
                .flat_map(|gate| conditions.iter().filter(|c| c["type"] == gate["conditionType"]))
                .cloned()
                .collect()
        };
        let old = self.pod.borrow();
        old.as_ref().is_some_and(|old| {
            ["phase", "startTime"].iter().all(|field| old["status"][field] == new["status"][field])
                && old["spec"] == new["spec"]
                && gates(old) == gates(new)
                && metadata(old) == metadata(new)
        })
    }

    /// Whether the pod names an object. Of objects that its claims lead to, every pod with claims takes news.
    pub fn needs(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let pod = self.pod.borrow();
        pod.as_ref().is_some_and(|pod| {
            let mut named = needs::named_by(pod);
            let own = pod["metadata"]["namespace"] == namespace;
            let direct = own && named.any(|(r, n)| r == resource && n == name);
            direct || (needs::BEHIND_CLAIMS.contains(&resource) && needs::claims_of(pod).next().is_some())
        })
    }

    fn mark_out_of_memory(&self, observed: &mut ObservedPod) {
        let mut known = self.out_of_memory.lock();
        known.retain(|id| observed.containers.iter().any(|c| c.id == *id));
        for container in observed.containers.iter_mut().filter(|c| known.contains(&c.id)) {
            container.oom_killed |= container.exit_code == KILLED;
        }
    }

    fn note_running(&self, observed: &ObservedPod) {
        let running = observed.containers.iter().filter(|c| c.state == State::Running);
        *self.running.lock() =
            running.map(|c| Running { name: c.name.clone(), pid: c.pid, log: c.log.clone() }).collect();
    }

    /// Nothing of the pod is started any more, and nothing of it runs.
    pub fn is_over(&self) -> bool {
        matches!(self.status.lock()["phase"].as_str(), Some("Succeeded" | "Failed"))
            || self.pod.borrow().is_none()
    }

    /// The node ends the pod.
    pub fn condemn(&self, agent: &Agent, pod: &Value, verdict: Verdict) {
        agent.event(pod, None, "Warning", &verdict.reason, verdict.message.clone());
        self.memory.lock().verdict = Some(verdict);
        self.wake.notify_one();
    }

    /// A container could not be made: it waits, for a pull longer each time, and says why.
    pub fn failed(&self, agent: &Agent, pod: &Value, container: &str, failure: containers::StartFailure) {
        let mut memory = self.memory.lock();
        let tries = memory.failures.get(container).map_or(0, |f| f.tries) + 1;
        let longest =
            if failure.reason == "ErrImagePull" { LONGEST_FAILURE_PAUSE } else { FIRST_FAILURE_PAUSE };
        let pause = (FIRST_FAILURE_PAUSE << (tries - 1).min(10)).min(longest);
        if failure.reason == "ErrImagePull" {
            agent.event(pod, Some(container), "Warning", "Failed", failure.message.clone());
            agent.event(pod, Some(container), "Warning", "Failed", format!("Error: {}", failure.reason));
        } else {
            agent.event(pod, Some(container), "Warning", "Failed", format!("Error: {}", failure.message));
        }
        let failed_at = Timestamp::now();
        let again_at = failed_at.checked_add(pause.seconds()).unwrap_or(Timestamp::MAX);
        memory.failures.insert(
            container.to_owned(),
            Failure { reason: failure.reason.into(), message: failure.message, tries, failed_at, again_at },
        );
    }

    /// A container that was made and waits for its start.
    pub fn take_made(&self, is_it: impl Fn(&containers::Made) -> bool) -> Option<containers::Made> {
        let mut made = self.made.lock();
        let at = made.iter().position(is_it)?;
        Some(made.swap_remove(at))
    }

    /// Resolves when the pod is to end: what takes long is given up then.
    pub async fn is_to_end(&self) {
        let over = |pod: &Option<Arc<Value>>| pod.as_ref().is_none_or(|pod| pod_sync::is_deleting(pod));
        let _ = self.pod.subscribe().wait_for(over).await;
    }
}

/// What runs beside a pod's steps.
#[derive(Default)]
struct Beside {
    /// The probes of each running container, by its id.
    probes: HashMap<String, tokio::task::AbortHandle>,
    sizes: volumes::Sizes,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.probes.values().for_each(tokio::task::AbortHandle::abort);
    }
}

/// One pod, until nothing is left of it.
pub async fn work(agent: Arc<Agent>, worker: Arc<Worker>) {
    let mut beside = Beside::default();
    let mut pause = FIRST_PAUSE;
    let mut returned = agent.runtime_returned.subscribe();
    loop {
        returned.mark_unchanged();
        let again_at = match turn(&agent, &worker, &mut beside).await {
            Ok(Turn::Over) => {
                agent.forget(&worker.uid);
                return;
            }
            Ok(Turn::Until(again_at)) => again_at,
            Err(error) => {
                tracing::warn!(pod = %worker.uid, error = format!("{error:#}"), again_in = ?pause, "a pod's step failed");
                // Not cut short by a wake, as long as the pod is not to end: the step would most likely fail
                // again.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = returned.changed() => {}
                    () = worker.is_to_end(), if !is_ending(&worker) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let timer = async {
            match again_at {
                Some(at) => {
                    let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                    tokio::time::sleep(wait).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = worker.wake.notified() => {}
            () = timer => {}
        }
    }
}

fn is_ending(worker: &Worker) -> bool {
    worker.pod.borrow().as_ref().is_none_or(|pod| pod_sync::is_deleting(pod))
}

enum Turn {
    /// Nothing to do before then, unless woken.
    Until(Option<Timestamp>),
    Over,
}

/// Looks, acts until there is nothing to do now, and tells the status.
async fn turn(agent: &Arc<Agent>, worker: &Arc<Worker>, beside: &mut Beside) -> Result<Turn> {
    let mut last_steps = Vec::new();
    loop {
        let mut observed = agent.runtime.observe(&worker.uid).await?;
        if let Some(sandbox) = observed.sandbox.as_mut().filter(|s| !network::is_connected(&s.address)) {
            sandbox.address.clear();
        }
        worker.mark_out_of_memory(&mut observed);
        let pod = worker.pod.borrow().clone();
        let Some(assigned) = pod else {
            // Before the first full set nothing may be taken for unassigned, but what was never the server's.
            if !agent.assigned.lock().complete && !worker.is_static {
                return Ok(Turn::Until(None));
            }
            for step in pod_sync::forget(&observed) {
                carry_out(agent, worker, &Arc::default(), &observed, step).await?;
            }
            volumes::tear_down(&agent.pod_dir(&worker.uid), agent.host()).await?;
            return Ok(Turn::Over);
        };
        let pod = agent.promised(&worker.uid, &assigned);
        worker.note_running(&observed);
        admission::check(agent, worker, &pod, &observed);
        worker.memory.lock().resize = agent.promises.lock().pending(&worker.uid).cloned();
        health::watch(agent, worker, &pod, &observed, &mut beside.probes);
        termination::collect(agent, worker, &pod, &observed).await;
        let memory = worker.memory.lock().clone();
        let decision = pod_sync::decide(&pod, &observed, &memory, Timestamp::now());
        if decision.steps.contains(&Step::Finished) {
            // First: once the pod is gone, another node may take its volumes.
            volumes::tear_down(&agent.pod_dir(&worker.uid), agent.host()).await?;
            fault::pass(Point::FilesRemoved);
            let text =
                |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
            let (namespace, name) = (text("namespace"), text("name"));
            let uid: Arc<str> = worker.uid.as_str().into();
            agent.outbox.tell(&worker.uid, NodeMessage::PodTerminated { namespace, name, uid });
            fault::pass(Point::EndTold);
            return Ok(Turn::Over);
        }
        tell(agent, worker, &pod, &observed, &memory);
        let Decision { steps, mut check_again_at } = decision;
        if steps.is_empty() {
            let renew_at = follow_sources(agent, worker, &pod, &observed, &mut beside.sizes).await;
            check_again_at = check_again_at.into_iter().chain(renew_at).min();
            return Ok(Turn::Until(check_again_at));
        }
        let networked = pod["spec"]["hostNetwork"] != true;
        if networked && steps.contains(&Step::CreateSandbox) && !agent.network.is_up() {
            return Ok(Turn::Until(None)); // every pod is woken once the node has its range
        }
        if steps == last_steps {
            // A process takes its time to die.
            return Ok(Turn::Until(Some(Timestamp::now() + STILL_AT_IT.milliseconds())));
        }
        last_steps.clone_from(&steps);
        for step in steps {
            let begun = std::time::Instant::now();
            let what = step.clone();
            let done = carry_out(agent, worker, &pod, &observed, step).await;
            tracing::debug!(pod = %worker.uid, step = ?what, took = ?begun.elapsed(), "a pod's step");
            done?;
        }
    }
}

fn tell(agent: &Agent, worker: &Worker, pod: &Value, observed: &ObservedPod, memory: &Memory) {
    let mut last = worker.status.lock();
    let status = pod_sync::status(pod, observed, memory, &last, &agent.host_ip, Timestamp::now());
    if status == *last {
        return;
    }
    for container in newly_waiting(&last, &status, "CrashLoopBackOff") {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let message = format!(
            "Back-off restarting failed container {container} in pod {}_{}({})",
            text("name"),
            text("namespace"),
            text("uid")
        );
        agent.event(pod, Some(container), "Warning", "BackOff", message);
    }
    for container in newly_waiting(&last, &status, "ImagePullBackOff") {
        let image = pod_sync::spec_of(pod, container).and_then(|c| c["image"].as_str()).unwrap_or_default();
        agent.event(pod, Some(container), "Normal", "BackOff", format!("Back-off pulling image {image:?}"));
        agent.event(pod, Some(container), "Warning", "Failed", "Error: ImagePullBackOff".into());
    }
    *last = status.clone();
    agent.tell_status(pod, &worker.uid, status);
}

/// The containers that wait for a reason they did not wait for before.
fn newly_waiting<'a>(old: &Value, new: &'a Value, reason: &str) -> Vec<&'a str> {
    fn waiting<'a>(status: &'a Value, reason: &str) -> HashSet<&'a str> {
        let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
        let all = lists.into_iter().flat_map(|list| status[list].as_array().into_iter().flatten());
        all.filter(|c| c["state"]["waiting"]["reason"] == reason).filter_map(|c| c["name"].as_str()).collect()
    }
    let before = waiting(old, reason);
    waiting(new, reason).into_iter().filter(|name| !before.contains(name)).collect()
}

/// Mounted files follow the API's objects, tokens are renewed, and a volume that grew too large ends the pod.
/// When to come again.
async fn follow_sources(
    agent: &Arc<Agent>,
    worker: &Worker,
    pod: &Value,
    observed: &ObservedPod,
    sizes: &mut volumes::Sizes,
) -> Option<Timestamp> {
    let runs = observed.containers.iter().any(|c| c.state == State::Running);
    if !runs || pod_sync::is_deleting(pod) {
        return None;
    }
    let dir = agent.pod_dir(&worker.uid);
    let renew_at = match agent.ensure_tokens(pod).await {
        Ok(renew_at) => renew_at,
        Err(error) => {
            tracing::warn!(pod = %worker.uid, error, "a pod's token could not be renewed");
            None
        }
    };
    let sources = agent.sources(pod, observed);
    if let Err(failed) = volumes::prepare(pod, &dir, agent.host(), &sources).await {
        tracing::debug!(pod = %worker.uid, error = %failed, "mounted files could not be renewed");
    }
    if let Some(verdict) = sizes.exceeded(pod, &dir).await {
        worker.condemn(agent, pod, verdict);
    }
    renew_at
}

async fn carry_out(
    agent: &Arc<Agent>,
    worker: &Arc<Worker>,
    pod: &Arc<Value>,
    observed: &ObservedPod,
    step: Step,
) -> Result<()> {
    match step {
        Step::CreateSandbox => containers::create_sandbox(agent, worker, pod, observed).await,
        Step::Start(start) => {
            match containers::start(agent, worker, pod, observed, &start).await {
                Ok(()) => drop(worker.memory.lock().failures.remove(&start.container)),
                Err(failure) => worker.failed(agent, pod, &start.container, failure),
            }
            Ok(())
        }
        Step::Stop { id, container, why, grace_seconds } => {
            let stopping =
                Stopping { asked_at: Timestamp::now(), to_restart: !why.is_empty(), signalled_at: None };
            let message = if why.is_empty() { format!("Stopping container {container}") } else { why };
            agent.event(pod, Some(&container), "Normal", "Killing", message);
            worker.memory.lock().stopping.insert(id.clone(), stopping);
            let signal = observed.containers.iter().find(|c| c.id == id).map(|c| c.stop_signal.as_str());
            let signal = signal.filter(|s| !s.is_empty()).unwrap_or("SIGTERM").to_owned();
            let (agent, worker, pod) = (agent.clone(), worker.clone(), pod.clone());
            let address = agent.pod_ip(&pod, observed).to_owned();
            // Beside the steps: a hook takes its time, and the grace runs meanwhile.
            tokio::spawn(async move {
                let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
                hooks::pre_stop(&agent, &pod, &container, &id, &address, grace).await;
                if let Some(stopping) = worker.memory.lock().stopping.get_mut(&id) {
                    stopping.signalled_at = Some(Timestamp::now());
                }
                if let Err(error) = agent.runtime.signal(&id, &signal).await {
                    tracing::warn!(container = %id, %error, "a container could not be asked to end");
                }
                fault::pass(Point::ContainerSignalled);
                worker.wake.notify_one();
            });
            Ok(())
        }
        Step::Resize { id, container, limits } => {
            let outcome = resize(agent, observed, &id, &limits).await;
            note_resize(agent, worker, pod, &container, id, limits, outcome.err());
            Ok(())
        }
        Step::Kill { id } => agent.runtime.signal(&id, "SIGKILL").await,
        Step::Remove { id } => {
            agent.runtime.remove(&id).await?;
            fault::pass(Point::ContainerRemoved);
            let mut memory = worker.memory.lock();
            memory.last_words.remove(&id);
            memory.stopping.remove(&id);
            memory.resize_failures.remove(&id);
            Ok(())
        }
        Step::RemoveSandbox { id } => {
            agent.runtime.remove(&id).await?;
            fault::pass(Point::SandboxRemoved);
            agent.release_address(&worker.uid);
            // No container is left: what is mounted for them goes, though the pod may stay long.
            volumes::release(&agent.pod_dir(&worker.uid), agent.host()).await
        }
        Step::Finished => Ok(()),
    }
}

/// A limit below what a container uses would have the kernel end it.
async fn resize(agent: &Agent, observed: &ObservedPod, id: &str, limits: &Limits) -> Result<()> {
    let container = observed.containers.iter().find(|c| c.id == *id);
    let shrinks = container.is_some_and(|c| {
        limits.memory_bytes > 0 && (c.limits.memory_bytes == 0 || limits.memory_bytes < c.limits.memory_bytes)
    });
    if shrinks && let Some(used) = container.and_then(|c| usage::memory_bytes(c.pid)) {
        let wanted = limits.memory_bytes.unsigned_abs();
        anyhow::ensure!(
            used < wanted,
            "attempting to set container memory limit ({wanted}) below current usage ({used})"
        );
    }
    agent.runtime.limit(id, limits).await?;
    fault::pass(Point::ContainerResized);
    Ok(())
}

/// What did not work is tried again later; so is what shows no effect.
fn note_resize(
    agent: &Agent,
    worker: &Worker,
    pod: &Value,
    container: &str,
    id: String,
    limits: Limits,
    error: Option<anyhow::Error>,
) {
    let message = error.map(|error| format!("{error:#}")).unwrap_or_default();
    let again_at = Timestamp::now().checked_add(RESIZE_PAUSE_SECONDS.seconds()).unwrap_or(Timestamp::MAX);
    let failure = ResizeFailure { wanted: limits, message: message.clone(), again_at };
    let old = worker.memory.lock().resize_failures.insert(id, failure);
    let told = old.is_some_and(|old| old.wanted == limits && old.message == message);
    match (told, message.as_str()) {
        (true, _) => {}
        (false, "") => {
            let message = format!("Container {container} was given other resources");
            agent.event(pod, Some(container), "Normal", "ResizeCompleted", message);
        }
        (false, why) => {
            let message = format!("Container {container} could not be resized: {why}");
            agent.event(pod, Some(container), "Warning", "ResizeError", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_echo_of_its_own_status_is_no_news_to_a_worker() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1"},
            "spec": {"readinessGates": [{"conditionType": "lb"}]}, "status": {"phase": "Running"}});
        let worker = Worker::new("u", Some(Arc::new(pod.clone())));
        let with = |change: &dyn Fn(&mut Value)| {
            let mut new = pod.clone();
            change(&mut new);
            worker.knows(&new)
        };
        assert!(with(&|p| p["metadata"]["resourceVersion"] = "2".into()));
        assert!(with(&|p| p["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}])));
        assert!(!with(&|p| p["status"]["conditions"] = json!([{"type": "lb", "status": "True"}])));
        assert!(!with(&|p| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()));
        assert!(!with(&|p| p["spec"]["ephemeralContainers"] = json!([{"name": "debug"}])));
    }

    #[test]
    fn a_wait_is_an_event_when_it_begins() {
        let status = |reason: &str| json!({"containerStatuses": [{"name": "a", "state": {"waiting": {"reason": reason}}}]});
        let begun =
            |old: &str, new: &str| newly_waiting(&status(old), &status(new), "CrashLoopBackOff").len();
        assert_eq!(
            (begun("Error", "CrashLoopBackOff"), begun("CrashLoopBackOff", "CrashLoopBackOff")),
            (1, 0)
        );
    }
}
