//! `pilothouse up`: a whole cluster in the foreground.
use crate::agent::{self, LocalAgent};
use crate::data_dir::write_private;
use crate::options::{AgentOptions, UpOptions};
use crate::server::{self, ControlPlane};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// A first run imports an image and builds the network; a warm one needs a second.
const NODE_READY_TIMEOUT: Duration = Duration::from_secs(60);
/// The node's own credential; renewed at each start.
const NODE_TOKEN_SECONDS: i64 = 365 * 86_400;

pub async fn run(options: UpOptions) -> Result<()> {
    if !options.no_agent {
        if !nix::unistd::Uid::effective().is_root() {
            bail!(
                "the node agent builds the pods' network and mounts, which needs root: run with sudo, or run the control \
                 plane alone with --no-agent"
            );
        }
        agent::check_runtime(&options.node.docker_host).await?;
    }
    let mut control_plane = server::start(&options.control_plane).await?;
    let outcome = steer(&options, &mut control_plane).await;
    eprintln!("stopping …");
    control_plane.stop().await;
    outcome
}

/// Runs until asked to stop or until something that can't be mended ended.
async fn steer(options: &UpOptions, control_plane: &mut ControlPlane) -> Result<()> {
    if options.no_agent {
        println!("{}", control_plane.ready_line());
        return tokio::select! {
            () = server::asked_to_stop() => Ok(()),
            why = control_plane.keep_database() => Err(why),
        };
    }
    let name = agent::node_name(&options.node)?;
    let mut local = local_agent(options, control_plane, &name)?;
    local.start()?;
    let ready = wait_for_node(control_plane, &mut local, &name).await;
    if ready.is_ok() {
        println!("{}", control_plane.ready_line());
    }
    let outcome = match ready {
        Ok(Ready::Yes) => tokio::select! {
            () = server::asked_to_stop() => Ok(()),
            why = control_plane.keep_database() => Err(why),
            why = local.keep_running() => why,
        },
        Ok(Ready::Stopped) => Ok(()),
        Err(why) => Err(why),
    };
    local.stop().await;
    outcome
}

enum Ready {
    Yes,
    Stopped,
}

fn local_agent(options: &UpOptions, control_plane: &ControlPlane, name: &str) -> Result<LocalAgent> {
    let dir = &control_plane.dir;
    let credential_file = dir.node().join("credential");
    let user = format!("system:node:{name}");
    let token = control_plane.server.issue_token(&user, &["system:nodes"], NODE_TOKEN_SECONDS)?;
    write_private(&credential_file, token.as_bytes())?;
    let agent_options = AgentOptions {
        server: control_plane.api_url(),
        ca_file: dir.ca_certificate(),
        credential_file,
        data_dir: dir.node(),
        node: options.node.clone(),
    };
    Ok(LocalAgent::new(&agent_options, dir.root().join("agent.log")))
}

async fn wait_for_node(control_plane: &ControlPlane, local: &mut LocalAgent, name: &str) -> Result<Ready> {
    let log = control_plane.dir.root().join("agent.log");
    tokio::select! {
        ready = tokio::time::timeout(NODE_READY_TIMEOUT, control_plane.server.node_ready(name)) => {
            ready.map(|()| Ready::Yes).with_context(|| {
                format!("the local node was not Ready within {NODE_READY_TIMEOUT:?}; see {}", log.display())
            })
        }
        why = local.keep_running() => why.map(|()| Ready::Stopped),
        () = server::asked_to_stop() => Ok(Ready::Stopped),
    }
}
