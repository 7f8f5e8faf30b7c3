//! `ephemeralcontainers`: adds containers to a running pod, as `kubectl debug` does. What was added stays.
use super::super::resources::Call;
use super::super::{read, write};
use crate::objects::Part;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use pilothouse_api::patch::PatchType;
use pilothouse_api::{FieldErrors, Path, Status, decode, patch};
use serde_json::Value;

pub async fn handle(call: &Call, method: &Method, body: Bytes) -> Result<Response, Status> {
    let wanted = match *method {
        Method::PUT => Wanted::Whole(write::object(call, &body)?),
        _ => {
            let kind = call.content_type().and_then(PatchType::from_content_type);
            let kind = kind.filter(|kind| *kind != PatchType::Apply).ok_or_else(PatchType::unsupported)?;
            Wanted::Patch(kind, decode::decode(&body, call.content_type())?.value)
        }
    };
    let change = |old: &Value| {
        let given = match &wanted {
            Wanted::Whole(object) => object.clone(),
            Wanted::Patch(kind, body) => patch::patch(*kind, &call.entry, old, body)?,
        };
        added(call, old, &given)
    };
    let options = write::options(call)?;
    let objects = &call.app.objects;
    let written = objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, Part::Whole, &options, change)
        .await?;
    Ok(read::one(call, StatusCode::OK, &written))
}

enum Wanted {
    Whole(Value),
    Patch(PatchType, Value),
}

/// The pod with the ephemeral containers of `given`, of which nothing else counts.
fn added(call: &Call, old: &Value, given: &Value) -> Result<Value, Status> {
    let list = |pod: &Value| pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = list(given).into();
    if let Some(version) = given["metadata"]["resourceVersion"].as_str().filter(|version| !version.is_empty())
    {
        new["metadata"]["resourceVersion"] = version.into();
    }
    call.entry.rules.default(&mut new);
    let mut errors = FieldErrors::default();
    let path = Path::new("spec").child("ephemeralContainers");
    let kept = list(old).iter().all(|container| list(&new).contains(container));
    if !kept {
        errors.forbidden(&path, "existing ephemeral containers may not be changed or removed");
    }
    decode::check_types(&call.entry, &new)?;
    call.entry.rules.validate(&new, &mut errors);
    match errors.is_empty() {
        true => Ok(new),
        false => Err(Status::invalid(&call.entry.kind, &call.entry.group, &call.name, &errors)),
    }
}
