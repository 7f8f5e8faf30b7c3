//! Makes a pod's sandbox and its containers.
mod body;
mod files;
mod images;

use crate::agent::Agent;
use crate::environment;
use crate::fault::{self, Point};
use crate::pod_sync::{self, Start, Step, Unhealthy, spec_of};
use crate::pod_worker::Worker;
use crate::resize::Allocation;
use crate::runtime::docker::Sandbox;
use crate::runtime::{Container, ObservedPod, State, label};
use crate::{hooks, network, termination, volumes};
use anyhow::{Context, Result, anyhow, ensure};
use pilothouse_api::jiff::Timestamp;
use pilothouse_protocol::needs;
use serde_json::Value;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Why a container could not be made.
pub struct StartFailure {
    /// As the API has it: `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: &'static str,
    pub message: String,
}

impl StartFailure {
    fn config(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.into() }
    }
}

fn labels(agent: &Agent, pod: &Value, container: &str, attempt: u32) -> HashMap<String, String> {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    HashMap::from([
        (label::POD_UID.into(), text("uid")),
        (label::POD_NAME.into(), text("name")),
        (label::POD_NAMESPACE.into(), text("namespace")),
        (label::CONTAINER.into(), container.into()),
        (label::NODE.into(), agent.node.clone()),
        (label::ATTEMPT.into(), attempt.to_string()),
    ])
}

fn container_name(pod: &Value, container: &str, attempt: u32) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    format!("k8s_{container}_{}_{}_{}_{attempt}", text("name"), text("namespace"), text("uid"))
}

/// Volumes first: a pod whose volumes are not there has no sandbox yet.
pub async fn create_sandbox(
    agent: &Arc<Agent>,
    worker: &Worker,
    pod: &Value,
    observed: &ObservedPod,
) -> Result<()> {
    if let Err(failed) = prepare_volumes(agent, pod, &ObservedPod::default()).await {
        agent.event(pod, None, "Warning", "FailedMount", failed.to_string());
        return Err(failed.into());
    }
    fault::pass(Point::VolumesPrepared);
    write_promise(agent, pod);
    fault::pass(Point::PromiseWritten);
    let _turn = tokio::select! {
        turn = agent.sandboxes.acquire() => turn,
        () = worker.is_to_end() => return Ok(()),
    };
    let outcome = sandbox(agent, worker, pod, observed).await;
    if let Err(error) = &outcome {
        let message = format!("Failed to create pod sandbox: {error:#}");
        agent.event(pod, None, "Warning", "FailedCreatePodSandBox", message);
    }
    outcome
}

/// What the pod gets, for the next agent: by then the spec may ask for something else.
fn write_promise(agent: &Agent, pod: &Value) {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if let Err(error) = Allocation::of(pod).save(&agent.pod_dir(uid)) {
        tracing::warn!(pod = uid, %error, "what a pod was promised could not be written down");
    }
}

/// The runtime that the pod's class names, as Docker knows it; None: its default.
fn runtime_of(agent: &Agent, pod: &Value) -> Result<Option<String>> {
    let Some(class) = needs::runtime_class_of(pod) else { return Ok(None) };
    let found = agent.assigned.lock().get(needs::RUNTIME_CLASSES, "", class);
    let found = found.with_context(|| format!("RuntimeClass {class:?} not found"))?;
    Ok(found["handler"].as_str().filter(|handler| !handler.is_empty()).map(str::to_owned))
}

/// Docker maps users for all of its containers or for none. A pod that is to be kept apart from the node's users does not run
/// where it would not be.
fn check_users(pod: &Value) -> Result<()> {
    ensure!(pod["spec"]["hostUsers"] != false, "the runtime does not support user namespaces");
    Ok(())
}

