//! Docker Engine (20.10 and newer) and Podman's Docker-compatible socket.
use super::{Container, Limits, ObservedPod, State, label, pause};
use crate::fault::{self, Point};
use crate::image_disposal::Image;
use crate::resize::PERIOD_MICROSECONDS;
use crate::usage::Reading;
use anyhow::{Context, Result, bail};
use bollard::API_DEFAULT_VERSION;
use bollard::auth::DockerCredentials;
use bollard::exec::{CreateExecOptions, StartExecResults};
pub use bollard::models::SystemInfo;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummaryStateEnum,
    ContainerUpdateBody, HostConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, StatsOptionsBuilder,
};
use futures::{Stream, StreamExt, TryStreamExt};
use pilothouse_api::jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const PAUSE_IMAGE: &str = "pilothouse/pause:1";
/// For calls that answer at once; streams have no timeout.
const TIMEOUT_SECONDS: u64 = 120;
/// A pull that makes no progress for so long has failed.
const PULL_SILENCE: Duration = Duration::from_secs(60);
/// For questions that need no work.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The runtime walks through all files of a container to say how much they are.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(60);

/// What Docker answered, without the client library's frame around it.
fn said(error: bollard::errors::Error) -> anyhow::Error {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => {
            anyhow::anyhow!("Error response from daemon: {message}")
        }
        other => other.into(),
    }
}

#[derive(Clone)]
pub struct Docker {
    pub client: bollard::Docker,
}

/// What is particular about one pod's sandbox.
pub struct Sandbox {
    pub name: String,
    /// None: the node's.
    pub hostname: Option<String>,
    pub labels: HashMap<String, String>,
    pub host_network: bool,
    pub host_ipc: bool,
    /// None: Docker's default.
    pub runtime: Option<String>,
    pub sysctls: HashMap<String, String>,
}

/// A container of a pod that runs now.
#[derive(Clone, Debug)]
pub struct Running {
    pub id: String,
    /// The pod's UID.
    pub pod: String,
    pub name: String,
}

/// A container of one of this node's pods, running or ended.
#[derive(Clone, Debug)]
pub struct Left {
    pub id: String,
    /// The pod's UID.
    pub pod: String,
    pub name: String,
    pub attempt: u32,
    pub running: bool,
    /// What it wrote to its own file system.
    pub bytes: u64,
}

/// A command in a container. The runtime has no call that ends one, and one that nobody waits for any more would stay beside
/// the next: it is killed.
struct Unfinished {
    client: Option<bollard::Docker>,
    exec: String,
}

