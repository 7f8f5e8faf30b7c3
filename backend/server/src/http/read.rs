//! `get` and `list`: from memory, at a proved revision; stored bytes go out as they are.
use super::list_options::{self, Wanted};
use super::reply;
use super::resources::Call;
use crate::objects::{Objects, read_failed};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::{FieldSelector, LabelSelector};
use pilothouse_api::table::{IncludeObject, partial_metadata, table};
use pilothouse_api::{Key, KindEntry, Revision, Status};
use pilothouse_store::{Object, ReadError};
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
    /// For a kind whose selectable fields may be others than those of the stored object: its definition has changed, or
    /// it shows objects of another kind.
    entry: Option<Arc<KindEntry>>,
    /// A collection request may still name one object (`kubectl get pod web -w`).
    name: String,
}

impl Selectors {
    pub fn of(call: &Call) -> Result<Self, Status> {
        let fields = FieldSelector::parse(call.param("fieldSelector").unwrap_or_default())?;
        fields.check(&call.entry)?;
        let labels = LabelSelector::parse(call.param("labelSelector").unwrap_or_default())?;
        let is_view = call.entry.stored_as != call.entry.resource;
        let asks_object = !fields.is_empty() && (call.entry.rules.is_custom() || is_view);
        let entry = asks_object.then(|| call.entry.clone());
        Ok(Self { labels, fields, entry, name: call.name.clone() })
    }

    /// Whether every object of the collection is selected.
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_empty()
    }

    /// Whether the fields asked for stand in objects of the version asked for alone: a conversion may have to show them.
    pub fn asks_shown(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.rules.is_custom())
    }

    /// Of an object as it is stored; for those of [`Selectors::asks_shown`] there is [`Selectors::select`].
    pub fn matches(&self, object: &Object) -> bool {
        let fields = || match &self.entry {
            None => self.fields.matches(&object.fields),
            Some(entry) => self.fields_match(object, entry, object.value()),
        };
        self.matches_but_fields(object) && fields()
    }

    /// Those that are selected. Errors: a conversion webhook fails.
    pub async fn select(
        &self,
        objects: &Objects,
        found: impl IntoIterator<Item = Arc<Object>>,
    ) -> Result<Vec<Arc<Object>>, Status> {
        let found = found.into_iter();
        let Some(entry) = self.entry.as_ref().filter(|entry| entry.rules.is_custom()) else {
            return Ok(found.filter(|object| self.matches(object)).collect());
        };
        let found: Vec<Arc<Object>> = found.filter(|object| self.matches_but_fields(object)).collect();
        let values = objects.values_of(entry, &found).await?;
        let shown = found.into_iter().zip(values);
        let selected =
            shown.filter_map(|(object, value)| self.fields_match(&object, entry, value).then_some(object));
        Ok(selected.collect())
    }

    fn matches_but_fields(&self, object: &Object) -> bool {
        (self.name.is_empty() || *self.name == *object.key.name) && self.labels.matches(&object.labels)
    }

    fn fields_match(&self, object: &Object, entry: &KindEntry, mut value: Value) -> bool {
        let own = |(name, _): &&(String, String)| name.starts_with("metadata.");
        let mut fields: Vec<(String, String)> = object.fields.iter().filter(own).cloned().collect();
        if !entry.rules.is_custom() {
            entry.rules.from_stored(&mut value);
        }
        fields.extend(entry.rules.selectable_fields(&value));
        self.fields.matches(&fields)
    }
}

pub async fn get(call: &Call) -> Result<Response, Status> {
    match list_options::revision(call)? {
        None => drop(call.app.store.fresh().await.map_err(read_failed)?),
        Some(revision) => call.app.store.reach(revision).await.map_err(read_failed)?,
    }
    let key = Key::new(call.entry.stored_as.clone(), call.namespace.as_str(), call.name.as_str());
    let object =
        call.app.store.get(&key).ok_or_else(|| Status::not_found(&call.entry.resource, &call.name))?;
    one(call, StatusCode::OK, &object).await
}

/// One object in the shape the client asked for.
pub async fn one(call: &Call, code: StatusCode, object: &Object) -> Result<Response, Status> {
    let shape = Shape::of(call);
    if shape == Shape::Whole && call.app.objects.is_stored_shape(&call.entry) {
        return Ok(reply::bytes(code, object.bytes.clone()));
    }
    let value = call.app.objects.value_of(&call.entry, object).await?;
    Ok(match shape {
        Shape::Whole => reply::json(code, &value),
        Shape::Metadata => reply::json(code, &partial_metadata(&value)),
        Shape::Table(include) => {
            let meta = json!({"resourceVersion": object.revision.to_string()});
            reply::json(code, &table(&call.entry, &[value], include, Timestamp::now(), meta))
        }
    })
}

