//! One aggregated server, for one group version: the way to it, and what it said it serves.
use super::Aggregation;
use super::front_proxy::headers;
use crate::objects::Actor;
use crate::remote::{Endpoint, SkipsVerification};
use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Discovery answers quickly or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long what it said holds, and how long a failure does.
const FRESH: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;

pub struct RemoteApi {
    pub name: String,
    pub service: (String, String, u16),
    group: String,
    version: String,
    basis: Value,
    is_available: AtomicBool,
    endpoint: OnceLock<Endpoint>,
    resources: Mutex<Option<Known>>,
}

struct Known {
    at: Instant,
    /// None: it could not be asked, and never could before.
    list: Option<Value>,
    is_stale: bool,
}

/// What there is to tell of a server's resources.
pub struct Resources {
    /// An `APIResourceList`.
    pub list: Value,
    pub is_stale: bool,
}

impl RemoteApi {
    pub fn new(name: &str, spec: &Value, is_available: bool) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = &spec["service"];
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        Self {
            name: name.to_owned(),
            service: (text(&service["namespace"]), text(&service["name"]), port),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            basis: spec.clone(),
            is_available: AtomicBool::new(is_available),
            endpoint: OnceLock::new(),
            resources: Mutex::default(),
        }
    }

    pub fn is_same(&self, spec: &Value) -> bool {
        self.basis == *spec
    }

    pub fn set_available(&self, is_available: bool) {
        self.is_available.store(is_available, Ordering::Relaxed);
    }

    pub fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Relaxed)
    }

    pub fn endpoint(&self, aggregation: &Aggregation) -> &Endpoint {
        self.endpoint.get_or_init(|| {
            let (namespace, name, port) = &self.service;
            let config = json!({
                "service": {"namespace": namespace, "name": name, "port": port}, "caBundle": self.basis["caBundle"],
            });
            let skips = match self.basis["insecureSkipTLSVerify"] == true {
                true => SkipsVerification::Yes,
                false => SkipsVerification::No,
            };
            let identity = aggregation.identity().map(|proxy| &proxy.identity);
            Endpoint::with_identity(&config, identity, skips)
        })
    }

    /// `/apis/group/version`: every server of an API answers there.
    pub fn root(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// The body of an answer to the server's own question. Errors: why there is none.
    pub async fn get(&self, aggregation: &Aggregation, path: &str) -> Result<Bytes, String> {
        let asked = tokio::time::timeout(TIMEOUT, self.ask(aggregation, path)).await;
        let authority = self.endpoint(aggregation).authority().unwrap_or_default();
        let url = format!("https://{authority}{path}");
        let told = |why: String| format!("failing or missing response from {url}: {why}");
        asked.map_err(|_| format!("timed out waiting for {url}"))?.map_err(told)
    }

    async fn ask(&self, aggregation: &Aggregation, path: &str) -> Result<Bytes, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let endpoint = self.endpoint(aggregation);
        let authority = endpoint.authority()?;
        let stream =
            aggregation.client().open(endpoint).await.map_err(|why| format!("Get {path:?}: {why}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
        // Ends with the sender, at the end of this function.
        tokio::spawn(connection);
        let mut request = Request::get(path)
            .header(header::HOST, &authority)
            .header(header::ACCEPT, "application/json")
            .body(Full::<Bytes>::default())
            .map_err(|error| told(&error))?;
        request.headers_mut().extend(headers(&Actor::system("kube-aggregator")));
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|error| told(&error))?.to_bytes();
        match code.is_success() {
            true => Ok(body),
            false => Err(format!("bad status from https://{authority}{path}: {}", code.as_u16())),
        }
    }

    /// What the server serves, asked for anew from time to time. None: it never said.
    pub async fn resources(&self, aggregation: &Aggregation) -> Option<Resources> {
        if let Some(known) = &*self.resources.lock() {
            let holds = if known.is_stale { RETRY_AFTER } else { FRESH };
            if known.at.elapsed() < holds {
                return Some(Resources { list: known.list.clone()?, is_stale: known.is_stale });
            }
        }
        let asked = self.get(aggregation, &self.root()).await;
        let found = asked.and_then(|body| serde_json::from_slice::<Value>(&body).map_err(|e| e.to_string()));
        let mut resources = self.resources.lock();
        let known = match found {
            Ok(list) => Known { at: Instant::now(), list: Some(list), is_stale: false },
            Err(error) => {
                tracing::debug!(service = self.name, error, "an aggregated API cannot be discovered");
                let before = resources.take().and_then(|known| known.list);
                Known { at: Instant::now(), list: before, is_stale: true }
            }
        };
        let known = resources.insert(known);
        Some(Resources { list: known.list.clone()?, is_stale: known.is_stale })
    }
}
