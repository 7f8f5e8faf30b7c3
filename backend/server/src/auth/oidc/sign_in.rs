//! Signing in to the dashboard at an issuer: the authorisation code flow with PKCE, which ends in the same session that
//! a password gives. After <https://openid.net/specs/openid-connect-core-1_0.html> and RFC 7636.
use super::{Configuration, Issuer};
use crate::auth::{Auth, Claims, login, tokens};
use crate::http::reply;
use crate::http::resources::{parse_query, percent_decode, percent_encode};
use crate::listen::PLAIN_HTTP;
use crate::outbound;
use crate::state::AppState;
use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use pilothouse_api::{Reason, Status};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the browser keeps of a sign-in that is under way.
const COOKIE: &str = "pilothouse_sign_in";
/// How long somebody may take at the issuer.
const SECONDS: i64 = 600;
/// Why the last sign-in failed, until the dashboard asks. A cookie: in the URL anybody could put words of their own there.
const TROUBLE: &str = "pilothouse_sign_in_trouble";
const TROUBLE_SECONDS: i64 = 60;
const METHODS: &str = "/auth/methods";
const CALLBACKS: &str = "/auth/oidc";
const CALLBACK: &str = "/auth/oidc/callback";
const SCOPES: &str = "openid profile email groups";

/// Who the dashboard is to an issuer.
#[derive(Clone, Debug)]
pub struct Client {
    /// One of the configuration's.
    pub issuer: String,
    pub id: String,
    /// None: a public client, which PKCE alone protects.
    pub secret: Option<String>,
}

impl Client {
    /// Errors: there is no such issuer, or it would not take the tokens that are for this client.
    pub fn new(
        configuration: &Configuration,
        issuer: &str,
        id: Option<&str>,
        secret: Option<String>,
    ) -> Result<Self> {
        let found = configuration.issuers.iter().find(|own| own.url == issuer);
        let found =
            found.with_context(|| format!("the authentication configuration has no issuer {issuer:?}"))?;
        let id = match id {
            Some(id) => id,
            None => found.audiences.first().map_or("", String::as_str),
        };
        anyhow::ensure!(
            found.audiences.iter().any(|audience| audience == id),
            "the client id {id:?} is no audience of issuer {issuer:?}"
        );
        Ok(Self { issuer: issuer.to_owned(), id: id.to_owned(), secret })
    }
}

/// `GET /auth/methods`: how people may sign in here, and why the last attempt at an issuer failed.
pub async fn methods(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let issuers: Vec<Value> = state
        .auth
        .sign_in()
        .map(|client| json!({"issuer": client.issuer, "start": "/auth/oidc/login"}))
        .into_iter()
        .collect();
    let trouble = super::super::cookie(&headers, TROUBLE).map(|text| percent_decode(&text));
    let mut response = reply::json(
        StatusCode::OK,
        &json!({"password": true, "openid": issuers, "trouble": trouble.as_deref().unwrap_or_default()}),
    );
    if trouble.is_some() {
        set_cookie(&mut response, TROUBLE, METHODS, "", 0, &headers);
    }
    response
}

/// `GET /auth/oidc/login`: to the issuer.
pub async fn start(State(state): State<AppState>, headers: HeaderMap, uri: Uri) -> Response {
    try_start(&state.auth, &headers, &uri).await.unwrap_or_else(|status| failed(&status, &headers))
}

/// `GET /auth/oidc/callback`: back from the issuer.
pub async fn finish(State(state): State<AppState>, headers: HeaderMap, uri: Uri) -> Response {
    let mut response = match try_finish(&state.auth, &headers, &uri).await {
        Ok(session) => {
            (StatusCode::SEE_OTHER, [(header::SET_COOKIE, session), (header::LOCATION, HOME)]).into_response()
        }
        Err(status) => failed(&status, &headers),
    };
    set_cookie(&mut response, COOKIE, CALLBACKS, "", 0, &headers);
    response
}

/// Somebody sits before this browser: the dashboard tells them, and they can try again.
fn failed(status: &Status, headers: &HeaderMap) -> Response {
    tracing::warn!(why = status.message, "sign-in at an issuer failed");
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, HOME)]).into_response();
    let why: String = status.message.chars().take(TROUBLE_LENGTH).collect();
    set_cookie(&mut response, TROUBLE, METHODS, &percent_encode(&why), TROUBLE_SECONDS, headers);
    response
}

/// The issuer has a say in the message; browsers take 4 KiB, and an escape triples it.
const TROUBLE_LENGTH: usize = 500;
const HOME: HeaderValue = HeaderValue::from_static("/ui/");

fn client(auth: &Auth) -> Result<Client, Status> {
    let none = || Status::new(Reason::NotFound, "no issuer is set up to sign in at");
    auth.sign_in().ok_or_else(none)
}

