//! The audit log: who asked for what, and what came of it, as JSON lines (audit.k8s.io/v1 `Event`). After
//! <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>.
mod log;
mod policy;

pub use log::Rotation;
pub use policy::{Level, Policy, Stage};

use crate::auth::{Attributes, Caller};
use crate::listen;
use crate::objects::Actor;
use anyhow::Result;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use log::{Line, Log};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Status, decode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot};

/// Events that wait for the disk; what comes on top is dropped, and counted.
const QUEUE: usize = 10_000;
/// Bodies that are longer are left out.
const BODY_BYTES: usize = 3 * 1024 * 1024;

/// Writes nothing until it is started. Cheap to clone.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    policy: Policy,
    lines: mpsc::Sender<Line>,
    dropped: AtomicU64,
}

impl Inner {
    fn write(&self, event: &Value) {
        if self.lines.try_send(Line::Event(event.to_string())).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "the disk is too slow for the audit log: events are lost");
            }
        }
    }
}

impl Audit {
    /// Writes as the policy says, until the last clone is gone.
    pub async fn start(policy: Policy, rotation: Rotation) -> Result<Self> {
        let (lines, queue) = mpsc::channel(QUEUE);
        let log = Log::open(rotation).await?;
        tokio::spawn(log.run(queue));
        Ok(Self(Some(Arc::new(Inner { policy, lines, dropped: AtomicU64::new(0) }))))
    }

    /// Resolves when everything told so far is written.
    pub async fn flush(&self) {
        let Some(inner) = &self.0 else { return };
        let (done, written) = oneshot::channel();
        if inner.lines.send(Line::Flush(done)).await.is_ok() {
            let _ = written.await; // a log that is gone has nothing left to write
        }
    }

    /// None: nothing is to be written of the request.
    pub fn begin(
        &self,
        caller: &Caller,
        wanted: &Attributes,
        parts: &Parts,
        stays_open: bool,
    ) -> Option<Entry> {
        let inner = self.0.as_ref()?;
        let verdict = inner.policy.judge(caller.sender(), wanted)?;
        let entry = Entry {
            audit: inner.clone(),
            level: verdict.level(),
            stays_open,
            without_managed_fields: verdict.omits_managed_fields(),
            omitted: [Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic]
                .into_iter()
                .filter(|stage| verdict.omits(*stage))
                .collect(),
            content_type: text(&parts.headers, header::CONTENT_TYPE).to_owned(),
            event: event(verdict.level(), caller, wanted, parts),
            is_done: false,
        };
        if !verdict.omits(Stage::RequestReceived) {
            inner.write(&entry.at(Stage::RequestReceived));
        }
        Some(entry)
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn event(level: Level, caller: &Caller, wanted: &Attributes, parts: &Parts) -> Value {
    let user = |actor: &Actor| json!({"username": actor.user, "uid": actor.uid, "groups": actor.groups, "extra": actor.extra});
    // HTTP/2 puts the host in front.
    let asked_for = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let received = microseconds();
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{level:?}"),
        "auditID": uuid::Uuid::new_v4().to_string(), "requestURI": asked_for, "verb": wanted.verb,
        "user": user(caller.sender()), "sourceIPs": listen::sources(&parts.headers),
        "userAgent": text(&parts.headers, header::USER_AGENT), "requestReceivedTimestamp": received,
        "stageTimestamp": received,
    });
    if caller.impersonator.is_some() {
        event["impersonatedUser"] = user(&caller.actor);
    }
    if wanted.is_resource() {
        let mut about = json!({"resource": wanted.resource, "apiVersion": wanted.version});
        for (field, text) in [
            ("namespace", &wanted.namespace),
            ("name", &wanted.name),
            ("apiGroup", &wanted.group),
            ("subresource", &wanted.subresource),
        ] {
            if !text.is_empty() {
                about[field] = text.as_str().into();
            }
        }
        event["objectRef"] = about;
    }
    event
}

fn microseconds() -> String {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now).to_string()
}

/// One request, while it is answered. One that is dropped before its answer panicked, or its client left.
pub struct Entry {
    audit: Arc<Inner>,
    level: Level,
    stays_open: bool,
    without_managed_fields: bool,
    omitted: Vec<Stage>,
    content_type: String,
    event: Value,
    is_done: bool,
}

impl Entry {
    pub fn wants_request(&self) -> bool {
        self.level >= Level::Request && !self.stays_open
    }

    pub fn request(&mut self, body: &[u8]) {
        if body.len() > BODY_BYTES || body.is_empty() {
            return;
        }
        let kind = Some(self.content_type.as_str()).filter(|kind| !kind.is_empty());
        if let Ok(decoded) = decode::decode(body, kind) {
            self.event["requestObject"] = self.shown(decoded.value);
        }
    }

    /// Writes the events of the answer, which goes on as it came. `why` is what a refusal says.
    pub async fn finish(
        mut self,
        response: Response,
        why: Option<&Status>,
        annotations: BTreeMap<String, String>,
    ) -> Response {
        let mut status = json!({"metadata": {}, "code": response.status().as_u16()});
        if let Some(why) = why {
            let told = why.to_json();
            for field in ["status", "message", "reason", "details"] {
                if !told[field].is_null() {
                    status[field] = told[field].clone();
                }
            }
        }
        self.event["responseStatus"] = status;
        if !annotations.is_empty() {
            self.event["annotations"] = json!(annotations);
        }
        if self.stays_open {
            self.write(Stage::ResponseStarted);
            // The end is told when the last of it is sent.
            return response.map(|body| Body::new(Open { body, _entry: self }));
        }
        let response = match self.level == Level::RequestResponse {
            true => self.with_body(response).await,
            false => response,
        };
        self.complete();
        response
    }

