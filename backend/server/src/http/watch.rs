//! `watch`: a line of JSON a change, for as long as the client listens.
use super::list_options;
use super::read::{Selectors, Shape};
use super::resources::Call;
use super::subresources::upgrade;
use crate::objects::read_failed;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::table::{IncludeObject, partial_metadata, table};
use pilothouse_api::{Revision, Status};
use pilothouse_store::{Change, ChangeKind, Object, Watch, WatchItem};
use rand::RngExt;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where the client names no end, watches end after 30 to 60 minutes, as Kubernetes' do, so that they spread anew.
const SHORTEST: u64 = 1800;
const LONGEST: u64 = 3600;
/// Kubernetes' mark on the bookmark that ends the initial list.
const INITIAL_END: &str = "k8s.io/initial-events-end";

pub async fn watch(call: Call, parts: &mut Parts) -> Result<Response, Status> {
    let selectors = Selectors::of(&call)?;
    list_options::check_watch(&call)?;
    let from = list_options::revision(&call)?.filter(|revision| *revision > 0);
    let initial =
        call.flag("sendInitialEvents") || (from.is_none() && !call.query.contains_key("sendInitialEvents"));
    if let Some(from) = from {
        call.app.store.reach(from).await.map_err(read_failed)?;
    }
    if initial || from.is_none() {
        call.app.store.fresh().await.map_err(read_failed)?;
    }
    let namespace = Some(call.namespace.clone()).filter(|n| !n.is_empty());
    let (resource, namespace) = (call.entry.stored_as.clone(), namespace.as_deref());
    let (state, start) = match initial {
        true => {
            let listing = call.app.store.list(&resource, namespace);
            (listing.objects, listing.revision)
        }
        false => (Vec::new(), from.unwrap_or_else(|| call.app.store.revision())),
    };
    let watch = call.app.store.watch(Some(&resource), namespace, start);
    let watch = match watch {
        Ok(watch) => watch,
        // What goes wrong with a watch that was let in is an event of it: there clients look for 410.
        Err(failure) => {
            let mut line = BytesMut::new();
            error(&read_failed(failure), &mut line);
            return respond(parts, futures::stream::once(async { Ok(line.freeze()) })).await;
        }
    };
    let seconds = call.param("timeoutSeconds").and_then(|s| s.parse().ok());
    let seconds = seconds.unwrap_or_else(|| rand::rng().random_range(SHORTEST..LONGEST));
    let shutdown = parts.extensions.get::<CancellationToken>().cloned().unwrap_or_default();
    let mut encoder = Encoder {
        shape: Shape::of(&call),
        headers_sent: false,
        bookmarks: call.flag("allowWatchBookmarks"),
        call,
        selectors,
    };
    let mut first = BytesMut::new();
    let selected = encoder.selectors.select(&encoder.call.app.objects, state).await?;
    encoder.initial(&selected, &mut first).await?;
    if encoder.call.flag("sendInitialEvents") && encoder.bookmarks {
        encoder.bookmark(start, true, &mut first);
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let (registry, entry) = (encoder.call.app.registry.clone(), encoder.call.entry.clone());
    // One future for the whole watch: made anew for each event, its timers and queues would cost as much as the event.
    let ended = Box::pin(async move {
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = shutdown.cancelled() => {}
            // What was watched is gone, or is something else now: the client finds out by starting over.
            () = registry.replaced(&entry) => {}
        }
    });
    let stream = futures::stream::unfold(Some((watch, encoder, first, ended)), |running| async {
        let (mut watch, mut encoder, mut lines, mut ended) = running?;
        let mut goes_on = true;
        if lines.is_empty() {
            goes_on = tokio::select! {
                biased;
                goes_on = next_lines(&mut watch, &mut encoder, &mut lines) => goes_on,
                () = &mut ended => return None,
            };
        }
        let rest = goes_on.then_some((watch, encoder, BytesMut::new(), ended));
        Some((Ok::<_, Infallible>(lines.freeze()), rest))
    });
    respond(parts, stream).await
}

