//! `kubectl port-forward`: each pair of streams (data, error) becomes one connection to a port of the pod. Three ways in:
//! SPDY on the connection, SPDY inside a WebSocket, and channels of a WebSocket with the ports named in the query.
use super::super::resources::Call;
use super::inbox::{PATIENCE, inbox};
use super::spdy::{self, Accepted, Gone, Out, QUEUE, StreamWriter, Transport};
use super::streams::{self, target};
use crate::node_hub::{Hub, NodeStream};
use axum::extract::ws::{Message, WebSocket};
use axum::http::request::Parts;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use pilothouse_api::Status;
use pilothouse_protocol::{END_OF_INPUT, PodRef, StreamRequest};
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SPDY: &str = "portforward.k8s.io";
const TUNNELLED_SPDY: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: &str = "v4.channel.k8s.io";
/// Streams that wait for the other of their pair.
const MOST_UNPAIRED: usize = 256;
/// Channel numbers are one byte, two a port.
const MOST_PORTS: usize = 128;

pub async fn handle(call: Call, parts: &mut Parts) -> Result<Response, Status> {
    let target = target(&call).await?;
    let forward = Forward { hub: call.app.hub.clone(), node: target.node, pod: target.pod };
    if spdy::is_asked(parts) {
        return spdy::upgrade(parts, &[SPDY], |transport| forward.serve(transport));
    }
    let ports = ports(&call)?;
    let (upgrade, protocol) = streams::negotiate(parts, &[TUNNELLED_SPDY, CHANNELS]).await?;
    Ok(match protocol {
        TUNNELLED_SPDY => upgrade.on_upgrade(|client| forward.serve(Transport::inside(client))),
        _ => upgrade.on_upgrade(move |client| forward.channels(client, ports)),
    })
}

fn ports(call: &Call) -> Result<Vec<u16>, Status> {
    let named =
        call.query_list.iter().filter(|(name, _)| name == "ports").flat_map(|(_, list)| list.split(','));
    let port = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|port| *port > 0);
        number.ok_or_else(|| {
            Status::bad_request(format!("ports: Invalid value: {text:?}: must be between 1 and 65535"))
        })
    };
    let ports = named.map(port).collect::<Result<Vec<u16>, Status>>()?;
    if ports.len() > MOST_PORTS {
        return Err(Status::bad_request(format!("ports: Too many: at most {MOST_PORTS}")));
    }
    Ok(ports)
}

/// Connections to one pod.
#[derive(Clone)]
struct Forward {
    hub: Hub,
    node: String,
    pod: PodRef,
}

impl Forward {
    async fn serve(self, transport: Transport) {
        spdy::session(transport, Some(PATIENCE), |streams| self.pairs(streams)).await;
    }