    fn complete(&mut self) {
        self.is_done = true;
        self.write(Stage::ResponseComplete);
    }

    fn write(&self, stage: Stage) {
        if !self.omitted.contains(&stage) {
            self.audit.write(&self.at(stage));
        }
    }

    fn at(&self, stage: Stage) -> Value {
        let mut event = self.event.clone();
        event["stage"] = format!("{stage:?}").into();
        if stage != Stage::RequestReceived {
            event["stageTimestamp"] = microseconds().into();
        }
        event
    }

    /// An object as it may be written down.
    fn shown(&self, mut object: Value) -> Value {
        if self.without_managed_fields {
            let strip = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            strip(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        }
        object
    }

    async fn with_body(&mut self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        match to_bytes(body, usize::MAX).await {
            Ok(bytes) => {
                if bytes.len() <= BODY_BYTES
                    && let Ok(object) = serde_json::from_slice(&bytes)
                {
                    self.event["responseObject"] = self.shown(object);
                }
                Response::from_parts(parts, Body::from(bytes))
            }
            Err(error) => {
                let mut response = Response::new(Body::from(error.to_string()));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        match (self.is_done, std::thread::panicking()) {
            (true, _) => {}
            (false, true) => {
                self.event["responseStatus"] = json!({"metadata": {}, "status": "Failure", "code": 500,
                    "reason": "InternalError", "message": "APIServer panic'd"});
                self.write(Stage::Panic);
            }
            (false, false) => self.complete(),
        }
    }
}

/// An answer that stays open.
struct Open {
    body: Body,
    /// Writes its last event when it is dropped.
    _entry: Entry,
}

impl hyper::body::Body for Open {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Api, eventually};

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: Metadata
  resources: [{group: "", resources: ["secrets"]}]
  omitStages: [RequestReceived]
- level: RequestResponse
  verbs: [create]
  namespaces: [shop]
  omitStages: [RequestReceived]
- level: Request
  verbs: [watch]
- level: Metadata
  nonResourceURLs: ["/version"]
  omitStages: [RequestReceived]
"#;

    struct Written {
        api: Api,
        path: std::path::PathBuf,
    }

    impl Written {
        async fn start() -> Self {
            let mut api = Api::start().await;
            let path = std::env::temp_dir().join(format!("ph-audit-{}", uuid::Uuid::new_v4()));
            let policy = Policy::parse(POLICY).unwrap();
            let audit = Audit::start(policy, Rotation::new(path.clone())).await.unwrap();
            api.change(|state| state.audit = audit);
            api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
            Self { api, path }
        }

        async fn events(&self) -> Vec<Value> {
            self.api.state.audit.flush().await;
            let text = std::fs::read_to_string(&self.path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[tokio::test]
    async fn requests_are_written_as_the_policy_says() {
        let written = Written::start().await;
        let api = &written.api;
        let map = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
        api.make("/api/v1/namespaces/shop/configmaps?fieldManager=me", map).await;
        api.call("GET", "/api/v1/namespaces/shop/secrets/none", Value::Null).await;
        api.call_as(("ann", &[]), "GET", "/api/v1/namespaces/shop/secrets/none", Value::Null).await;
        api.send(None, "GET", "/version", Value::Null).await;
        let events = written.events().await;
        assert_eq!(events.len(), 4);
        assert_eq!(events[0]["requestObject"]["data"], json!({"a": "b"}));
        assert!(events[0]["responseObject"]["metadata"]["uid"].is_string());
        assert!(events[0]["responseObject"]["metadata"]["managedFields"].is_null());
        assert_eq!((&events[0]["verb"], &events[0]["user"]["username"]), (&json!("create"), &json!("admin")));
        assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "allow");
        assert_eq!(events[1]["responseStatus"]["code"], 404);
        assert_eq!(events[1]["responseStatus"]["reason"], "NotFound");
        assert_eq!(events[1]["objectRef"]["name"], "none");
        assert!(events[1]["requestObject"].is_null());
        assert_eq!(events[2]["annotations"]["authorization.k8s.io/decision"], "forbid");
        assert_eq!(
            (&events[3]["user"]["username"], &events[3]["objectRef"]),
            (&json!("system:anonymous"), &Value::Null)
        );
    }

    #[tokio::test]
    async fn what_stays_open_is_told_when_it_comes_begins_and_ends() {
        let written = Written::start().await;
        let token = written
            .api
            .state
            .auth
            .issue(&crate::auth::Claims::new("admin", &["system:masters"], 60))
            .unwrap();
        let request = axum::http::Request::get("/api/v1/namespaces/shop/configmaps?watch=true")
            .header("authorization", format!("Bearer {token}"))
            .header("impersonate-user", "ann")
            .header("impersonate-group", "system:masters");
        let response = written.api.open(request.body(Body::empty()).unwrap()).await;
        let stages = async || {
            let events = written.events().await;
            events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(stages().await, ["RequestReceived", "ResponseStarted"]);
        drop(response);
        eventually("the end", async || stages().await.len() == 3).await;
        let events = written.events().await;
        assert_eq!(events[2]["stage"], "ResponseComplete");
        assert_eq!(
            (&events[2]["user"]["username"], &events[2]["impersonatedUser"]["username"]),
            (&json!("admin"), &json!("ann"))
        );
        assert_eq!(events[0]["auditID"], events[2]["auditID"]);
    }
}
