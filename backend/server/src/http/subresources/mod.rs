//! Subresources: parts of objects with doors of their own.
mod amend;
mod approval;
mod ephemeral;
mod eviction;
mod inbox;
mod log_options;
mod node_proxy;
mod portforward;
mod proxy;
mod resize;
mod spdy;
mod streams;

pub use streams::upgrade;

use super::resources::{Call, read_body};
use super::{read, reply, write};
use crate::auth::token_requests;
use crate::objects::{Part, read_failed};
use crate::routes;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::patch::PatchType;
use pilothouse_api::{Key, Status, decode, lifecycle, patch};
use pilothouse_store::Object;
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn handle(call: Call, parts: &mut Parts, body: Body) -> Result<Response, Status> {
    if matches!(call.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") {
        admit_connect(&call).await?;
    }
    match (call.subresource.as_str(), &parts.method) {
        ("status", &Method::GET) => read::get(&call).await,
        ("status", &Method::PUT) => write::update(&call, read_body(body).await?).await,
        ("status", &Method::PATCH) => write::patch(&call, read_body(body).await?).await,
        ("scale", method) => scale(&call, method.clone(), body).await,
        ("binding", &Method::POST) => {
            let object = decode::decode(&read_body(body).await?, call.content_type())?.value;
            bind(&call, &call.name, &object).await
        }
        ("approval", &Method::GET) => read::get(&call).await,
        ("approval", method) => approval::handle(&call, method, read_body(body).await?).await,
        ("eviction", &Method::POST) => eviction::evict(&call, body).await,
        ("finalize", &Method::PUT) => finalize(&call, body).await,
        ("token", &Method::POST) => token(&call, body).await,
        ("ephemeralcontainers" | "resize", &Method::GET) => read::get(&call).await,
        ("ephemeralcontainers", &(Method::PUT | Method::PATCH)) => {
            amend::handle(&call, &parts.method, read_body(body).await?, ephemeral::added).await
        }
        ("resize", &(Method::PUT | Method::PATCH)) => {
            amend::handle(&call, &parts.method, read_body(body).await?, resize::resized).await
        }
        ("log", &Method::GET) => streams::log(&call, parts).await,
        ("exec" | "attach", _) => streams::exec(call, parts).await,
        ("portforward", _) => portforward::handle(call, parts).await,
        ("proxy", _) => proxy::handle(call, parts, body).await,
        _ => Err(routes::not_found()),
    }
}

/// Admission sees what kind of stream is asked for, as `PodExecOptions` and its like.
async fn admit_connect(call: &Call) -> Result<(), Status> {
    let suffix = match call.subresource.as_str() {
        "exec" => "ExecOptions",
        "attach" => "AttachOptions",
        "portforward" => "PortForwardOptions",
        _ => "ProxyOptions",
    };
    let mut asked = json!({"kind": format!("{}{suffix}", call.entry.kind), "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.flag(flag) {
            asked[flag] = true.into();
        }
    }
    if let Some(container) = call.param("container") {
        asked["container"] = container.into();
    }
    let command = call.query_list.iter().filter(|(key, _)| key == "command").map(|(_, word)| word.as_str());
    let command: Vec<&str> = command.collect();
    if !command.is_empty() {
        asked["command"] = json!(command);
    }
    let (objects, sub) = (&call.app.objects, &call.subresource);
    objects
        .admit_connect(&call.actor, &call.entry, &call.namespace, &call.name, sub, &asked, &call.notes)
        .await
}

/// The object a subresource belongs to, at a proved revision.
pub async fn parent(call: &Call) -> Result<Arc<Object>, Status> {
    call.app.store.fresh().await.map_err(read_failed)?;
    let key = Key::new(call.entry.stored_as.clone(), call.namespace.as_str(), call.name.as_str());
    call.app.store.get(&key).ok_or_else(|| Status::not_found(&call.entry.resource, &call.name))
}

