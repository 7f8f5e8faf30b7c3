//! `pilothouse agent`: a node's program; and how `up` keeps the local one running.
use crate::options::{AgentOptions, NodeOptions};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// An agent that ends at once is started again ever more slowly, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One that ran this long was healthy: the next start is immediate.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn run(options: AgentOptions) -> Result<()> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ca_pem = read(&options.ca_file)?;
    let credential = read(&options.credential_file)?.trim().to_owned();
    let agent = pilothouse_node::AgentOptions {
        server_url: options.server,
        ca_pem,
        credential,
        node_name: node_name(&options.node)?,
        data_dir: options.data_dir,
        settings: options.node.flags.settings()?,
        docker_host: options.node.docker_host,
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        crate::server::asked_to_stop().await;
        stop.cancel();
    });
    pilothouse_node::run(agent, shutdown).await
}

/// The host's name, as a node's name must be written.
pub fn node_name(options: &NodeOptions) -> Result<String> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => {
            let host =
                nix::unistd::gethostname().context("this machine has no host name: give --node-name")?;
            host.to_string_lossy().to_lowercase()
        }
    };
    match pilothouse_api::meta::dns_subdomain(&name) {
        Ok(()) => Ok(name),
        Err(why) => bail!("node name {name:?}: {why}; give another with --node-name"),
    }
}

/// What a container runtime must offer before `up` starts anything else: a socket that answers.
pub async fn check_runtime(docker_host: &str) -> Result<()> {
    let advice =
        "start Docker (or Podman's socket), point --docker-host at it, or run without a node: --no-agent";
    let Some(path) = docker_host.strip_prefix("unix://") else { return Ok(()) };
    let connecting = tokio::net::UnixStream::connect(path);
    match tokio::time::timeout(Duration::from_secs(5), connecting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => bail!("no container runtime at {path} ({error}): {advice}"),
        Err(_) => bail!("the container runtime at {path} does not answer: {advice}"),
    }
}

/// The local agent as a process of its own, so that neither can take the other down.
pub struct LocalAgent {
    arguments: Vec<std::ffi::OsString>,
    log: PathBuf,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    restart_at: Instant,
}

impl LocalAgent {
    /// `log` receives what the agent prints.
    pub fn new(options: &AgentOptions, log: PathBuf) -> Self {
        let mut arguments: Vec<std::ffi::OsString> = vec!["agent".into()];
        let mut option =
            |name: &str, value: &std::ffi::OsStr| arguments.extend([name.into(), value.to_owned()]);
        option("--server", options.server.as_ref());
        option("--ca-file", options.ca_file.as_os_str());
        option("--credential-file", options.credential_file.as_os_str());
        option("--data-dir", options.data_dir.as_os_str());
        option("--docker-host", options.node.docker_host.as_ref());
        if let Some(name) = &options.node.node_name {
            option("--node-name", name.as_ref());
        }
        arguments.extend(options.node.flags.arguments());
        let now = Instant::now();
        Self { arguments, log, child: None, started: now, pause: Duration::from_secs(1), restart_at: now }
    }

    /// Starts the agent. Called from the main thread: the agent is told to stop when that thread ends.
    pub fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        // `setpriv --pdeathsig`: an agent without its program would go on alone and meet the next one's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program).args(&self.arguments);
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start the agent")?);
        self.started = Instant::now();
        Ok(())
    }

    /// Waits for the agent's end and starts it again, for ever. Cancel safe.
    pub async fn keep_running(&mut self) -> Result<()> {
        loop {
            if let Some(child) = &mut self.child {
                let status = child.wait().await?;
                self.child = None;
                self.pause = match self.started.elapsed() {
                    long if long >= HEALTHY_AFTER => Duration::from_secs(1),
                    _ => (self.pause * 2).min(LONGEST_PAUSE),
                };
                self.restart_at = Instant::now() + self.pause;
                tracing::warn!(%status, log = %self.log.display(), again_in = ?self.pause, "the local agent ended");
            }
            sleep_until(self.restart_at).await;
            self.start()?;
        }
    }

    pub async fn stop(mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(id) = child.id() {
            let pid = nix::unistd::Pid::from_raw(id.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}
