//! Servers beside this one: HTTPS to a URL or to a service of the cluster. Webhooks are asked so, and aggregated APIs.
use crate::node_hub::Hub;
use crate::service_backends;
use axum::http::{Request, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pilothouse_api::Key;
use pilothouse_protocol::PodRef;
use pilothouse_store::Store;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;

/// Questions under way at the same time, to all.
const CONCURRENCY: usize = 128;
/// A patch is at most as long as a request; what was converted may be somewhat longer than before.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// Where Linux keeps the authorities that it trusts, for webhooks without a `caBundle`.
const SYSTEM_ROOTS: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Where a server is and how it proves itself.
pub struct Endpoint {
    target: Result<Target, String>,
    tls: Result<Arc<ClientConfig>, String>,
}

enum Target {
    Url { host: String, port: u16, path: String },
    Service { namespace: String, name: String, port: u16, path: String },
}

impl Target {
    fn new(config: &Value) -> Result<Self, String> {
        let service = &config["service"];
        if service.is_object() {
            let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
            let port = service["port"].as_u64().unwrap_or(443);
            let path = text("path");
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            return Ok(Self::Service {
                namespace: text("namespace"),
                name: text("name"),
                port: u16::try_from(port).map_err(|_| format!("{port} is no port"))?,
                path,
            });
        }
        let url = config["url"].as_str().unwrap_or_default();
        let uri: axum::http::Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self::Url { host, port: uri.port_u16().unwrap_or(443), path })
    }

    /// As the certificate names it.
    fn host(&self) -> String {
        match self {
            Self::Url { host, .. } => host.clone(),
            Self::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Url { port, .. } | Self::Service { port, .. } => *port,
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Url { path, .. } | Self::Service { path, .. } => path,
        }
    }
}

impl Endpoint {
    /// `config` is a `WebhookClientConfig`.
    pub fn new(config: &Value) -> Self {
        Self { target: Target::new(config), tls: tls(bundle(config), None).map(Arc::new) }
    }

    /// One that is shown a certificate, too.
    pub fn with_identity(config: &Value, identity: Option<&Identity>, skips: SkipsVerification) -> Self {
        let tls = match skips {
            SkipsVerification::Yes => unverified(identity),
            SkipsVerification::No => tls(bundle(config), identity),
        };
        Self { target: Target::new(config), tls: tls.map(Arc::new) }
    }

    /// As the certificate names it, with the port.
    pub fn authority(&self) -> Result<String, String> {
        let target = self.target.as_ref().map_err(Clone::clone)?;
        Ok(format!("{}:{}", target.host(), target.port()))
    }
}

fn bundle(config: &Value) -> Option<&str> {
    config["caBundle"].as_str().filter(|bundle| !bundle.is_empty())
}

/// The certificate that this server shows to others, with its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipsVerification {
    Yes,
    No,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn configured(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| error.to_string()),
    }
}

fn unverified(identity: Option<&Identity>) -> Result<ClientConfig, String> {
    configured(Arc::new(Unverified(provider())), identity)
}

fn tls(bundle: Option<&str>, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    let pem = bundle.map(|bundle| STANDARD.decode(bundle)).transpose();
    let pem = pem.map_err(|error| format!("caBundle: {error}"))?;
    trusting(pem.as_deref(), identity).map_err(|why| format!("caBundle: {why}"))
}

