//! The whole URL map.
use crate::auth::login;
use crate::auth::oidc::sign_in;
use crate::http::{self, reply};
use crate::state::AppState;
use crate::{console, node_hub};
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get, post};
use pilothouse_api::{Reason, Status};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub fn router(state: AppState, shutdown: CancellationToken) -> Router {
    Router::new()
        .route("/", get(console::root))
        .route("/ui", get(console::redirect))
        .route("/ui/", get(console::page))
        .route("/ui/{*path}", get(console::page))
        .route("/auth/login", post(login::login))
        .route("/auth/session", get(login::session))
        .route("/auth/logout", post(login::logout))
        .route("/auth/methods", get(sign_in::methods))
        .route("/auth/oidc/login", get(sign_in::start))
        .route("/auth/oidc/callback", get(sign_in::finish))
        .route(pilothouse_protocol::CONNECT_PATH, get(node_hub::connect))
        .route("/node/v1/streams/{id}", get(node_hub::stream))
        // Every resource of every kind: /api/v1/… and /apis/{group}/{version}/…
        .route("/api/{version}/{*path}", any(http::resources::handle))
        .route("/apis/{group}/{version}/{*path}", any(http::resources::handle))
        .merge(paths(state.clone()))
        .fallback(|| async { reply::status(&not_found()) })
        .layer(axum::middleware::from_fn(http::check_timeout))
        .layer(axum::Extension(shutdown))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            reply::status(&Status::internal("this request made the server panic; it is logged"))
        }))
        .with_state(state)
}

/// What is no resource, and may be read by whom RBAC lets.
fn paths(state: AppState) -> Router<AppState> {
    Router::new()
        .route("/healthz", get(http::healthy))
        .route("/healthz/{check}", get(http::healthy))
        .route("/livez", get(http::healthy))
        .route("/livez/{check}", get(http::healthy))
        .route("/readyz", get(http::ready))
        .route("/readyz/{check}", get(http::ready))
        .route("/version", get(http::discovery::version))
        .route("/version/", get(http::discovery::version))
        .route("/.well-known/openid-configuration", get(http::discovery::token_issuer))
        .route("/openid/v1/jwks", get(http::discovery::token_keys))
        .route("/api", get(http::discovery::api_versions))
        .route("/api/", get(http::discovery::api_versions))
        .route("/api/{version}", get(http::discovery::core_resources))
        .route("/api/{version}/", get(http::discovery::core_resources))
        .route("/apis", get(http::discovery::groups))
        .route("/apis/", get(http::discovery::groups))
        .route("/apis/{group}", get(http::discovery::group))
        .route("/apis/{group}/", get(http::discovery::group))
        .route("/apis/{group}/{version}", get(http::discovery::group_resources))
        .route("/apis/{group}/{version}/", get(http::discovery::group_resources))
        .route("/openapi/v2", get(http::discovery::openapi_v2))
        .route("/openapi/v3", get(http::discovery::openapi_v3_index))
        .route("/openapi/v3/", get(http::discovery::openapi_v3_index))
        .route("/openapi/v3/{*path}", get(http::discovery::openapi_v3))
        .route("/metrics", get(http::discovery::metrics))
        .route_layer(from_fn_with_state(state, http::gate::paths))
}

/// A URL that leads nowhere.
pub fn not_found() -> Status {
    Status::new(Reason::NotFound, "the server could not find the requested resource")
}
