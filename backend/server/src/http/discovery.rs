//! What the server offers: groups, versions, resources, schemas.
use super::reply;
use crate::aggregation;
use crate::aggregation::documents::{discovered, group_versions, merge_openapi_v2};
use crate::routes;
use crate::state::AppState;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use pilothouse_api::{KindEntry, Registry, Status, Verb, schema};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

const MINOR: &str = "36";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub async fn version() -> Response {
    reply::json(
        StatusCode::OK,
        &json!({
            "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+pilothouse.{}", env!("CARGO_PKG_VERSION")),
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": "rustc",
            "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        }),
    )
}

/// What OpenID Connect asks of an issuer: others check the tokens of service accounts by it.
pub async fn token_issuer(State(app): State<AppState>) -> Response {
    reply::json(StatusCode::OK, &app.auth.signer().discovery())
}

pub async fn token_keys(State(app): State<AppState>) -> Response {
    let mut response = reply::json(StatusCode::OK, &app.auth.signer().key_set());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    response
}

/// In Prometheus' text form.
pub async fn metrics(State(app): State<AppState>) -> Response {
    let mut text = String::new();
    app.flow_control.metrics(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The kinds served now, those defined a moment ago among them.
async fn kinds(app: &AppState) -> Arc<Registry> {
    app.registry.catch_up(&app.store).await;
    app.registry.load()
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|form| {
        form.contains("as=APIGroupDiscoveryList") && form.contains("v=v2") && !form.contains("v=v2beta1")
    })
}

pub async fn api_versions(State(app): State<AppState>, headers: HeaderMap, uri: Uri) -> Response {
    let registry = kinds(&app).await;
    if wants_aggregated(&headers) {
        return aggregated(&app, &registry, true).await;
    }
    reply::json(
        StatusCode::OK,
        &json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address(&headers, &uri)}],
        }),
    )
}

/// Where the client has reached us: it may go on there.
fn address(headers: &HeaderMap, uri: &Uri) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

