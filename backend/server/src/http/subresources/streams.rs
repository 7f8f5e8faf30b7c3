//! Logs, exec and attach: the client's stream, joined to one that the pod's node opens.
use super::super::resources::Call;
use super::inbox::{FromClient, inbox};
use super::spdy::{self, Accepted};
use super::{log_options, parent};
use crate::node_hub::{Hub, NodeStream};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use pilothouse_api::{Status, meta};
use pilothouse_protocol::{PodRef, StreamRequest, channel};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// Of `exec` and `attach`, in the order of preference. The first version ends without an exit status.
const PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", V4, "channel.k8s.io"];
const V4: &str = "v4.channel.k8s.io";
/// Of logs that a browser reads.
const LOG_PROTOCOLS: [&str; 1] = ["binary.k8s.io"];
/// How long a client may take to open the streams it asked for.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// A pod that runs somewhere, with the node to ask.
pub struct Target {
    pub node: String,
    pub pod: PodRef,
    pub object: Value,
}

pub async fn target(call: &Call) -> Result<Target, Status> {
    target_of(call, parent(call).await?.value())
}

/// `object` is the pod that `call` names.
pub fn target_of(call: &Call, object: Value) -> Result<Target, Status> {
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.name)));
    }
    let pod = PodRef {
        namespace: call.namespace.as_str().into(),
        name: call.name.as_str().into(),
        uid: meta::uid(&object).into(),
    };
    Ok(Target { node, pod, object })
}

/// The container asked for, or the only one there is.
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names = |list: &str| -> Vec<String> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    if let Some(asked) = call.param("container") {
        return match lists.iter().any(|list| names(list).iter().any(|n| n == asked)) {
            true => Ok(asked.to_owned()),
            false => {
                Err(Status::bad_request(format!("container {asked} is not valid for pod {}", call.name)))
            }
        };
    }
    if let Some(default) = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str()
    {
        return Ok(default.to_owned());
    }
    match &names("containers")[..] {
        [only] => Ok(only.clone()),
        many => {
            let mut why = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                call.name,
                many.join(" ")
            );
            let init = names("initContainers");
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(why))
        }
    }
}

fn is_waiting(pod: &Value, container: &str) -> Option<String> {
    let all = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"].into_iter();
    let mut statuses = all.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    match statuses.find(|c| c["name"] == container) {
        None => Some("ContainerCreating".into()),
        Some(status) => {
            let never = status["lastState"]["terminated"].is_null()
                && status["restartCount"].as_i64().unwrap_or(0) == 0;
            let reason = status["state"]["waiting"]["reason"].as_str().map(str::to_owned);
            reason.filter(|_| never)
        }
    }
}

pub async fn log(call: &Call, parts: &mut Parts) -> Result<Response, Status> {
    let options = log_options::of(call)?;
    let target = target(call).await?;
    let container = container(call, &target.object)?;
    if let Some(reason) = is_waiting(&target.object, &container) {
        let why = format!("container {container:?} in pod {:?} is waiting to start: {reason}", call.name);
        return Err(Status::bad_request(why));
    }
    let request = StreamRequest::Logs { pod: target.pod, container, options };
    let socket = match parts.headers.contains_key(header::UPGRADE) {
        true => Some(negotiate(parts, &LOG_PROTOCOLS).await?.0),
        false => None,
    };
    let stream = call.app.hub.open(&target.node, request).await?;
    let bytes = futures::stream::unfold(stream, |mut stream| async move {
        loop {
            match stream.next().await {
                Some(Ok(Message::Binary(bytes))) => return Some((Ok::<_, axum::Error>(bytes), stream)),
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some((Err(error), stream)),
            }
        }
    });
    Ok(match socket {
        Some(socket) => socket.on_upgrade(|mut client| async move {
            let mut bytes = std::pin::pin!(bytes);
            while let Some(Ok(chunk)) = bytes.next().await {
                if client.send(Message::Binary(chunk)).await.is_err() {
                    return;
                }
            }
            let _ = client.send(normal_end()).await;
        }),
        None => ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(bytes)).into_response(),
    })
}