impl Unfinished {
    fn has_ended(mut self) {
        self.client = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (Some(client), exec) = (self.client.take(), std::mem::take(&mut self.exec)) else { return };
        tokio::spawn(async move {
            let inspected = tokio::time::timeout(ANSWER_TIMEOUT, client.inspect_exec(&exec)).await;
            let Ok(Ok(inspected)) = inspected else { return };
            let pid = inspected.pid.filter(|_| inspected.running == Some(true));
            if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
    }
}

/// A container has started or ended, or the kernel ended one of its processes for want of memory.
#[derive(Clone, Debug)]
pub struct Event {
    /// The pod's UID.
    pub pod: String,
    pub container: String,
    pub out_of_memory: bool,
}

/// Why an image is not there.
#[derive(Debug)]
pub struct PullError(pub String);

impl Docker {
    /// Connects and agrees on the newest version both sides speak.
    pub async fn connect(host: &str) -> Result<Self> {
        let advice = "is Docker running, and does --docker-host name its socket?";
        let client = match host.strip_prefix("unix://") {
            Some(path) => bollard::Docker::connect_with_unix(path, TIMEOUT_SECONDS, API_DEFAULT_VERSION),
            None => bollard::Docker::connect_with_host(host),
        };
        let client = client.with_context(|| format!("no container runtime at {host}: {advice}"))?;
        let client = client
            .negotiate_version()
            .await
            .with_context(|| format!("no container runtime at {host}: {advice}"))?;
        Ok(Self { client })
    }

    pub async fn ensure_pause_image(&self) -> Result<()> {
        if self.client.inspect_image(PAUSE_IMAGE).await.is_ok() {
            return Ok(());
        }
        let (repo, tag) = PAUSE_IMAGE.split_once(':').unwrap_or((PAUSE_IMAGE, "latest"));
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag).build();
        let body = bollard::body_full(pause::image()?.into());
        self.client.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await?;
        Ok(())
    }

    /// The user that an image runs as, where the image is here.
    pub async fn image_user(&self, image: &str) -> Result<Option<String>> {
        match self.client.inspect_image(image).await {
            Ok(found) => Ok(Some(found.config.and_then(|config| config.user).unwrap_or_default())),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn pull(&self, image: &str, credentials: Option<DockerCredentials>) -> Result<(), PullError> {
        // Without a tag Docker would pull every tag there is.
        let name = image.rsplit('/').next().unwrap_or(image);
        let full = if name.contains(':') || name.contains('@') {
            image.to_owned()
        } else {
            format!("{image}:latest")
        };
        let options = CreateImageOptionsBuilder::default().from_image(&full).build();
        let mut progress = std::pin::pin!(self.client.create_image(Some(options), None, credentials));
        loop {
            let step = tokio::time::timeout(PULL_SILENCE, progress.next()).await;
            let step =
                step.map_err(|_| PullError(format!("no progress for {} s", PULL_SILENCE.as_secs())))?;
            let Some(step) = step else { return Ok(()) };
            let step = step.map_err(|error| PullError(said(error).to_string()))?;
            if let Some(detail) = step.error_detail {
                return Err(PullError(detail.message.unwrap_or_default()));
            }
        }
    }

    /// Every image that has a name.
    pub async fn images(&self) -> Result<Vec<Image>> {
        let options = ListImagesOptionsBuilder::default().build();
        let listed = tokio::time::timeout(ANSWER_TIMEOUT, self.client.list_images(Some(options))).await??;
        let named = listed.into_iter().map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags);
            let names = names.filter(|name| !name.contains("<none>")).collect();
            Image { id: image.id, names, bytes: u64::try_from(image.size).unwrap_or(0) }
        });
        Ok(named.filter(|image| !image.names.is_empty()).collect())
    }

