//! SPDY/3.1 as Kubernetes' older stream protocols use it: `exec`, `attach` and `port-forward` on an upgraded connection, or
//! (`kubectl port-forward`) inside a WebSocket.
//!
//! The Go library that clients use (moby/spdystream) knows no flow control: it sends whatever it has, and sends no
//! WINDOW_UPDATE. Ours would do worse than nothing: it deals them out to the queues of five workers, where they pile up
//! behind a stream that its user does not read. So none is sent, as Kubernetes sends none. What the client sends is bounded
//! by each stream's [`inbox`](super::inbox), what is sent to it by TCP; a client that does not read one of its streams holds
//! up its own others.
mod frame;

use super::inbox::{FromClient, Inbox, inbox};
use axum::extract::ws::{Message, WebSocket};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use frame::{Frame, Reader, Writer};
use futures::stream::BoxStream;
use futures::{Sink, SinkExt, StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use pilothouse_api::Status;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::codec::{BytesCodec, Framed};
use tokio_util::sync::CancellationToken;

/// Messages that may wait until the client reads.
pub const QUEUE: usize = 16;
/// Streams of one session. A port-forward opens two for each connection.
const MOST_STREAMS: usize = 4096;
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// A stream that the client opened, or one channel of a WebSocket: the same to who serves it.
pub struct Accepted {
    pub headers: HashMap<String, String>,
    /// Ends when the client will send no more.
    pub from_client: FromClient,
    pub to_client: StreamWriter,
    /// The client gave the stream up, or it was given up for the sake of the others.
    pub reset: CancellationToken,
}

/// What goes to the client.
pub enum Out {
    Accept(u32),
    /// The stream is given up.
    Reset(u32),
    Pong(u32),
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    /// Everything is said.
    Close,
}

pub struct StreamWriter {
    pub stream: u32,
    pub out: mpsc::Sender<Out>,
}

/// The client is gone.
pub struct Gone;

impl StreamWriter {
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.out.send(Out::Data { stream: self.stream, bytes, last: false }).await.map_err(|_| Gone)
    }

    pub async fn end(&self) {
        let _ = self.out.send(Out::Data { stream: self.stream, bytes: Bytes::new(), last: true }).await;
    }
}

/// The connection below a session, as chunks of bytes.
pub struct Transport {
    from: BoxStream<'static, io::Result<Bytes>>,
    to: Pin<Box<dyn Sink<Bytes, Error = io::Error> + Send>>,
}

impl Transport {
    pub fn inside(socket: WebSocket) -> Self {
        let (to, from) = socket.split();
        let bytes = |message| async move {
            match message {
                Message::Binary(bytes) => Ok(Some(bytes)),
                Message::Close(_) => Err(io::ErrorKind::ConnectionAborted.into()),
                _ => Ok(None),
            }
        };
        Self {
            from: from.map_err(io::Error::other).try_filter_map(bytes).boxed(),
            to: Box::pin(
                to.sink_map_err(io::Error::other)
                    .with(|bytes| async { Ok::<_, io::Error>(Message::Binary(bytes)) }),
            ),
        }
    }

    fn on(connection: hyper::upgrade::Upgraded) -> Self {
        let (to, from) = Framed::new(TokioIo::new(connection), BytesCodec::new()).split();
        Self { from: from.map_ok(BytesMut::freeze).boxed(), to: Box::pin(to) }
    }
}

/// Whether the client asks to speak SPDY right on its connection.
pub fn is_asked(parts: &Parts) -> bool {
    let upgrade = parts.headers.get(header::UPGRADE).and_then(|u| u.to_str().ok()).unwrap_or_default();
    upgrade.eq_ignore_ascii_case("SPDY/3.1")
}

