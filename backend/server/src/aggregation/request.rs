//! A request for an API that another server answers for: who asks, may they, and then it is theirs.
use super::RemoteApi;
use super::front_proxy::headers;
use crate::admission::Notes;
use crate::auth::{Attributes, Caller};
use crate::http::exchange::{Outgoing, exchange};
use crate::http::gate::Passage;
use crate::http::resources::{parse_query, percent_decode};
use crate::objects::Actor;
use crate::state::AppState;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use pilothouse_api::Status;
use std::sync::Arc;

/// What every request passes; then it is forwarded.
pub async fn serve(
    app: &AppState,
    caller: &Caller,
    remote: &Arc<RemoteApi>,
    parts: &mut Parts,
    body: Body,
) -> Response {
    let wanted = attributes(parts);
    let mut passage = Passage::begin(app, caller, &wanted, parts);
    let answer = match passage.enter(app, &caller.actor, &wanted, 1).await {
        Ok(()) => match passage.body(body).await {
            Ok(body) => forward(app, &caller.actor, remote, parts, body).await,
            Err(unreadable) => Err(unreadable),
        },
        Err(refused) => Err(refused),
    };
    passage.finish(answer, &Notes::default()).await
}

/// Watches and upgrades stream through.
pub async fn forward(
    app: &AppState,
    actor: &Actor,
    remote: &Arc<RemoteApi>,
    parts: &mut Parts,
    body: Body,
) -> Result<Response, Status> {
    let unavailable = || Ok((StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n").into_response());
    if !remote.is_available() {
        return unavailable();
    }
    let aggregation = &app.aggregation;
    let endpoint = remote.endpoint(aggregation);
    let stream = match aggregation.client().open(endpoint).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(service = remote.name, error, "an aggregated API cannot be reached");
            return Ok((StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response());
        }
    };
    let host = endpoint.authority().ok().and_then(|authority| HeaderValue::from_str(&authority).ok());
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let outgoing = Outgoing { whom: "the API service", target, host, headers: headers(actor) };
    exchange(stream, parts, outgoing, body).await
}

/// What a URL of any API means, without knowing its kinds.
fn attributes(parts: &Parts) -> Attributes {
    let path = percent_decode(parts.uri.path());
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let (group, version, mut rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => ("", "", &[][..]),
    };
    if rest.is_empty() {
        let verb = parts.method.as_str().to_lowercase();
        return Attributes { verb, path: parts.uri.path().to_owned(), ..Attributes::default() };
    }
    let mut namespace = "";
    if let ["namespaces", name, below @ ..] = rest {
        namespace = name;
        if !below.is_empty() {
            rest = below;
        }
    }
    let (resource, name, subresource) = match rest {
        [resource, name, subresource, ..] => (*resource, *name, *subresource),
        [resource, name] => (*resource, *name, ""),
        [resource] => (*resource, "", ""),
        [] => ("", "", ""),
    };
    let query = parse_query(parts.uri.query().unwrap_or_default());
    let param = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let watches = param("watch").is_some_and(|value| matches!(value.as_str(), "true" | "1"));
    let verb = match parts.method {
        Method::GET | Method::HEAD if watches => "watch",
        Method::GET | Method::HEAD if name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    };
    Attributes {
        verb: verb.into(),
        group: group.into(),
        version: version.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        path: String::new(),
        field_selector: param("fieldSelector").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    #[test]
    fn a_url_is_understood_without_its_kinds() {
        let of = |method: &str, uri: &str| {
            let (parts, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
            let a = attributes(&parts);
            [a.verb, a.group, a.resource, a.subresource, a.namespace, a.name, a.path].join(" ")
        };
        assert_eq!(of("GET", "/apis/g/v/flunders"), "list g flunders    ");
        assert_eq!(of("GET", "/apis/g/v/namespaces/a/flunders?watch=1"), "watch g flunders  a  ");
        assert_eq!(of("PATCH", "/apis/g/v/namespaces/a/flunders/b/status"), "patch g flunders status a b ");
        assert_eq!(of("DELETE", "/apis/g/v/namespaces/a/flunders"), "deletecollection g flunders  a  ");
        assert_eq!(of("GET", "/apis/g/v"), "get      /apis/g/v");
    }
}
