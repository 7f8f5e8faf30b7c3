//! `pods/proxy` and `services/proxy`: an HTTP request, passed on to a port of a pod over its node's line.
use super::super::resources::Call;
use super::parent;
use super::streams::{Target, target_of};
use crate::service_backends;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use pilothouse_api::{Key, Reason, Status};
use std::time::Duration;
use tokio::io::DuplexStream;

/// How long a pod may think before it answers; the answer itself may take as long as it likes.
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

pub async fn handle(call: Call, parts: &mut Parts, body: Body) -> Result<Response, Status> {
    let path = path_below(parts.uri.path(), !call.namespace.is_empty());
    if path.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
        // So that the page's relative links lead below it.
        let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
        let to = format!("{}/{query}", parts.uri.path());
        return Ok((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response());
    }
    let backend = Backend::named(&call.name)?;
    let hub = call.app.hub.clone();
    let (target, port) = match call.entry.kind.as_str() {
        "Pod" => of_pod(call, &backend).await?,
        "Service" => of_service(call, &backend).await?,
        _ => return Err(crate::routes::not_found()),
    };
    let side = hub.tunnel(&target.node, target.pod, port).await?;
    exchange(side, parts, &path, body).await
}

/// `[SCHEME:]NAME[:PORT]`.
struct Backend {
    name: String,
    port: String,
}

impl Backend {
    fn named(text: &str) -> Result<Self, Status> {
        let (name, port) = match text.split(':').collect::<Vec<_>>()[..] {
            [name] => (name, ""),
            [name, port] if !matches!(name, "http" | "https") => (name, port),
            ["http", name] => (name, ""),
            ["http" | "", name, port] => (name, port),
            ["https", ..] => {
                return Err(Status::bad_request(
                    "https is not spoken to what is proxied: leave the scheme away",
                ));
            }
            _ => {
                return Err(Status::bad_request(format!(
                    "invalid request {text:?}: expected NAME or NAME:PORT"
                )));
            }
        };
        Ok(Self { name: name.to_owned(), port: port.to_owned() })
    }
}

async fn of_pod(mut call: Call, backend: &Backend) -> Result<(Target, u16), Status> {
    call.name.clone_from(&backend.name);
    let object = parent(&call).await?.value();
    let ports = || {
        let containers = object["spec"]["containers"].as_array().into_iter().flatten();
        containers.flat_map(|c| c["ports"].as_array().into_iter().flatten())
    };
    let port = match backend.port.as_str() {
        "" => ports().find_map(|p| p["containerPort"].as_u64()).unwrap_or(80),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => {
                ports().find(|p| p["name"] == text).and_then(|p| p["containerPort"].as_u64()).unwrap_or(0)
            }
        },
    };
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port =
        port.ok_or_else(|| unavailable(format!("pod {:?} has no port {:?}", backend.name, backend.port)))?;
    Ok((target_of(&call, object)?, port))
}

/// A ready pod of the service, any of them.
async fn of_service(mut call: Call, backend: &Backend) -> Result<(Target, u16), Status> {
    call.name.clone_from(&backend.name);
    parent(&call).await?;
    let all = service_backends::ready(&call.app.store, &call.namespace, &call.name, &backend.port)?;
    let mut ready: Vec<(String, u16)> =
        all.into_iter().filter_map(|backend| Some((backend.pod?, backend.port))).collect();
    if ready.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {:?}", backend.name)));
    }
    let (name, number) = ready.swap_remove(rand::random_range(0..ready.len()));
    let key = Key::new("pods", call.namespace.as_str(), name.as_str());
    let pod = call.app.store.get(&key).ok_or_else(|| Status::not_found("pods", &name))?.value();
    call.name = name;
    Ok((target_of(&call, pod)?, number))
}

fn unavailable(message: String) -> Status {
    Status::new(Reason::ServiceUnavailable, message)
}

/// What follows `…/proxy`, as it was sent.
fn path_below(path: &str, is_namespaced: bool) -> String {
    // "", api, version, [namespaces, name,] resource, name, proxy: all proxied kinds are of the core group.
    let before = if is_namespaced { 8 } else { 6 };
    path.splitn(before + 1, '/').nth(before).map(|rest| format!("/{rest}")).unwrap_or_default()
}

async fn exchange(side: DuplexStream, parts: &mut Parts, path: &str, body: Body) -> Result<Response, Status> {
    let failed = |error: hyper::Error| unavailable(format!("error trying to reach the pod: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(side)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() =
        format!("{path}{query}").parse::<Uri>().map_err(|e| Status::bad_request(e.to_string()))?;
    let host = parts.headers.get(header::HOST).cloned();
    let authority = || parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let mut headers = passed_on(&parts.headers, upgrade.as_ref());
    // The caller's credential, and whom it acts for, is for us alone.
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::COOKIE);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    if let Some(host) = host.or_else(authority) {
        headers.insert(header::HOST, host);
    }
    *request.headers_mut() = headers;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let mut answer = answer
        .map_err(|_| Status::new(Reason::Timeout, "the pod did not answer in time"))?
        .map_err(failed)?;
    let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = passed_on(answer.headers(), upgrade.as_ref().filter(|_| switching));
    if switching && let Some(client) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() {
        let pod = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(pod)) = tokio::join!(client, pod) {
                let _ =
                    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(pod)).await;
            }
        });
        return Ok(response);
    }
    *response.body_mut() = Body::new(answer.into_body());
    Ok(response)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_below_goes_on_as_it_was_sent() {
        let pod = "/api/v1/namespaces/a/pods/p:80/proxy";
        assert_eq!(path_below(pod, true), "");
        assert_eq!(path_below(&format!("{pod}/"), true), "/");
        assert_eq!(path_below(&format!("{pod}/a%2Fb/proxy/"), true), "/a%2Fb/proxy/");
        assert_eq!(path_below("/api/v1/nodes/n/proxy/x", false), "/x");
    }

    #[test]
    fn a_backend_is_named_with_scheme_and_port_or_without() {
        let read = |text| Backend::named(text).map(|b| (b.name, b.port)).ok();
        let named = |name: &str, port: &str| Some((name.to_owned(), port.to_owned()));
        assert_eq!(read("web"), named("web", ""));
        assert_eq!(read("web:http"), named("web", "http"));
        assert_eq!(read("http:web:80"), named("web", "80"));
        assert_eq!(read("https:web:443"), None);
    }
}
