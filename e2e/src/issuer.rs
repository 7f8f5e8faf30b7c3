//! An OpenID provider of the test's own: who comes may be `ann`, or change their mind.
use anyhow::{Context, Result};
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const HANDSHAKE: Duration = Duration::from_secs(5);
const KEY_ID: &str = "first";
const CODE: &str = "the-code";
/// Who the cluster is to it.
const AUDIENCE: &str = "pilothouse";

/// Lives until the test's process ends.
pub struct Issuer {
    pub url: String,
    certificate: String,
}

struct Provider {
    url: String,
    key: EncodingKey,
    /// Of the sign-in under way: what the token must say again.
    nonce: Mutex<String>,
}

impl Issuer {
    pub fn start() -> Result<Self> {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
        let certificate = pair.cert.pem();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("https://localhost:{}", listener.local_addr()?.port());
        let pem = rcgen::KeyPair::generate()?.serialize_pem();
        let key = EncodingKey::from_ec_pem(pem.as_bytes())?;
        let provider = Arc::new(Provider { url: url.clone(), key, nonce: Mutex::default() });
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/keys", get(keys))
            .route("/authorize", get(authorize))
            .route("/token", post(exchange))
            .with_state(provider);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener =
                    Listener { plain: TcpListener::from_std(listener)?, tls: Arc::new(tls).into() };
                axum::serve(listener, app).await
            })
        });
        Ok(Self { url, certificate })
    }

    /// The file that makes a cluster trust it.
    pub fn configuration(&self, file: &Path) -> Result<()> {
        let configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": self.url, "audiences": [AUDIENCE], "certificateAuthority": self.certificate},
                "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}},
            }],
        });
        std::fs::write(file, configuration.to_string()).with_context(|| file.display().to_string())
    }
}

/// Browsers speak TLS to an issuer.
struct Listener {
    plain: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, peer)) = self.plain.accept().await else { continue };
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.plain.local_addr()
    }
}

async fn configuration(State(provider): State<Arc<Provider>>) -> Json<Value> {
    let url = &provider.url;
    Json(json!({
        "issuer": url, "jwks_uri": format!("{url}/keys"), "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
    }))
}

async fn keys(State(provider): State<Arc<Provider>>) -> Result<Json<Value>, StatusCode> {
    let jwk = Jwk::from_encoding_key(&provider.key, Algorithm::ES256)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let mut jwk = serde_json::to_value(jwk).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    jwk["kid"] = KEY_ID.into();
    Ok(Json(json!({"keys": [jwk]})))
}

/// The page that asks.
async fn authorize(
    State(provider): State<Arc<Provider>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Result<impl IntoResponse, StatusCode> {
    let get = |name: &str| asked.get(name).map(String::as_str).ok_or(StatusCode::BAD_REQUEST);
    if let Ok(mut nonce) = provider.nonce.lock() {
        get("nonce")?.clone_into(&mut nonce);
    }
    let back = format!("{}?state={}", get("redirect_uri")?, get("state")?);
    Ok(Html(format!(
        r#"<!doctype html><title>An issuer</title><link rel="icon" href="data:,">
        <a data-testid="issuer-ann" href="{back}&amp;code={CODE}">I am Ann</a>
        <a data-testid="issuer-cancel" href="{back}&amp;error=access_denied&amp;error_description=Ann+went+home">Cancel</a>"#
    )))
}

async fn exchange(
    State(provider): State<Arc<Provider>>,
    Form(given): Form<HashMap<String, String>>,
) -> Result<Json<Value>, StatusCode> {
    if given.get("code").is_none_or(|code| code != CODE) || !given.contains_key("code_verifier") {
        return Err(StatusCode::BAD_REQUEST);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let nonce = provider.nonce.lock().map(|nonce| nonce.clone()).unwrap_or_default();
    let claims = json!({
        "iss": provider.url, "aud": AUDIENCE, "iat": now, "exp": now + 3600, "sub": "ann", "nonce": nonce,
    });
    let header = Header { kid: Some(KEY_ID.into()), ..Header::new(Algorithm::ES256) };
    let token = jsonwebtoken::encode(&header, &claims, &provider.key)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Json(json!({"id_token": token, "token_type": "Bearer", "access_token": "unused"})))
}