async fn sandbox(agent: &Arc<Agent>, worker: &Worker, pod: &Value, observed: &ObservedPod) -> Result<()> {
    check_users(pod)?;
    let runtime = runtime_of(agent, pod)?;
    let host_network = pod["spec"]["hostNetwork"] == true;
    let mut all = labels(agent, pod, label::SANDBOX, 0);
    let mut cable = None;
    let mut address = String::new();
    if !host_network {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let (own, gateway) =
            agent.take_address(uid).ok_or_else(|| anyhow!("the node has no pod addresses yet"))??;
        address = own.to_string();
        all.insert(label::ADDRESS.into(), address.clone());
        cable = Some((own, gateway));
    }
    let sysctls = pod["spec"]["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sandbox = Sandbox {
        name: container_name(pod, label::SANDBOX, 0),
        hostname: (!host_network).then(|| files::hostname(pod)),
        labels: all,
        host_network,
        host_ipc: pod["spec"]["hostIPC"] == true,
        runtime,
        sysctls: sysctls.map(|s| (text(&s["name"]).replace('/', "."), text(&s["value"]))).collect(),
    };
    // What is left of a failure is seen at the next look, and removed.
    let failed = "the pod's sandbox could not be made";
    let id = agent.runtime.create_sandbox(sandbox).await.context(failed)?;
    worker.made.lock().clear();
    // As it will be once the sandbox is up.
    let sandbox = Container { id, address, state: State::Running, ..Container::default() };
    let soon = ObservedPod { sandbox: Some(sandbox.clone()), containers: observed.containers.clone() };
    // Both to their ends: what the runtime was asked to make comes, whoever waits for it.
    let (is_up, ()) =
        tokio::join!(bring_up(agent, &sandbox.id, cable), make_first(agent, worker, pod, &soon));
    is_up.context(failed)
}

async fn bring_up(agent: &Agent, sandbox: &str, cable: Option<(Ipv4Addr, Ipv4Addr)>) -> Result<()> {
    let pid = agent.runtime.start_sandbox(sandbox).await?;
    if let Some((address, gateway)) = cable {
        network::connect(pid, address, gateway).await?;
        fault::pass(Point::SandboxConnected);
        agent.network.changed.notify_one(); // ports of the node may lead here
    }
    Ok(())
}

/// While a sandbox comes up, the containers are made that are started first in it. One whose image is yet to be pulled has
/// its turn later: the sandbox does not wait for it.
async fn make_first(agent: &Arc<Agent>, worker: &Worker, pod: &Value, soon: &ObservedPod) {
    let memory = worker.memory.lock().clone();
    for step in pod_sync::decide(pod, soon, &memory, Timestamp::now()).steps {
        let Step::Start(start) = step else { continue };
        let Some(spec) = spec_of(pod, &start.container) else { continue };
        if !images::is_ready(agent, spec).await {
            continue;
        }
        match make(agent, worker, pod, soon, &start).await {
            Ok(made) => worker.made.lock().extend(made),
            Err(failure) => worker.failed(agent, pod, &start.container, failure),
        }
    }
}

/// A container that was made and not started.
pub struct Made {
    id: String,
    container: String,
    attempt: u32,
    sandbox: String,
}

impl Made {
    /// Whether it is the one to start. What is left of an earlier agent, or of another sandbox, is made again.
    fn serves(&self, start: &Start, observed: &ObservedPod) -> bool {
        let is_there = || observed.containers.iter().any(|c| c.id == self.id && c.state == State::Created);
        self.container == start.container
            && self.attempt == start.attempt
            && observed.sandbox.as_ref().is_some_and(|sandbox| sandbox.id == self.sandbox)
            && is_there()
    }
}

async fn prepare_volumes(
    agent: &Arc<Agent>,
    pod: &Value,
    observed: &ObservedPod,
) -> Result<volumes::Paths, volumes::Failed> {
    agent.ensure_tokens(pod).await.map_err(|why| volumes::Failed::token(pod, why))?;
    let dir = agent.pod_dir(pod["metadata"]["uid"].as_str().unwrap_or_default());
    volumes::prepare(pod, &dir, agent.host(), &agent.sources(pod, observed)).await
}

