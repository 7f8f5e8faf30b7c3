//! Logs, exec and attach: the client's stream, joined to one that the pod's node opens.
use super::super::resources::Call;
use super::parent;
use crate::node_hub::NodeStream;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures::{SinkExt, StreamExt};
use pilothouse_api::{Status, meta};
use pilothouse_protocol::{LogOptions, PodRef, StreamRequest, channel};
use serde_json::Value;

/// In the order of preference.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// A pod that runs somewhere, with the node to ask.
pub struct Target {
    pub node: String,
    pub pod: PodRef,
    pub object: Value,
}

pub async fn target(call: &Call) -> Result<Target, Status> {
    let object = parent(call).await?.value();
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
        many => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            call.name,
            many.join(" ")
        ))),
    }
}

fn is_waiting(pod: &Value, container: &str) -> Option<String> {
    let all = ["containerStatuses", "initContainerStatuses"].into_iter();
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

pub async fn log(call: &Call) -> Result<Response, Status> {
    let target = target(call).await?;
    let container = container(call, &target.object)?;
    if let Some(reason) = is_waiting(&target.object, &container) {
        let why = format!("container {container:?} in pod {:?} is waiting to start: {reason}", call.name);
        return Err(Status::bad_request(why));
    }
    let number = |name: &str| call.param(name).and_then(|v| v.parse::<i64>().ok());
    let options = LogOptions {
        follow: call.flag("follow"),
        previous: call.flag("previous"),
        timestamps: call.flag("timestamps"),
        since_seconds: number("sinceSeconds"),
        since_time: call.param("sinceTime").map(str::to_owned),
        tail_lines: number("tailLines"),
        limit_bytes: number("limitBytes"),
    };
    let request = StreamRequest::Logs { pod: target.pod, container, options };
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
    Ok(([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(bytes)).into_response())
}

pub async fn exec(call: Call, parts: &mut Parts) -> Result<Response, Status> {
    let target = target(&call).await?;
    let container = container(&call, &target.object)?;
    let (stdin, tty) = (call.flag("stdin"), call.flag("tty"));
    let (stdout, stderr) = (call.flag("stdout"), call.flag("stderr"));
    let upgrade = upgrade(parts).await?;
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
    let node = call.app.hub.open(&target.node, request).await?;
    Ok(upgrade.protocols(PROTOCOLS).on_upgrade(move |client| join(client, node)))
}

pub async fn upgrade(parts: &mut Parts) -> Result<WebSocketUpgrade, Status> {
    WebSocketUpgrade::from_request_parts(parts, &()).await.map_err(|_| {
        Status::bad_request(
            "this is a stream: upgrade the request to a WebSocket (kubectl 1.31 and newer do)",
        )
    })
}

/// Frames go through as they are: both sides speak the same protocol. Each direction waits for the other side to read.
async fn join(client: WebSocket, node: NodeStream) {
    // Version 4 has no frame that closes one channel.
    let v5 = client.protocol().is_some_and(|p| p.as_bytes() == PROTOCOLS[0].as_bytes());
    let (mut to_client, mut from_client) = client.split();
    let (mut to_node, mut from_node) = node.split();
    let down = async {
        while let Some(Ok(frame)) = from_node.next().await {
            match frame {
                Message::Binary(bytes) if !v5 && bytes.first() == Some(&channel::CLOSE) => {}
                Message::Binary(bytes) => {
                    if to_client.send(Message::Binary(bytes)).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        // Without a code clients take the end for a failure.
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = to_client.send(Message::Close(Some(frame))).await;
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
