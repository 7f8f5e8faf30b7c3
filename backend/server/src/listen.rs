//! Sockets: TLS with HTTP/1.1 and HTTP/2, and plain HTTP on loopback for a first visit of the dashboard.
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A client that does not finish its handshake is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The header that marks requests without TLS, whose cookie cannot be `Secure`. Nobody outside can send it: it is removed
/// from every request first.
pub const PLAIN_HTTP: &str = "x-pilothouse-plain-http";

pub async fn tls(
    listener: TcpListener,
    config: rustls::ServerConfig,
    app: Router,
    shutdown: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let app = app.layer(axum::middleware::map_request(|mut request: axum::extract::Request| async move {
        request.headers_mut().remove(PLAIN_HTTP);
        request
    }));
    loop {
        let Some(stream) = accept(&listener, &shutdown).await else { return };
        let (acceptor, app, shutdown) = (acceptor.clone(), app.clone(), shutdown.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, app, shutdown).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => {}
            }
        });
    }
}

pub async fn plain(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    let app = app.layer(axum::middleware::map_request(|mut request: axum::extract::Request| async move {
        request.headers_mut().insert(PLAIN_HTTP, axum::http::HeaderValue::from_static("1"));
        request
    }));
    while let Some(stream) = accept(&listener, &shutdown).await {
        tokio::spawn(serve(stream, app.clone(), shutdown.clone()));
    }
}

async fn accept(listener: &TcpListener, shutdown: &CancellationToken) -> Option<tokio::net::TcpStream> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    return Some(stream);
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
    shutdown: CancellationToken,
) {
    let builder = auto::Builder::new(TokioExecutor::new());
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
