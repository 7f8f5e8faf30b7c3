//! A whole server in memory for tests, asked over HTTP as its clients ask.
use crate::auth::Claims;
use crate::certificates::{Authority, Profile};
use crate::loops::{self, Signing};
use crate::{AppState, ClusterNetwork, ClusterStore, FrontProxy, Identity, build, routes};
use axum::Router;
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
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

    /// A request with headers of its own, as an administrator.
    pub async fn with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let token = self.state.auth.issue(&Claims::new("admin", &["system:masters"], 60)).unwrap();
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.raw(request.body(Body::from(body.to_owned())).unwrap()).await
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
            self.state.aggregation.clone(),
            self.state.metrics.clone(),
            loops::MetricsApis::new(self.router.clone(), self.state.auth.clone()),
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

/// What a server of the cluster shows to aggregated ones.
pub fn front_proxy() -> FrontProxy {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    FrontProxy { ca_pem, identity: Identity { chain: vec![certificate.der().clone()], key } }
}

/// A server beside the cluster, over HTTPS with a certificate of its own making.
pub struct Https {
    pub port: u16,
    /// For `caBundle`.
    pub bundle: String,
}

impl Https {
    /// It goes by `localhost`, and by the service `hooks` of the default namespace.
    pub async fn start(app: Router) -> Self {
        Self::serve(app, None).await
    }

    /// It takes connections only from who shows a certificate of this authority.
    pub async fn start_for(app: Router, client_ca_pem: &str) -> Self {
        Self::serve(app, Some(client_ca_pem)).await
    }

    async fn serve(app: Router, client_ca_pem: Option<&str>) -> Self {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "hooks.default.svc".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let tls = match client_ca_pem {
            None => tls.with_no_client_auth(),
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                tls.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let tls = tls.with_single_cert(chain, key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, app) = (acceptor.clone(), app.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(app);
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, bundle: STANDARD.encode(certificate.pem()) }
    }

    pub fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://localhost:{}{path}", self.port), "caBundle": self.bundle})
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
