//! `get` and `list`: from memory, at a proved revision; stored bytes go out as they are.
use super::reply;
use super::resources::Call;
use crate::objects::read_failed;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::{FieldSelector, LabelSelector};
use pilothouse_api::table::{IncludeObject, partial_metadata, table};
use pilothouse_api::{Key, Revision, Status};
use pilothouse_store::Object;
use serde_json::{Value, json};
use std::sync::Arc;

/// How a client wants objects shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    Table(IncludeObject),
    Metadata,
}

impl Shape {
    pub fn of(call: &Call) -> Self {
        // The first form named is the one preferred; kubectl lists Table first and plain JSON as its second choice.
        for form in call.accept().split(',') {
            if form.contains("as=Table") {
                return Self::Table(IncludeObject::parse(call.param("includeObject")));
            }
            if form.contains("as=PartialObjectMetadata") {
                return Self::Metadata;
            }
            let media = form.split(';').next().unwrap_or_default().trim();
            if matches!(media, "application/json" | "*/*" | "application/*") {
                return Self::Whole;
            }
        }
        Self::Whole
    }
}

/// The selectors of a list, watch or deletecollection.
pub struct Selectors {
    labels: LabelSelector,
    fields: FieldSelector,
    /// A collection request may still name one object (`kubectl get pod web -w`).
    name: String,
}

impl Selectors {
    pub fn of(call: &Call) -> Result<Self, Status> {
        let fields = FieldSelector::parse(call.param("fieldSelector").unwrap_or_default())?;
        fields.check(&call.entry)?;
        let labels = LabelSelector::parse(call.param("labelSelector").unwrap_or_default())?;
        Ok(Self { labels, fields, name: call.name.clone() })
    }

    pub fn matches(&self, object: &Object) -> bool {
        (self.name.is_empty() || *self.name == *object.key.name)
            && self.labels.matches(&object.labels)
            && self.fields.matches(&object.fields)
    }
}

pub async fn get(call: &Call) -> Result<Response, Status> {
    if call.param("resourceVersion") != Some("0") {
        call.app.store.fresh().await.map_err(read_failed)?;
    }
    let key = Key::new(call.entry.stored_as.clone(), call.namespace.as_str(), call.name.as_str());
    let object =
        call.app.store.get(&key).ok_or_else(|| Status::not_found(&call.entry.resource, &call.name))?;
    Ok(one(call, StatusCode::OK, &object))
}

/// One object in the shape the client asked for.
pub fn one(call: &Call, code: StatusCode, object: &Object) -> Response {
    match Shape::of(call) {
        Shape::Whole if call.app.objects.is_stored_shape(&call.entry) => {
            reply::bytes(code, object.bytes.clone())
        }
        Shape::Whole => reply::json(code, &call.app.objects.value_of(&call.entry, object)),
        Shape::Metadata => {
            reply::json(code, &partial_metadata(&call.app.objects.value_of(&call.entry, object)))
        }
        Shape::Table(include) => {
            let value = call.app.objects.value_of(&call.entry, object);
            let meta = json!({"resourceVersion": object.revision.to_string()});
            reply::json(code, &table(&call.entry, &[value], include, Timestamp::now(), meta))
        }
    }
}

/// Where a page ended: the revision of the first page, and the last object sent.
struct Continue {
    revision: Revision,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"rv": self.revision, "ns": self.namespace, "n": self.name}).to_string())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let broken = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| broken())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
        let text = |field: &str| value[field].as_str().map(str::to_owned).ok_or_else(broken);
        Ok(Self {
            revision: value["rv"].as_u64().ok_or_else(broken)?,
            namespace: text("ns")?,
            name: text("n")?,
        })
    }
}

pub async fn list(call: &Call) -> Result<Response, Status> {
    let selectors = Selectors::of(call)?;
    let wanted = call.param("resourceVersion").map(|v| v.parse::<Revision>());
    let wanted = wanted
        .transpose()
        .map_err(|_| Status::bad_request("resourceVersion: Invalid value: must be a number"))?;
    match wanted {
        Some(0) => {}
        Some(revision) => call.app.store.wait_for(revision).await.map_err(read_failed)?,
        None => drop(call.app.store.fresh().await.map_err(read_failed)?),
    }
    let after = call.param("continue").map(Continue::decode).transpose()?;
    let namespace = Some(call.namespace.as_str()).filter(|n| !n.is_empty());
    let listing = call.app.store.list(&call.entry.stored_as, namespace);
    if call.param("resourceVersionMatch") == Some("Exact") && wanted.is_some_and(|w| w != listing.revision) {
        return Err(Status::expired(
            "The provided resource version is not available any more: list at the newest one",
        ));
    }
    let mut found: Vec<Arc<Object>> = listing.objects.into_iter().filter(|o| selectors.matches(o)).collect();
    let mut revision = listing.revision;
    if let Some(after) = after {
        // Later pages tell the revision of the first, so that a watch from there misses nothing of what has changed since.
        revision = after.revision;
        found.retain(|o| (&*o.key.namespace, &*o.key.name) > (after.namespace.as_str(), after.name.as_str()));
    }
    let mut meta = json!({"resourceVersion": revision.to_string()});
    let limit = call.param("limit").and_then(|l| l.parse::<usize>().ok()).filter(|l| *l > 0);
    if let Some(limit) = limit.filter(|l| found.len() > *l) {
        meta["remainingItemCount"] = (found.len() - limit).into();
        found.truncate(limit);
        if let Some(last) = found.last() {
            let next = Continue {
                revision,
                namespace: last.key.namespace.to_string(),
                name: last.key.name.to_string(),
            };
            meta["continue"] = next.encode().into();
        }
    }
    Ok(many(call, &found, meta))
}

fn many(call: &Call, objects: &[Arc<Object>], meta: Value) -> Response {
    let values = || objects.iter().map(|o| call.app.objects.value_of(&call.entry, o)).collect::<Vec<_>>();
    match Shape::of(call) {
        Shape::Table(include) => {
            reply::json(StatusCode::OK, &table(&call.entry, &values(), include, Timestamp::now(), meta))
        }
        Shape::Metadata => {
            let items: Vec<Value> = values().iter().map(partial_metadata).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
            reply::json(StatusCode::OK, &list)
        }
        Shape::Whole => {
            let stored = call.app.objects.is_stored_shape(&call.entry);
            let size: usize = objects.iter().map(|o| o.bytes.len() + 1).sum();
            let mut body = BytesMut::with_capacity(size + 256);
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
                call.entry.kind,
                call.entry.api_version()
            );
            body.put_slice(head.as_bytes());
            for (i, object) in objects.iter().enumerate() {
                if i > 0 {
                    body.put_u8(b',');
                }
                match stored {
                    true => body.put_slice(&object.bytes),
                    false => {
                        body.put_slice(call.app.objects.value_of(&call.entry, object).to_string().as_bytes())
                    }
                }
            }
            body.put_slice(b"]}\n");
            reply::bytes(StatusCode::OK, body.freeze())
        }
    }
}
