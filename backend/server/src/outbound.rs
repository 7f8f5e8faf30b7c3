//! Asking others over HTTPS by URL: one request, one answer.
use axum::http::{Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A whole GET: connecting, asking, reading.
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: usize = 1024 * 1024;

/// The body that a URL has. Errors: why there is none.
pub async fn get(url: &str, tls: Arc<ClientConfig>) -> Result<Bytes, String> {
    let request = |uri: &Uri| Request::get(path_of(uri)).body(Empty::new());
    send(url, tls, request).await
}

/// The body of the answer to a request that is made for a URL; it is given the right `Host`.
pub async fn send<B>(
    url: &str,
    tls: Arc<ClientConfig>,
    request: impl FnOnce(&Uri) -> axum::http::Result<Request<B>>,
) -> Result<Bytes, String>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let request = request(&uri).map_err(|error| error.to_string())?;
    let asked = tokio::time::timeout(TIMEOUT, ask(&uri, tls, request)).await;
    asked.unwrap_or_else(|_| Err("no answer in time".into())).map_err(|why| format!("{url}: {why}"))
}

pub fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

async fn ask<B>(uri: &Uri, tls: Arc<ClientConfig>, mut request: Request<B>) -> Result<Bytes, String>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    if uri.scheme_str() != Some("https") {
        return Err("only https is trusted".into());
    }
    let authority = uri.authority().ok_or("it names no host")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(443);
    let value = authority.as_str().parse().map_err(|_| "its host is no header")?;
    request.headers_mut().insert(header::HOST, value);
    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("tls: {error}"))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    // Ends with the sender, at the end of this function.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    match code.is_success() {
        true => Ok(body),
        false => {
            let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
            Err(format!("it answered {code}: {text}"))
        }
    }
}
