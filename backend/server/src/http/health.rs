//! Health: whether the process lives and whether it can serve, as a whole and check by check.
use super::reply;
use crate::objects::read_failed;
use crate::routes;
use crate::state::AppState;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use pilothouse_api::Status;
use std::collections::HashMap;

/// Kubernetes' name for the check of the database.
const DATABASE: &str = "etcd";

/// `/livez` and `/healthz`: the process answers.
pub async fn healthy(check: Option<Path<String>>, Query(query): Query<HashMap<String, String>>) -> Response {
    report("livez", &[("ping", Ok(()))], check.as_deref().map(String::as_str), &query)
}

/// `/readyz`: the database answers, too.
pub async fn ready(
    State(app): State<AppState>,
    check: Option<Path<String>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let database = match check.as_deref().map(String::as_str) {
        Some("ping") => Ok(()),
        _ => app.store.fresh().await.map(drop).map_err(read_failed),
    };
    let checks = [("ping", Ok(())), (DATABASE, database)];
    report("readyz", &checks, check.as_deref().map(String::as_str), &query)
}

/// One check where one is named, else all that are not excluded; told one by one under `verbose`.
fn report(
    name: &str,
    checks: &[(&str, Result<(), Status>)],
    only: Option<&str>,
    query: &HashMap<String, String>,
) -> Response {
    if only.is_some_and(|only| checks.iter().all(|(check, _)| *check != only)) {
        return reply::status(&routes::not_found());
    }
    let excluded = query.get("exclude").map(String::as_str);
    let asked =
        checks.iter().filter(|(check, _)| only.is_none_or(|only| only == *check) && excluded != Some(*check));
    let mut lines = String::new();
    let mut failure = None;
    for (check, outcome) in asked {
        match outcome {
            Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
            Err(status) => {
                lines.push_str(&format!("[-]{check} failed: {}\n", status.message));
                failure = Some(status);
            }
        }
    }
    match failure {
        Some(status) => reply::status(status),
        None if query.contains_key("verbose") => format!("{lines}{name} check passed\n").into_response(),
        None => "ok".into_response(),
    }
}
