//! One simulated node and its line to the server: dialled, kept alive, dialled again, as a real agent's.
use crate::node::{Node, Said};
use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use pilothouse_api::jiff::Timestamp;
use pilothouse_node::{Dialer, Socket};
use pilothouse_protocol::{CONNECT_PATH, NodeMessage, ObjectChange, ServerMessage};
use rand::RngExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const PING_EVERY: Duration = Duration::from_secs(10);
/// A line on which nothing came for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(35);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
const KUBELET_VERSION: &str = concat!("v1.36.0+pilothouse-hollow-", env!("CARGO_PKG_VERSION"));
/// Marks simulated nodes: real workloads keep away from them, and tests find them.
pub const LABEL: &str = "pilothouse.io/hollow";

/// How large a simulated machine says it is.
#[derive(Clone, Debug)]
pub struct Size {
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
}

/// Keeps a node's line until `shutdown`.
pub async fn keep(mut node: Node, size: &Size, dialer: Dialer, shutdown: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let ended = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = talk(&mut node, size, &dialer) => ended,
        };
        match ended {
            Ok(()) => tracing::debug!(node = %node.name, "the server closed the line"),
            Err(error) => {
                tracing::debug!(node = %node.name, error = format!("{error:#}"), "no line to the server")
            }
        }
        pause = if begun.elapsed() > SILENCE { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        // Thousands of nodes must not come back in step. Pods live on meanwhile.
        let wait = pause.mul_f64(rand::rng().random_range(0.2..1.0));
        tokio::select! { () = shutdown.cancelled() => return, () = sleep(wait) => {} }
    }
}

async fn talk(node: &mut Node, size: &Size, dialer: &Dialer) -> Result<()> {
    let mut socket = dialer.dial(CONNECT_PATH).await?;
    send(&mut socket, &NodeMessage::Register { node: object(node, size) }).await?;
    node.tell_everything();
    let first_ping = Instant::now() + PING_EVERY.mul_f64(rand::rng().random_range(0.0..1.0));
    let mut ping = tokio::time::interval_at(first_ping, PING_EVERY);
    let mut heard = Instant::now();
    loop {
        while node.turn(Timestamp::now()).is_some() {}
        for message in std::mem::take(&mut node.told) {
            send(&mut socket, &message).await?;
        }
        let next = node.next_at().map_or(PING_EVERY, |at| {
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
        });
        tokio::select! {
            frame = socket.next() => {
                heard = Instant::now();
                match frame {
                    Some(Ok(Message::Text(text))) => receive(node, &text, &mut socket).await?,
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                }
            }
            () = sleep(next) => {}
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE {
                    bail!("nothing was heard for {SILENCE:?}");
                }
                send(&mut socket, &NodeMessage::Ping).await?;
            }
        }
    }
}

async fn receive(node: &mut Node, text: &str, socket: &mut Socket) -> Result<()> {
    match serde_json::from_str(text).context("the server speaks another protocol")? {
        ServerMessage::Objects { full, changes, .. } => {
            node.hear(full, changes.into_iter().filter_map(said), Timestamp::now());
        }
        ServerMessage::OpenStream { id, .. } => {
            let message = "a simulated node has no containers to talk to".to_owned();
            send(socket, &NodeMessage::StreamFailed { id, code: 400, message }).await?;
        }
        ServerMessage::Token { .. } | ServerMessage::Pong => {}
    }
    Ok(())
}

/// What a simulated node asks for: itself and its pods. Services and what pods mount are dropped unread.
fn said(change: ObjectChange) -> Option<Said> {
    if !matches!(&*change.resource, "pods" | "nodes") {
        return None;
    }
    let object = change.object.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()).map(Arc::new);
    Some(Said { resource: change.resource, namespace: change.namespace, name: change.name, object })
}

async fn send(socket: &mut Socket, message: &NodeMessage) -> Result<()> {
    let text = serde_json::to_string(message)?;
    timeout(SILENCE, socket.send(Message::text(text))).await.context("the server does not read")??;
    Ok(())
}

fn object(node: &Node, size: &Size) -> Value {
    let name = &*node.name;
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": now});
    let amounts = json!({"cpu": size.cpu, "memory": size.memory, "ephemeral-storage": "100Gi", "pods": size.pods.to_string()});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", LABEL: "true",
        }},
        "status": {
            "capacity": amounts, "allocatable": amounts,
            "addresses": [{"type": "InternalIP", "address": node.host_ip()}, {"type": "Hostname", "address": name}],
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "simulated",
                "operatingSystem": "linux", "architecture": "amd64", "containerRuntimeVersion": "hollow://1",
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
            },
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        },
    })
}