pub async fn exec(call: Call, parts: &mut Parts) -> Result<Response, Status> {
    let target = target(&call).await?;
    let container = container(&call, &target.object)?;
    let (stdin, tty) = (call.flag("stdin"), call.flag("tty"));
    let (stdout, stderr) = (call.flag("stdout"), call.flag("stderr"));
    let request = match call.subresource.as_str() {
        "attach" => StreamRequest::Attach { pod: target.pod, container, stdin, stdout, stderr, tty },
        _ => {
            let command: Vec<String> =
                call.query_list.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
            if command.is_empty() {
                return Err(Status::bad_request("you must specify at least 1 command for the container"));
            }
            StreamRequest::Exec { pod: target.pod, container, command, stdin, stdout, stderr, tty }
        }
    };
    // Asked for before the node is, so that a client that cannot upgrade starts nothing.
    if spdy::is_asked(parts) {
        let wanted = [
            ("error", true),
            ("stdin", stdin),
            ("stdout", stdout),
            ("stderr", stderr && !tty),
            ("resize", tty),
        ];
        let wanted = wanted.into_iter().filter(|(_, asked)| *asked).map(|(kind, _)| kind).collect();
        let (hub, node) = (call.app.hub.clone(), target.node);
        return spdy::upgrade(parts, &[V4], move |transport| {
            // The streams are one process' own: none has to be given up for another.
            spdy::session(transport, None, move |streams| bridge(streams, wanted, hub, node, request))
        });
    }
    let (upgrade, protocol) = negotiate(parts, &PROTOCOLS).await?;
    let node = call.app.hub.open(&target.node, request).await?;
    Ok(upgrade.on_upgrade(move |client| join(client, node, protocol)))
}

pub async fn upgrade(parts: &mut Parts) -> Result<WebSocketUpgrade, Status> {
    WebSocketUpgrade::from_request_parts(parts, &()).await.map_err(|_| {
        Status::bad_request(
            "this is a stream: upgrade the request to a WebSocket (kubectl 1.31 and newer do)",
        )
    })
}

/// A WebSocket that speaks one of `protocols`; a client that names none gets the last.
pub async fn negotiate(
    parts: &mut Parts,
    protocols: &[&'static str],
) -> Result<(WebSocketUpgrade, &'static str), Status> {
    let silent = !parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgrade = upgrade(parts).await?.protocols(protocols.to_vec());
    let selected = upgrade.selected_protocol();
    let chosen = protocols.iter().find(|known| selected.is_some_and(|chosen| chosen == **known));
    match chosen.or_else(|| protocols.last().filter(|_| silent)) {
        Some(protocol) => Ok((upgrade, protocol)),
        None => Err(Status::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: the server accepts {protocols:?}"
        ))),
    }
}

/// Without a code clients take the end for a failure.
fn normal_end() -> Message {
    Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))
}