/// Makes one attempt of a container; None where the pod is to end.
async fn make(
    agent: &Arc<Agent>,
    worker: &Worker,
    pod: &Value,
    observed: &ObservedPod,
    start: &Start,
) -> Result<Option<Made>, StartFailure> {
    let Start { container, attempt, crashes } = start;
    let Some(spec) = spec_of(pod, container) else { return Ok(None) };
    // Given up when the pod is to end. What is short is not: a container that comes after all would be
    // nobody's.
    let user = tokio::select! {
        user = images::ensure(agent, pod, spec) => user?,
        () = worker.is_to_end() => return Ok(None),
    };
    fault::pass(Point::ImagePresent);
    body::check_user(pod, spec, &user).map_err(StartFailure::config)?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let sandbox = observed.sandbox.as_ref().ok_or_else(|| StartFailure::config("the sandbox is gone"))?;
    let paths =
        prepare_volumes(agent, pod, observed).await.map_err(|e| StartFailure::config(e.to_string()))?;
    let env = environment::build(pod, spec, &agent.sources(pod, observed)).map_err(StartFailure::config)?;
    let config = |error: anyhow::Error| StartFailure::config(format!("{error:#}"));
    let mut mounts = volumes::mounts(spec, &paths, &env).map_err(config)?;
    let devices = volumes::devices(spec, &paths).map_err(config)?;
    mounts.extend(files::etc(&agent.pod_dir(uid), pod, spec, sandbox).map_err(config)?);
    let last_words = termination::file(&agent.pod_dir(uid), container, *attempt);
    termination::make_file(&last_words).map_err(|e| config(e.into()))?;
    let path = spec["terminationMessagePath"].as_str().filter(|path| !path.is_empty());
    mounts.push(volumes::bind(&last_words, path.unwrap_or(termination::DEFAULT_PATH), false));
    let mut all = labels(agent, pod, container, *attempt);
    all.insert(label::SANDBOX_ID.into(), sandbox.id.clone());
    all.insert(label::CRASHES.into(), crashes.to_string());
    let runtime = runtime_of(agent, pod).map_err(config)?;
    let made = body::Made {
        pod,
        spec,
        observed,
        sandbox,
        env,
        mounts,
        devices,
        labels: all,
        data_dir: &agent.data_dir,
        runtime,
    };
    let body = body::render(made).map_err(StartFailure::config)?;
    let id = agent.runtime.create(&container_name(pod, container, *attempt), body).await;
    let id = id.map_err(failure("CreateContainerError"))?;
    fault::pass(Point::ContainerCreated);
    agent.event(pod, Some(container), "Normal", "Created", format!("Container created: {container}"));
    Ok(Some(Made { id, container: container.clone(), attempt: *attempt, sandbox: sandbox.id.clone() }))
}

fn failure(reason: &'static str) -> impl Fn(anyhow::Error) -> StartFailure {
    move |error| StartFailure { reason, message: format!("{error:#}") }
}

/// Starts one attempt of a container, which is made if it was not.
pub async fn start(
    agent: &Arc<Agent>,
    worker: &Worker,
    pod: &Value,
    observed: &ObservedPod,
    start: &Start,
) -> Result<(), StartFailure> {
    let container = start.container.as_str();
    let Some(spec) = spec_of(pod, container) else { return Ok(()) };
    let made = worker.take_made(|made| made.serves(start, observed));
    let made = match made {
        Some(made) => Some(made),
        None => make(agent, worker, pod, observed, start).await?,
    };
    let Some(Made { id, .. }) = made else { return Ok(()) };
    agent.runtime.start(&id).await.map_err(failure("RunContainerError"))?;
    fault::pass(Point::ContainerStarted);
    agent.event(pod, Some(container), "Normal", "Started", format!("Container started: {container}"));
    let address = agent.pod_ip(pod, observed);
    let hook = tokio::select! {
        outcome = hooks::post_start(agent, pod, spec, &id, address) => outcome,
        () = worker.is_to_end() => return Ok(()),
    };
    if hook.is_err() {
        let why = format!("FailedPostStartHook: container {container} is ended");
        let mut memory = worker.memory.lock();
        memory.health.entry(id).or_default().unhealthy = Some(Unhealthy { why, grace_seconds: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_made_beforehand_serves_its_own_attempt_in_its_own_sandbox() {
        let container = |id: &str, state| Container { id: id.into(), state, ..Container::default() };
        let observed = |state| ObservedPod {
            sandbox: Some(container("box", State::Running)),
            containers: vec![container("c1", state)],
        };
        let made = Made { id: "c1".into(), container: "main".into(), attempt: 0, sandbox: "box".into() };
        let start = |attempt| Start { container: "main".into(), attempt, crashes: 0 };
        assert!(made.serves(&start(0), &observed(State::Created)));
        assert!(!made.serves(&start(1), &observed(State::Created)));
        assert!(!made.serves(&start(0), &observed(State::Exited)), "it was started");
        assert!(!made.serves(&start(0), &ObservedPod::default()), "it is gone");
        let of_another = Made { sandbox: "old".into(), ..made };
        assert!(!of_another.serves(&start(0), &observed(State::Created)));
    }

    #[test]
    fn a_pod_with_users_of_its_own_is_not_run_with_the_nodes() {
        let check = |spec: Value| check_users(&json!({"spec": spec})).map_err(|e| e.to_string());
        assert_eq!(check(json!({})), Ok(()));
        assert_eq!(check(json!({"hostUsers": true})), Ok(()));
        let why = "the runtime does not support user namespaces";
        assert_eq!(check(json!({"hostUsers": false})), Err(why.to_owned()));
    }
}
