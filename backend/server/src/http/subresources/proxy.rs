//! `pods/proxy` and `services/proxy`: an HTTP request, passed on to a port of a pod over its node's line.
mod links;
mod tls;

use super::super::exchange::{Outgoing, exchange};
use super::super::resources::Call;
use super::parent;
use super::streams::{Target, target_of};
use crate::service_backends;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pilothouse_api::{Key, Reason, Status};

pub async fn handle(call: Call, parts: &mut Parts, body: Body) -> Result<Response, Status> {
    let path = path_below(parts.uri.path(), !call.namespace.is_empty());
    if call.entry.kind == "Node" {
        return super::node_proxy::handle(call, &parts.method, path.trim_start_matches('/')).await;
    }
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
    let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let target = format!("{path}{query}");
    let place = links::Place::of(parts, &path);
    let outgoing = Outgoing { whom: "the pod", target, host: None, headers: place.forwarded(parts) };
    let response = if backend.is_tls {
        let side = tls::over(side).await;
        let side =
            side.map_err(|error| unavailable(format!("error trying to reach the pod over TLS: {error}")))?;
        exchange(side, parts, outgoing, body).await?
    } else {
        exchange(side, parts, outgoing, body).await?
    };
    Ok(place.answer(response).await)
}

/// `[SCHEME:]NAME[:PORT]`.
struct Backend {
    is_tls: bool,
    name: String,
    port: String,
}

impl Backend {
    fn named(text: &str) -> Result<Self, Status> {
        let (scheme, name, port) = match text.split(':').collect::<Vec<_>>()[..] {
            [name] => ("", name, ""),
            [scheme @ ("http" | "https"), name] => (scheme, name, ""),
            [name, port] => ("", name, port),
            [scheme @ ("http" | "https" | ""), name, port] => (scheme, name, port),
            _ => {
                return Err(Status::bad_request(format!(
                    "invalid request {text:?}: expected NAME or NAME:PORT"
                )));
            }
        };
        Ok(Self { is_tls: scheme == "https", name: name.to_owned(), port: port.to_owned() })
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
        let read = |text| Backend::named(text).map(|b| (b.is_tls, b.name, b.port)).ok();
        let named = |tls: bool, name: &str, port: &str| Some((tls, name.to_owned(), port.to_owned()));
        assert_eq!(read("web"), named(false, "web", ""));
        assert_eq!(read("web:http"), named(false, "web", "http"));
        assert_eq!(read("http:web:80"), named(false, "web", "80"));
        assert_eq!(read("https:web:443"), named(true, "web", "443"));
        assert_eq!(read("https:web:"), named(true, "web", ""));
        assert_eq!(read("ftp:web:21"), None);
    }
}
