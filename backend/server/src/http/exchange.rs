//! Passing a request on over a connection, and what comes back: also when both sides then speak something else.
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use pilothouse_api::{Reason, Status};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long the other may think before it answers; the answer itself may take as long as it likes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// About one connection, so not for the next one. `upgrade` is added again where it is asked for.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What the request is turned into.
pub struct Outgoing {
    /// What is asked, for messages: `the pod`.
    pub whom: &'static str,
    /// With the query.
    pub target: String,
    /// None: the one the client named.
    pub host: Option<HeaderValue>,
    /// Set in place of the client's.
    pub headers: HeaderMap,
}

pub async fn exchange(
    side: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    parts: &mut Parts,
    outgoing: Outgoing,
    body: Body,
) -> Result<Response, Status> {
    let whom = outgoing.whom;
    let failed = |error: hyper::Error| unavailable(format!("error trying to reach {whom}: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(side)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    let request = request(parts, outgoing, upgrade.as_ref(), body)?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let mut answer = answer
        .map_err(|_| Status::new(Reason::Timeout, format!("{whom} did not answer in time")))?
        .map_err(failed)?;
    let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = passed_on(answer.headers(), upgrade.as_ref().filter(|_| switching));
    if switching && let Some(client) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() {
        let other = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(other)) = tokio::join!(client, other) {
                let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut other).await;
            }
        });
        return Ok(response);
    }
    *response.body_mut() = Body::new(answer.into_body());
    Ok(response)
}

fn request(
    parts: &Parts,
    outgoing: Outgoing,
    upgrade: Option<&HeaderValue>,
    body: Body,
) -> Result<Request<Body>, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() =
        outgoing.target.parse::<Uri>().map_err(|error| Status::bad_request(error.to_string()))?;
    let own = parts.headers.get(header::HOST).cloned();
    let authority = || parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let mut headers = passed_on(&parts.headers, upgrade);
    // The caller's credential, and whom it acts for, is for us alone; who it is, is for us to say.
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::COOKIE);
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ["impersonate-", "x-remote-"].iter().any(|prefix| name.as_str().starts_with(prefix)))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
    if let Some(host) = outgoing.host.or(own).or_else(authority) {
        headers.insert(header::HOST, host);
    }
    for (name, value) in &outgoing.headers {
        headers.append(name, value.clone());
    }
    *request.headers_mut() = headers;
    Ok(request)
}

fn unavailable(message: String) -> Status {
    Status::new(Reason::ServiceUnavailable, message)
}

fn passed_on(headers: &HeaderMap, upgrade: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = headers.clone();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    headers
}
