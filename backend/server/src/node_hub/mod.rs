//! The nodes' side of the server: one line a node, the objects it needs, and streams on demand.
mod assignments;
mod event_budget;
mod pod_reports;
mod reports;
mod storage_reports;
#[cfg(test)]
mod tests;
mod tunnel;

use crate::auth::{Attributes, Auth};
use crate::http::reply;
use crate::loops::EventRecorder;
use crate::metrics::Metrics;
use crate::objects::{Actor, Objects};
use crate::state::AppState;
use assignments::{Assignments, To};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use event_budget::EventBudget;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use pilothouse_api::{Ipv4Cidr, Status};
use pilothouse_protocol::{NodeMessage, PROTOCOL, ServerMessage, StreamRequest};
use pod_reports::PodReports;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Messages that may wait for one node; a node that reads slower is cut off and starts over with the full set.
const QUEUE: usize = 1024;
/// Bytes of a line's buffers. What is said is small, and the usual 128 KiB would be most of what a node costs.
const LINE_BUFFER: usize = 8 * 1024;
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// A line on which nothing came for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(40);
/// What a close frame carries of a reason at most (RFC 6455 5.5).
const CLOSE_REASON_BYTES: usize = 120;

/// The node's end of a stream.
pub type NodeStream = WebSocket;

type Waiting = oneshot::Sender<Result<NodeStream, Status>>;

struct Inner {
    objects: Objects,
    auth: Auth,
    events: EventRecorder,
    metrics: Metrics,
    lines: Mutex<HashMap<String, Line>>,
    /// Streams that were asked for, by id: the node, and who waits.
    streams: Mutex<HashMap<String, (String, Waiting)>>,
    assignments: Assignments,
}

/// The way to one node. The connection ends when it is cut.
#[derive(Clone)]
struct Line {
    /// Made once for everybody they are for.
    messages: mpsc::Sender<Utf8Bytes>,
    cut: CancellationToken,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

impl Hub {
    pub(crate) fn new(objects: Objects, auth: Auth, metrics: Metrics, pods: Ipv4Cidr) -> Self {
        let events = EventRecorder::start(objects.clone(), CancellationToken::new());
        Self(Arc::new(Inner {
            objects,
            auth,
            events,
            metrics,
            lines: Mutex::default(),
            streams: Mutex::default(),
            assignments: Assignments::new(pods),
        }))
    }

    pub fn is_connected(&self, node: &str) -> bool {
        self.0.lines.lock().contains_key(node)
    }

    /// Follows the store and tells each node what concerns it.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = assignments::follow(&self.0.assignments, self.0.objects.store().clone(), |to, message| self.tell(to, message)) => {}
        }
    }

    fn tell(&self, to: To<'_>, message: &ServerMessage) {
        let mut lines = self.0.lines.lock();
        let Some(text) = text(message) else { return };
        match to {
            To::Node(node) => {
                if lines.get(node).is_some_and(|line| !line.take(node, text)) {
                    lines.remove(node);
                }
            }
            To::All => lines.retain(|node, line| line.take(node, text.clone())),
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
        let _asked = Asked { hub: self, id: &id };
        self.tell(To::Node(node), &ServerMessage::OpenStream { id: id.clone(), request });
        match tokio::time::timeout(STREAM_TIMEOUT, receiver).await {
            Ok(Ok(stream)) => stream,
            _ => Err(Status::unavailable(format!("node {node:?} did not open the stream in time"), 1)),
        }
    }
}

/// A stream that was asked for. Who asked may leave before it comes.
struct Asked<'a> {
    hub: &'a Hub,
    id: &'a str,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.hub.0.streams.lock().remove(self.id);
    }
}

fn text(message: &ServerMessage) -> Option<Utf8Bytes> {
    serde_json::to_string(message).ok().map(Utf8Bytes::from)
}

