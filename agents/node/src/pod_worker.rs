//! The executor: one worker a pod looks, decides and acts; many pods at once, one step of a pod at a time.
use crate::assigned::Assigned;
use crate::connection::Outbox;
use crate::environment::{self, Sources};
use crate::network::{self, Addresses, dns, rules};
use crate::pod_sync::{self, Failure, Health, Memory, Step};
use crate::runtime::docker::Docker;
use crate::runtime::{Container, ObservedPod, State, label};
use crate::{node_status, probes, volumes};
use anyhow::{Context, Result};
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use futures::StreamExt;
use parking_lot::Mutex;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::quantity::Quantity;
use pilothouse_protocol::{NodeMessage, ObjectChange};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

const NODES: &str = "nodes";
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
/// Behind the runtime's events: a lost one costs at most this.
const RELIST: Duration = Duration::from_secs(30);
/// Before a failed step is tried again; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Milliseconds until a step that did not show yet is taken again.
const STILL_AT_IT: i64 = 200;
/// Images pulled at the same time.
const PULLS: usize = 4;
const PULL_PAUSE_SECONDS: i64 = 10;
const LONGEST_PULL_PAUSE_SECONDS: i64 = 300;

/// Everything the workers share.
pub struct Agent {
    node: String,
    data_dir: PathBuf,
    pub runtime: Docker,
    outbox: Outbox,
    host_ip: String,
    assigned: Mutex<Assigned>,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
    /// None until the node's range is known.
    addresses: Mutex<Option<Addresses>>,
    network_changed: Notify,
    pulls: Semaphore,
}

struct Worker {
    uid: String,
    wake: Notify,
    /// The pod as it is assigned; None: not assigned any more.
    pod: Mutex<Option<Arc<Value>>>,
    memory: Mutex<Memory>,
    /// The last status told.
    status: Mutex<Value>,
}

impl Agent {
    pub fn new(node: String, data_dir: PathBuf, runtime: Docker, outbox: Outbox) -> Self {
        Self {
            node,
            data_dir,
            runtime,
            outbox,
            host_ip: node_status::host_address(),
            assigned: Mutex::default(),
            workers: Mutex::default(),
            addresses: Mutex::new(None),
            network_changed: Notify::new(),
            pulls: Semaphore::new(PULLS),
        }
    }

    /// Takes what the server says.
    pub fn assign(self: Arc<Self>, full: bool, changes: Vec<ObjectChange>) {
        let touched = self.assigned.lock().apply(full, changes);
        let mut mounts_changed = false;
        for (resource, namespace, name) in &touched {
            match &**resource {
                "pods" => self.assign_pod(namespace, name),
                NODES | SERVICES | SLICES => self.network_changed.notify_one(),
                _ => mounts_changed = true,
            }
        }
        if mounts_changed {
            self.workers.lock().values().for_each(|worker| worker.wake.notify_one());
        }
        if full {
            let agent = self.clone();
            tokio::spawn(async move {
                if let Err(error) = agent.adopt().await {
                    tracing::warn!(%error, "containers of an earlier run were not found");
                }
            });
        }
    }