/// For how long the pages of a list show the revision of the first, in seconds: as long as Kubernetes keeps one before it is
/// compacted away. A quiet resource would remember it for longer, but no client can count on that.
const PAGED_SECONDS: i64 = 5 * 60;

/// Where a page ended: the last object sent, and the revision that all pages show; None shows the newest.
struct Continue {
    revision: Option<Revision>,
    /// When the first page was sent, in Unix seconds.
    since: i64,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(
            json!({"rv": self.revision, "t": self.since, "ns": self.namespace, "n": self.name}).to_string(),
        )
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let broken = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| broken())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
        let text = |field: &str| value[field].as_str().map(str::to_owned).ok_or_else(broken);
        let since = value["t"].as_i64().unwrap_or_default();
        Ok(Self { revision: value["rv"].as_u64(), since, namespace: text("ns")?, name: text("n")? })
    }

    fn is_too_old(&self) -> bool {
        self.revision.is_some() && Timestamp::now().as_second() - self.since > PAGED_SECONDS
    }

    /// The log has forgotten the revision: the client may go on, from the newest state, or start over.
    fn expired(self) -> Response {
        const WHY: &str = "The provided continue parameter is too old to display a consistent list result. You can \
            start a new list without the continue parameter, or use the continue token in this response to retrieve \
            the remainder of the results. Continuing with the provided token results in an inconsistent list - \
            objects that were created, modified, or deleted between the time the first chunk was returned and now \
            may show up in the list.";
        let mut status = Status::expired(WHY).to_json();
        status["metadata"]["continue"] = Self { revision: None, ..self }.encode().into();
        reply::json(StatusCode::GONE, &status)
    }
}

pub async fn list(call: &Call) -> Result<Response, Status> {
    let selectors = Selectors::of(call)?;
    let after = call.param("continue").map(Continue::decode).transpose()?;
    let wanted = match &after {
        None => Wanted::of_list(call)?,
        Some(_) if call.param("resourceVersion").is_some_and(|revision| revision != "0") => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Some(Continue { revision: Some(revision), .. }) => Wanted::Exactly(*revision),
        Some(_) => Wanted::Newest,
    };
    let after = match after {
        Some(after) if after.is_too_old() => return Ok(after.expired()),
        after => after,
    };
    match wanted {
        Wanted::Any => {}
        Wanted::Newest => drop(call.app.store.fresh().await.map_err(read_failed)?),
        Wanted::AtLeast(revision) | Wanted::Exactly(revision) => {
            call.app.store.reach(revision).await.map_err(read_failed)?;
        }
    }
    let exactly = match wanted {
        Wanted::Exactly(revision) => Some(revision),
        _ => None,
    };
    let namespace = Some(call.namespace.as_str()).filter(|n| !n.is_empty());
    let listing = match exactly {
        Some(revision) => call.app.store.list_at(&call.entry.stored_as, namespace, revision),
        None => Ok(call.app.store.list(&call.entry.stored_as, namespace)),
    };
    let listing = match listing {
        Ok(listing) => listing,
        Err(error) => {
            return match (error, after) {
                (ReadError::Expired { .. }, Some(after)) => Ok(after.expired()),
                (error, _) => Err(read_failed(error)),
            };
        }
    };
    let revision = listing.revision;
    let mut found = selectors.select(&call.app.objects, listing.objects).await?;
    // Pages after one that showed the newest state begin a list anew.
    let consistent = after.as_ref().filter(|after| after.revision.is_some());
    let since = consistent.map_or_else(|| Timestamp::now().as_second(), |after| after.since);
    if let Some(after) = after {
        found.retain(|o| (&*o.key.namespace, &*o.key.name) > (after.namespace.as_str(), after.name.as_str()));
    }
    let mut meta = json!({"resourceVersion": revision.to_string()});
    let limit = call.param("limit").and_then(|l| l.parse::<usize>().ok()).filter(|l| *l > 0);
    if let Some(limit) = limit.filter(|l| found.len() > *l) {
        // Of a selection Kubernetes does not count what is left, and clients take a count for one of the collection.
        if selectors.is_empty() {
            meta["remainingItemCount"] = (found.len() - limit).into();
        }
        found.truncate(limit);
        if let Some(last) = found.last() {
            let next = Continue {
                revision: Some(revision),
                since,
                namespace: last.key.namespace.to_string(),
                name: last.key.name.to_string(),
            };
            meta["continue"] = next.encode().into();
        }
    }
    many(call, &found, meta).await
}