/// Frames go through as they are: both sides speak the same protocol. Each direction waits for the other side to read.
async fn join(client: WebSocket, node: NodeStream, protocol: &str) {
    let (mut to_client, mut from_client) = client.split();
    let (mut to_node, mut from_node) = node.split();
    let down = async {
        while let Some(Ok(frame)) = from_node.next().await {
            match frame {
                Message::Binary(bytes) => {
                    let Some(bytes) = as_spoken(protocol, bytes) else { continue };
                    if to_client.send(Message::Binary(bytes)).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = to_client.send(normal_end()).await;
    };
    let up = async {
        while let Some(Ok(frame)) = from_client.next().await {
            match frame {
                Message::Binary(bytes) => {
                    if to_node.send(Message::Binary(bytes)).await.is_err() {
                        break;
                    }
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = to_node.close().await;
        // What the node still has to say may come after the client closed its side.
        std::future::pending::<()>().await;
    };
    tokio::select! { () = down => {}, () = up => {} }
}

/// A node's frame as an older protocol has it: only version 5 closes single channels, version 1 has failures as text.
fn as_spoken(protocol: &str, frame: Bytes) -> Option<Bytes> {
    let newest = protocol == PROTOCOLS[0];
    match frame.first() {
        Some(&channel::CLOSE) if !newest => None,
        Some(&channel::ERROR) if !newest && protocol != V4 => {
            let status: Value = serde_json::from_slice(&frame[1..]).unwrap_or_default();
            let message = status["message"].as_str()?;
            Some([&[channel::ERROR], message.as_bytes()].concat().into())
        }
        _ => Some(frame),
    }
}

/// Exec and attach over SPDY: each stream of the client's is a channel of the node's.
async fn bridge(
    mut streams: mpsc::Receiver<Accepted>,
    wanted: Vec<&'static str>,
    hub: Hub,
    node: String,
    request: StreamRequest,
) {
    let mut opened: HashMap<&'static str, Accepted> = HashMap::new();
    let collecting = async {
        while opened.len() < wanted.len() {
            let stream = streams.recv().await?;
            let kind = stream.headers.get("streamtype").map(String::as_str).unwrap_or_default();
            if let Some(kind) = wanted.iter().find(|wanted| **wanted == kind) {
                opened.insert(kind, stream);
            }
        }
        Some(())
    };
    let Ok(Some(())) = tokio::time::timeout(STREAMS_TIMEOUT, collecting).await else { return };
    let Some(error) = opened.remove("error") else { return };
    let node = match hub.open(&node, request).await {
        Ok(stream) => stream,
        Err(status) => {
            let _ = error.to_client.send(status.to_json().to_string().into()).await;
            return error.to_client.end().await;
        }
    };
    let (mut to_node, mut from_node) = node.split();
    let mut input =
        |kind| opened.get_mut(kind).map(|s: &mut Accepted| std::mem::replace(&mut s.from_client, inbox().1));
    let (mut stdin, mut resize) = (input("stdin"), input("resize"));
    let up = async {
        let mut sizes = Vec::new();
        loop {
            let frames: Vec<Bytes> = tokio::select! {
                bytes = next_of(&mut stdin) => match bytes {
                    Some(bytes) => vec![[&[channel::STDIN], &bytes[..]].concat().into()],
                    None => vec![vec![channel::CLOSE, channel::STDIN].into()],
                },
                Some(bytes) = next_of(&mut resize) => {
                    sizes.extend_from_slice(&bytes);
                    take_values(&mut sizes).iter().map(|size| [&[channel::RESIZE], size.to_string().as_bytes()].concat().into()).collect()
                }
            };
            for frame in frames {
                if to_node.send(Message::Binary(frame)).await.is_err() {
                    // The other direction tells how it ended.
                    return std::future::pending().await;
                }
            }
        }
    };
    let down = async {
        while let Some(Ok(frame)) = from_node.next().await {
            let Message::Binary(mut bytes) = frame else { continue };
            if bytes.is_empty() {
                continue;
            }
            let to = match bytes.split_to(1)[0] {
                channel::STDOUT => opened.get("stdout").map(|s| &s.to_client),
                channel::STDERR => opened.get("stderr").map(|s| &s.to_client),
                channel::ERROR => Some(&error.to_client),
                _ => None,
            };
            if let Some(to) = to
                && to.send(bytes).await.is_err()
            {
                return;
            }
        }
        for stream in opened.values().chain([&error]) {
            stream.to_client.end().await;
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
}

/// The next chunk; never, where there is no such stream or it has ended before.
async fn next_of(stream: &mut Option<FromClient>) -> Option<Bytes> {
    match stream {
        None => std::future::pending().await,
        Some(open) => {
            let next = open.recv().await;
            if next.is_none() {
                *stream = None;
            }
            next
        }
    }
}

/// Takes the whole JSON values from the front of what has come.
fn take_values(bytes: &mut Vec<u8>) -> Vec<Value> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let whole: Vec<Value> = values.by_ref().map_while(Result::ok).collect();
    let read = values.byte_offset();
    bytes.drain(..read);
    whole
}
