//! The nodes' side of the server: one line a node, the objects it needs, and streams on demand.
mod assignments;
#[cfg(test)]
mod tests;

use crate::auth::Attributes;
use crate::http::reply;
use crate::loops::EventRecorder;
use crate::objects::{Actor, Objects, Part, WriteOptions};
use crate::state::AppState;
use assignments::Assignments;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Reason, Status, meta};
use pilothouse_protocol::{NodeMessage, PROTOCOL, ServerMessage, StreamRequest};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Messages that may wait for one node; a node that reads slower is cut off and starts over with the full set.
const QUEUE: usize = 1024;
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// A line on which nothing came for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(40);
const LEASES: &str = "leases.coordination.k8s.io";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i64 = 40;

/// The node's end of a stream.
pub type NodeStream = WebSocket;

type Waiting = oneshot::Sender<Result<NodeStream, Status>>;

struct Inner {
    objects: Objects,
    events: EventRecorder,
    lines: Mutex<HashMap<String, Line>>,
    /// Streams that were asked for, by id: the node, and who waits.
    streams: Mutex<HashMap<String, (String, Waiting)>>,
    assignments: Assignments,
}

/// The way to one node. The connection ends when it is cut.
#[derive(Clone)]
struct Line {
    messages: mpsc::Sender<ServerMessage>,
    cut: CancellationToken,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

impl Hub {
    pub fn new(objects: Objects) -> Self {
        let events = EventRecorder::start(objects.clone(), CancellationToken::new());
        Self(Arc::new(Inner {
            objects,
            events,
            lines: Mutex::default(),
            streams: Mutex::default(),
            assignments: Assignments::default(),
        }))
    }

    pub fn is_connected(&self, node: &str) -> bool {
        self.0.lines.lock().contains_key(node)
    }

    /// Follows the store and tells each node what concerns it.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = assignments::follow(&self.0.assignments, self.0.objects.store().clone(), |node, message| self.tell(node, message)) => {}
        }
    }

    fn tell(&self, node: &str, message: ServerMessage) {
        let mut lines = self.0.lines.lock();
        let Some(line) = lines.get(node) else { return };
        if line.messages.try_send(message).is_err() {
            tracing::warn!(node, "the node reads too slowly; its line is cut and starts over");
            // Left open, the node would take its old set for the newest for ever.
            line.cut.cancel();
            lines.remove(node);
        }
    }

    /// Asks a node for a stream and waits until it has dialled.
    pub async fn open(&self, node: &str, request: StreamRequest) -> Result<NodeStream, Status> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (sender, receiver) = oneshot::channel();
        if !self.is_connected(node) {
            return Err(Status::unavailable(format!("node {node:?} is not connected"), 1));
        }
        self.0.streams.lock().insert(id.clone(), (node.to_owned(), sender));
        self.tell(node, ServerMessage::OpenStream { id: id.clone(), request });
        let outcome = tokio::time::timeout(STREAM_TIMEOUT, receiver).await;
        self.0.streams.lock().remove(&id);
        match outcome {
            Ok(Ok(stream)) => stream,
            _ => Err(Status::unavailable(format!("node {node:?} did not open the stream in time"), 1)),
        }
    }
}

/// The node whose credential came along.
fn node_of(app: &AppState, headers: &HeaderMap) -> Result<(Actor, String), Status> {
    let (actor, _) = app.auth.authenticate(headers).ok_or_else(Status::unauthorized)?;
    match actor.node().map(str::to_owned) {
        Some(node) => Ok((actor, node)),
        None => {
            let wanted = Attributes {
                verb: "connect".into(),
                path: pilothouse_protocol::CONNECT_PATH.into(),
                ..Attributes::default()
            };
            Err(wanted.forbidden(&actor.user, "only nodes connect here"))
        }
    }
}

pub async fn connect(State(app): State<AppState>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    match node_of(&app, &headers) {
        Ok((actor, node)) => upgrade
            .protocols([PROTOCOL])
            .on_upgrade(move |socket| serve(app.hub.clone(), actor, node, socket)),
        Err(status) => reply::status(&status),
    }
}

