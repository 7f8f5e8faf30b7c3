//! `create`, `update`, `patch`, `delete`, `deletecollection`: bodies in, the write path, objects out.
use super::accept::not_acceptable;
use super::read::{Selectors, Shape, one};
use super::reply;
use super::resources::Call;
use crate::auth::{Attributes, reviews};
use crate::objects::{Ownership, Part, WriteOptions};
use axum::http::{StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use pilothouse_api::decode::Decoded;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::patch::PatchType;
use pilothouse_api::{FieldErrors, Path, Reason, Status, apply, decode, meta, patch as patches};
use serde_json::{Value, json};

/// Deletions of one collection under way at the same time.
const DELETIONS: usize = 64;
/// The longest name of a field manager, as in Kubernetes.
const MANAGER_LENGTH: usize = 128;

/// What the query says about any write.
pub fn options(call: &Call) -> Result<WriteOptions, Status> {
    let mut errors = FieldErrors::default();
    let dry_run = match call.param("dryRun") {
        None => false,
        Some("All") => true,
        Some(other) => {
            errors.not_supported(&Path::new("dryRun"), other, &["All"]);
            false
        }
    };
    let agent = call.headers.get(header::USER_AGENT).and_then(|a| a.to_str().ok()).unwrap_or("unknown");
    let agent = || agent.split('/').next().unwrap_or("unknown").chars().take(MANAGER_LENGTH).collect();
    let manager = call.param("fieldManager").map_or_else(agent, str::to_owned);
    if manager.chars().count() > MANAGER_LENGTH {
        errors.invalid(&Path::new("fieldManager"), manager.as_str(), "may not be more than 128 characters");
    }
    if !errors.is_empty() {
        return Err(Status::invalid(options_kind(call.verb), "meta.k8s.io", "", &errors));
    }
    Ok(WriteOptions {
        dry_run,
        field_manager: manager,
        subresource: call.subresource.clone(),
        ownership: Ownership::Track,
        notes: call.notes.clone(),
    })
}

/// What Kubernetes calls the options of a verb.
fn options_kind(verb: &str) -> &'static str {
    match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => "DeleteOptions",
    }
}

/// A body that is to become an object of the call's kind; what `fieldValidation` has to say becomes warnings.
pub fn object(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let decoded = decode::decode(body, call.content_type())?;
    let mut value = decoded.value;
    if !value.is_object() {
        return Err(Status::bad_request("the body must be an object"));
    }
    decode::settle_types(&call.entry, &mut value)?;
    check_fields(call, &decoded.duplicates, &value, |errors| decode::strict_status(&call.entry, errors))?;
    call.entry.rules.prune(&mut value);
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    Ok(value)
}

fn check_fields(
    call: &Call,
    duplicates: &[String],
    value: &Value,
    refuse: impl Fn(&[String]) -> Status,
) -> Result<(), Status> {
    let mode = call.param("fieldValidation").unwrap_or("Warn");
    if mode == "Ignore" {
        return Ok(());
    }
    let errors = decode::strict_errors(&call.entry, duplicates, &decode::unknown_fields(&call.entry, value));
    said(call, mode, errors, refuse)
}

fn said(
    call: &Call,
    mode: &str,
    errors: Vec<String>,
    refuse: impl Fn(&[String]) -> Status,
) -> Result<(), Status> {
    match mode {
        "Strict" if !errors.is_empty() => Err(refuse(&errors)),
        "Strict" | "Warn" => {
            errors.into_iter().for_each(|error| call.notes.warn(error));
            Ok(())
        }
        other => {
            let mut errors = FieldErrors::default();
            errors.not_supported(&Path::new("fieldValidation"), other, &["", "Ignore", "Strict", "Warn"]);
            Err(Status::invalid(options_kind(call.verb), "meta.k8s.io", "", &errors))
        }
    }
}

pub async fn create(call: &Call, body: Bytes) -> Result<Response, Status> {
    let object = object(call, &body)?;
    if let Some(answer) = reviews::answer(call, &object).await? {
        if Shape::of(call) != Shape::Whole {
            // A review has no metadata that a table could show.
            return Err(not_acceptable());
        }
        return Ok(reply::json(StatusCode::CREATED, &answer));
    }
    if &*call.entry.resource == "bindings" {
        return super::subresources::bind(call, meta::name(&object), &object).await;
    }
    let made =
        call.app.objects.create(&call.actor, &call.entry, &call.namespace, object, &options(call)?).await?;
    one(call, StatusCode::CREATED, &made).await
}