impl Line {
    /// False: the node reads too slowly, and its line is cut. Left open, it would take its old set for the newest for ever.
    fn take(&self, node: &str, message: Utf8Bytes) -> bool {
        let taken = self.messages.try_send(message).is_ok();
        if !taken {
            tracing::warn!(node, "the node reads too slowly; its line is cut and starts over");
            self.cut.cancel();
        }
        taken
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
            .read_buffer_size(LINE_BUFFER)
            .write_buffer_size(LINE_BUFFER)
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
        while let Some(text) = outgoing.recv().await {
            match tokio::time::timeout(SILENCE, sink.send(Message::Text(text))).await {
                Ok(Ok(())) => {}
                _ => return None,
            }
        }
        None
    };
    let receiving = async {
        let mut budget = EventBudget::new(Instant::now());
        let mut reports = PodReports::new(|report| Box::pin(hub.receive_pod(&actor, &node, report)));
        loop {
            let heard = tokio::time::timeout(SILENCE, incoming.next());
            let frame = tokio::select! {
                Ok(Some(Ok(frame))) = heard, if !reports.is_full() => frame,
                () = reports.written(), if !reports.is_idle() => continue,
                else => return None,
            };
            let Message::Text(frame) = frame else { continue };
            let message: NodeMessage = match serde_json::from_str(&frame) {
                Ok(message) => message,
                Err(error) => return Some(format!("the node speaks another protocol: {error}")),
            };
            match message {
                NodeMessage::Register { node: object } => {
                    if let Err(error) = hub.register(&actor, &node, object).await {
                        return Some(format!("the node could not be registered: {error}"));
                    }
                    // The full set and the line begin together: no change falls between. An empty set would end every
                    // pod there; the node dials again.
                    if !hub.0.assignments.with_full(&node, |full| hub.begin(&node, &line, &full)) {
                        return Some("the server is not ready yet".into());
                    }
                }
                NodeMessage::Ping => {
                    hub.renew(&actor, &node).await;
                    line.messages
                        .try_send(text(&ServerMessage::Pong).unwrap_or_default())
                        .unwrap_or_default();
                }
                NodeMessage::TokenRequest { id, pod, audiences, expiration_seconds } => {
                    let outcome = hub.token(&node, &pod, audiences, expiration_seconds);
                    let answer =
                        ServerMessage::Token { id, outcome: outcome.map_err(|status| status.message) };
                    line.messages.try_send(text(&answer).unwrap_or_default()).unwrap_or_default();
                }
                NodeMessage::PodStatus { ref uid, .. } | NodeMessage::PodTerminated { ref uid, .. } => {
                    reports.push(uid.clone(), message);
                }
                message => hub.receive(&actor, &node, &mut budget, message).await,
            }
        }
    };
    let why = tokio::select! {
        why = sending => why,
        why = receiving => why,
        () = line.cut.cancelled() => None,
    };
    {
        let mut lines = hub.0.lines.lock();
        if lines.get(&node).is_some_and(|current| current.messages.same_channel(&line.messages)) {
            lines.remove(&node);
        }
    }
    if let Some(why) = why {
        tracing::warn!(%node, why, "a node's line was ended");
        let reason: String = why.chars().filter(char::is_ascii).take(CLOSE_REASON_BYTES).collect();
        let frame = CloseFrame { code: close_code::POLICY, reason: reason.into() };
        let _ = tokio::time::timeout(SILENCE, sink.send(Message::Close(Some(frame)))).await;
    }
}

impl Hub {
    /// A new line of a node replaces the one it had.
    fn begin(&self, node: &str, line: &Line, full: &ServerMessage) {
        let sent = text(full).is_some_and(|full| line.messages.try_send(full).is_ok());
        if !sent {
            return line.cut.cancel();
        }
        let before = self.0.lines.lock().insert(node.to_owned(), line.clone());
        if let Some(before) = before.filter(|before| !before.messages.same_channel(&line.messages)) {
            before.cut.cancel();
        }
    }
}