    fn assign_pod(self: &Arc<Self>, namespace: &str, name: &str) {
        let pod = self.assigned.lock().get("pods", namespace, name);
        let uid = pod.as_ref().map(|p| p["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        // Another pod of that name, or none: what ran under it is not assigned any more.
        for worker in self.workers.lock().values() {
            let mut mine = worker.pod.lock();
            let same_name = mine
                .as_ref()
                .is_some_and(|p| p["metadata"]["name"] == name && p["metadata"]["namespace"] == namespace);
            if same_name && uid.as_deref() != Some(&worker.uid) {
                *mine = None;
                worker.wake.notify_one();
            }
        }
        if let (Some(pod), Some(uid)) = (pod, uid) {
            self.worker(&uid, Some(pod));
        }
    }

    /// Wakes the worker of a pod, which is made if there is none.
    fn worker(self: &Arc<Self>, uid: &str, pod: Option<Arc<Value>>) {
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get(uid) {
            if pod.is_some() {
                *worker.pod.lock() = pod;
            }
            worker.wake.notify_one();
            return;
        }
        let worker = Arc::new(Worker {
            uid: uid.to_owned(),
            wake: Notify::new(),
            status: Mutex::new(pod.as_ref().map(|p| p["status"].clone()).unwrap_or_default()),
            pod: Mutex::new(pod),
            memory: Mutex::default(),
        });
        workers.insert(uid.to_owned(), worker.clone());
        tokio::spawn(work(self.clone(), worker));
    }

    /// Containers of pods that are not assigned any more get a worker too, which removes them.
    async fn adopt(self: &Arc<Self>) -> Result<()> {
        for uid in self.runtime.pods(&self.node).await? {
            self.worker(&uid, None);
        }
        Ok(())
    }

    /// Wakes workers when their containers start or end.
    pub async fn follow_runtime(self: Arc<Self>) {
        let mut relist = tokio::time::interval(RELIST);
        // What happens while the stream is broken is told again by the next one.
        let mut since = Timestamp::now();
        loop {
            let mut events = std::pin::pin!(self.runtime.events(&self.node, since));
            loop {
                tokio::select! {
                    event = events.next() => match event {
                        Some(Ok(uid)) => if let Some(worker) = self.workers.lock().get(&uid) {
                            worker.wake.notify_one();
                        },
                        Some(Err(_)) | None => break,
                    },
                    _ = relist.tick() => self.workers.lock().values().for_each(|worker| worker.wake.notify_one()),
                }
                since = Timestamp::now();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Every pod's newest status goes to the server again.
    pub fn tell_everything(&self) {
        for worker in self.workers.lock().values() {
            if let (Some(pod), status) = (worker.pod.lock().clone(), worker.status.lock().clone())
                && !status.is_null()
            {
                self.tell_status(&pod, &worker.uid, status);
            }
        }
    }

    fn tell_status(&self, pod: &Value, uid: &str, status: Value) {
        let text = |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
        self.outbox.tell(
            uid,
            NodeMessage::PodStatus {
                namespace: text("namespace"),
                name: text("name"),
                uid: uid.into(),
                status,
            },
        );
    }

    fn event(&self, pod: &Value, container: Option<&str>, r#type: &str, reason: &str, message: String) {
        let meta = &pod["metadata"];
        let mut about = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        });
        if let Some(container) = container {
            about["fieldPath"] = format!("spec.containers{{{container}}}").into();
        }
        let event = json!({
            "involvedObject": about, "type": r#type, "reason": reason, "message": message,
            "source": {"component": "kubelet", "host": self.node}, "reportingComponent": "kubelet", "reportingInstance": self.node,
        });
        let namespace = meta["namespace"].as_str().unwrap_or_default().into();
        self.outbox.event(NodeMessage::Event { namespace, event });
    }

    /// Builds the network once the node has its range, then keeps service rules in step, and answers DNS.
    pub async fn serve_network(self: Arc<Self>) {
        let mut dns = None;
        let mut applied = String::new();
        loop {
            if let Err(error) = self.clone().refresh_network(&mut dns, &mut applied).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the network is not as it should be; trying again"
                );
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
            self.network_changed.notified().await;
            // Endpoints change in bursts: one transaction for all of a burst.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn refresh_network(
        self: Arc<Self>,
        dns: &mut Option<tokio::task::JoinHandle<()>>,
        applied: &mut String,
    ) -> Result<()> {
        let cidr = {
            let node = self.assigned.lock().get(NODES, "", &self.node);
            node.and_then(|n| n["spec"]["podCIDR"].as_str().map(str::to_owned)).unwrap_or_default()
        };
        if cidr.is_empty() {
            return Ok(());
        }
        if self.addresses.lock().is_none() {
            let held = self.runtime.addresses(&self.node).await?;
            let addresses = Addresses::new(&cidr, held)?;
            network::set_up(&cidr, addresses.gateway()).await?;
            *self.addresses.lock() = Some(addresses);
            self.workers.lock().values().for_each(|worker| worker.wake.notify_one());
        }
        if dns.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let agent = self.clone();
            let zone = move || {
                let assigned = agent.assigned.lock();
                dns::Zone { services: assigned.all(SERVICES), slices: assigned.all(SLICES) }
            };
            let serving = dns::serve(zone);
            *dns = Some(tokio::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the node's DNS ended");
                }
            }));
        }
        let script = {
            let assigned = self.assigned.lock();
            rules::render(&assigned.all(SERVICES), &assigned.all(SLICES))
        };
        if script != *applied {
            network::apply_rules(&script).await?;
            *applied = script;
        }
        Ok(())
    }

    fn with_sources<T>(&self, pod: &Value, observed: &ObservedPod, f: impl FnOnce(&Sources<'_>) -> T) -> T {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let find = |resource: &str, name: &str| self.assigned.lock().get(resource, namespace, name);
        let services = self.assigned.lock().all(SERVICES);
        let node = self.assigned.lock().get(NODES, "", &self.node).unwrap_or_default();
        let pod_ip = observed.sandbox.as_ref().map_or("", |s| s.address.as_str());
        let pod_ip = if pod["spec"]["hostNetwork"] == true { &self.host_ip } else { pod_ip };
        f(&Sources { find: &find, services: &services, pod_ip, host_ip: &self.host_ip, node: &node })
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}

/// One pod, until nothing is left of it.
async fn work(agent: Arc<Agent>, worker: Arc<Worker>) {
    let mut probing: HashMap<String, tokio::task::AbortHandle> = HashMap::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let (again_at, finished) = match turn(&agent, &worker, &mut probing).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(pod = %worker.uid, error = format!("{error:#}"), again_in = ?pause, "a pod's step failed");
                // Not cut short by a wake: whatever changes about the pod, the step would most likely fail again.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        if finished {
            probing.into_values().for_each(|probe| probe.abort());
            let _ = std::fs::remove_dir_all(agent.pod_dir(&worker.uid));
            if let Some(addresses) = agent.addresses.lock().as_mut() {
                addresses.give_back(&worker.uid);
            }
            agent.workers.lock().remove(&worker.uid);
            return;
        }
        let timer = async {
            match again_at {
                Some(at) => {
                    tokio::time::sleep(
                        Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default(),
                    )
                    .await
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

/// Looks, acts until there is nothing to do now, and tells the status. The time to look again, and whether this was the
/// last time.
async fn turn(
    agent: &Arc<Agent>,
    worker: &Arc<Worker>,
    probing: &mut HashMap<String, tokio::task::AbortHandle>,
) -> Result<(Option<Timestamp>, bool)> {
    let mut last_steps = Vec::new();
    loop {
        let mut observed = agent.runtime.observe(&worker.uid).await?;
        if let Some(sandbox) = observed.sandbox.as_mut().filter(|s| !network::is_connected(&s.address)) {
            sandbox.address.clear();
        }
        let pod = worker.pod.lock().clone();
        let Some(pod) = pod else {
            // Before the first full set nothing may be taken for unassigned.
            if !agent.assigned.lock().complete {
                return Ok((None, false));
            }
            for step in pod_sync::forget(&observed) {
                carry_out(agent, worker, &Value::Null, &observed, step).await?;
            }
            return Ok((None, true));
        };
        watch_health(agent, worker, &pod, &observed, probing);
        let memory = worker.memory.lock().clone();
        let decision = pod_sync::decide(&pod, &observed, &memory, Timestamp::now());
        if decision.steps.contains(&Step::Finished) {
            let text =
                |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
            let uid: Arc<str> = worker.uid.as_str().into();
            agent.outbox.tell(
                &worker.uid,
                NodeMessage::PodTerminated { namespace: text("namespace"), name: text("name"), uid },
            );
            return Ok((None, true));
        }
        tell(agent, worker, &pod, &observed, &memory);
        if decision.steps.is_empty() {
            refresh_volumes(agent, &pod, &observed);
            return Ok((decision.check_again_at, false));
        }
        let networked = pod["spec"]["hostNetwork"] != true;
        if networked && decision.steps.contains(&Step::CreateSandbox) && agent.addresses.lock().is_none() {
            return Ok((None, false)); // `refresh_network` wakes every pod once the node has its range
        }
        if decision.steps == last_steps {
            // A process takes its time to die.
            return Ok((Some(Timestamp::now() + STILL_AT_IT.milliseconds()), false));
        }
        last_steps.clone_from(&decision.steps);
        for step in decision.steps {
            carry_out(agent, worker, &pod, &observed, step).await?;
        }
    }
}

fn tell(agent: &Agent, worker: &Worker, pod: &Value, observed: &ObservedPod, memory: &Memory) {
    let mut last = worker.status.lock();
    let status = pod_sync::status(pod, observed, memory, &last, &agent.host_ip, Timestamp::now());
    if status != *last {
        *last = status.clone();
        agent.tell_status(pod, &worker.uid, status);
    }
}

/// Mounted objects follow the API's.
fn refresh_volumes(agent: &Agent, pod: &Value, observed: &ObservedPod) {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if observed.containers.is_empty() || pod_sync::is_deleting(pod) {
        return;
    }
    let refreshed =
        agent.with_sources(pod, observed, |sources| volumes::prepare(pod, &agent.pod_dir(uid), sources));
    if let Err(error) = refreshed {
        tracing::debug!(pod = uid, error = format!("{error:#}"), "mounted files could not be renewed");
    }
}

/// Starts the probes of containers that run, ends those of containers that are gone.
fn watch_health(
    agent: &Arc<Agent>,
    worker: &Arc<Worker>,
    pod: &Arc<Value>,
    observed: &ObservedPod,
    probing: &mut HashMap<String, tokio::task::AbortHandle>,
) {
    let running: HashMap<&str, &Container> = observed
        .containers
        .iter()
        .filter(|c| c.state == State::Running)
        .map(|c| (c.id.as_str(), c))
        .collect();
    probing.retain(|id, task| {
        let keep = running.contains_key(id.as_str());
        if !keep {
            task.abort();
        }
        keep
    });
    worker.memory.lock().health.retain(|id, _| running.contains_key(id.as_str()));
    for container in running.values() {
        if probing.contains_key(&container.id) {
            continue;
        }
        let lists = ["containers", "initContainers"]
            .into_iter()
            .flat_map(|f| pod["spec"][f].as_array().into_iter().flatten());
        let Some(spec) = lists.into_iter().find(|c| c["name"] == container.name.as_str()) else { continue };
        let health = Health {
            started: spec["startupProbe"].is_null(),
            ready: spec["readinessProbe"].is_null(),
            unhealthy: None,
        };
        worker.memory.lock().health.insert(container.id.clone(), health);
        let address = match pod["spec"]["hostNetwork"] == true {
            true => agent.host_ip.clone(),
            false => observed.sandbox.as_ref().map(|s| s.address.clone()).unwrap_or_default(),
        };
        let task = tokio::spawn(probe_container(
            agent.clone(),
            worker.clone(),
            pod.clone(),
            spec.clone(),
            (*container).clone(),
            address,
        ));
        probing.insert(container.id.clone(), task.abort_handle());
    }
}

async fn probe_container(
    agent: Arc<Agent>,
    worker: Arc<Worker>,
    pod: Arc<Value>,
    spec: Value,
    container: Container,
    address: String,
) {
    let startup = async {
        if spec["startupProbe"].is_object() {
            run_probe(&agent, &worker, &pod, &spec, &container, &address, "startupProbe").await;
        }
    };
    startup.await;
    tokio::join!(
        run_probe(&agent, &worker, &pod, &spec, &container, &address, "readinessProbe"),
        run_probe(&agent, &worker, &pod, &spec, &container, &address, "livenessProbe"),
    );
}

/// One kind of probe, again and again. The startup probe ends with its first success.
async fn run_probe(
    agent: &Agent,
    worker: &Worker,
    pod: &Value,
    spec: &Value,
    container: &Container,
    address: &str,
    kind: &str,
) {
    let probe = &spec[kind];
    if !probe.is_object() {
        return;
    }
    let (mut failures, mut successes) = (0, 0);
    tokio::time::sleep(probes::initial_delay(probe)).await;
    loop {
        let outcome = probes::probe(&agent.runtime, spec, &container.id, address, probe).await;
        match &outcome {
            Ok(()) => (failures, successes) = (0, successes + 1),
            Err(why) => {
                (failures, successes) = (failures + 1, 0);
                let word = match kind {
                    "readinessProbe" => "Readiness",
                    "livenessProbe" => "Liveness",
                    _ => "Startup",
                };
                agent.event(
                    pod,
                    Some(&container.name),
                    "Warning",
                    "Unhealthy",
                    format!("{word} probe failed: {why}"),
                );
            }
        }
        let good = successes >= probes::threshold(probe, "successThreshold", 1);
        let bad = failures >= probes::threshold(probe, "failureThreshold", 3);
        let changed = {
            let mut memory = worker.memory.lock();
            let Some(health) = memory.health.get_mut(&container.id) else { return };
            let before = health.clone();
            match kind {
                "startupProbe" if good => health.started = true,
                "readinessProbe" if good => health.ready = true,
                "readinessProbe" if bad => health.ready = false,
                _ if bad => {
                    health.unhealthy = Some(format!(
                        "Container {} failed {} probe, will be restarted",
                        container.name,
                        kind.trim_end_matches("Probe")
                    ));
                }
                _ => {}
            }
            *health != before
        };
        if changed {
            worker.wake.notify_one();
        }
        if kind == "startupProbe" && good {
            return;
        }
        tokio::time::sleep(probes::period(probe)).await;
    }
}

async fn carry_out(
    agent: &Arc<Agent>,
    worker: &Worker,
    pod: &Value,
    observed: &ObservedPod,
    step: Step,
) -> Result<()> {
    match step {
        Step::CreateSandbox => create_sandbox(agent, pod).await,
        Step::Start { container, attempt } => {
            if let Err(failure) = start(agent, pod, observed, &container, attempt).await {
                fail(agent, worker, pod, &container, failure);
            } else {
                worker.memory.lock().failures.remove(&container);
            }
            Ok(())
        }
        Step::Stop { id, container, why } => {
            let message =
                if why == "Stopping container" { format!("Stopping container {container}") } else { why };
            agent.event(pod, Some(&container), "Normal", "Killing", message);
            worker.memory.lock().stopping.insert(id.clone(), Timestamp::now());
            agent.runtime.signal(&id, "SIGTERM").await
        }
        Step::Kill { id } => agent.runtime.signal(&id, "SIGKILL").await,
        Step::Remove { id } => agent.runtime.remove(&id).await,
        Step::RemoveSandbox { id } => {
            agent.runtime.remove(&id).await?;
            if let Some(addresses) = agent.addresses.lock().as_mut() {
                addresses.give_back(&worker.uid);
            }
            Ok(())
        }
        Step::Finished => Ok(()),
    }
}

/// A container could not be made: it waits, longer each time, and says why.
struct StartFailure {
    reason: &'static str,
    message: String,
}

fn fail(agent: &Agent, worker: &Worker, pod: &Value, container: &str, failure: StartFailure) {
    let mut memory = worker.memory.lock();
    let tries = memory.failures.get(container).map_or(0, |f| f.tries) + 1;
    let pause = (PULL_PAUSE_SECONDS << (tries - 1).min(10)).min(LONGEST_PULL_PAUSE_SECONDS);
    let pull = failure.reason == "ErrImagePull";
    agent.event(pod, Some(container), "Warning", "Failed", failure.message.clone());
    if pull {
        agent.event(
            pod,
            Some(container),
            "Normal",
            "BackOff",
            format!("Back-off pulling image {}", image_of(pod, container)),
        );
    }
    // From the second failure on it is known to be waiting.
    let reason = if pull && tries > 1 { "ImagePullBackOff" } else { failure.reason };
    let pause = if pull { pause } else { pause.min(PULL_PAUSE_SECONDS) };
    let again_at = Timestamp::now().checked_add(pause.seconds()).unwrap_or(Timestamp::MAX);
    memory.failures.insert(
        container.to_owned(),
        Failure { reason: reason.into(), message: failure.message, tries, again_at },
    );
}

fn spec_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists
        .into_iter()
        .flat_map(|f| pod["spec"][f].as_array().into_iter().flatten())
        .find(|c| c["name"] == container)
}

fn image_of(pod: &Value, container: &str) -> String {
    format!("{:?}", spec_of(pod, container).and_then(|c| c["image"].as_str()).unwrap_or_default())
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

async fn create_sandbox(agent: &Arc<Agent>, pod: &Value) -> Result<()> {
    let host_network = pod["spec"]["hostNetwork"] == true;
    let mut all = labels(agent, pod, label::SANDBOX, 0);
    let mut given = None;
    if !host_network {
        let mut addresses = agent.addresses.lock();
        let addresses = addresses.as_mut().context("the node has no pod addresses yet")?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let address = addresses.take(uid).context("the node's pod addresses are used up")?;
        all.insert(label::ADDRESS.into(), address.to_string());
        given = Some((address, addresses.gateway()));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let hostname = match text(&pod["spec"]["hostname"]) {
        empty if empty.is_empty() => text(&pod["metadata"]["name"]),
        own => own,
    };
    let hostname: String = hostname.chars().take(63).collect();
    let name = container_name(pod, label::SANDBOX, 0);
    let made = agent.runtime.create_sandbox(&name, &hostname, all, host_network).await;
    // What is left of a failure is seen at the next look, and removed.
    let connected = match (made, given) {
        (Ok((_, pid)), Some((address, gateway))) => network::connect(pid, address, gateway).await,
        (made, _) => made.map(drop),
    };
    connected.context("the pod's sandbox could not be made")
}

async fn start(
    agent: &Arc<Agent>,
    pod: &Value,
    observed: &ObservedPod,
    container: &str,
    attempt: u32,
) -> Result<(), StartFailure> {
    let Some(spec) = spec_of(pod, container) else { return Ok(()) };
    ensure_image(agent, pod, spec, container).await?;
    let config_error = |message: String| StartFailure { reason: "CreateContainerConfigError", message };
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let sandbox = observed.sandbox.as_ref().ok_or_else(|| config_error("the sandbox is gone".into()))?;
    let (env, mounts) = agent
        .with_sources(pod, observed, |sources| {
            let env = environment::build(pod, spec, sources)?;
            let paths = volumes::prepare(pod, &agent.pod_dir(uid), sources).map_err(|e| format!("{e:#}"))?;
            Ok((env, mounts(spec, &paths)))
        })
        .map_err(config_error)?;
    let mounts =
        [mounts, own_files(agent, pod, sandbox).map_err(|e| config_error(format!("{e:#}")))?].concat();
    let body = container_body(agent, pod, spec, sandbox, env, mounts, attempt);
    let create_error = |error: anyhow::Error| StartFailure {
        reason: "CreateContainerError",
        message: format!("Error: {error:#}"),
    };
    let id =
        agent.runtime.create(&container_name(pod, container, attempt), body).await.map_err(create_error)?;
    agent.event(pod, Some(container), "Normal", "Created", format!("Container created: {container}"));
    let run_error = |error: anyhow::Error| StartFailure {
        reason: "RunContainerError",
        message: format!("Error: {error:#}"),
    };
    agent.runtime.start(&id).await.map_err(run_error)?;
    agent.event(pod, Some(container), "Normal", "Started", format!("Container started: {container}"));
    Ok(())
}

async fn ensure_image(
    agent: &Arc<Agent>,
    pod: &Value,
    spec: &Value,
    container: &str,
) -> Result<(), StartFailure> {
    let image = spec["image"].as_str().unwrap_or_default();
    let policy = spec["imagePullPolicy"].as_str().unwrap_or("IfNotPresent");
    let pull_error = |message: String| StartFailure { reason: "ErrImagePull", message };
    let present = agent.runtime.has_image(image).await.map_err(|e| pull_error(e.to_string()))?;
    match (policy, present) {
        ("IfNotPresent", true) | ("Never", true) => {
            agent.event(
                pod,
                Some(container),
                "Normal",
                "Pulled",
                format!("Container image {image:?} already present on machine"),
            );
            return Ok(());
        }
        ("Never", false) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            return Err(StartFailure { reason: "ErrImageNeverPull", message });
        }
        _ => {}
    }
    agent.event(pod, Some(container), "Normal", "Pulling", format!("Pulling image {image:?}"));
    let _turn = agent.pulls.acquire().await;
    let begun = std::time::Instant::now();
    match agent.runtime.pull(image).await {
        Ok(()) => {
            let message =
                format!("Successfully pulled image {image:?} in {:.3}s", begun.elapsed().as_secs_f64());
            agent.event(pod, Some(container), "Normal", "Pulled", message);
            Ok(())
        }
        Err(error) => Err(pull_error(format!("Failed to pull image {image:?}: {}", error.0))),
    }
}

fn mounts(spec: &Value, paths: &std::collections::BTreeMap<String, PathBuf>) -> Vec<Mount> {
    let wanted = spec["volumeMounts"].as_array().into_iter().flatten();
    wanted
        .filter_map(|mount| {
            let mut source = paths.get(mount["name"].as_str()?)?.clone();
            if let Some(sub) =
                mount["subPath"].as_str().filter(|s| !s.is_empty() && !s.split('/').any(|p| p == ".."))
            {
                source = source.join(sub);
                if !source.exists() {
                    std::fs::create_dir_all(&source).ok()?;
                }
            }
            Some(bind(source, mount["mountPath"].as_str()?, mount["readOnly"] == true))
        })
        .collect()
}

fn bind(source: PathBuf, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// The pod's own resolv.conf and hosts, the same in all its containers.
fn own_files(agent: &Agent, pod: &Value, sandbox: &Container) -> Result<Vec<Mount>> {
    let dir = agent.pod_dir(pod["metadata"]["uid"].as_str().unwrap_or_default()).join("etc");
    std::fs::create_dir_all(&dir)?;
    let resolv = dir.join("resolv.conf");
    std::fs::write(&resolv, dns::resolv_conf(pod))?;
    let mut mounts = vec![bind(resolv, "/etc/resolv.conf", false)];
    if pod["spec"]["hostNetwork"] != true {
        let name = pod["spec"]["hostname"].as_str().or(pod["metadata"]["name"].as_str()).unwrap_or_default();
        let mut text = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{name}\n",
            sandbox.address
        );
        for alias in pod["spec"]["hostAliases"].as_array().into_iter().flatten() {
            let names: Vec<&str> =
                alias["hostnames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            text.push_str(&format!("{}\t{}\n", alias["ip"].as_str().unwrap_or_default(), names.join("\t")));
        }
        let hosts = dir.join("hosts");
        std::fs::write(&hosts, text)?;
        mounts.push(bind(hosts, "/etc/hosts", false));
    }
    Ok(mounts)
}

fn strings(list: &Value) -> Option<Vec<String>> {
    list.as_array().map(|items| items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect())
}

fn container_body(
    agent: &Agent,
    pod: &Value,
    spec: &Value,
    sandbox: &Container,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
    attempt: u32,
) -> ContainerCreateBody {
    let name = spec["name"].as_str().unwrap_or_default();
    let known: std::collections::BTreeMap<String, String> = env.iter().cloned().collect();
    let expanded = |list: &Value| {
        strings(list).map(|words| words.iter().map(|w| environment::expand(w, &known)).collect::<Vec<_>>())
    };
    let security = &spec["securityContext"];
    let of = |field: &str| {
        if security[field].is_null() { &pod["spec"]["securityContext"][field] } else { &security[field] }
    };
    let user = of("runAsUser").as_i64().map(|user| match of("runAsGroup").as_i64() {
        Some(group) => format!("{user}:{group}"),
        None => user.to_string(),
    });
    let mut options = Vec::new();
    if security["allowPrivilegeEscalation"] == false {
        options.push("no-new-privileges".to_owned());
    }
    let amount = |section: &str, resource: &str| {
        let value = &spec["resources"][section][resource];
        let text =
            value.as_str().map(str::to_owned).or_else(|| value.as_number().map(ToString::to_string))?;
        Quantity::parse(&text)
    };
    let shared = |namespace: &str| Some(format!("{namespace}:{}", sandbox.id));
    let host_network = pod["spec"]["hostNetwork"] == true;
    ContainerCreateBody {
        image: spec["image"].as_str().map(str::to_owned),
        entrypoint: expanded(&spec["command"]).filter(|c| !c.is_empty()),
        cmd: expanded(&spec["args"]).filter(|c| !c.is_empty()),
        working_dir: spec["workingDir"].as_str().map(str::to_owned),
        env: Some(env.into_iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user,
        tty: Some(spec["tty"] == true),
        open_stdin: Some(spec["stdin"] == true),
        labels: Some(labels(agent, pod, name, attempt)),
        host_config: Some(HostConfig {
            network_mode: if host_network { Some("host".into()) } else { shared("container") },
            ipc_mode: shared("container"),
            pid_mode: match (pod["spec"]["hostPID"] == true, pod["spec"]["shareProcessNamespace"] == true) {
                (true, _) => Some("host".into()),
                (false, true) => shared("container"),
                _ => None,
            },
            mounts: Some(mounts),
            cpu_shares: amount("requests", "cpu").map(|q| (q.milli() * 1024 / 1000).max(2)),
            cpu_period: amount("limits", "cpu").map(|_| 100_000),
            cpu_quota: amount("limits", "cpu").map(|q| (q.milli() * 100).max(1000)),
            memory: amount("limits", "memory").map(Quantity::value),
            memory_swap: amount("limits", "memory").map(Quantity::value), // no swap on top
            privileged: Some(security["privileged"] == true),
            readonly_rootfs: Some(security["readOnlyRootFilesystem"] == true),
            cap_add: strings(&security["capabilities"]["add"]),
            cap_drop: strings(&security["capabilities"]["drop"]),
            security_opt: (!options.is_empty()).then_some(options),
            log_config: Some(bollard::models::HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([
                    ("max-size".into(), "10m".into()),
                    ("max-file".into(), "3".into()),
                ])),
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}
