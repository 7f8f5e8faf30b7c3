//! Thousands of simulated nodes in one process: each joins, gets a credential of its own, and keeps its own line.
use crate::behavior::Behavior;
use crate::line::{self, Size};
use crate::node::Node;
use anyhow::{Context, Result};
use pilothouse_node::join::Joining;
use pilothouse_node::{Credential, Dialer};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Nodes that join at the same time: each has its request signed before the next of its turn asks.
const JOINING: usize = 64;
/// Buffers of a line, in bytes: messages are small, and there are thousands of lines.
const BUFFER: usize = 4096;
/// Before a node whose joining failed tries again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

pub struct Options {
    /// `https://host:port`.
    pub server_url: String,
    /// The authority that signed the server's certificate.
    pub ca_pem: String,
    /// A bootstrap token: it may ask for node certificates, and nothing else.
    pub join_token: String,
    pub nodes: usize,
    /// Nodes are named so, followed by their number.
    pub prefix: String,
    /// What nodes give as their address.
    pub host_ip: String,
    pub size: Size,
    pub behavior: Behavior,
}

/// Runs until `shutdown`. `joined` hears how many nodes have their credentials.
///
/// # Errors
/// The server's address or the CA certificate cannot be read.
pub async fn run(options: Options, joined: impl Fn(usize), shutdown: CancellationToken) -> Result<()> {
    let anybody = Dialer::new(&options.server_url, &options.ca_pem, Credential::None)?;
    let options = Arc::new(options);
    let behavior = Arc::new(options.behavior.clone());
    let host_ip: Arc<str> = options.host_ip.as_str().into();
    let names = Arc::new(parking_lot::Mutex::new(1..=options.nodes));
    let (sender, mut receiver) = tokio::sync::mpsc::channel(JOINING);
    let mut joining = JoinSet::new();
    for _ in 0..JOINING.min(options.nodes) {
        let (options, anybody, names, sender) =
            (options.clone(), anybody.clone(), names.clone(), sender.clone());
        joining.spawn(async move {
            let mut line = None;
            loop {
                let Some(number) = names.lock().next() else { return };
                let name = format!("{}{number:05}", options.prefix);
                let dialer = loop {
                    match join(&mut line, &anybody, &options, &name).await {
                        Ok(dialer) => break dialer,
                        Err(error) => {
                            tracing::warn!(
                                node = name,
                                error = format!("{error:#}"),
                                "a node could not join; it tries again"
                            );
                            line = None;
                            tokio::time::sleep(AGAIN_AFTER).await;
                        }
                    }
                };
                if sender.send((name, dialer)).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            new = receiver.recv() => {
                let Some((name, dialer)) = new else { break };
                let node = Node::new(&name, &host_ip, &behavior);
                let (options, shutdown) = (options.clone(), shutdown.clone());
                lines.spawn(async move { line::keep(node, &options.size, dialer, shutdown).await });
                joined(lines.len());
            }
        }
    }
    joining.shutdown().await;
    while lines.join_next().await.is_some() {}
    Ok(())
}

/// The dialer of a node that has joined, with its own certificate.
async fn join(line: &mut Option<Joining>, anybody: &Dialer, options: &Options, name: &str) -> Result<Dialer> {
    let joining = match line {
        Some(joining) => joining,
        None => line.insert(Joining::connect(anybody, &options.join_token).await?),
    };
    let credential = joining.join(name).await.context("the node has no credential")?;
    Ok(anybody.as_another(credential)?.with_buffers(BUFFER))
}
