//! `create`, `update`, `patch`, `delete`, `deletecollection`: bodies in, the write path, objects out.
use super::read::{Selectors, one};
use super::reply;
use super::resources::Call;
use crate::auth::reviews;
use crate::objects::{Ownership, Part, WriteOptions};
use axum::http::{StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::patch::PatchType;
use pilothouse_api::{Reason, Status, apply, decode, meta, patch as patches};
use serde_json::{Value, json};

/// Deletions of one collection under way at the same time.
const DELETIONS: usize = 64;

/// What the query says about any write.
pub fn options(call: &Call) -> Result<WriteOptions, Status> {
    let dry_run = match call.param("dryRun") {
        None => false,
        Some("All") => true,
        Some(other) => {
            return Err(Status::new(
                Reason::Invalid,
                format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""),
            ));
        }
    };
    let agent = call.headers.get(header::USER_AGENT).and_then(|a| a.to_str().ok()).unwrap_or("unknown");
    let manager = call.param("fieldManager").unwrap_or_else(|| agent.split('/').next().unwrap_or("unknown"));
    Ok(WriteOptions {
        dry_run,
        field_manager: manager.chars().take(128).collect(),
        subresource: call.subresource.clone(),
        ownership: Ownership::Track,
        notes: call.notes.clone(),
    })
}

/// A body that is to become an object of the call's kind; what `fieldValidation` has to say becomes warnings.
pub fn object(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let decoded = decode::decode(body, call.content_type())?;
    let mut value = decoded.value;
    if !value.is_object() {
        return Err(Status::bad_request("the body must be an object"));
    }
    decode::check_types(&call.entry, &value)?;
    check_fields(call, &decoded.duplicate_fields, &value, |errors| {
        decode::strict_status(&call.entry, errors)
    })?;
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
    let errors = decode::strict_errors(duplicates, &decode::unknown_fields(&call.entry, value));
    match mode {
        "Strict" if !errors.is_empty() => Err(refuse(&errors)),
        "Strict" | "Warn" => {
            errors.into_iter().for_each(|error| call.notes.warn(error));
            Ok(())
        }
        other => Err(Status::bad_request(format!(
            "invalid fieldValidation: {other:?}: must be one of Ignore, Warn, Strict"
        ))),
    }
}

pub async fn create(call: &Call, body: Bytes) -> Result<Response, Status> {
    let object = object(call, &body)?;
    if let Some(answer) = reviews::answer(call, &object)? {
        return Ok(reply::json(StatusCode::CREATED, &answer));
    }
    if &*call.entry.resource == "bindings" {
        return super::subresources::bind(call, meta::name(&object), &object).await;
    }
    let made =
        call.app.objects.create(&call.actor, &call.entry, &call.namespace, object, &options(call)?).await?;
    Ok(one(call, StatusCode::CREATED, &made))
}

pub async fn update(call: &Call, body: Bytes) -> Result<Response, Status> {
    let object = object(call, &body)?;
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let change = |_: &Value| Ok(object.clone());
    let options = options(call)?;
    let written = call
        .app
        .objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, part, &options, change)
        .await?;
    Ok(one(call, StatusCode::OK, &written))
}

pub async fn patch(call: &Call, body: Bytes) -> Result<Response, Status> {
    let kind =
        call.content_type().and_then(PatchType::from_content_type).ok_or_else(PatchType::unsupported)?;
    let decoded = decode::decode(&body, call.content_type())?;
    if kind == PatchType::Apply {
        return apply_patch(call, &decoded.value).await;
    }
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let checked = |old: &Value| {
        let mut new = patches::patch(kind, &call.entry, old, &decoded.value)?;
        decode::check_types(&call.entry, &new)?;
        let refuse = |errors: &[String]| decode::strict_patch_status(&decoded.value.to_string(), errors);
        check_fields(call, &decoded.duplicate_fields, &new, refuse)?;
        call.entry.rules.prune(&mut new);
        Ok(new)
    };
    let options = options(call)?;
    let written = call
        .app
        .objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, part, &options, checked)
        .await?;
    Ok(one(call, StatusCode::OK, &written))
}

/// Server-side apply: creates what is not there.
async fn apply_patch(call: &Call, applied: &Value) -> Result<Response, Status> {
    let manager = call.param("fieldManager").ok_or_else(|| {
        Status::new(Reason::Invalid, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")
    })?;
    decode::check_types(&call.entry, applied)?;
    let refuse = |errors: &[String]| decode::strict_status(&call.entry, errors);
    check_fields(call, &[], applied, refuse)?;
    let (force, now) = (call.flag("force"), Timestamp::now());
    let options = WriteOptions { ownership: Ownership::Done, ..options(call)? };
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let change = |old: &Value| {
        apply::apply_to_subresource(&call.entry, Some(old), applied, manager, &call.subresource, force, now)
    };
    let objects = &call.app.objects;
    let updated =
        objects.update(&call.actor, &call.entry, &call.namespace, &call.name, part, &options, change).await;
    let absent =
        matches!(&updated, Err(status) if status.reason == Reason::NotFound) && call.subresource.is_empty();
    if !absent {
        let updated = updated?;
        return Ok(one(call, StatusCode::OK, &updated));
    }
    let mut object = apply::apply(&call.entry, None, applied, manager, force, now)?;
    object["metadata"]["name"] = call.name.as_str().into();
    let made = objects.create(&call.actor, &call.entry, &call.namespace, object, &options).await?;
    Ok(one(call, StatusCode::CREATED, &made))
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
    if let Some(seconds) = call.param("gracePeriodSeconds").and_then(|s| s.parse().ok()) {
        delete.grace_period_seconds = Some(seconds);
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
        return Ok(one(call, StatusCode::OK, &deleted.object));
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
    let found = call
        .app
        .store
        .list(&call.entry.stored_as, namespace)
        .objects
        .into_iter()
        .filter(|o| selectors.matches(o));
    let deletions = found.map(|object| {
        let (delete, write) = (&delete, &write);
        async move {
            let key = &object.key;
            match call
                .app
                .objects
                .delete(&call.actor, &call.entry, &key.namespace, &key.name, delete, write)
                .await
            {
                Ok(deleted) => Ok(Some(call.app.objects.value_of(&call.entry, &deleted.object))),
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
