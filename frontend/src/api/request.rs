//! One request and its answer.
use super::ApiError;
use crate::live::sleep;
use serde_json::Value;
use std::cell::RefCell;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestCredentials, RequestInit, Response};

/// Whether the server only says what it would do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    Yes,
    No,
}

pub struct Body {
    pub content_type: &'static str,
    pub text: String,
}

impl Body {
    pub fn json(value: &Value) -> Self {
        Self { content_type: "application/json", text: value.to_string() }
    }
}

type Hook = Box<dyn Fn()>;

thread_local! {
    static UNAUTHORIZED: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// What happens when the server no longer knows who we are.
pub fn on_unauthorized(hook: impl Fn() + 'static) {
    UNAUTHORIZED.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
}

fn unauthorized() {
    UNAUTHORIZED.with(|slot| {
        if let Some(hook) = slot.borrow().as_ref() {
            hook();
        }
    });
}

/// Waits before asking again, in milliseconds. Browsers break every connection when the machine's network changes, and
/// each pod that starts on this machine is such a change.
const ASK_AGAIN: [u32; 3] = [100, 400, 1200];

/// Whether asking twice does no more than asking once. Patches here set values; they add nothing.
fn is_repeatable(method: &str, path: &str) -> bool {
    matches!(method, "GET" | "PATCH")
        || path.contains("dryRun=All")
        || path.starts_with("/auth/")
        || path.starts_with("/apis/authorization.k8s.io/")
}

/// Sends one request and reads the answer as JSON; an empty answer is `null`.
pub async fn send(method: &str, path: &str, accept: &str, body: Option<Body>) -> Result<Value, ApiError> {
    let mut waits = ASK_AGAIN.iter();
    loop {
        let answer = send_once(method, path, accept, body.as_ref()).await;
        match (&answer, waits.next()) {
            (Err(error), Some(wait)) if error.is_broken_connection() && is_repeatable(method, path) => {
                sleep(*wait).await
            }
            _ => return answer,
        }
    }
}

async fn send_once(method: &str, path: &str, accept: &str, body: Option<&Body>) -> Result<Value, ApiError> {
    let response = fetch(method, path, accept, body, None).await?;
    let text = text(&response).await?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text)
        .map_err(|error| ApiError::local(format!("The server's answer is not JSON: {error}")))
}

/// The raw answer of a request that succeeded.
pub(super) async fn fetch(
    method: &str,
    path: &str,
    accept: &str,
    body: Option<&Body>,
    abort: Option<&AbortSignal>,
) -> Result<Response, ApiError> {
    let init =
        init(method, accept, body, abort).map_err(|_| ApiError::local("The browser refused the request."))?;
    let window = web_sys::window().ok_or_else(ApiError::unreachable)?;
    let answer = JsFuture::from(window.fetch_with_str_and_init(path, &init)).await;
    let response: Response =
        answer.map_err(|_| ApiError::unreachable())?.dyn_into().map_err(|_| ApiError::unreachable())?;
    if response.ok() {
        return Ok(response);
    }
    let body = text(&response).await.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let error = ApiError::from_status(response.status(), body.as_ref());
    if error.code == 401 && !path.starts_with("/auth/") {
        unauthorized();
    }
    Err(error)
}

fn init(
    method: &str,
    accept: &str,
    body: Option<&Body>,
    abort: Option<&AbortSignal>,
) -> Result<RequestInit, JsValue> {
    let init = RequestInit::new();
    init.set_method(method);
    init.set_credentials(RequestCredentials::SameOrigin);
    let headers = Headers::new()?;
    headers.set("Accept", accept)?;
    if method != "GET" {
        // The server's guard against requests that another site makes the browser send.
        headers.set("X-Pilothouse-Request", "1")?;
    }
    if let Some(body) = body {
        headers.set("Content-Type", body.content_type)?;
        init.set_body(&JsValue::from_str(&body.text));
    }
    init.set_headers(&headers);
    init.set_signal(abort);
    Ok(init)
}

async fn text(response: &Response) -> Result<String, ApiError> {
    let promise = response.text().map_err(|_| ApiError::unreachable())?;
    let text = JsFuture::from(promise).await.map_err(|_| ApiError::unreachable())?;
    Ok(text.as_string().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_asked_twice_is_asked_twice() {
        assert!(is_repeatable("GET", "/api/v1/pods"));
        assert!(is_repeatable("POST", "/api/v1/namespaces/a/pods?dryRun=All"));
        assert!(is_repeatable("POST", "/auth/login"));
        for method in ["POST", "PUT", "DELETE"] {
            assert!(!is_repeatable(method, "/api/v1/namespaces/a/pods"));
        }
    }
}