pub async fn update(call: &Call, body: Bytes) -> Result<Response, Status> {
    let object = object(call, &body)?;
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let change = |_: &Value| Ok(object.clone());
    let options = options(call)?;
    let objects = &call.app.objects;
    let written =
        objects.update(&call.actor, &call.entry, &call.namespace, &call.name, part, &options, change).await;
    if !(is_absent(call, &written) && call.entry.rules.created_by_update()) {
        let written = written?;
        return one(call, StatusCode::OK, &written).await;
    }
    check_name(call, meta::name(&object))?;
    create_absent(call, object, &options).await
}

/// Whether the object was to be changed, and is not there.
fn is_absent<T>(call: &Call, outcome: &Result<T, Status>) -> bool {
    call.subresource.is_empty() && matches!(outcome, Err(status) if status.reason == Reason::NotFound)
}

/// Makes what a PUT or an apply was to change. That takes the right to create as well.
async fn create_absent(call: &Call, object: Value, options: &WriteOptions) -> Result<Response, Status> {
    if !meta::uid(&object).is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            meta::uid(&object)
        );
        return Err(Status::conflict(&call.entry.resource, &call.name, why));
    }
    call.app.auth.authorize(&call.actor, &Attributes { verb: "create".into(), ..call.attributes() })?;
    let made = call.app.objects.create(&call.actor, &call.entry, &call.namespace, object, options).await?;
    one(call, StatusCode::CREATED, &made).await
}

pub async fn patch(call: &Call, body: Bytes) -> Result<Response, Status> {
    let kind =
        call.content_type().and_then(PatchType::from_content_type).ok_or_else(PatchType::unsupported)?;
    let decoded = decode::decode(&body, call.content_type())?;
    if kind == PatchType::Apply {
        return apply_patch(call, decoded).await;
    }
    if call.query.contains_key("force") {
        let mut errors = FieldErrors::default();
        errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        return Err(Status::invalid("PatchOptions", "meta.k8s.io", "", &errors));
    }
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let checked = |old: &Value| {
        let mut new = patches::patch(kind, &call.entry, old, &decoded.value)?;
        decode::settle_types(&call.entry, &mut new)?;
        let refuse = |errors: &[String]| decode::strict_patch_status(&decoded.value.to_string(), errors);
        check_fields(call, &decoded.duplicates, &new, refuse)?;
        call.entry.rules.prune(&mut new);
        Ok(new)
    };
    let options = options(call)?;
    let written = call
        .app
        .objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, part, &options, checked)
        .await?;
    one(call, StatusCode::OK, &written).await
}

/// Server-side apply: creates what is not there.
async fn apply_patch(call: &Call, decoded: Decoded) -> Result<Response, Status> {
    let manager = call.param("fieldManager").ok_or_else(|| {
        Status::new(Reason::Invalid, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")
    })?;
    let mode = call.param("fieldValidation").unwrap_or("Warn");
    // Fields that do not exist are refused in any mode.
    if mode != "Ignore" {
        let refuse = |errors: &[String]| {
            Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                errors.join(", ")
            ))
        };
        said(call, mode, decoded.duplicates, refuse)?;
    }
    let applied = &decoded.value;
    check_identity(call, applied)?;
    let (force, now) = (call.flag("force"), Timestamp::now());
    let options = WriteOptions { ownership: Ownership::Done, ..options(call)? };
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let change = |old: &Value| {
        apply::apply_to_subresource(&call.entry, Some(old), applied, manager, &call.subresource, force, now)
    };
    let objects = &call.app.objects;
    let updated =
        objects.update(&call.actor, &call.entry, &call.namespace, &call.name, part, &options, change).await;
    if !is_absent(call, &updated) {
        let updated = updated?;
        return one(call, StatusCode::OK, &updated).await;
    }
    let mut object = apply::apply(&call.entry, None, applied, manager, force, now)?;
    object["metadata"]["name"] = call.name.as_str().into();
    create_absent(call, object, &options).await
}

