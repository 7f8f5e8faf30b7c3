//! `certificatesigningrequests/approval`: says yes or no to a request for a certificate, once.
use super::super::resources::Call;
use super::super::{read, write};
use crate::objects::{Part, seconds};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::patch::PatchType;
use pilothouse_api::{FieldErrors, Path, Status, decode, patch};
use serde_json::Value;

pub async fn handle(call: &Call, method: &Method, body: Bytes) -> Result<Response, Status> {
    let given = match *method {
        Method::PUT => Given::Whole(write::object(call, &body)?),
        _ => {
            let kind = call.content_type().and_then(PatchType::from_content_type);
            let kind = kind.filter(|kind| *kind != PatchType::Apply).ok_or_else(PatchType::unsupported)?;
            Given::Patch(kind, decode::decode(&body, call.content_type())?.value)
        }
    };
    let now = seconds(Timestamp::now());
    let change = |old: &Value| {
        let given = match &given {
            Given::Whole(object) => object.clone(),
            Given::Patch(kind, body) => patch::patch(*kind, &call.entry, old, body)?,
        };
        decided(old, &given, &now)
            .map_err(|errors| Status::invalid(&call.entry.kind, &call.entry.group, &call.name, &errors))
    };
    let options = write::options(call)?;
    let objects = &call.app.objects;
    let written = objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, Part::Status, &options, change)
        .await?;
    read::one(call, StatusCode::OK, &written).await
}

enum Given {
    Whole(Value),
    Patch(PatchType, Value),
}

/// The request with the conditions and the metadata of `given`.
fn decided(old: &Value, given: &Value, now: &str) -> Result<Value, FieldErrors> {
    let list = |object: &Value| object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let has = |list: &[Value], kind: &str| list.iter().any(|condition| condition["type"] == kind);
    let (before, mut after) = (list(old), list(given));
    let mut errors = FieldErrors::default();
    let path = Path::new("status").child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if has(&before, kind) && !has(&after, kind) {
            errors.forbidden(&path, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    if has(&after, "Approved") && has(&after, "Denied") {
        errors.invalid(&path, Value::Null, "Approved and Denied conditions are mutually exclusive");
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for condition in &mut after {
        let known = before.iter().find(|known| known["type"] == condition["type"]);
        if let (Some(known), None) = (known, condition["lastTransitionTime"].as_str()) {
            condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
        }
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            if condition[field].is_null() {
                condition[field] = now.into();
            }
        }
    }
    let mut new = old.clone();
    if !new["status"].is_object() {
        new["status"] = serde_json::json!({});
    }
    new["status"]["conditions"] = after.into();
    // Annotations and the like come along, as with a status.
    if given["metadata"].is_object() {
        new["metadata"] = given["metadata"].clone();
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_decision_stands() {
        let with = |kinds: &[&str]| {
            let conditions: Vec<Value> =
                kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"spec": {"a": 1}, "status": {"certificate": "x", "conditions": conditions}})
        };
        let mut claimed = with(&["Approved"]);
        claimed["spec"]["a"] = 2.into();
        claimed["status"]["certificate"] = "forged".into();
        let approved = decided(&with(&[]), &claimed, "now").unwrap();
        assert_eq!(approved["spec"]["a"], 1);
        assert_eq!(approved["status"]["certificate"], "x");
        assert_eq!(approved["status"]["conditions"][0]["lastUpdateTime"], "now");
        assert!(decided(&with(&["Approved"]), &with(&["Denied"]), "now").is_err());
        assert!(decided(&with(&["Approved"]), &with(&["Approved", "Denied"]), "now").is_err());
    }
}
