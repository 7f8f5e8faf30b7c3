//! The audit log: who asked for what, and what came of it, as JSON lines (audit.k8s.io/v1 `Event`). After
//! <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>. Of the stages the last is told: `ResponseComplete`, or
//! for what stays open `ResponseStarted`.
use crate::auth::Attributes;
use crate::objects::Actor;
use anyhow::{Context, Result};
use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use pilothouse_api::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

/// Events that wait for the disk; what comes on top is dropped, and counted.
const QUEUE: usize = 10_000;
/// A file that is longer makes room for a new one; one of before is kept.
const FILE_BYTES: u64 = 100 * 1024 * 1024;
/// Bodies that are longer are left out.
const BODY_BYTES: usize = 3 * 1024 * 1024;

/// How much is written of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// audit.k8s.io/v1 `Policy`: the first rule that fits a request counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// From YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let policy: Value = serde_yaml_ng::from_str(text).context("the audit policy is no YAML")?;
        anyhow::ensure!(
            policy["kind"] == "Policy" && policy["apiVersion"] == "audit.k8s.io/v1",
            "the audit policy must be a Policy of audit.k8s.io/v1"
        );
        Self::deserialize(&policy).context("the audit policy cannot be read")
    }

    fn rule(&self, actor: &Actor, wanted: &Attributes) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(actor, wanted))
    }
}

impl Rule {
    fn fits(&self, actor: &Actor, wanted: &Attributes) -> bool {
        let open = |list: &[String], text: &str| list.is_empty() || list.iter().any(|item| item == text);
        let in_group = self.user_groups.is_empty() || self.user_groups.iter().any(|group| actor.is_in(group));
        if !open(&self.users, &actor.user) || !in_group || !open(&self.verbs, &wanted.verb) {
            return false;
        }
        match (wanted.is_resource(), self.resources.is_empty() && self.namespaces.is_empty()) {
            (true, true) => self.non_resource_urls.is_empty(),
            (true, false) => {
                let namespaces = open(&self.namespaces, &wanted.namespace);
                namespaces && (self.resources.is_empty() || self.resources.iter().any(|r| r.fit(wanted)))
            }
            (false, false) => false,
            (false, true) => {
                self.non_resource_urls.is_empty()
                    || self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                        Some(prefix) => wanted.path.starts_with(prefix),
                        None => *url == wanted.path,
                    })
            }
        }
    }
}

impl Resources {
    fn fit(&self, wanted: &Attributes) -> bool {
        let full = wanted.full_resource();
        let below = |resource: &str| match resource.split_once('/') {
            Some(("*", subresource)) => subresource == wanted.subresource,
            Some((resource, "*")) => resource == wanted.resource,
            _ => false,
        };
        let named = |resource: &String| resource == "*" || *resource == full || below(resource);
        self.group == wanted.group
            && (self.resources.is_empty() || self.resources.iter().any(named))
            && (self.resource_names.is_empty() || self.resource_names.contains(&wanted.name))
    }
}

/// Writes nothing until it is started. Cheap to clone.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    policy: Policy,
    lines: mpsc::Sender<String>,
    dropped: AtomicU64,
}

impl Audit {
    /// Appends to the file at `path` as the policy says, until the last clone is gone.
    pub async fn start(policy: Policy, path: PathBuf) -> Result<Self> {
        let (lines, queue) = mpsc::channel(QUEUE);
        let log = Log::open(path).await?;
        tokio::spawn(log.run(queue));
        Ok(Self(Some(Arc::new(Inner { policy, lines, dropped: AtomicU64::new(0) }))))
    }

    /// None: nothing is to be written of the request.
    pub fn begin(&self, actor: &Actor, wanted: &Attributes, parts: &Parts) -> Option<Entry> {
        let inner = self.0.as_ref()?;
        let rule = inner.policy.rule(actor, wanted).filter(|rule| rule.level != Level::None)?;
        let is_open = wanted.verb == "watch"
            || matches!(&*wanted.subresource, "exec" | "attach" | "portforward" | "proxy" | "log");
        let stage = if is_open { "ResponseStarted" } else { "ResponseComplete" };
        if inner.policy.omit_stages.iter().chain(&rule.omit_stages).any(|omitted| omitted == stage) {
            return None;
        }
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
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
        // HTTP/2 puts the host in front.
        let asked_for = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{:?}", rule.level), "stage": stage,
            "auditID": uuid::Uuid::new_v4().to_string(), "requestURI": asked_for,
            "verb": wanted.verb, "userAgent": text(header::USER_AGENT), "objectRef": about,
            "user": {"username": actor.user, "uid": actor.uid, "groups": actor.groups, "extra": actor.extra},
            "requestReceivedTimestamp": microseconds(),
        });
        Some(Entry { audit: inner.clone(), level: rule.level, is_open, event })
    }
}

fn microseconds() -> String {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now).to_string()
}

/// One request, while it is answered.
pub struct Entry {
    audit: Arc<Inner>,
    level: Level,
    is_open: bool,
    event: Value,
}