/// An apply configuration says of itself what it is.
fn check_identity(call: &Call, applied: &Value) -> Result<(), Status> {
    let (version, expected) = (applied["apiVersion"].as_str().unwrap_or_default(), call.entry.api_version());
    if version != expected {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {expected}"
        )));
    }
    match meta::name(applied) {
        "" => Ok(()),
        name => check_name(call, name),
    }
}

fn check_name(call: &Call, name: &str) -> Result<(), Status> {
    let url = &call.name;
    match name == url {
        true => Ok(()),
        false => Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        ))),
    }
}

fn delete_options(call: &Call, body: &[u8]) -> Result<(DeleteOptions, WriteOptions), Status> {
    let body = match body {
        [] => Value::Null,
        bytes => decode::decode(bytes, call.content_type())?.value,
    };
    delete_options_of(call, &body)
}

/// `body` is a DeleteOptions; what the query says counts more.
pub fn delete_options_of(call: &Call, body: &Value) -> Result<(DeleteOptions, WriteOptions), Status> {
    let mut delete = DeleteOptions::from_json(body);
    if let Some(text) = call.param("gracePeriodSeconds") {
        let seconds = text.parse().map_err(|_| {
            Status::bad_request(format!("gracePeriodSeconds: Invalid value: {text:?}: must be a number"))
        })?;
        delete.grace_period_seconds = Some(seconds);
    }
    if body["orphanDependents"].is_boolean() && !body["propagationPolicy"].is_null() {
        let mut errors = FieldErrors::default();
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.invalid(&Path::new("propagationPolicy"), body["propagationPolicy"].clone(), why);
        return Err(Status::invalid("DeleteOptions", "meta.k8s.io", "", &errors));
    }
    if let Some(policy) = call.param("propagationPolicy") {
        delete.propagation_policy = Some(policy.to_owned());
    }
    let mut write = options(call)?;
    write.dry_run |= body["dryRun"].as_array().is_some_and(|d| d.iter().any(|v| v == "All"));
    Ok((delete, write))
}

pub async fn delete(call: &Call, body: Bytes) -> Result<Response, Status> {
    let (delete, write) = delete_options(call, &body)?;
    let deleted = call
        .app
        .objects
        .delete(&call.actor, &call.entry, &call.namespace, &call.name, &delete, &write)
        .await?;
    if !deleted.removed {
        return one(call, StatusCode::OK, &deleted.object).await;
    }
    let (kind, group) = (&call.entry.plural, &call.entry.group);
    let mut details = json!({"name": call.name, "kind": kind, "uid": &*deleted.object.uid});
    if !group.is_empty() {
        details["group"] = group.as_str().into();
    }
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(reply::json(StatusCode::OK, &done))
}

pub async fn delete_collection(call: &Call, body: Bytes) -> Result<Response, Status> {
    let (delete, write) = delete_options(call, &body)?;
    let selectors = Selectors::of(call)?;
    call.app.store.fresh().await.map_err(crate::objects::read_failed)?;
    let namespace = Some(call.namespace.as_str()).filter(|n| !n.is_empty());
    let all = call.app.store.list(&call.entry.stored_as, namespace).objects;
    let found = selectors.select(&call.app.objects, all).await?;
    let deletions = found.into_iter().map(|object| {
        let (delete, write) = (&delete, &write);
        async move {
            let key = &object.key;
            match call
                .app
                .objects
                .delete(&call.actor, &call.entry, &key.namespace, &key.name, delete, write)
                .await
            {
                Ok(deleted) => call.app.objects.value_of(&call.entry, &deleted.object).await.map(Some),
                Err(status) if status.reason == Reason::NotFound => Ok(None),
                Err(status) => Err(status),
            }
        }
    });
    let outcomes: Vec<Result<Option<Value>, Status>> =
        futures::stream::iter(deletions).buffered(DELETIONS).collect().await;
    let items = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let items: Vec<Value> = items.into_iter().flatten().collect();
    let meta = json!({"resourceVersion": call.app.store.revision().to_string()});
    let list = json!({
        "kind": format!("{}List", call.entry.kind), "apiVersion": call.entry.api_version(), "metadata": meta, "items": items,
    });
    Ok(reply::json(StatusCode::OK, &list))
}