async fn many(call: &Call, objects: &[Arc<Object>], meta: Value) -> Result<Response, Status> {
    let shape = Shape::of(call);
    let stored = shape == Shape::Whole && call.app.objects.is_stored_shape(&call.entry);
    let values = if stored { Vec::new() } else { call.app.objects.values_of(&call.entry, objects).await? };
    Ok(match shape {
        Shape::Table(include) => {
            reply::json(StatusCode::OK, &table(&call.entry, &values, include, Timestamp::now(), meta))
        }
        Shape::Metadata => {
            let items: Vec<Value> = values.iter().map(partial_metadata).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
            reply::json(StatusCode::OK, &list)
        }
        Shape::Whole => {
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
                    false => body.put_slice(values[i].to_string().as_bytes()),
                }
            }
            body.put_slice(b"]}\n");
            reply::bytes(StatusCode::OK, body.freeze())
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::auth::Claims;
    use crate::{AppState, ClusterNetwork, ClusterStore, build, routes};
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    async fn call(state: &AppState, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let token = state.auth.issue(&Claims::new("admin", &["system:masters"], 60)).unwrap();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = routes::router(state.clone(), Default::default()).oneshot(request).await.unwrap();
        let code = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap())
    }

    fn names(list: &Value) -> Vec<&str> {
        list["items"].as_array().unwrap().iter().filter_map(|o| o["metadata"]["name"].as_str()).collect()
    }

    #[tokio::test]
    async fn all_pages_of_a_list_show_the_revision_of_the_first_until_that_is_forgotten() {
        const MAPS: &str = "/api/v1/namespaces/default/configmaps";
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (state, _followers) =
            build(ClusterStore::memory(), pem.as_bytes(), ClusterNetwork::default(), "").unwrap();
        crate::auth::bootstrap::run(&state, None).await.unwrap();
        let make = async |name: String| {
            let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}});
            let (code, answer) = call(&state, "POST", MAPS, map).await;
            assert_eq!(code, StatusCode::CREATED, "{answer}");
        };
        for name in ["m1", "m2", "m3", "m4"] {
            make(name.into()).await;
        }
        let select = format!("{MAPS}?fieldSelector=metadata.name!=kube-root-ca.crt&limit=2");
        let (_, first) = call(&state, "GET", &select, Value::Null).await;
        assert_eq!(names(&first), ["m1", "m2"]);
        let (revision, token) =
            (&first["metadata"]["resourceVersion"], first["metadata"]["continue"].as_str().unwrap());

        make("m2a".into()).await;
        call(&state, "DELETE", &format!("{MAPS}/m3"), Value::Null).await;
        let (_, second) = call(&state, "GET", &format!("{select}&continue={token}"), Value::Null).await;
        assert_eq!(names(&second), ["m3", "m4"], "neither the new one nor without the deleted one");
        assert_eq!(&second["metadata"]["resourceVersion"], revision);
        assert!(second["metadata"]["continue"].is_null());
        let exact =
            format!("{select}&resourceVersionMatch=Exact&resourceVersion={}", revision.as_str().unwrap());
        assert_eq!(names(&call(&state, "GET", &exact, Value::Null).await.1), ["m1", "m2"]);
        let (code, _) =
            call(&state, "GET", &format!("{select}&continue={token}&resourceVersion=3"), Value::Null).await;
        assert_eq!(code, StatusCode::BAD_REQUEST);
        let mut old = super::Continue::decode(token).unwrap();
        old.since -= super::PAGED_SECONDS + 1;
        let (code, gone) =
            call(&state, "GET", &format!("{select}&continue={}", old.encode()), Value::Null).await;
        assert_eq!((code, &gone["reason"]), (StatusCode::GONE, &json!("Expired")));

        let key = pilothouse_api::Key::new("configmaps", "default", "busy");
        for _ in 0..6_000 {
            let object = json!({"metadata": {"name": "busy"}});
            let create = pilothouse_store::Write::Create { key: key.clone(), object };
            let delete = pilothouse_store::Write::Delete { key: key.clone(), expected: None };
            state.store.write_all(vec![create, delete]).await;
        }
        let (code, gone) = call(&state, "GET", &format!("{select}&continue={token}"), Value::Null).await;
        assert_eq!((code, &gone["reason"]), (StatusCode::GONE, &json!("Expired")));
        let token = gone["metadata"]["continue"].as_str().unwrap();
        let (_, rest) = call(&state, "GET", &format!("{select}&continue={token}"), Value::Null).await;
        assert_eq!(names(&rest), ["m2a", "m4"], "as they are now");
    }
}
