//! The only fetcher: requests to the server with typed errors, and streams of what it sends.
pub mod error;
mod request;
pub mod resource;
mod socket;
mod stream;
pub mod watch;

pub use error::ApiError;
pub use request::{Body, DryRun, on_unauthorized, send};
pub use resource::Resource;
pub use stream::ByteStream;

use serde_json::Value;

/// Names this client in `managedFields`.
const QUERY: &str = "fieldManager=pilothouse-dashboard";

fn write_query(dry_run: DryRun) -> String {
    match dry_run {
        DryRun::Yes => format!("?{QUERY}&fieldValidation=Strict&dryRun=All"),
        DryRun::No => format!("?{QUERY}&fieldValidation=Strict"),
    }
}

pub async fn get(path: &str) -> Result<Value, ApiError> {
    send("GET", path, "application/json", None).await
}

pub async fn create(
    resource: &Resource,
    namespace: &str,
    object: &Value,
    dry_run: DryRun,
) -> Result<Value, ApiError> {
    let path = resource.collection(Some(namespace)) + &write_query(dry_run);
    send("POST", &path, "application/json", Some(Body::json(object))).await
}

pub async fn update(
    resource: &Resource,
    namespace: &str,
    name: &str,
    object: &Value,
    dry_run: DryRun,
) -> Result<Value, ApiError> {
    let path = resource.object(namespace, name) + &write_query(dry_run);
    send("PUT", &path, "application/json", Some(Body::json(object))).await
}

/// A merge patch (RFC 7386), or a JSON patch (RFC 6902) where `patch` is an array. `subresource` may be empty.
pub async fn patch(
    resource: &Resource,
    namespace: &str,
    name: &str,
    subresource: &str,
    patch: &Value,
) -> Result<Value, ApiError> {
    let mut path = resource.object(namespace, name);
    if !subresource.is_empty() {
        path.push('/');
        path.push_str(subresource);
    }
    path.push_str(&write_query(DryRun::No));
    let content_type = match patch.is_array() {
        true => "application/json-patch+json",
        false => "application/merge-patch+json",
    };
    let body = Body { content_type, text: patch.to_string() };
    send("PATCH", &path, "application/json", Some(body)).await
}

/// `uid` guards against deleting a namesake made in the meantime.
pub async fn delete(resource: &Resource, namespace: &str, name: &str, uid: &str) -> Result<Value, ApiError> {
    let mut options = serde_json::json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
    });
    if !uid.is_empty() {
        options["preconditions"] = serde_json::json!({ "uid": uid });
    }
    send("DELETE", &resource.object(namespace, name), "application/json", Some(Body::json(&options))).await
}
