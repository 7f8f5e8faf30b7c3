//! One request about resources: who asks, what for, may they; then the verb's own file.
use super::accept::Format;
use super::gate::Passage;
use super::{metrics, read, reply, subresources, watch, write};
use crate::admission::Notes;
use crate::aggregation::{self, RemoteApi};
use crate::auth::{Attributes, Proof};
use crate::objects::Actor;
use crate::routes;
use crate::state::AppState;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use pilothouse_api::{KindEntry, Reason, Status, Verb};
use std::collections::HashMap;
use std::sync::Arc;

/// Kubernetes' limit for request bodies, in bytes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// Objects of a list that one seat stands for, and the widest request; as in Kubernetes.
const OBJECTS_PER_SEAT: usize = 100;
const WIDEST: u32 = 10;
/// Browsers cannot be made to send it by another site's form.
const BROWSER_HEADER: &str = "x-pilothouse-request";

/// A request about a resource, taken apart.
pub struct Call {
    pub app: AppState,
    pub actor: Actor,
    pub entry: Arc<KindEntry>,
    /// `list`, `patch` …; empty until it is known.
    pub verb: &'static str,
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    pub subresource: String,
    pub query: HashMap<String, String>,
    /// Keys that may come more than once, such as `command`.
    pub query_list: Vec<(String, String)>,
    pub headers: HeaderMap,
    /// What is to be said beside the answer.
    pub notes: Notes,
}

impl Call {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Kubernetes takes everything for yes but a no: `?watch` alone is one.
    pub fn flag(&self, name: &str) -> bool {
        self.query
            .get(name)
            .is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// What it wants to do.
    pub fn attributes(&self) -> Attributes {
        Attributes {
            verb: self.verb.into(),
            group: self.entry.group.clone(),
            version: self.entry.version.clone(),
            resource: self.entry.plural.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: String::new(),
            field_selector: self.param("fieldSelector").unwrap_or_default().to_owned(),
        }
    }

    pub fn accept(&self) -> &str {
        self.headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default()
    }

    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(header::CONTENT_TYPE).and_then(|a| a.to_str().ok())
    }
}

pub async fn handle(State(app): State<AppState>, request: Request) -> Response {
    match dispatch(app, request).await {
        Ok(response) => response,
        Err(status) => reply::status(&status),
    }
}

async fn dispatch(app: AppState, request: Request) -> Result<Response, Status> {
    let (mut parts, body) = request.into_parts();
    let caller = app.auth.caller(&parts.headers, parts.uri.path()).await?;
    let proof = caller.proof;
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if proof == Proof::SessionCookie && !reads && !parts.headers.contains_key(BROWSER_HEADER) {
        return Err(Status::new(
            Reason::Forbidden,
            format!("a browser's request that changes something needs the header {BROWSER_HEADER}"),
        ));
    }
    if proof == Proof::SessionCookie && is_foreign_socket(&parts.headers) {
        return Err(Status::new(
            Reason::Forbidden,
            "a WebSocket with the session's cookie must come from the dashboard itself",
        ));
    }
    if let Some(remote) = answered_by(&app, &parts) {
        return Ok(aggregation::serve(&app, &caller, &remote, &mut parts, body).await);
    }
    let call = match take_apart(app.clone(), caller.actor.clone(), &parts) {
        // Its definition may have been accepted just now.
        Err(status) if status.reason == Reason::NotFound && app.registry.catch_up(&app.store).await => {
            take_apart(app, caller.actor.clone(), &parts)?
        }
        outcome => outcome?,
    };
    let mut call = call;
    let watches = call.flag("watch");
    let verb = verb(&parts.method, &call, watches)?;
    call.verb = verb;
    let wanted = call.attributes();
    // What a subresource streams has forms of its own.
    let format = match call.subresource.is_empty() && verb != "watch" {
        true => Format::of(call.accept())?,
        false => Format::Json,
    };
    let notes = call.notes.clone();
    let mut passage = Passage::begin(&call.app, &caller, &wanted, &parts);
    let answer = match passage.enter(&call.app, &call.actor, &wanted, width(&call, verb)).await {
        Ok(()) => match passage.body(body).await {
            Ok(body) => answer(call, verb, &mut parts, body).await,
            Err(unreadable) => Err(unreadable),
        },
        Err(refused) => Err(refused),
    };
    let answer = match answer {
        Ok(response) => Ok(format.write(response).await),
        Err(status) => Err(status),
    };
    Ok(passage.finish(answer, &notes).await)
}

