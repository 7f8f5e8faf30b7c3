//! Signing in: a password becomes a session cookie; guessing is slowed down.
use super::{Auth, Claims, MASTERS, SESSION_COOKIE, tokens, users};
use crate::http::reply;
use crate::objects::Actor;
use crate::state::AppState;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Reason, Status};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A working day; each use of the dashboard does not prolong it.
const SESSION_SECONDS: i64 = 12 * 3600;
/// Longer is no password but an attack on the hash's memory.
const MAX_PASSWORD_BYTES: usize = 1024;
/// Hashes computed at once: each takes 19 MiB and a core.
const CONCURRENT_HASHES: usize = 2;
/// Wrong passwords that cost nothing.
const FREE_FAILURES: u32 = 5;
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Failures are forgotten after this.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Names remembered at most; beyond, the oldest are forgotten.
const MAX_NAMES: usize = 10_000;

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

/// `POST /auth/login`
pub async fn login(State(state): State<AppState>, headers: HeaderMap, body: Bytes) -> Response {
    match try_login(&state.auth, &headers, &body).await {
        Ok((cookie, body)) => {
            ([(header::SET_COOKIE, cookie)], reply::json(StatusCode::OK, &body)).into_response()
        }
        Err(status) => reply::status(&status),
    }
}

async fn try_login(
    auth: &Auth,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(HeaderValue, serde_json::Value), Status> {
    // A form on another site can send a body, but not this content type.
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.starts_with("application/json") {
        return Err(Status::new(Reason::UnsupportedMediaType, "the body must be application/json"));
    }
    let Ok(Credentials { username, password }) = serde_json::from_slice(body) else {
        return Err(Status::bad_request("the body must be {\"username\": …, \"password\": …}"));
    };
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(wrong());
    }
    let throttle = auth.throttle();
    throttle.check(&username, Instant::now()).map_err(|wait| {
        let mut status = Status::new(Reason::TooManyRequests, "too many wrong passwords: try again later");
        status.details.retry_after_seconds = u32::try_from(wait.as_secs() + 1).ok();
        status
    })?;
    let user = {
        let _permit = throttle.hashes.acquire().await.map_err(Status::internal)?;
        let (users, name) = (auth.users().clone(), username.clone());
        let check = tokio::task::spawn_blocking(move || users.check(&name, &password));
        check.await.map_err(Status::internal)?
    };
    let Some(user) = user else {
        throttle.failed(&username, Instant::now());
        tracing::warn!(user = username, "sign-in refused");
        return Err(wrong());
    };
    throttle.succeeded(&username);
    session_for(auth, headers, &user)
}

fn session_for(
    auth: &Auth,
    headers: &HeaderMap,
    user: &users::User,
) -> Result<(HeaderValue, serde_json::Value), Status> {
    let mut claims = Claims::new(&user.name, &[], SESSION_SECONDS);
    claims.uid = user.epoch.clone();
    let cookie = session_cookie(auth, headers, &mut claims)?;
    claims.groups = user.groups.clone();
    Ok((cookie, describe(&claims)))
}

/// The session of somebody whom an issuer vouched for. Groups are those of then: it knows of no changes.
pub fn session_of(
    auth: &Auth,
    headers: &HeaderMap,
    actor: &Actor,
    provider: &str,
) -> Result<HeaderValue, Status> {
    let mut claims = Claims::new(&actor.user, &[], SESSION_SECONDS);
    claims.groups = actor.groups.clone();
    claims.uid = actor.uid.clone();
    claims.provider = provider.to_owned();
    session_cookie(auth, headers, &mut claims)
}

fn session_cookie(auth: &Auth, headers: &HeaderMap, claims: &mut Claims) -> Result<HeaderValue, Status> {
    claims.aud = vec![tokens::SESSION_AUDIENCE.into()];
    let token = auth.issue(claims).map_err(Status::internal)?;
    set_cookie(&token, SESSION_SECONDS, headers)
}