    /// The ids of the images that any container has, of whomever.
    pub async fn images_in_use(&self) -> Result<HashSet<String>> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed =
            tokio::time::timeout(ANSWER_TIMEOUT, self.client.list_containers(Some(options))).await??;
        Ok(listed.into_iter().filter_map(|container| container.image_id).collect())
    }

    /// Takes an image its names, and with the last one the image goes. Refused for one that a container has.
    pub async fn remove_image(&self, image: &Image) -> Result<()> {
        let options = RemoveImageOptionsBuilder::default().force(false).build();
        for name in image.names.iter().rev() {
            match self.client.remove_image(name, Some(options.clone()), None).await {
                // A digest goes with the last tag of its repository.
                Ok(_) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {}
                Err(error) => return Err(said(error)),
            }
        }
        Ok(())
    }

    /// Bytes that a pod's containers wrote to their own file systems, by container name.
    pub async fn layers(&self, uid: &str) -> Result<Vec<(String, u64)>> {
        let filters = HashMap::from([("label", vec![format!("{}={uid}", label::POD_UID)])]);
        let options = ListContainersOptionsBuilder::default().filters(&filters).size(true).build();
        let asked = self.client.list_containers(Some(options));
        let listed = tokio::time::timeout(MEASURE_TIMEOUT, asked).await??;
        let sizes = listed.into_iter().filter_map(|container| {
            let name = container.labels?.remove(label::CONTAINER)?;
            Some((name, u64::try_from(container.size_rw.unwrap_or(0)).unwrap_or(0)))
        });
        Ok(sizes.filter(|(name, _)| name != label::SANDBOX).collect())
    }

    /// Every container of this node's pods, with what it occupies.
    pub async fn left(&self, node: &str) -> Result<Vec<Left>> {
        let filters = HashMap::from([("label", vec![format!("{}={node}", label::NODE)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).size(true).build();
        let asked = self.client.list_containers(Some(options));
        let listed = tokio::time::timeout(MEASURE_TIMEOUT, asked).await??;
        let left = listed.into_iter().filter_map(|container| {
            let mut labels = container.labels?;
            Some(Left {
                id: container.id?,
                pod: labels.remove(label::POD_UID)?,
                name: labels.remove(label::CONTAINER)?,
                attempt: labels.get(label::ATTEMPT)?.parse().ok()?,
                running: container.state.is_some_and(|state| state == ContainerSummaryStateEnum::RUNNING),
                bytes: u64::try_from(container.size_rw.unwrap_or(0)).unwrap_or(0),
            })
        });
        Ok(left.filter(|container| container.name != label::SANDBOX).collect())
    }

    /// Whether it is there at all.
    pub async fn answers(&self) -> bool {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.client.ping()).await;
        asked.is_ok_and(|answer| answer.is_ok())
    }

    pub async fn info(&self) -> Result<SystemInfo> {
        Ok(tokio::time::timeout(ANSWER_TIMEOUT, self.client.info()).await??)
    }

    /// Runs a command in a container: its exit code and the first `limit` bytes that it printed.
    pub async fn exec(&self, id: &str, command: &[String], limit: usize) -> Result<(i64, Vec<u8>)> {
        let options = CreateExecOptions {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = self.client.create_exec(id, options).await?.id;
        let unfinished = Unfinished { client: Some(self.client.clone()), exec: exec.clone() };
        let mut said = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = self.client.start_exec(&exec, None).await? {
            while let Some(part) = output.next().await {
                let part = part?.into_bytes();
                said.extend_from_slice(&part[..part.len().min(limit - said.len())]);
            }
        }
        let code = self.client.inspect_exec(&exec).await?.exit_code.unwrap_or(-1);
        unfinished.has_ended();
        Ok((code, said))
    }

    /// The last lines that a container printed.
    pub async fn log_tail(&self, id: &str, lines: u32) -> Result<Vec<u8>> {
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let parts = self.client.logs(id, Some(options)).try_collect::<Vec<_>>();
        let parts = tokio::time::timeout(ANSWER_TIMEOUT, parts).await??;
        Ok(parts.into_iter().flat_map(bollard::container::LogOutput::into_bytes).collect())
    }

    /// Every pod that has containers of this node here, by UID.
    pub async fn pods(&self, node: &str) -> Result<Vec<String>> {
        let filters = HashMap::from([("label", vec![format!("{}={node}", label::NODE)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.client.list_containers(Some(options)).await?;
        let mut uids: Vec<String> =
            listed.into_iter().filter_map(|c| c.labels?.get(label::POD_UID).cloned()).collect();
        uids.sort();
        uids.dedup();
        Ok(uids)
    }

    /// The running containers of this node's pods, without their sandboxes.
    pub async fn running(&self, node: &str) -> Result<Vec<Running>> {
        let filters = HashMap::from([
            ("label", vec![format!("{}={node}", label::NODE)]),
            ("status", vec!["running".to_owned()]),
        ]);
        let options = ListContainersOptionsBuilder::default().filters(&filters).build();
        let listed =
            tokio::time::timeout(ANSWER_TIMEOUT, self.client.list_containers(Some(options))).await??;
        let running = listed.into_iter().filter_map(|summary| {
            let mut labels = summary.labels?;
            let (pod, name) = (labels.remove(label::POD_UID)?, labels.remove(label::CONTAINER)?);
            Some(Running { id: summary.id?, pod, name })
        });
        Ok(running.filter(|container| container.name != label::SANDBOX).collect())
    }

    /// The first process of a container that runs.
    pub async fn process(&self, id: &str) -> Result<i64> {
        let asked = self.client.inspect_container(id, None);
        let inspected = tokio::time::timeout(ANSWER_TIMEOUT, asked).await??;
        inspected.state.and_then(|state| state.pid).filter(|pid| *pid > 0).context("it does not run")
    }

    /// What a container used and uses, as the runtime counts.
    pub async fn reading(&self, id: &str) -> Result<Reading> {
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let mut stats = std::pin::pin!(self.client.stats(id, Some(options)));
        let stats = tokio::time::timeout(ANSWER_TIMEOUT, stats.next()).await?.context("no answer")??;
        let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage).context("no CPU usage")?;
        let memory = stats.memory_stats.unwrap_or_default();
        let details = memory.stats.unwrap_or_default();
        let idle_files = details.get("total_inactive_file").or_else(|| details.get("inactive_file"));
        let used = memory.usage.unwrap_or(0).saturating_sub(idle_files.copied().unwrap_or(0));
        Ok(Reading { cpu_nanoseconds: cpu, memory_bytes: used })
    }

    /// The addresses that sandboxes of this node hold, with their pods' UIDs.
    pub async fn addresses(&self, node: &str) -> Result<Vec<(String, String)>> {
        let filters =
            HashMap::from([("label", vec![format!("{}={node}", label::NODE), label::ADDRESS.to_owned()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.client.list_containers(Some(options)).await?;
        let labels = listed.into_iter().filter_map(|c| c.labels);
        Ok(labels
            .filter_map(|l| Some((l.get(label::ADDRESS)?.clone(), l.get(label::POD_UID)?.clone())))
            .collect())
    }

    pub async fn observe(&self, uid: &str) -> Result<ObservedPod> {
        let filters = HashMap::from([("label", vec![format!("{}={uid}", label::POD_UID)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.client.list_containers(Some(options)).await?;
        let mut pod = ObservedPod::default();
        for summary in listed {
            let Some(id) = summary.id else { continue };
            let inspected = match self.client.inspect_container(&id, None).await {
                Ok(inspected) => inspected,
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let container = container(inspected);
            match container.name.as_str() {
                label::SANDBOX => pod.sandbox = Some(container),
                _ => pod.containers.push(container),
            }
        }
        pod.containers.sort_by_key(|c| c.attempt);
        Ok(pod)
    }

    /// Makes the container whose namespaces a pod's containers share; its id.
    pub async fn create_sandbox(&self, sandbox: Sandbox) -> Result<String> {
        let body = ContainerCreateBody {
            image: Some(PAUSE_IMAGE.into()),
            cmd: Some(vec!["/pause".into()]),
            hostname: sandbox.hostname,
            labels: Some(sandbox.labels),
            // An empty network namespace is made with the process. In the network `none` alone Docker makes one of its own
            // first and joins the process to it by a hook, which takes longer than all the rest of a start.
            network_disabled: Some(!sandbox.host_network),
            host_config: Some(HostConfig {
                network_mode: Some(if sandbox.host_network { "host" } else { "none" }.into()),
                runtime: sandbox.runtime,
                ipc_mode: Some(if sandbox.host_ipc { "host" } else { "shareable" }.into()),
                sysctls: (!sandbox.sysctls.is_empty()).then_some(sandbox.sysctls),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let id = self.create(&sandbox.name, body).await?;
        fault::pass(Point::SandboxCreated);
        Ok(id)
    }

    /// Starts a sandbox; its process.
    pub async fn start_sandbox(&self, id: &str) -> Result<i64> {
        self.client.start_container(id, None).await?;
        fault::pass(Point::SandboxStarted);
        let pid = self.client.inspect_container(id, None).await?.state.and_then(|s| s.pid).unwrap_or(0);
        if pid == 0 {
            bail!("the sandbox ended at once");
        }
        Ok(pid)
    }

    /// A container of that name that is left from an interrupted try is replaced.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String> {
        let options = || Some(CreateContainerOptionsBuilder::default().name(name).build());
        match self.client.create_container(options(), body.clone()).await {
            Ok(made) => Ok(made.id),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                self.remove(name).await?;
                Ok(self.client.create_container(options(), body).await.map_err(said)?.id)
            }
            Err(error) => Err(said(error)),
        }
    }

    pub async fn start(&self, id: &str) -> Result<()> {
        self.client.start_container(id, None).await.map_err(said)
    }

    /// Changes what a running container may use.
    pub async fn limit(&self, id: &str, limits: &Limits) -> Result<()> {
        let set = |value: i64| (value > 0).then_some(value);
        let update = ContainerUpdateBody {
            cpu_shares: set(limits.cpu_shares),
            cpu_period: set(limits.cpu_quota).map(|_| PERIOD_MICROSECONDS),
            cpu_quota: set(limits.cpu_quota),
            memory: set(limits.memory_bytes),
            memory_swap: set(limits.memory_bytes),
            ..ContainerUpdateBody::default()
        };
        self.client.update_container(id, update).await.map_err(said)
    }

    pub async fn signal(&self, id: &str, signal: &str) -> Result<()> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        match self.client.kill_container(id, Some(options)).await {
            // Not there, or not running: what was wanted.
            Ok(())
            | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn remove(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.client.remove_container(id, Some(options)).await {
            Ok(())
            | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What becomes of containers, as it happens and from `since` on.
    pub fn events(&self, node: &str, since: Timestamp) -> impl Stream<Item = Result<Event>> + use<> {
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![format!("{}={node}", label::NODE)]),
            ("event", ["start", "die", "oom", "destroy"].map(str::to_owned).to_vec()),
        ]);
        let options =
            EventsOptionsBuilder::default().filters(&filters).since(&since.as_second().to_string()).build();
        self.client.events(Some(options)).map(|event| {
            let event = event?;
            let actor = event.actor.unwrap_or_default();
            Ok(Event {
                pod: actor.attributes.unwrap_or_default().remove(label::POD_UID).unwrap_or_default(),
                container: actor.id.unwrap_or_default(),
                out_of_memory: event.action.as_deref() == Some("oom"),
            })
        })
    }
}

fn container(inspected: ContainerInspectResponse) -> Container {
    let state = inspected.state.unwrap_or_default();
    let log = inspected.log_path.unwrap_or_default();
    let config = inspected.config.unwrap_or_default();
    let host = inspected.host_config.unwrap_or_default();
    let labels = config.labels.unwrap_or_default();
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    // Docker writes year 1 for "never".
    let time =
        |text: Option<String>| text.and_then(|t| t.parse::<Timestamp>().ok()).filter(|t| t.as_second() > 0);
    let never_started = time(state.started_at.clone()).is_none();
    Container {
        id: inspected.id.unwrap_or_default(),
        name: label(super::label::CONTAINER),
        attempt: label(super::label::ATTEMPT).parse().unwrap_or(0),
        crashes: label(super::label::CRASHES).parse().unwrap_or(0),
        sandbox: label(super::label::SANDBOX_ID),
        state: match state.status {
            Some(
                ContainerStateStatusEnum::RUNNING
                | ContainerStateStatusEnum::PAUSED
                | ContainerStateStatusEnum::RESTARTING,
            ) => State::Running,
            Some(ContainerStateStatusEnum::CREATED) if state.exit_code.unwrap_or(0) == 0 && never_started => {
                State::Created
            }
            _ => State::Exited,
        },
        exit_code: state.exit_code.unwrap_or(0),
        oom_killed: state.oom_killed.unwrap_or(false),
        error: state.error.unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        image_id: inspected.image.unwrap_or_default(),
        created_at: inspected.created.and_then(|t| t.to_string().parse().ok()),
        started_at: time(state.started_at),
        finished_at: time(state.finished_at),
        pid: state.pid.unwrap_or(0),
        address: label(super::label::ADDRESS),
        stop_signal: config.stop_signal.unwrap_or_default(),
        log,
        limits: Limits {
            cpu_shares: host.cpu_shares.unwrap_or(0),
            cpu_quota: host.cpu_quota.unwrap_or(0),
            memory_bytes: host.memory.unwrap_or(0),
        },
    }
}