/// Answers a request to speak SPDY; `serve` gets the connection. Of `protocols` the first that the client offers counts.
pub fn upgrade<F>(
    parts: &mut Parts,
    protocols: &[&'static str],
    serve: impl FnOnce(Transport) -> F + Send + 'static,
) -> Result<Response, Status>
where
    F: Future<Output = ()> + Send + 'static,
{
    let offered: Vec<&str> = parts
        .headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(',').map(str::trim))
        .collect();
    let Some(chosen) = protocols.iter().find(|known| offered.contains(known)) else {
        return Err(Status::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {protocols:?}"
        )));
    };
    let Some(connection) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
        return Err(Status::bad_request("this connection cannot be upgraded: SPDY needs HTTP/1.1"));
    };
    tokio::spawn(async move {
        if let Ok(connection) = connection.await {
            serve(Transport::on(connection)).await;
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("SPDY/3.1")),
        (STREAM_PROTOCOL, HeaderValue::from_static(chosen)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Runs a session until `handle` is done with the client's streams, or the client leaves. `patience` is with streams that
/// nobody reads; None: it has no end.
pub async fn session<F: Future<Output = ()>>(
    transport: Transport,
    patience: Option<Duration>,
    handle: impl FnOnce(mpsc::Receiver<Accepted>) -> F,
) {
    let (out, queue) = mpsc::channel(QUEUE);
    let (opened, incoming) = mpsc::channel(QUEUE);
    let handling = async {
        handle(incoming).await;
        let _ = out.send(Out::Close).await;
        std::future::pending::<()>().await;
    };
    // Reading never waits for the client to read, but by the queue that the writer empties: two-way traffic cannot lock.
    tokio::select! {
        _ = read(transport.from, patience, out.clone(), opened) => {}
        _ = write(transport.to, queue) => {}
        () = handling => {}
    }
}

async fn read(
    mut from: BoxStream<'static, io::Result<Bytes>>,
    patience: Option<Duration>,
    out: mpsc::Sender<Out>,
    opened: mpsc::Sender<Accepted>,
) -> Option<()> {
    let mut reader = Reader::default();
    let mut open: HashMap<u32, (Inbox, CancellationToken)> = HashMap::new();
    loop {
        let bytes = from.next().await?.ok()?;
        for frame in reader.receive(&bytes).ok()? {
            match frame {
                Frame::Open { .. } if open.len() >= MOST_STREAMS => return None,
                Frame::Open { stream, headers, last } => {
                    out.send(Out::Accept(stream)).await.ok()?;
                    let (chunks, from_client) = inbox();
                    let reset = CancellationToken::new();
                    if !last {
                        open.insert(stream, (chunks, reset.clone()));
                    }
                    let to_client = StreamWriter { stream, out: out.clone() };
                    opened.send(Accepted { headers, from_client, to_client, reset }).await.ok()?;
                }
                Frame::Data { stream, bytes, last } => {
                    let Some((chunks, reset)) = open.get(&stream) else { continue };
                    let put = chunks.put(bytes, patience).await;
                    if put.is_err() {
                        reset.cancel();
                        out.send(Out::Reset(stream)).await.ok()?;
                    }
                    if last || put.is_err() {
                        open.remove(&stream);
                    }
                }
                Frame::Reset { stream } => {
                    if let Some((_, reset)) = open.remove(&stream) {
                        reset.cancel();
                    }
                }
                Frame::Ping { id } => out.send(Out::Pong(id)).await.ok()?,
                Frame::GoAway => return None,
            }
        }
    }
}

async fn write(
    mut to: Pin<Box<dyn Sink<Bytes, Error = io::Error> + Send>>,
    mut queue: mpsc::Receiver<Out>,
) -> Option<()> {
    let mut writer = Writer::default();
    let mut bytes = BytesMut::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Out::Accept(stream) => writer.accept(stream, &mut bytes).ok()?,
                Out::Reset(stream) => frame::reset(stream, &mut bytes),
                Out::Pong(id) => frame::pong(id, &mut bytes),
                Out::Data { stream, bytes: chunk, last } => frame::data(stream, &chunk, last, &mut bytes),
                Out::Close => {
                    to.send(bytes.split().freeze()).await.ok()?;
                    return to.close().await.ok();
                }
            }
            next = queue.try_recv().ok();
        }
        to.send(bytes.split().freeze()).await.ok()?;
    }
    None
}
