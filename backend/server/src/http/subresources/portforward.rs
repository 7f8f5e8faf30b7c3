//! `kubectl port-forward`: SPDY frames, tunnelled through a WebSocket; each pair of SPDY streams becomes one connection to
//! a port of the pod.
use super::super::resources::Call;
use super::spdy::{Event, Session};
use super::streams::{target, upgrade};
use crate::node_hub::{Hub, NodeStream};
use axum::extract::ws::{Message, WebSocket};
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use pilothouse_api::Status;
use pilothouse_protocol::{PodRef, StreamRequest};
use std::collections::HashMap;
use tokio::sync::mpsc;

const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Chunks that may wait for one connection; the client's other streams wait with it, as its flow control asks.
const QUEUE: usize = 64;

pub async fn handle(call: Call, parts: &mut Parts) -> Result<Response, Status> {
    let target = target(&call).await?;
    let hub = call.app.hub.clone();
    let upgrade = upgrade(parts).await?;
    Ok(upgrade.protocols([PROTOCOL]).on_upgrade(move |client| tunnel(client, hub, target.node, target.pod)))
}

/// From the node, for one SPDY stream.
enum Down {
    Data(u32, Bytes),
    End(u32),
    Failed { error: u32, data: u32, message: String },
}

async fn tunnel(client: WebSocket, hub: Hub, node: String, pod: PodRef) {
    let (mut to_client, mut from_client) = client.split();
    let (down, mut from_nodes) = mpsc::channel::<Down>(QUEUE);
    let mut session = Session::default();
    // Error stream by request id, until its data stream comes.
    let mut waiting: HashMap<String, u32> = HashMap::new();
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    loop {
        tokio::select! {
            frame = from_client.next() => {
                let bytes = match frame {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_))) => continue,
                    _ => return,
                };
                let Ok(events) = session.receive(&bytes) else { return };
                for event in events {
                    match event {
                        Event::Opened { stream, headers } => {
                            let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
                            let request = header("requestid");
                            if header("streamtype") == "error" {
                                waiting.insert(request, stream);
                                continue;
                            }
                            let error = waiting.remove(&request).unwrap_or(0);
                            let Ok(port) = header("port").parse() else { continue };
                            let (up, from_client) = mpsc::channel(QUEUE);
                            open.insert(stream, up);
                            let carry = carry(hub.clone(), node.clone(), pod.clone(), port, stream, error, from_client, down.clone());
                            tokio::spawn(carry);
                        }
                        Event::Data { stream, bytes, last } => {
                            if let Some(up) = open.get(&stream) {
                                let _ = up.send(bytes).await;
                            }
                            if last {
                                open.remove(&stream);
                            }
                        }
                        Event::Reset { stream } => drop(open.remove(&stream)),
                        Event::GoAway => return,
                    }
                }
            }
            Some(message) = from_nodes.recv() => match message {
                Down::Data(stream, bytes) => session.send_data(stream, &bytes, false),
                Down::End(stream) => session.send_data(stream, &[], true),
                Down::Failed { error, data, message } => {
                    session.send_data(error, message.as_bytes(), true);
                    session.send_data(data, &[], true);
                    open.remove(&data);
                }
            },
        }
        let out = session.take_output();
        if !out.is_empty() && to_client.send(Message::Binary(out)).await.is_err() {
            return;
        }
    }
}

#[allow(clippy::too_many_arguments)]
async fn carry(
    hub: Hub,
    node: String,
    pod: PodRef,
    port: u16,
    data: u32,
    error: u32,
    mut up: mpsc::Receiver<Bytes>,
    down: mpsc::Sender<Down>,
) {
    let stream: NodeStream = match hub.open(&node, StreamRequest::PortForward { pod, port }).await {
        Ok(stream) => stream,
        Err(status) => {
            let message = format!("error forwarding port {port}: {status}");
            let _ = down.send(Down::Failed { error, data, message }).await;
            return;
        }
    };
    let (mut to_node, mut from_node) = stream.split();
    let mut reading = true;
    loop {
        tokio::select! {
            bytes = up.recv(), if reading => match bytes {
                Some(bytes) => if to_node.send(Message::Binary(bytes)).await.is_err() { break },
                None => reading = false,
            },
            frame = from_node.next() => match frame {
                Some(Ok(Message::Binary(bytes))) => if down.send(Down::Data(data, bytes)).await.is_err() { return },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => break,
            },
        }
    }
    let _ = to_node.close().await;
    let _ = down.send(Down::End(data)).await;
    let _ = down.send(Down::End(error)).await;
}
