//! Docker Engine (20.10 and newer) and Podman's Docker-compatible socket.
use super::{Container, ObservedPod, State, label, pause};
use anyhow::{Context, Result, bail};
use bollard::API_DEFAULT_VERSION;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::{Stream, StreamExt, TryStreamExt};
use pilothouse_api::jiff::Timestamp;
use std::collections::HashMap;

const PAUSE_IMAGE: &str = "pilothouse/pause:1";
/// For calls that answer at once; streams have no timeout.
const TIMEOUT_SECONDS: u64 = 120;

#[derive(Clone)]
pub struct Docker {
    pub client: bollard::Docker,
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

    pub async fn has_image(&self, image: &str) -> Result<bool> {
        match self.client.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn pull(&self, image: &str) -> Result<(), PullError> {
        // Without a tag Docker would pull every tag there is.
        let name = image.rsplit('/').next().unwrap_or(image);
        let full = if name.contains(':') || name.contains('@') {
            image.to_owned()
        } else {
            format!("{image}:latest")
        };
        let options = CreateImageOptionsBuilder::default().from_image(&full).build();
        let mut progress = std::pin::pin!(self.client.create_image(Some(options), None, None));
        while let Some(step) = progress.next().await {
            let step = step.map_err(|error| PullError(error.to_string()))?;
            if let Some(detail) = step.error_detail {
                return Err(PullError(detail.message.unwrap_or_default()));
            }
        }
        Ok(())
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

    pub async fn create_sandbox(
        &self,
        name: &str,
        hostname: &str,
        labels: HashMap<String, String>,
        host_network: bool,
    ) -> Result<(String, i64)> {
        let body = ContainerCreateBody {
            image: Some(PAUSE_IMAGE.into()),
            cmd: Some(vec!["/pause".into()]),
            hostname: (!host_network).then(|| hostname.to_owned()),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some(if host_network { "host" } else { "none" }.into()),
                ipc_mode: Some("shareable".into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let id = self.create(name, body).await?;
        self.client.start_container(&id, None).await?;
        let pid = self.client.inspect_container(&id, None).await?.state.and_then(|s| s.pid).unwrap_or(0);
        if pid == 0 {
            bail!("the sandbox ended at once");
        }
        Ok((id, pid))
    }

    /// A container of that name that is left from an interrupted try is replaced.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String> {
        let options = || Some(CreateContainerOptionsBuilder::default().name(name).build());
        match self.client.create_container(options(), body.clone()).await {
            Ok(made) => Ok(made.id),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                self.remove(name).await?;
                Ok(self.client.create_container(options(), body).await?.id)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn start(&self, id: &str) -> Result<()> {
        Ok(self.client.start_container(id, None).await?)
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

    /// UIDs of pods whose containers start or end, as it happens and from `since` on.
    pub fn events(&self, node: &str, since: Timestamp) -> impl Stream<Item = Result<String>> + use<> {
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![format!("{}={node}", label::NODE)]),
            ("event", ["start", "die", "oom", "destroy"].map(str::to_owned).to_vec()),
        ]);
        let options =
            EventsOptionsBuilder::default().filters(&filters).since(&since.as_second().to_string()).build();
        self.client.events(Some(options)).map(|event| {
            let attributes = event?.actor.and_then(|actor| actor.attributes).unwrap_or_default();
            Ok(attributes.get(label::POD_UID).cloned().unwrap_or_default())
        })
    }
}

fn container(inspected: ContainerInspectResponse) -> Container {
    let state = inspected.state.unwrap_or_default();
    let config = inspected.config.unwrap_or_default();
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
    }
}