pub async fn stream(
    State(app): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let node = match node_of(&app, &headers) {
        Ok((_, node)) => node,
        Err(status) => return reply::status(&status),
    };
    let mut streams = app.hub.0.streams.lock();
    // An id is good once, and only for the node that was asked.
    let waiting = match streams.get(&id) {
        Some((asked, _)) if *asked == node => streams.remove(&id).map(|(_, waiting)| waiting),
        _ => None,
    };
    drop(streams);
    match waiting {
        Some(waiting) => upgrade.protocols([PROTOCOL]).on_upgrade(move |socket| async move {
            let _ = waiting.send(Ok(socket)); // who waited may have left
        }),
        None => reply::status(&Status::not_found("streams", &id)),
    }
}

async fn serve(hub: Hub, actor: Actor, node: String, socket: WebSocket) {
    let (mut sink, mut incoming) = socket.split();
    let (messages, mut outgoing) = mpsc::channel(QUEUE);
    let line = Line { messages, cut: CancellationToken::new() };
    let sending = async {
        while let Some(message) = outgoing.recv().await {
            let Ok(text) = serde_json::to_string(&message) else { continue };
            match tokio::time::timeout(SILENCE, sink.send(Message::text(text))).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    };
    let receiving = async {
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, incoming.next()).await {
            let Message::Text(text) = frame else { continue };
            let message: NodeMessage = match serde_json::from_str(&text) {
                Ok(message) => message,
                Err(error) => {
                    tracing::warn!(%node, %error, "a node speaks another protocol");
                    return;
                }
            };
            match message {
                NodeMessage::Register { node: object } => {
                    if let Err(error) = hub.register(&actor, &node, object).await {
                        tracing::warn!(%node, %error, "a node could not be registered");
                        return;
                    }
                    // The full set and the line begin together: no change falls between.
                    let known = hub.0.assignments.with_full(&node, |full| hub.begin(&node, &line, full));
                    if !known {
                        return; // an empty set would end every pod there; the node dials again
                    }
                }
                NodeMessage::Ping => {
                    hub.renew(&actor, &node).await;
                    let _ = line.messages.try_send(ServerMessage::Pong);
                }
                message => hub.receive(&actor, &node, message).await,
            }
        }
    };
    tokio::select! { () = sending => {}, () = receiving => {}, () = line.cut.cancelled() => {} }
    let mut lines = hub.0.lines.lock();
    if lines.get(&node).is_some_and(|current| current.messages.same_channel(&line.messages)) {
        lines.remove(&node);
    }
}

impl Hub {
    /// A new line of a node replaces the one it had.
    fn begin(&self, node: &str, line: &Line, full: ServerMessage) {
        if line.messages.try_send(full).is_err() {
            return line.cut.cancel();
        }
        let before = self.0.lines.lock().insert(node.to_owned(), line.clone());
        if let Some(before) = before.filter(|before| !before.messages.same_channel(&line.messages)) {
            before.cut.cancel();
        }
    }

    async fn register(&self, actor: &Actor, name: &str, object: Value) -> Result<(), Status> {
        let objects = &self.0.objects;
        let entry = objects
            .registry()
            .by_resource("nodes")
            .cloned()
            .ok_or_else(|| Status::not_found("nodes", name))?;
        if meta::name(&object) != name {
            return Err(Status::bad_request("a node registers itself only"));
        }
        self.renew(actor, name).await;
        let options = WriteOptions::default();
        match objects.create(actor, &entry, "", object.clone(), &options).await {
            Err(status) if status.reason == Reason::AlreadyExists => {}
            outcome => return outcome.map(drop),
        }
        let labels = object["metadata"]["labels"].clone();
        let relabel = |old: &Value| {
            let mut new = old.clone();
            for (label, value) in labels.as_object().into_iter().flatten() {
                new["metadata"]["labels"][label] = value.clone();
            }
            Ok(new)
        };
        objects.update(actor, &entry, "", name, Part::Spec, &options, relabel).await?;
        self.node_status(actor, name, object["status"].clone()).await
    }

    async fn node_status(&self, actor: &Actor, name: &str, status: Value) -> Result<(), Status> {
        let objects = &self.0.objects;
        let entry = objects
            .registry()
            .by_resource("nodes")
            .cloned()
            .ok_or_else(|| Status::not_found("nodes", name))?;
        let change = |old: &Value| {
            let mut new = old.clone();
            new["status"] = status.clone();
            // A condition keeps the time since when it has held.
            for condition in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
                let before = old["status"]["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|c| c["type"] == condition["type"]);
                if let Some(before) = before.filter(|b| b["status"] == condition["status"]) {
                    condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
                }
            }
            Ok(new)
        };
        objects
            .update(actor, &entry, "", name, Part::Status, &WriteOptions::default(), change)
            .await
            .map(drop)
    }

