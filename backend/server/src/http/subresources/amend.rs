//! Subresources that take the whole object and change a part of its spec, by rules of their own.
use super::super::resources::Call;
use super::super::{read, write};
use crate::objects::{Ownership, Part};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::patch::PatchType;
use pilothouse_api::{Status, apply, decode, patch};
use serde_json::Value;

/// Of what the client would make of the object, `amend(call, old, given)` takes the part that is the subresource's.
pub async fn handle(
    call: &Call,
    method: &Method,
    body: Bytes,
    amend: impl Fn(&Call, &Value, &Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Response, Status> {
    let wanted = match *method {
        Method::PUT => Wanted::Whole(write::object(call, &body)?),
        _ => {
            let kind = call.content_type().and_then(PatchType::from_content_type);
            let kind = kind.ok_or_else(PatchType::unsupported)?;
            Wanted::Patch(kind, decode::decode(&body, call.content_type())?.value)
        }
    };
    let mut options = write::options(call)?;
    let applies = matches!(wanted, Wanted::Patch(PatchType::Apply, _));
    if applies {
        options.ownership = Ownership::Done;
    }
    let manager = options.field_manager.clone();
    let change = |old: &Value| {
        let given = match &wanted {
            Wanted::Whole(object) => object.clone(),
            Wanted::Patch(PatchType::Apply, applied) => apply::apply_to_subresource(
                &call.entry,
                Some(old),
                applied,
                &manager,
                &call.subresource,
                call.flag("force"),
                Timestamp::now(),
            )?,
            Wanted::Patch(kind, body) => patch::patch(*kind, &call.entry, old, body)?,
        };
        let mut new = amend(call, old, &given)?;
        let version = given["metadata"]["resourceVersion"].as_str();
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            new["metadata"]["resourceVersion"] = version.into();
        }
        if applies {
            new["metadata"]["managedFields"] = given["metadata"]["managedFields"].clone();
        }
        Ok(new)
    };
    let objects = &call.app.objects;
    let written = objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, Part::Amended, &options, change)
        .await?;
    read::one(call, StatusCode::OK, &written).await
}

enum Wanted {
    Whole(Value),
    Patch(PatchType, Value),
}