/// As lines of one answer, or as messages of a WebSocket.
async fn respond(
    parts: &mut Parts,
    lines: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Result<Response, Status> {
    if parts.headers.contains_key(header::UPGRADE) {
        return Ok(upgrade(parts).await?.on_upgrade(move |socket| tell(socket, lines)));
    }
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache, private")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// The same events over a WebSocket, a message each, as Kubernetes offers them: a browser opens few plain connections.
async fn tell(mut socket: WebSocket, lines: impl Stream<Item = Result<Bytes, Infallible>>) {
    let mut lines = std::pin::pin!(lines);
    loop {
        let burst = tokio::select! {
            burst = lines.next() => burst,
            // A watcher has nothing to say: this is its end, or a ping that was answered by itself.
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let Some(Ok(burst)) = burst else { break };
        for line in String::from_utf8_lossy(&burst).lines() {
            if socket.send(Message::Text(line.into())).await.is_err() {
                return;
            }
        }
    }
    // Whoever has gone already needs no goodbye.
    let _ = socket.send(Message::Close(None)).await;
}

/// Waits for something to send, then takes what else is there: one write for a burst. False: the watch is over.
async fn next_lines(watch: &mut Watch, encoder: &mut Encoder, lines: &mut BytesMut) -> bool {
    const BURST: usize = 64 * 1024;
    while lines.is_empty() {
        let mut item = watch.next().await;
        loop {
            match item {
                WatchItem::Change(change) => {
                    if let Err(status) = encoder.change(&change, lines).await {
                        error(&status, lines);
                        return false;
                    }
                }
                WatchItem::Progress(revision) => {
                    if lines.is_empty() && encoder.bookmarks {
                        encoder.bookmark(revision, false, lines);
                    }
                    break;
                }
                WatchItem::Lagged => {
                    let status =
                        Status::expired("too old resource version: the watch fell behind; list again");
                    error(&status, lines);
                    return false;
                }
            }
            if lines.len() > BURST {
                break;
            }
            item = match watch.try_next() {
                // Bookmarks go out when nothing else does, not after each burst.
                WatchItem::Progress(_) => break,
                other => other,
            };
        }
    }
    true
}

struct Encoder {
    call: Call,
    selectors: Selectors,
    shape: Shape,
    /// Column definitions go with the first row only.
    headers_sent: bool,
    bookmarks: bool,
}

impl Encoder {
    /// A change as this watcher sees it: an object may enter or leave the selection.
    async fn change(&mut self, change: &Change, lines: &mut BytesMut) -> Result<(), Status> {
        let is_selected = |object: &Arc<Object>| self.selectors.matches(object);
        let (before, now) = match self.selectors.asks_shown() {
            false => sides(change, is_selected),
            true => {
                let both = change.previous.iter().chain([&change.object]).cloned();
                let selected = self.selectors.select(&self.call.app.objects, both).await?;
                sides(change, |object| selected.iter().any(|one| Arc::ptr_eq(one, object)))
            }
        };
        match (before, now) {
            (false, false) => {}
            (false, true) => self.line("ADDED", &change.object, lines).await?,
            (true, true) => self.line("MODIFIED", &change.object, lines).await?,
            (true, false) if change.kind == ChangeKind::Deleted => {
                self.line("DELETED", &change.object, lines).await?;
            }
            // It left the selection: what the watcher had, at the revision at which it left.
            (true, false) => {
                let last = change.previous.as_ref().unwrap_or(&change.object);
                let mut value = self.call.app.objects.value_of(&self.call.entry, last).await?;
                value["metadata"]["resourceVersion"] = change.object.revision.to_string().into();
                self.shown("DELETED", value, change.object.revision, lines);
            }
        }
        Ok(())
    }

    /// The state that a watch begins with.
    async fn initial(&mut self, objects: &[Arc<Object>], lines: &mut BytesMut) -> Result<(), Status> {
        if self.sends_stored() {
            objects.iter().for_each(|object| event("ADDED", &object.bytes, lines));
            return Ok(());
        }
        let values = self.call.app.objects.values_of(&self.call.entry, objects).await?;
        for (object, value) in objects.iter().zip(values) {
            self.shown("ADDED", value, object.revision, lines);
        }
        Ok(())
    }

    /// Whether the stored bytes are sent as they are.
    fn sends_stored(&self) -> bool {
        self.shape == Shape::Whole && self.call.app.objects.is_stored_shape(&self.call.entry)
    }

    async fn line(&mut self, kind: &str, object: &Object, lines: &mut BytesMut) -> Result<(), Status> {
        if self.sends_stored() {
            event(kind, &object.bytes, lines);
            return Ok(());
        }
        let value = self.call.app.objects.value_of(&self.call.entry, object).await?;
        self.shown(kind, value, object.revision, lines);
        Ok(())
    }

    /// The object in the shape that was asked for.
    fn shown(&mut self, kind: &str, value: Value, revision: Revision, lines: &mut BytesMut) {
        let shown = match self.shape {
            Shape::Whole => value,
            Shape::Metadata => partial_metadata(&value),
            Shape::Table(include) => self.table(&[value], include, revision),
        };
        event(kind, shown.to_string().as_bytes(), lines);
    }

    fn table(&mut self, objects: &[Value], include: IncludeObject, revision: Revision) -> Value {
        let meta = json!({"resourceVersion": revision.to_string()});
        let mut result = table(&self.call.entry, objects, include, Timestamp::now(), meta);
        if std::mem::replace(&mut self.headers_sent, true) {
            result["columnDefinitions"] = Value::Null;
        }
        result
    }

    fn bookmark(&mut self, revision: Revision, ends_initial: bool, lines: &mut BytesMut) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let object = json!({"kind": self.call.entry.kind, "apiVersion": self.call.entry.api_version(), "metadata": metadata});
        let object = match self.shape {
            Shape::Metadata => partial_metadata(&object),
            Shape::Table(_) => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null, "rows": [{"cells": [], "object": object}],
            }),
            _ => object,
        };
        event("BOOKMARK", object.to_string().as_bytes(), lines);
    }
}

/// Whether the object was selected before the change, and whether it is now.
fn sides(change: &Change, is_selected: impl Fn(&Arc<Object>) -> bool) -> (bool, bool) {
    let now = change.kind != ChangeKind::Deleted && is_selected(&change.object);
    let before = match &change.previous {
        Some(previous) => is_selected(previous),
        None => change.kind != ChangeKind::Added && is_selected(&change.object),
    };
    (before, now)
}

fn error(status: &Status, lines: &mut BytesMut) {
    event("ERROR", status.to_json().to_string().as_bytes(), lines);
}

/// One line of the stream; `object` is JSON.
fn event(kind: &str, object: &[u8], lines: &mut BytesMut) {
    lines.reserve(object.len() + 40);
    for part in [b"{\"type\":\"".as_slice(), kind.as_bytes(), b"\",\"object\":", object, b"}\n"] {
        lines.put_slice(part);
    }
}

#[cfg(test)]
mod tests;