/// How many seats a request takes: long lists take more, as in Kubernetes.
fn width(call: &Call, verb: &str) -> u32 {
    if verb != "list" {
        return 1;
    }
    let all = call.app.store.count(&call.entry.stored_as);
    let limit = call.param("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let listed = limit.map_or(all, |limit: usize| limit.min(all));
    u32::try_from(listed.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(WIDEST).clamp(1, WIDEST)
}

/// The server that answers for the URL's group version, if it is another.
fn answered_by(app: &AppState, parts: &Parts) -> Option<Arc<RemoteApi>> {
    let mut segments = parts.uri.path().trim_start_matches('/').split('/');
    match (segments.next()?, segments.next()?) {
        ("apis", group) => app.aggregation.remote(group, segments.next()?),
        _ => None,
    }
}

async fn answer(call: Call, verb: &str, parts: &mut Parts, body: Body) -> Result<Response, Status> {
    if !call.subresource.is_empty() {
        return subresources::handle(call, parts, body).await;
    }
    match verb {
        "get" if metrics::serves(&call.entry) => metrics::get(&call).await,
        "list" if metrics::serves(&call.entry) => metrics::list(&call).await,
        "get" => read::get(&call).await,
        "list" => read::list(&call).await,
        "watch" => watch::watch(call, parts).await,
        "create" => write::create(&call, read_body(body).await?).await,
        "update" => write::update(&call, read_body(body).await?).await,
        "patch" => write::patch(&call, read_body(body).await?).await,
        "delete" => write::delete(&call, read_body(body).await?).await,
        "deletecollection" => write::delete_collection(&call, read_body(body).await?).await,
        _ => Err(routes::not_found()),
    }
}

/// Browsers let any page open a WebSocket to any host, and cookies know no ports: a page served from another port of this
/// machine would have the user's session. `Origin` is what such a page can't choose.
fn is_foreign_socket(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let origin = text(header::ORIGIN);
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    headers.contains_key(header::UPGRADE)
        && (host.is_empty() || !host.eq_ignore_ascii_case(text(header::HOST)))
}

/// The body, whole; a longer one than Kubernetes takes is refused.
pub async fn read_body(body: Body) -> Result<Bytes, Status> {
    axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|error| {
        use std::error::Error;
        let too_long = error.source().is_some_and(|s| s.is::<http_body_util::LengthLimitError>());
        match too_long {
            true => Status::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: limit is {BODY_LIMIT}"),
            ),
            false => Status::bad_request(format!("the body could not be read: {error}")),
        }
    })
}

/// `/api/v1/namespaces/{ns}/pods/{name}/log` and its like.
fn take_apart(app: AppState, actor: Actor, parts: &Parts) -> Result<Call, Status> {
    let decoded = percent_decode(parts.uri.path());
    let segments: Vec<&str> = decoded.split('/').filter(|s| !s.is_empty()).collect();
    let (group, version, mut rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(routes::not_found()),
    };
    let registry = app.registry.load();
    // `watch/…`: a watch of what follows, of one object by its name. Deprecated since v1.11, and still served.
    let is_watch_path = rest.first() == Some(&"watch") && parts.method == Method::GET;
    if is_watch_path {
        rest = &rest[1..];
    }
    let mut namespace = String::new();
    // `namespaces/{name}/{resource}`; a namespace's own subresources have two segments as well.
    let own = |s: &str| matches!(s, "status" | "finalize");
    if let ["namespaces", name, below, ..] = rest
        && !(rest.len() == 3 && own(below) && group.is_empty())
    {
        namespace = (*name).to_owned();
        rest = &rest[2..];
    }
    let [plural, rest @ ..] = rest else { return Err(routes::not_found()) };
    let entry = registry.by_url(group, version, plural).cloned().ok_or_else(routes::not_found)?;
    if entry.is_namespaced() == namespace.is_empty() && !(entry.is_namespaced() && rest.is_empty()) {
        return Err(routes::not_found());
    }
    let (name, subresource) = match rest {
        [] => ("", String::new()),
        [name] => (*name, String::new()),
        [name, subresource] => (*name, (*subresource).to_owned()),
        // Its path goes on in what is proxied.
        [name, "proxy", ..] => (*name, "proxy".to_owned()),
        _ => return Err(routes::not_found()),
    };
    let mut query_list = parse_query(parts.uri.query().unwrap_or_default());
    if is_watch_path {
        query_list.push(("watch".to_owned(), "true".to_owned()));
    }
    if !subresource.is_empty() && entry.subresource(&subresource).is_none() {
        return Err(routes::not_found());
    }
    Ok(Call {
        actor,
        entry,
        verb: "",
        namespace,
        name: name.to_owned(),
        subresource,
        query: query_list.iter().cloned().collect(),
        query_list,
        headers: parts.headers.clone(),
        notes: Notes::default(),
        app,
    })
}

fn verb(method: &Method, call: &Call, watches: bool) -> Result<&'static str, Status> {
    let collection = call.name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if watches => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        // What else a program behind a proxy may be asked; only who may do everything may do what has no verb.
        Method::OPTIONS if call.subresource == "proxy" => return Ok(""),
        _ => "",
    };
    let has = |verb: &str| match call.subresource.as_str() {
        "" => call.entry.verbs.iter().any(|v: &Verb| v.as_str() == verb),
        name => call.entry.subresource(name).is_some_and(|s| s.verbs.iter().any(|v| v.as_str() == verb)),
    };
    let misplaced = call.subresource.is_empty()
        && (verb == "create") != collection
        && matches!(verb, "create" | "update" | "patch");
    if has(verb) && !misplaced {
        return Ok(verb);
    }
    Err(Status::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    ))
}

pub fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")))
        })
        .collect()
}

/// What may stand anywhere in a URL.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `%2F` and its like; what is no UTF-8 is replaced.
pub fn percent_decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_session_opens_sockets_only_from_the_dashboards_own_pages() {
        let headers = |rows: &[(header::HeaderName, &'static str)]| {
            rows.iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect::<HeaderMap>()
        };
        let socket = (header::UPGRADE, "websocket");
        let host = (header::HOST, "127.0.0.1:6480");
        assert!(!is_foreign_socket(&headers(std::slice::from_ref(&host))));
        assert!(!is_foreign_socket(&headers(&[
            socket.clone(),
            host.clone(),
            (header::ORIGIN, "http://127.0.0.1:6480")
        ])));
        assert!(is_foreign_socket(&headers(&[
            socket.clone(),
            host.clone(),
            (header::ORIGIN, "http://127.0.0.1:3000")
        ])));
        assert!(is_foreign_socket(&headers(&[socket, host])));
    }
}