    /// The node's heartbeat.
    async fn renew(&self, actor: &Actor, name: &str) {
        let objects = &self.0.objects;
        let Some(entry) = objects.registry().by_resource(LEASES).cloned() else { return };
        let now = Timestamp::now();
        let micros = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": format!("{micros:.6}")});
        let change = |old: &Value| {
            let mut new = old.clone();
            new["spec"] = spec.clone();
            Ok(new)
        };
        let options = WriteOptions::default();
        let renewed =
            objects.update(actor, &entry, LEASE_NAMESPACE, name, Part::Spec, &options, change).await;
        let outcome = match renewed {
            Err(status) if status.reason == Reason::NotFound => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
                objects.create(actor, &entry, LEASE_NAMESPACE, lease, &options).await
            }
            outcome => outcome,
        };
        if let Err(error) = outcome {
            tracing::warn!(node = name, %error, "a node's lease could not be renewed");
        }
    }

    async fn receive(&self, actor: &Actor, node: &str, message: NodeMessage) {
        let outcome = match message {
            NodeMessage::NodeStatus { status } => self.node_status(actor, node, status).await,
            NodeMessage::PodStatus { namespace, name, uid, status } => {
                self.pod_status(actor, node, &namespace, &name, &uid, status).await
            }
            NodeMessage::PodTerminated { namespace, name, uid } => {
                self.pod_terminated(actor, node, &namespace, &name, &uid).await
            }
            NodeMessage::Event { event, .. } => {
                self.0.events.send(event);
                Ok(())
            }
            NodeMessage::StreamFailed { id, code, message } => {
                if let Some((_, waiting)) = self.0.streams.lock().remove(&id) {
                    let reason = if code == 404 { Reason::NotFound } else { Reason::BadRequest };
                    let _ = waiting.send(Err(Status::new(reason, message)));
                }
                Ok(())
            }
            NodeMessage::Register { .. } | NodeMessage::Ping => Ok(()),
        };
        match outcome {
            Ok(()) => {}
            // The pod is gone, or another took its name: the node will hear of it.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
            Err(error) => tracing::warn!(node, %error, "what a node told could not be written"),
        }
    }

    async fn pod_status(
        &self,
        actor: &Actor,
        node: &str,
        namespace: &str,
        name: &str,
        uid: &str,
        status: Value,
    ) -> Result<(), Status> {
        let objects = &self.0.objects;
        let entry =
            objects.registry().by_resource("pods").cloned().ok_or_else(|| Status::not_found("pods", name))?;
        let change = |old: &Value| {
            if meta::uid(old) != uid || old["spec"]["nodeName"] != node {
                return Err(Status::not_found("pods", name));
            }
            let mut new = old.clone();
            let mut fresh = status.clone();
            // The class follows the spec, which the node does not write; conditions that others set stay.
            fresh["qosClass"] = old["status"]["qosClass"].clone();
            let told: Vec<Value> = fresh["conditions"].as_array().cloned().unwrap_or_default();
            let mut conditions: Vec<Value> =
                old["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .retain(|c| !told.iter().any(|t| t["type"] == c["type"]) || c["type"] == "PodScheduled");
            let scheduled = conditions.iter().any(|c| c["type"] == "PodScheduled");
            conditions.extend(told.into_iter().filter(|t| t["type"] != "PodScheduled" || !scheduled));
            fresh["conditions"] = conditions.into();
            new["status"] = fresh;
            Ok(new)
        };
        objects
            .update(actor, &entry, namespace, name, Part::Status, &WriteOptions::default(), change)
            .await
            .map(drop)
    }

    async fn pod_terminated(
        &self,
        actor: &Actor,
        node: &str,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), Status> {
        let objects = &self.0.objects;
        let key = pilothouse_api::Key::new("pods", namespace, name);
        let own = objects.store().get(&key).is_some_and(|pod| pod.value()["spec"]["nodeName"] == node);
        if !own {
            return Ok(());
        }
        let entry =
            objects.registry().by_resource("pods").cloned().ok_or_else(|| Status::not_found("pods", name))?;
        let delete = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some(uid.to_owned()),
            ..DeleteOptions::default()
        };
        objects.delete(actor, &entry, namespace, name, &delete, &WriteOptions::default()).await.map(drop)
    }
}
