//! Sockets: TLS with HTTP/1.1 and HTTP/2, and plain HTTP on loopback for a first visit of the dashboard.
use crate::auth::client_certificate;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A client that does not finish its handshake is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The header that marks requests without TLS, whose cookie cannot be `Secure`. Nobody outside can send it: it is removed
/// from every request first.
pub const PLAIN_HTTP: &str = "x-pilothouse-plain-http";
/// The header that names the address a request came from. Nobody outside can send it either.
const PEER: &str = "x-pilothouse-peer";

/// What handlers are told of a request's connection, in headers that nobody else can set.
#[derive(Clone)]
struct Marks {
    client: Option<HeaderValue>,
    peer: Option<HeaderValue>,
    is_plain: bool,
}

impl Marks {
    fn put_on(&self, headers: &mut HeaderMap) {
        headers.remove(PLAIN_HTTP);
        headers.remove(client_certificate::HEADER);
        headers.remove(PEER);
        if let Some(peer) = &self.peer {
            headers.insert(PEER, peer.clone());
        }
        if self.is_plain {
            headers.insert(PLAIN_HTTP, HeaderValue::from_static("1"));
        }
        if let Some(client) = &self.client {
            headers.insert(client_certificate::HEADER, client.clone());
        }
    }
}

pub async fn tls(
    listener: TcpListener,
    config: rustls::ServerConfig,
    app: Router,
    shutdown: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let Some((stream, peer)) = accept(&listener, &shutdown).await else { return };
        let (acceptor, app, shutdown) = (acceptor.clone(), app.clone(), shutdown.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    let client = certificates.and_then(|all| client_certificate::mark(all.first()?));
                    serve(stream, app, Marks { client, peer, is_plain: false }, shutdown).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => {}
            }
        });
    }
}

pub async fn plain(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    while let Some((stream, peer)) = accept(&listener, &shutdown).await {
        let marks = Marks { client: None, peer, is_plain: true };
        tokio::spawn(serve(stream, app.clone(), marks, shutdown.clone()));
    }
}

/// Whom a request came through, as it says, and last where it came from: what the audit log calls `sourceIPs`.
pub fn sources(headers: &HeaderMap) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let told = text("x-forwarded-for").split(',').chain([text("x-real-ip"), text(PEER)]);
    let mut sources: Vec<String> = Vec::new();
    for ip in told.filter_map(|ip| ip.trim().parse::<IpAddr>().ok()).map(|ip| ip.to_string()) {
        if !sources.contains(&ip) {
            sources.push(ip);
        }
    }
    sources
}

async fn accept(
    listener: &TcpListener,
    shutdown: &CancellationToken,
) -> Option<(tokio::net::TcpStream, Option<HeaderValue>)> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    return Some((stream, HeaderValue::from_str(&peer.ip().to_canonical().to_string()).ok()));
                }
                // Out of file descriptors, most likely: others must end first.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: Router,
    marks: Marks,
    shutdown: CancellationToken,
) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let app = app.map_request(move |mut request: Request<Incoming>| {
        marks.put_on(request.headers_mut());
        request
    });
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => if let Err(error) = outcome {
            tracing::debug!(%error, "a connection ended");
        },
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