    /// Joins the two streams of a request, in whatever order they come.
    async fn pairs(self, mut streams: mpsc::Receiver<Accepted>) {
        let mut unpaired: HashMap<String, Accepted> = HashMap::new();
        // Dropped with the session, and with them the pod's connections.
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = streams.recv() => stream,
                Some(_) = connections.join_next() => continue,
            };
            let Some(stream) = stream else { return };
            let header =
                |stream: &Accepted, name: &str| stream.headers.get(name).cloned().unwrap_or_default();
            let request = header(&stream, "requestid");
            let Some(other) = unpaired.remove(&request) else {
                if unpaired.len() >= MOST_UNPAIRED {
                    return;
                }
                unpaired.insert(request, stream);
                continue;
            };
            let (data, error) = match header(&stream, "streamtype").as_str() {
                "error" => (other, stream),
                _ => (stream, other),
            };
            let port = header(&data, "port");
            let forward = self.clone();
            connections.spawn(async move {
                match port.parse() {
                    Ok(port) => forward.carry(port, data, error.to_client).await,
                    Err(_) => {
                        fail(&data, &error.to_client, format!("unable to parse {port:?} as a port")).await
                    }
                }
            });
        }
    }

    /// Channel 2i carries the i-th port's bytes, channel 2i+1 what went wrong; each starts with the port's number.
    async fn channels(self, client: WebSocket, ports: Vec<u16>) {
        let (mut to, mut from) = client.split();
        let (out, mut queue) = mpsc::channel(QUEUE);
        let mut inputs = Vec::new();
        let mut connections = JoinSet::new();
        for (channel, port) in (0u32..).step_by(2).zip(ports) {
            for stream in [channel, channel + 1] {
                if to.send(frame(stream, &port.to_le_bytes())).await.is_err() {
                    return;
                }
            }
            let (chunks, from_client) = inbox();
            let writer = |stream| StreamWriter { stream, out: out.clone() };
            let (data, error) = (writer(channel), writer(channel + 1));
            let reset = CancellationToken::new();
            inputs.push(Some((chunks, reset.clone())));
            let data = Accepted { headers: HashMap::new(), from_client, to_client: data, reset };
            let forward = self.clone();
            connections.spawn(async move { forward.carry(port, data, error).await });
        }
        let reading = async {
            while let Some(Ok(message)) = from.next().await {
                match message {
                    Message::Binary(mut bytes) if !bytes.is_empty() => {
                        let channel = usize::from(bytes.split_to(1)[0]);
                        let input = inputs.get_mut(channel / 2).filter(|_| channel.is_multiple_of(2));
                        let Some(input) = input else { continue };
                        let Some((chunks, reset)) = input else { continue };
                        if chunks.put(bytes, Some(PATIENCE)).await.is_err() {
                            reset.cancel();
                            *input = None;
                        }
                    }
                    Message::Close(_) => return,
                    _ => {}
                }
            }
        };
        let writing = async {
            while let Some(message) = queue.recv().await {
                if let Out::Data { stream, bytes, .. } = message
                    && !bytes.is_empty()
                    && to.send(frame(stream, &bytes)).await.is_err()
                {
                    return;
                }
            }
        };
        drop(out);
        // Once every connection has ended, nothing holds the queue and the writing ends.
        tokio::select! { () = reading => {}, () = writing => {} }
        let _ = to.close().await;
    }

    /// One connection, until both sides have said everything or one of them is gone.
    async fn carry(&self, port: u16, data: Accepted, error: StreamWriter) {
        let request = StreamRequest::PortForward { pod: self.pod.clone(), port };
        match self.hub.open(&self.node, request).await {
            Ok(stream) => {
                let reset = data.reset.clone();
                let _ = reset.run_until_cancelled(join(data, stream)).await;
                // Of a connection that was given up nothing is said: `kubectl` ends all others at the first word of error.
                error.end().await;
            }
            Err(status) => {
                let uid = &self.pod.uid;
                fail(&data, &error, format!("error forwarding port {port} to pod {uid}: {status}")).await;
            }
        }
    }
}

async fn fail(data: &Accepted, error: &StreamWriter, message: String) {
    let _ = error.send(message.into()).await;
    error.end().await;
    data.to_client.end().await;
}

/// Each side's end is told to the other, which may go on speaking.
async fn join(mut data: Accepted, node: NodeStream) -> Result<(), Gone> {
    let (mut to_node, mut from_node) = node.split();
    let up = async {
        while let Some(bytes) = data.from_client.recv().await {
            to_node.send(Message::Binary(bytes)).await.map_err(|_| Gone)?;
        }
        to_node.send(Message::Binary(Bytes::from_static(END_OF_INPUT))).await.map_err(|_| Gone)?;
        std::future::pending::<Result<(), Gone>>().await
    };
    let down = async {
        while let Some(Ok(message)) = from_node.next().await {
            match message {
                Message::Binary(bytes) if bytes == END_OF_INPUT => data.to_client.end().await,
                Message::Binary(bytes) => data.to_client.send(bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        data.to_client.end().await;
        Ok(())
    };
    tokio::select! { ended = up => ended, ended = down => ended }
}

fn frame(channel: u32, bytes: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(bytes.len() + 1);
    frame.put_u8(u8::try_from(channel).unwrap_or(u8::MAX));
    frame.put_slice(bytes);
    Message::Binary(frame.freeze())
}