/// Trusts the authorities in `pem`, or those of this machine where there is none.
pub fn trusting(pem: Option<&[u8]>, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    let system = || SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let pem = pem.map_or_else(system, <[u8]>::to_vec);
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    if roots.is_empty() {
        return Err("it holds no certificate".into());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    configured(Arc::new(Trusted { verifier, certificates }), identity)
}

/// The usual checks; but a certificate that is in the bundle itself may be an authority and a server at once, as
/// `openssl req -x509` makes them and Kubernetes takes them.
#[derive(Debug)]
struct Trusted {
    verifier: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.certificates.iter().any(|certificate| certificate == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Takes any certificate: `insecureSkipTLSVerify`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    store: Store,
    /// Set once the hub is there: pods are reached over their nodes' lines.
    hub: Arc<OnceLock<Hub>>,
    turns: Arc<Semaphore>,
}

impl Client {
    pub fn new(store: Store) -> Self {
        Self { store, hub: Arc::default(), turns: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    pub fn connect_through(&self, hub: Hub) {
        let _ = self.hub.set(hub);
    }

    /// The body of a webhook's answer. Errors: why there is none, in Kubernetes' words.
    pub async fn ask(
        &self,
        endpoint: &Endpoint,
        timeout: Duration,
        question: &Value,
    ) -> Result<Bytes, String> {
        let target = endpoint.target.as_ref().map_err(Clone::clone)?;
        let mark = if target.path().contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}timeout={}s", target.path(), timeout.as_secs());
        let asked = tokio::time::timeout(timeout, self.post(endpoint, &path, question));
        let url = format!("https://{}:{}{path}", target.host(), target.port());
        let failed = |why: String| format!("Post {url:?}: {why}");
        asked.await.map_err(|_| failed("context deadline exceeded".into()))?.map_err(failed)
    }

    async fn post(&self, endpoint: &Endpoint, path: &str, question: &Value) -> Result<Bytes, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let _turn = self.turns.acquire().await.map_err(|error| told(&error))?;
        let stream = self.open(endpoint).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
        // Ends with the sender, at the end of this function.
        tokio::spawn(connection);
        let request = Request::post(path)
            .header(header::HOST, endpoint.authority()?)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(question.to_string())))
            .map_err(|error| told(&error))?;
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|error| told(&error))?.to_bytes();
        match code.is_success() {
            true => Ok(body),
            false => {
                let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
                Err(format!("the webhook answered {code}: {text}"))
            }
        }
    }

    /// A connection, encrypted and with the other's name proved.
    pub async fn open(&self, endpoint: &Endpoint) -> Result<TlsStream<Box<dyn Stream>>, String> {
        let target = endpoint.target.as_ref().map_err(Clone::clone)?;
        let tls = endpoint.tls.as_ref().map_err(Clone::clone)?;
        let name = ServerName::try_from(target.host()).map_err(|error| error.to_string())?;
        let stream = self.connect(target).await?;
        let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await;
        stream.map_err(|error| format!("tls: {error}"))
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, String> {
        let (namespace, name, port) = match target {
            Target::Url { host, port, .. } => return dial(host, *port).await,
            Target::Service { namespace, name, port, .. } => (namespace, name, *port),
        };
        let key = Key::new("services", namespace.as_str(), name.as_str());
        let service = self.store.get(&key).map(|service| service.value());
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        if let (Some("ExternalName"), Some(host)) =
            (service["spec"]["type"].as_str(), service["spec"]["externalName"].as_str())
        {
            return dial(host, port).await;
        }
        let all = service_backends::ready(&self.store, namespace, name, &port.to_string());
        let mut all = all.map_err(|status| status.message)?;
        let backend = all.swap_remove(rand::random_range(0..all.len()));
        let pod = backend.pod.as_deref().and_then(|pod| {
            let pod = self.store.get(&Key::new("pods", namespace.as_str(), pod))?;
            let node = pod.value()["spec"]["nodeName"].as_str()?.to_owned();
            let (namespace, name) = (&*pod.key.namespace, &*pod.key.name);
            Some((node, PodRef { namespace: namespace.into(), name: name.into(), uid: (*pod.uid).into() }))
        });
        match (pod, self.hub.get()) {
            // The server is no part of the pods' network.
            (Some((node, pod)), Some(hub)) if hub.is_connected(&node) => {
                let stream = hub.tunnel(&node, pod, backend.port).await.map_err(|status| status.message)?;
                Ok(Box::new(stream))
            }
            _ => dial(&backend.address, backend.port).await,
        }
    }
}

async fn dial(host: &str, port: u16) -> Result<Box<dyn Stream>, String> {
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
    let _ = stream.set_nodelay(true);
    Ok(Box::new(stream))
}
