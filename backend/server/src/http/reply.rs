//! Answers: JSON, and failures as `Status`.
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use pilothouse_api::Status;
use serde_json::Value;

pub fn json(code: StatusCode, value: &Value) -> Response {
    bytes(code, Bytes::from(value.to_string()))
}

/// Bytes that are JSON already.
pub fn bytes(code: StatusCode, body: Bytes) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}

pub fn status(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_json());
    if let Some(seconds) = status.details.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Warnings as `kubectl` prints them (RFC 7234, code 299).
pub fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