impl Entry {
    pub fn wants_request(&self) -> bool {
        self.level >= Level::Request && !self.is_open
    }

    pub fn request(&mut self, body: &[u8]) {
        if let Some(object) = loggable(body) {
            self.event["requestObject"] = object;
        }
    }

    /// Writes the event. The response goes on as it came.
    pub async fn finish(mut self, response: Response, annotations: BTreeMap<String, String>) -> Response {
        let code = response.status();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code.as_u16()});
        self.event["stageTimestamp"] = microseconds().into();
        if !annotations.is_empty() {
            self.event["annotations"] = json!(annotations);
        }
        let response = match self.level == Level::RequestResponse && !self.is_open {
            true => self.with_body(response).await,
            false => response,
        };
        if self.audit.lines.try_send(self.event.to_string()).is_err() {
            let dropped = self.audit.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "the disk is too slow for the audit log: events are lost");
            }
        }
        response
    }

    async fn with_body(&mut self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        match to_bytes(body, usize::MAX).await {
            Ok(bytes) => {
                if let Some(object) = loggable(&bytes) {
                    self.event["responseObject"] = object;
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

/// A JSON body of a bearable size.
fn loggable(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().filter(|_| body.len() <= BODY_BYTES)
}

struct Log {
    path: PathBuf,
    file: tokio::fs::File,
    length: u64,
}

impl Log {
    async fn open(path: PathBuf) -> Result<Self> {
        let (file, length) = open(&path).await?;
        Ok(Self { path, file, length })
    }

    async fn run(mut self, mut queue: mpsc::Receiver<String>) {
        let mut lines = Vec::new();
        while queue.recv_many(&mut lines, 256).await > 0 {
            let mut text = lines.join("\n");
            text.push('\n');
            lines.clear();
            if let Err(error) = self.append(text.as_bytes()).await {
                tracing::error!(error = format!("{error:#}"), "the audit log cannot be written");
            }
        }
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length > FILE_BYTES {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            tokio::fs::rename(&self.path, old).await?;
            (self.file, self.length) = open(&self.path).await?;
        }
        self.file.write_all(bytes).await?;
        self.file.flush().await?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

async fn open(path: &Path) -> Result<(tokio::fs::File, u64)> {
    let mut options = tokio::fs::OpenOptions::new();
    // Requests may hold what is nobody else's business.
    options.create(true).append(true).mode(0o600);
    let file = options.open(path).await;
    let file = file.with_context(|| format!("cannot open the audit log {}", path.display()))?;
    let length = file.metadata().await?.len();
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Api, eventually};

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
- level: Metadata
  resources: [{group: "", resources: ["secrets", "pods/*"]}]
- level: RequestResponse
  verbs: [create]
  namespaces: [shop]
- level: Request
  resources: [{group: "apps"}]
"#;

    #[test]
    fn the_first_rule_that_fits_says_how_much() {
        let policy = Policy::parse(POLICY).unwrap();
        let level = |user: &str, verb: &str, group: &str, resource: &str, namespace: &str| {
            let actor = Actor { user: user.into(), ..Actor::default() };
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let wanted = Attributes {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: namespace.into(),
                ..Attributes::default()
            };
            policy.rule(&actor, &wanted).map_or(Level::None, |rule| rule.level)
        };
        assert_eq!(level("system:kube-proxy", "get", "", "secrets", "a"), Level::None);
        assert_eq!(level("jane", "get", "", "secrets", "a"), Level::Metadata);
        assert_eq!(level("jane", "create", "", "pods/exec", "a"), Level::Metadata);
        assert_eq!(level("jane", "create", "", "configmaps", "shop"), Level::RequestResponse);
        assert_eq!(level("jane", "list", "apps", "deployments", "shop"), Level::Request);
        assert_eq!(level("jane", "list", "", "configmaps", "shop"), Level::None);
        assert!(Policy::parse("kind: Other").is_err());
    }

    #[tokio::test]
    async fn requests_are_written_as_the_policy_says() {
        let mut api = Api::start().await;
        let path = std::env::temp_dir().join(format!("ph-audit-{}", uuid::Uuid::new_v4()));
        let audit = Audit::start(Policy::parse(POLICY).unwrap(), path.clone()).await.unwrap();
        api.change(|state| state.audit = audit);
        api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
        let maps = "/api/v1/namespaces/shop/configmaps";
        api.make(maps, json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await;
        api.call("GET", "/api/v1/namespaces/shop/secrets/none", Value::Null).await;
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually("the log", async || read().lines().count() == 2).await;
        let events: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events[0]["requestObject"]["data"], json!({"a": "b"}));
        assert!(events[0]["responseObject"]["metadata"]["uid"].is_string());
        assert_eq!((&events[0]["verb"], &events[0]["user"]["username"]), (&json!("create"), &json!("admin")));
        assert_eq!(events[1]["responseStatus"]["code"], 404);
        assert_eq!(events[1]["objectRef"]["name"], "none");
        assert!(events[1]["requestObject"].is_null());
        std::fs::remove_file(path).unwrap();
    }
}
