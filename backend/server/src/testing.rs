//! A whole server in memory for tests, asked over HTTP as its clients ask.
use crate::auth::Claims;
use crate::certificates::{Authority, Profile};
use crate::loops::{self, Signing};
use crate::{AppState, ClusterNetwork, ClusterStore, build, routes};
use axum::Router;
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use futures::StreamExt;
use rcgen::{CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub struct Api {
    pub state: AppState,
    router: Router,
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn warnings(&self) -> Vec<String> {
        let all = self.headers.get_all("warning").iter();
        all.map(|value| value.to_str().unwrap().trim_start_matches("299 - ").to_owned()).collect()
    }
}

impl Api {
    /// With everything a cluster has from its first moment.
    pub async fn start() -> Self {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (state, followers) =
            build(ClusterStore::memory(), pem.as_bytes(), ClusterNetwork::default(), "").unwrap();
        followers.into_iter().for_each(|follower| drop(tokio::spawn(follower)));
        crate::auth::bootstrap::run(&state, None).await.unwrap();
        let router = routes::router(state.clone(), Default::default());
        Self { state, router }
    }

    /// Changes the server's state for the requests to come.
    pub fn change(&mut self, change: impl FnOnce(&mut AppState)) {
        change(&mut self.state);
        self.router = routes::router(self.state.clone(), Default::default());
    }

    /// As an administrator.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call_as(("admin", &["system:masters"]), method, path, body).await
    }

    pub async fn call_as(&self, who: (&str, &[&str]), method: &str, path: &str, body: Value) -> Answer {
        let token = self.state.auth.issue(&Claims::new(who.0, who.1, 60)).unwrap();
        self.send(Some(&token), method, path, body).await
    }

    pub async fn send(&self, token: Option<&str>, method: &str, path: &str, body: Value) -> Answer {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.raw(request.body(body).unwrap()).await
    }

    /// The answer to just this request, whose body may stay open.
    pub async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// The whole answer to just this request.
    pub async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Answer { code: parts.status, headers: parts.headers, body }
    }

    /// A watch that goes on, as an administrator.
    pub async fn watch(&self, path: &str) -> Watched {
        let token = self.state.auth.issue(&Claims::new("admin", &["system:masters"], 60)).unwrap();
        let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Watched { body: response.into_body().into_data_stream(), read: Vec::new() }
    }

    /// Creates an object that must be accepted.
    pub async fn make(&self, path: &str, object: Value) -> Value {
        let answer = self.call("POST", path, object).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// Signs with an authority of its own.
    pub fn signing(&self) -> Signing {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = TestAuthority(Issuer::new(params, KeyPair::generate().unwrap()));
        Signing { auth: self.state.auth.clone(), authority: Arc::new(authority), ca_pem: "ca".into() }
    }

    /// Controllers and scheduler, as a leading server runs them.
    pub fn run_loops(&self) {
        let loops = loops::run(
            self.state.objects.clone(),
            self.state.metrics.clone(),
            Default::default(),
            self.signing(),
            CancellationToken::new(),
        );
        tokio::spawn(loops);
    }
}

/// The events of a watch, one by one.
pub struct Watched {
    body: BodyDataStream,
    read: Vec<u8>,
}

impl Watched {
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let more = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await;
            self.read.extend_from_slice(&more.expect("an event").expect("the watch ended").unwrap());
        }
    }
}

struct TestAuthority(Issuer<'static, KeyPair>);

impl Authority for TestAuthority {
    fn sign(&self, request_pem: &str, _: &Profile) -> anyhow::Result<String> {
        Ok(CertificateSigningRequestParams::from_pem(request_pem)?.signed_by(&self.0)?.pem())
    }
}

/// Waits, with a bound, for something that comes about by itself.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"));
}
