//! The dashboard's files, which the binary carries.
use crate::http::reply;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use rust_embed::RustEmbed;
use serde_json::json;

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../../frontend/dist"]
#[allow_missing = true]
struct Files;

const PATHS: &[&str] =
    &["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/ui/", "/version"];

/// People get the dashboard, programs the list of paths.
pub async fn root(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        return redirect().await;
    }
    reply::json(StatusCode::OK, &json!({"paths": PATHS}))
}

pub async fn redirect() -> Response {
    Redirect::temporary("/ui/").into_response()
}

/// A file, or the page itself: which page it shows is the browser's to decide.
pub async fn page(path: Option<Path<String>>) -> Response {
    let path = path.map(|Path(path)| path).unwrap_or_default();
    let (name, file) = match Files::get(&path) {
        Some(file) => (path.as_str(), file),
        None => match Files::get("index.html") {
            Some(file) => ("index.html", file),
            None => {
                let missing = "this pilothouse was built without its dashboard: build it with ./dev build";
                return (StatusCode::NOT_FOUND, missing).into_response();
            }
        },
    };
    let kind = match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        _ => "application/octet-stream",
    };
    // Everything but the page has its content's hash in its name.
    let caching = if name == "index.html" { "no-cache" } else { "public, max-age=31536000, immutable" };
    let policy = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                  frame-ancestors 'none'; base-uri 'self'; form-action 'self'";
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, caching)
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "same-origin")
        .body(Body::from(file.data.into_owned()))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