/// One message for an unknown user and a wrong password.
fn wrong() -> Status {
    Status::new(Reason::Unauthorized, "wrong user name or password")
}

fn describe(claims: &Claims) -> serde_json::Value {
    let expires = Timestamp::from_second(claims.exp).unwrap_or_default();
    json!({
        "username": claims.sub, "groups": claims.groups, "expiresAt": expires.to_string(),
        "isAdministrator": claims.groups.iter().any(|group| group == MASTERS),
    })
}

fn set_cookie(token: &str, seconds: i64, headers: &HeaderMap) -> Result<HeaderValue, Status> {
    // Browsers keep `Secure` cookies off plain HTTP; that listener is on loopback and marks its requests.
    let secure = if headers.contains_key(crate::listen::PLAIN_HTTP) { "" } else { "; Secure" };
    let text =
        format!("{SESSION_COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).map_err(Status::internal)
}

/// `GET /auth/session`
pub async fn session(State(state): State<AppState>, headers: HeaderMap) -> Response {
    match state.auth.session(&headers) {
        Some(claims) => reply::json(StatusCode::OK, &describe(&claims)),
        None => reply::status(&Status::unauthorized()),
    }
}

/// `POST /auth/logout`
pub async fn logout(State(state): State<AppState>, headers: HeaderMap) -> Response {
    if let Some(claims) = state.auth.session(&headers) {
        state.auth.revoke(&claims);
    }
    match set_cookie("", 0, &headers) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response(),
        Err(status) => reply::status(&status),
    }
}

/// Slows down guessing, by user name. Not by address: behind a proxy all share one.
pub struct Throttle {
    failures: Mutex<HashMap<String, Failures>>,
    hashes: Semaphore,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { failures: Mutex::default(), hashes: Semaphore::new(CONCURRENT_HASHES) }
    }
}

impl Throttle {
    /// How long to wait before the next try.
    fn check(&self, name: &str, now: Instant) -> Result<(), Duration> {
        let failures = self.failures.lock();
        let Some(failed) = failures.get(name) else { return Ok(()) };
        let over = failed.count.saturating_sub(FREE_FAILURES);
        if over == 0 {
            return Ok(());
        }
        let delay = Duration::from_secs(1u64 << over.min(6)).min(MAX_DELAY);
        let passed = now.saturating_duration_since(failed.last);
        match passed >= delay {
            true => Ok(()),
            false => Err(delay - passed),
        }
    }

    fn failed(&self, name: &str, now: Instant) {
        let mut failures = self.failures.lock();
        failures.retain(|_, failed| now.saturating_duration_since(failed.last) < MEMORY);
        if failures.len() >= MAX_NAMES && !failures.contains_key(name) {
            let oldest = failures.iter().min_by_key(|(_, failed)| failed.last).map(|(name, _)| name.clone());
            oldest.and_then(|name| failures.remove(&name));
        }
        let failed = failures.entry(name.to_owned()).or_insert(Failures { count: 0, last: now });
        *failed = Failures { count: failed.count.saturating_add(1), last: now };
    }

    fn succeeded(&self, name: &str) {
        self.failures.lock().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_gets_slower_with_each_wrong_password() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..FREE_FAILURES {
            assert_eq!(throttle.check("ann", now), Ok(()));
            throttle.failed("ann", now);
        }
        assert_eq!(throttle.check("ann", now), Ok(()));
        throttle.failed("ann", now);
        assert_eq!(throttle.check("ann", now), Err(Duration::from_secs(2)));
        assert_eq!(throttle.check("bob", now), Ok(()));
        throttle.failed("ann", now);
        assert_eq!(throttle.check("ann", now), Err(Duration::from_secs(4)));
        assert_eq!(throttle.check("ann", now + Duration::from_secs(4)), Ok(()));
        throttle.succeeded("ann");
        assert_eq!(throttle.check("ann", now), Ok(()));
    }
}