fn group_json(group: &str, versions: &[String]) -> Value {
    let all: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

pub async fn groups(State(app): State<AppState>, headers: HeaderMap) -> Response {
    let registry = kinds(&app).await;
    if wants_aggregated(&headers) {
        return aggregated(&app, &registry, false).await;
    }
    let groups = group_versions(&app.aggregation, &registry);
    let groups: Vec<Value> = groups.iter().map(|(group, versions)| group_json(group, versions)).collect();
    reply::json(StatusCode::OK, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

pub async fn group(State(app): State<AppState>, Path(group): Path<String>) -> Response {
    let registry = kinds(&app).await;
    let groups = group_versions(&app.aggregation, &registry);
    match groups.iter().find(|(own, _)| *own == group) {
        Some((_, versions)) => {
            let mut found = group_json(&group, versions);
            found["kind"] = "APIGroup".into();
            found["apiVersion"] = "v1".into();
            reply::json(StatusCode::OK, &found)
        }
        None => reply::status(&routes::not_found()),
    }
}

pub async fn core_resources(State(app): State<AppState>, Path(version): Path<String>) -> Response {
    resources(&app, "", &version).await
}

pub async fn group_resources(
    State(app): State<AppState>,
    Path((group, version)): Path<(String, String)>,
    request: Request,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(remote) = app.aggregation.remote(&group, &version) else {
        return resources(&app, &group, &version).await;
    };
    let answer = match app.auth.caller(&parts.headers, parts.uri.path()).await {
        Ok(caller) => aggregation::forward(&app, &caller.actor, &remote, &mut parts, body).await,
        Err(refused) => Err(refused),
    };
    answer.unwrap_or_else(|status| reply::status(&status))
}

fn of<'a>(
    registry: &'a Registry,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Arc<KindEntry>> {
    registry.entries().iter().filter(move |e| e.group == group && e.version == version)
}

async fn resources(app: &AppState, group: &str, version: &str) -> Response {
    let registry = kinds(app).await;
    let mut list = Vec::new();
    for entry in of(&registry, group, version) {
        let mut resource = json!({
            "name": entry.plural, "singularName": entry.singular, "namespaced": entry.is_namespaced(), "kind": entry.kind,
            "verbs": entry.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
        });
        if let Some(stored) =
            registry.by_resource(&entry.stored_as).filter(|_| entry.verbs.contains(&Verb::Get))
        {
            resource["storageVersionHash"] = storage_version_hash(stored).into();
        }
        for (field, values) in [("shortNames", &entry.short_names), ("categories", &entry.categories)] {
            if !values.is_empty() {
                resource[field] = json!(values);
            }
        }
        list.push(resource);
        for sub in &entry.subresources {
            let mut resource = json!({
                "name": format!("{}/{}", entry.plural, sub.name), "singularName": "", "namespaced": entry.is_namespaced(),
                "kind": sub.kind, "verbs": sub.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
            });
            if sub.group != entry.group || sub.version != entry.version {
                resource["group"] = (*sub.group).into();
                resource["version"] = (*sub.version).into();
            }
            list.push(resource);
        }
    }
    if list.is_empty() {
        return reply::status(&routes::not_found());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    reply::json(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// By it a client tells that objects are stored in another version than before.
fn storage_version_hash(stored: &KindEntry) -> String {
    let version = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    STANDARD.encode(&Sha256::digest(version.as_bytes())[..8])
}

/// Everything in one answer (`apidiscovery.k8s.io/v2`).
async fn aggregated(app: &AppState, registry: &Registry, core: bool) -> Response {
    let list = aggregated_list(app, registry, core).await;
    ([(header::CONTENT_TYPE, AGGREGATED)], list.to_string()).into_response()
}

pub(crate) async fn aggregated_list(app: &AppState, registry: &Registry, core: bool) -> Value {
    let groups = match core {
        true => vec![(String::new(), vec!["v1".to_owned()])],
        false => group_versions(&app.aggregation, registry),
    };
    let mut remote = if core { BTreeMap::new() } else { discovered(&app.aggregation).await };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    remote.remove(&(group.clone(), version.clone())).unwrap_or_else(|| {
                        let resources: Vec<Value> =
                            of(registry, &group, &version).map(|entry| aggregated_resource(entry)).collect();
                        json!({"version": version, "resources": resources, "freshness": "Current"})
                    })
                })
                .collect();
            let mut item = json!({"metadata": {"creationTimestamp": null}, "versions": versions});
            if !group.is_empty() {
                item["metadata"]["name"] = group.into();
            }
            item
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(entry: &KindEntry) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = entry
        .subresources
        .iter()
        .map(|s| {
            json!({
                "subresource": s.name, "responseKind": kind(&s.group, &s.version, &s.kind),
                "verbs": s.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let mut resource = json!({
        "resource": entry.plural, "responseKind": kind(&entry.group, &entry.version, &entry.kind),
        "scope": if entry.is_namespaced() { "Namespaced" } else { "Cluster" }, "singularResource": entry.singular,
        "verbs": entry.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
    });
    for (field, values) in [
        ("shortNames", json!(entry.short_names)),
        ("categories", json!(entry.categories)),
        ("subresources", subresources.into()),
    ] {
        if values.as_array().is_some_and(|v| !v.is_empty()) {
            resource[field] = values;
        }
    }
    resource
}

fn accepts_protobuf(headers: &HeaderMap) -> bool {
    use schema::v2_protobuf::{CONTENT_TYPE, MEDIA_TYPE};
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    accept.split(',').map(str::trim).any(|form| [MEDIA_TYPE, CONTENT_TYPE].contains(&form))
}

pub async fn openapi_v2(State(app): State<AppState>, headers: HeaderMap) -> Response {
    let registry = kinds(&app).await;
    let form = if accepts_protobuf(&headers) { Form::V2Protobuf } else { Form::V2 };
    let document = match aggregation::documents::openapi_v3(&app.aggregation).is_empty() {
        true => app.documents.v2(&registry, form),
        false => {
            let mut document = schema::v2(&registry);
            merge_openapi_v2(&app.aggregation, &mut document).await;
            Document::v2(&document, form)
        }
    };
    document.answer("", "", &headers)
}

pub async fn openapi_v3_index(State(app): State<AppState>) -> Response {
    let registry = kinds(&app).await;
    let mut all = schema::group_versions(&registry);
    all.extend(aggregation::documents::openapi_v3(&app.aggregation).into_keys());
    let hashes = app.documents.hashes(&registry);
    let paths: serde_json::Map<String, Value> = all
        .into_iter()
        .map(|path| {
            let url = document_url(&path, hashes.get(&path).map(String::as_str));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    reply::json(StatusCode::OK, &json!({"paths": paths}))
}

/// With the hash of what stands there, clients keep it for good. Of what other servers say of themselves there is none.
fn document_url(path: &str, hash: Option<&str>) -> String {
    match hash {
        Some(hash) => format!("/openapi/v3/{path}?hash={hash}"),
        None => format!("/openapi/v3/{path}"),
    }
}

/// The OpenAPI documents, each kept while the kinds it tells of are the same: building one takes long enough.
#[derive(Default)]
pub struct Documents {
    v3: Mutex<BTreeMap<String, Built>>,
    v2: Mutex<BTreeMap<Form, Built>>,
}

struct Built {
    of: Vec<Arc<KindEntry>>,
    document: Document,
}

impl Built {
    fn is_of(&self, entries: &[Arc<KindEntry>]) -> bool {
        self.of.len() == entries.len() && self.of.iter().zip(entries).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// What a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    V3,
    V2,
    V2Protobuf,
}

#[derive(Clone)]
struct Document {
    body: Bytes,
    form: Form,
    hash: String,
}

impl Document {
    fn new(body: Bytes, form: Form) -> Self {
        let hash = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { body, form, hash }
    }

    fn v2(document: &Value, form: Form) -> Self {
        let body = match form {
            Form::V2Protobuf => schema::v2_protobuf(document),
            _ => document.to_string().into_bytes(),
        };
        Self::new(body.into(), form)
    }

    /// What the URL with the right hash gave may be kept for ever; the wrong one leads to the right one.
    fn answer(self, path: &str, query: &str, headers: &HeaderMap) -> Response {
        let asked =
            query.split('&').find_map(|pair| pair.strip_prefix("hash=")).filter(|hash| !hash.is_empty());
        let tag = format!("\"{}\"", self.hash);
        let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let mut response = match asked {
            Some(hash) if hash != self.hash => {
                let url = document_url(path, Some(&self.hash));
                return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, url)]).into_response();
            }
            _ if known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) => {
                StatusCode::NOT_MODIFIED.into_response()
            }
            _ if self.form == Form::V2Protobuf => {
                ([(header::CONTENT_TYPE, schema::v2_protobuf::CONTENT_TYPE)], self.body).into_response()
            }
            _ => reply::bytes(StatusCode::OK, self.body),
        };
        let caching =
            if asked.is_some() { "public, immutable, max-age=31536000" } else { "no-cache, private" };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
        // One that was sent in another form is no answer to who asks for JSON.
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}

impl Documents {
    /// Of all documents of v3, by path: those that nobody asked for yet are built now.
    fn hashes(&self, registry: &Registry) -> BTreeMap<String, String> {
        let groups = schema::grouped(registry);
        self.v3.lock().retain(|path, _| groups.contains_key(path));
        let hash = |(path, entries): (String, _)| Some((path.clone(), self.v3_of(&path, entries)?.hash));
        groups.into_iter().filter_map(hash).collect()
    }

    fn v3(&self, registry: &Registry, path: &str) -> Option<Document> {
        self.v3_of(path, schema::entries_of(registry, path))
    }

    fn v3_of(&self, path: &str, entries: Vec<Arc<KindEntry>>) -> Option<Document> {
        if let Some(built) = self.v3.lock().get(path).filter(|built| built.is_of(&entries)) {
            return Some(built.document.clone());
        }
        let document = Document::new(schema::document_of(path, &entries)?.to_string().into(), Form::V3);
        let built = Built { of: entries, document: document.clone() };
        self.v3.lock().insert(path.to_owned(), built);
        Some(document)
    }

    fn v2(&self, registry: &Registry, form: Form) -> Document {
        if let Some(built) = self.v2.lock().get(&form).filter(|built| built.is_of(registry.entries())) {
            return built.document.clone();
        }
        let document = Document::v2(&schema::v2(registry), form);
        let built = Built { of: registry.entries().to_vec(), document: document.clone() };
        self.v2.lock().insert(form, built);
        document
    }
}

pub async fn openapi_v3(
    State(app): State<AppState>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let registry = kinds(&app).await;
    if let Some(remote) = aggregation::documents::openapi_v3(&app.aggregation).get(&path) {
        return match remote.get(&app.aggregation, &format!("/openapi/v3/{path}")).await {
            Ok(document) => Document::new(document, Form::V3).answer(&path, "", &headers),
            Err(error) => reply::status(&Status::unavailable(error, 1)),
        };
    }
    match app.documents.v3(&registry, &path) {
        Some(document) => document.answer(&path, &query.unwrap_or_default(), &headers),
        None => reply::status(&routes::not_found()),
    }
}