async fn try_start(auth: &Auth, headers: &HeaderMap, uri: &Uri) -> Result<Response, Status> {
    let client = client(auth)?;
    let issuers = auth.issuers();
    let issuer = issuers.by_url(&client.issuer).ok_or_else(|| Status::internal("the issuer is gone"))?;
    let config = issuer.discover().await.map_err(away)?;
    let endpoint =
        config["authorization_endpoint"].as_str().ok_or_else(|| away("it has no authorization_endpoint"))?;
    // The cookie is signed, and its own user may read it: state, nonce and PKCE's verifier are theirs.
    let mut pending = Claims::new(&random(), &[], SECONDS);
    pending.aud = vec![tokens::SIGN_IN_AUDIENCE.into()];
    pending.uid = random();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(pending.uid.as_bytes()));
    let redirect = redirect_uri(headers, uri)?;
    let query = form(&[
        ("response_type", "code"),
        ("client_id", &client.id),
        ("redirect_uri", &redirect),
        ("scope", SCOPES),
        ("state", &pending.sub),
        ("nonce", &pending.jti),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    let mark = if endpoint.contains('?') { '&' } else { '?' };
    let token = auth.issue(&pending).map_err(Status::internal)?;
    let location = HeaderValue::from_str(&format!("{endpoint}{mark}{query}")).map_err(Status::internal)?;
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response();
    set_cookie(&mut response, COOKIE, CALLBACKS, &token, SECONDS, headers);
    Ok(response)
}

async fn try_finish(auth: &Auth, headers: &HeaderMap, uri: &Uri) -> Result<HeaderValue, Status> {
    let client = client(auth)?;
    let query = parse_query(uri.query().unwrap_or_default());
    let param = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let pending = super::super::cookie(headers, COOKIE);
    let pending = pending.and_then(|token| auth.signer().verify(&token, tokens::SIGN_IN_AUDIENCE));
    let pending = pending.ok_or_else(|| refused("this browser began no sign-in, or too long ago"))?;
    // Another site could make a browser bring a code of its own.
    if param("state") != Some(&pending.sub) {
        return Err(refused("the answer belongs to another sign-in"));
    }
    if let Some(error) = param("error") {
        let more = param("error_description").unwrap_or_default();
        return Err(refused(&format!("the issuer says {error}: {more}")));
    }
    let code = param("code").ok_or_else(|| Status::bad_request("the issuer sent no code"))?;
    let issuers = auth.issuers();
    let issuer = issuers.by_url(&client.issuer).ok_or_else(|| Status::internal("the issuer is gone"))?;
    let token =
        exchange(issuer, &client, code, &pending.uid, &redirect_uri(headers, uri)?).await.map_err(away)?;
    issuers.learn(&token).await;
    let claims = issuer.verify(&token).map_err(|why| refused(&why))?;
    if claims["nonce"].as_str() != Some(&pending.jti) {
        return Err(refused("the token belongs to another sign-in"));
    }
    let actor = issuer.config.mapping.user(&claims).map_err(|why| refused(&why))?;
    tracing::info!(user = actor.user, issuer = client.issuer, "signed in at an issuer");
    login::session_of(auth, headers, &actor, &client.issuer)
}

/// The code for an ID token.
async fn exchange(
    issuer: &Issuer,
    client: &Client,
    code: &str,
    verifier: &str,
    redirect: &str,
) -> Result<String, String> {
    let config = issuer.discover().await?;
    let endpoint = config["token_endpoint"].as_str().ok_or("it has no token_endpoint")?;
    let body = form(&[
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect),
        ("client_id", &client.id),
        ("code_verifier", verifier),
    ]);
    let request = |uri: &Uri| {
        let mut request = Request::post(outbound::path_of(uri))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        if let Some(secret) = &client.secret {
            let pair = format!("{}:{}", percent_encode(&client.id), percent_encode(secret));
            request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
        }
        request.body(Full::new(Bytes::from(body)))
    };
    let answer = outbound::send(endpoint, issuer.tls(), request).await?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    answer["id_token"].as_str().map(str::to_owned).ok_or_else(|| "it gave no id_token".to_owned())
}

fn refused(why: &str) -> Status {
    Status::new(Reason::Unauthorized, format!("sign-in failed: {why}"))
}

fn away(why: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the issuer cannot be asked: {why}"), 5)
}

/// Where the issuer sends the browser back to: where it came from.
fn redirect_uri(headers: &HeaderMap, uri: &Uri) -> Result<String, Status> {
    let scheme = if headers.contains_key(PLAIN_HTTP) { "http" } else { "https" };
    // HTTP/2 names it in the URL.
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| uri.authority().map(|authority| authority.as_str()));
    let host = host.ok_or_else(|| Status::bad_request("the request names no host"))?;
    Ok(format!("{scheme}://{host}{CALLBACK}"))
}

/// `Lax`: it must come along when the issuer sends the browser back.
fn set_cookie(
    response: &mut Response,
    name: &str,
    path: &str,
    value: &str,
    seconds: i64,
    headers: &HeaderMap,
) {
    let secure = if headers.contains_key(PLAIN_HTTP) { "" } else { "; Secure" };
    let text = format!("{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    // Tokens and escapes have no character that a header refuses.
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// 244 random bits, in letters that need no escape.
fn random() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

fn form(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key}={}", percent_encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}
