//! Questions about rights, answered on the spot: SubjectAccessReview and its kin, SelfSubjectReview, TokenReview.
use super::attributes::Attributes;
use super::tokens;
use crate::http::resources::Call;
use crate::objects::Actor;
use pilothouse_api::Status;
use serde_json::{Value, json};

/// The answer to a review; None for objects that are no questions.
pub fn answer(call: &Call, object: &Value) -> Result<Option<Value>, Status> {
    let mut answer = object.clone();
    answer["kind"] = call.entry.kind.as_str().into();
    answer["apiVersion"] = call.entry.api_version().into();
    let spec = &object["spec"];
    answer["status"] = match call.entry.kind.as_str() {
        "SelfSubjectAccessReview" => access(call, &call.actor, spec)?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(call, &subject(spec), spec)?,
        "SelfSubjectRulesReview" => rules(call, spec["namespace"].as_str().unwrap_or_default()),
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.actor)}),
        "TokenReview" => token(call, spec),
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

fn subject(spec: &Value) -> Actor {
    let groups = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|g| g.as_str().map(str::to_owned))
        .collect();
    Actor { user: spec["user"].as_str().unwrap_or_default().to_owned(), groups, ..Actor::default() }
}

fn access(call: &Call, actor: &Actor, spec: &Value) -> Result<Value, Status> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        return Err(Status::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let wanted = if resource.is_object() {
        Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            ..Attributes::default()
        }
    } else {
        Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() }
    };
    Ok(match call.app.auth.decide(actor, &wanted) {
        Ok(()) => json!({"allowed": true}),
        Err(reason) => json!({"allowed": false, "reason": reason}),
    })
}

fn rules(call: &Call, namespace: &str) -> Value {
    let all = call.actor.is_in(super::MASTERS);
    let mut resources = Vec::new();
    let mut paths = Vec::new();
    if all {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in call.app.auth.rbac().rules(&call.actor, namespace) {
        if rule.non_resource_urls.is_empty() {
            resources.push(json!({
                "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources, "resourceNames": rule.resource_names,
            }));
        } else {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn user_info(actor: &Actor) -> Value {
    json!({"username": actor.user, "uid": actor.uid, "groups": actor.groups, "extra": actor.extra})
}

fn token(call: &Call, spec: &Value) -> Value {
    let audiences: Vec<&str> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audiences = if audiences.is_empty() { vec![tokens::ISSUER] } else { audiences };
    match call.app.auth.authenticate_token(spec["token"].as_str().unwrap_or_default(), &audiences) {
        Some(actor) => json!({"authenticated": true, "user": user_info(&actor), "audiences": audiences}),
        None => json!({"authenticated": false, "error": "invalid bearer token"}),
    }
}