/// `autoscaling/v1 Scale`: the replicas of any kind that has them.
async fn scale(call: &Call, method: Method, body: Body) -> Result<Response, Status> {
    let paths = call.entry.scale.as_ref().ok_or_else(routes::not_found)?;
    let objects = &call.app.objects;
    if method == Method::GET {
        let object = parent(call).await?;
        return Ok(reply::json(
            StatusCode::OK,
            &paths.scale_of(&objects.value_of(&call.entry, &object).await?),
        ));
    }
    let body = read_body(body).await?;
    let decoded = decode::decode(&body, call.content_type())?.value;
    let kind = (method == Method::PATCH).then(|| call.content_type().and_then(PatchType::from_content_type));
    let change = |old: &Value| {
        let wanted = match kind {
            None => decoded.clone(),
            Some(None) => return Err(PatchType::unsupported()),
            Some(Some(PatchType::Strategic | PatchType::Apply)) => {
                patch::patch(PatchType::Merge, &call.entry, &paths.scale_of(old), &decoded)?
            }
            Some(Some(kind)) => patch::patch(kind, &call.entry, &paths.scale_of(old), &decoded)?,
        };
        let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
        if !(0..=i64::from(i32::MAX)).contains(&replicas) {
            let mut errors = pilothouse_api::FieldErrors::default();
            let path = pilothouse_api::Path::new("spec").child("replicas");
            errors.invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("Scale", "autoscaling", &call.name, &errors));
        }
        let mut new = old.clone();
        paths.set_replicas(&mut new, replicas);
        let version = &wanted["metadata"]["resourceVersion"];
        if version.as_str().is_some_and(|v| !v.is_empty()) {
            new["metadata"]["resourceVersion"] = version.clone();
        }
        Ok(new)
    };
    let options = write::options(call)?;
    let written = objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, Part::Spec, &options, change)
        .await?;
    Ok(reply::json(StatusCode::OK, &paths.scale_of(&objects.value_of(&call.entry, &written).await?)))
}

/// Puts a pod on a node: what schedulers of others do too.
pub async fn bind(call: &Call, pod: &str, binding: &Value) -> Result<Response, Status> {
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value: the node to bind to"));
    }
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    let options = write::options(call)?;
    call.app.objects.bind(&call.actor, &call.namespace, pod, uid, node, &options).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(reply::json(StatusCode::CREATED, &done))
}

/// A deletion that may be refused by a budget. Budgets come with their controller; until then none stands in the way.
async fn finalize(call: &Call, body: Body) -> Result<Response, Status> {
    let wanted = write::object(call, &read_body(body).await?)?;
    let change = |old: &Value| {
        let mut new = old.clone();
        new["spec"]["finalizers"] = wanted["spec"]["finalizers"].clone();
        Ok(new)
    };
    let options = write::options(call)?;
    let written = call
        .app
        .objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, Part::Whole, &options, change)
        .await?;
    read::one(call, StatusCode::OK, &written).await
}

/// `TokenRequest`: a token of a service account, bound to it and, if asked, to a pod, secret or node.
async fn token(call: &Call, body: Body) -> Result<Response, Status> {
    let request = decode::decode(&read_body(body).await?, call.content_type())?.value;
    let account = parent(call).await?;
    let granted =
        token_requests::grant(&call.app.store, &account, &token_requests::Request::read(&request["spec"]))?;
    if let Some(node) = call.actor.node()
        && !granted.is_for_a_pod_on(node)
    {
        let why = "node requested token not bound to a pod of its own";
        return Err(Status::forbidden("serviceaccounts", &call.name, why));
    }
    if granted.is_shortened {
        call.notes.warn(format!("requested expiration shortened to {} seconds", granted.seconds));
    }
    let token = call.app.auth.issue(&granted.claims).map_err(Status::internal)?;
    let until = Timestamp::from_second(granted.renew_before).unwrap_or(Timestamp::MAX);
    let mut answer = request;
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["kind"] = "TokenRequest".into();
    answer["metadata"]["name"] = call.name.as_str().into();
    answer["metadata"]["namespace"] = call.namespace.as_str().into();
    answer["spec"]["audiences"] = json!(granted.claims.aud);
    answer["spec"]["expirationSeconds"] = granted.seconds.into();
    answer["status"] = json!({"token": token, "expirationTimestamp": lifecycle::seconds(until)});
    Ok(reply::json(StatusCode::CREATED, &answer))
}
