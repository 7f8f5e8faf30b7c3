//! A node's agent: dials the server, runs the pods it is assigned through Docker, and tells how they are.
mod admission;
mod agent;
mod assigned;
mod connection;
mod containers;
#[doc(hidden)]
pub mod csi;
mod environment;
mod eviction;
#[doc(hidden)]
pub mod fault;
#[doc(hidden)]
pub mod grpc;
mod health;
mod hooks;
mod image_disposal;
pub mod join;
mod network;
mod node_status;
pub mod pod_sync;
mod pod_worker;
mod probes;
mod readings;
mod reclaim;
pub mod resize;
pub mod runtime;
pub mod settings;
mod shutdown;
mod static_pods;
mod streams;
mod termination;
mod tokens;
mod usage;
mod volumes;

pub use connection::{Credential, Dialer, Socket};

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What an agent must be told; everything else it finds out.
pub struct AgentOptions {
    /// `https://host:port`.
    pub server_url: String,
    /// The authority that signed the server's certificate.
    pub ca_pem: String,
    /// The node's bearer token.
    pub credential: String,
    pub node_name: String,
    pub data_dir: PathBuf,
    /// `unix:///var/run/docker.sock`.
    pub docker_host: String,
    pub settings: settings::Settings,
}

/// Runs until `shutdown`; containers go on without the agent and are found again by the next one.
pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the agent builds the pods' network and mounts, which needs root");
    }
    std::fs::create_dir_all(&options.data_dir)
        .with_context(|| format!("cannot make {}", options.data_dir.display()))?;
    let runtime = runtime::docker::Docker::connect(&options.docker_host).await?;
    runtime.ensure_pause_image().await.context("cannot import the sandbox image")?;
    let connection = connection::Connection::new(&options)?;
    let server = connection.server_address();
    let agent = Arc::new(agent::Agent::new(
        options.node_name.clone(),
        options.data_dir,
        runtime,
        options.settings,
        connection.outbox(),
        shutdown.clone(),
    ));
    // What drivers mount in their pods is to be seen here, and in other pods.
    if let Err(error) = agent.drivers.make_directories().and_then(|()| volumes::share(&agent.drivers.root)) {
        tracing::warn!(error = format!("{error:#}"), "storage drivers (CSI) will not work on this node");
    }
    node_status::take(&agent).await;
    // Before anything on the node could be taken for nobody's.
    if let Some(dir) = agent.settings.static_pods.clone() {
        agent.take_statics(static_pods::read(&dir, &agent.node));
    }
    tracing::info!(node = %options.node_name, "the agent runs");
    tokio::select! {
        () = connection.run(agent.clone(), shutdown.clone()) => {}
        () = agent.clone().follow_runtime() => {}
        () = network::serve(agent.clone()) => {}
        () = network::api_proxy::serve(server) => {}
        () = node_status::follow(agent.clone()) => {}
        () = usage::follow(agent.clone()) => {}
        () = reclaim::follow(agent.clone()) => {}
        () = volumes::duties::follow(agent.clone()) => {}
        () = static_pods::follow(agent.clone()) => {}
        () = csi::follow(agent.clone()) => {}
        () = shutdown::follow(agent.clone()) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
