//! Questions about rights, answered on the spot: SubjectAccessReview and its kin, SelfSubjectReview, TokenReview.
use super::attributes::Attributes;
use super::tokens;
use crate::http::resources::Call;
use crate::objects::Actor;
use pilothouse_api::{FieldErrors, Path, Status};
use serde_json::{Value, json};

/// The answer to a review; None for objects that are no questions.
pub async fn answer(call: &Call, object: &Value) -> Result<Option<Value>, Status> {
    let mut answer = object.clone();
    answer["kind"] = call.entry.kind.as_str().into();
    answer["apiVersion"] = call.entry.api_version().into();
    let spec = &object["spec"];
    answer["status"] = match call.entry.kind.as_str() {
        "SelfSubjectAccessReview" => access(call, &call.actor, spec)?,
        "SubjectAccessReview" => access(call, &subject(call, spec)?, spec)?,
        "LocalSubjectAccessReview" => {
            check_local(call, spec)?;
            access(call, &subject(call, spec)?, spec)?
        }
        "SelfSubjectRulesReview" => match spec["namespace"].as_str().unwrap_or_default() {
            "" => return Err(Status::bad_request("no namespace on request")),
            namespace => rules(call, namespace),
        },
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.actor)}),
        "TokenReview" => token(call, spec).await?,
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn invalid(call: &Call, errors: &FieldErrors) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&call.entry.kind, &call.entry.group, "", errors)),
    }
}

/// Whom the question is about.
fn subject(call: &Call, spec: &Value) -> Result<Actor, Status> {
    let extra = spec["extra"].as_object().into_iter().flatten();
    let actor = Actor {
        user: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    };
    let mut errors = FieldErrors::default();
    if actor.user.is_empty() && actor.groups.is_empty() {
        let path = Path::new("spec").child("user");
        errors.invalid(&path, "", "at least one of user or group must be specified");
    }
    invalid(call, &errors)?;
    Ok(actor)
}

/// The question is about the namespace that it is asked in.
fn check_local(call: &Call, spec: &Value) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    let path = Path::new("spec");
    let asked = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if !spec["nonResourceAttributes"].is_null() {
        errors.forbidden(&path.child("nonResourceAttributes"), "disallowed on this kind of request");
    } else if asked != call.namespace {
        let path = path.child("resourceAttributes").child("namespace");
        errors.invalid(&path, asked, "must match metadata.namespace");
    }
    invalid(call, &errors)
}

fn access(call: &Call, actor: &Actor, spec: &Value) -> Result<Value, Status> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = FieldErrors::default();
    let at = Path::new("spec").child("resourceAttributes");
    match (resource.is_object(), path.is_object()) {
        (true, true) => {
            let at = Path::new("spec").child("nonResourceAttributes");
            errors.invalid(&at, path.clone(), "cannot be specified in combination with resourceAttributes");
        }
        (false, false) => {
            let told = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&at, Value::Null, told);
        }
        _ => {}
    }
    let field_selector = selector(&resource["fieldSelector"], &at.child("fieldSelector"), &mut errors);
    selector(&resource["labelSelector"], &at.child("labelSelector"), &mut errors);
    invalid(call, &errors)?;
    let wanted = if resource.is_object() {
        Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            field_selector,
            ..Attributes::default()
        }
    } else {
        Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() }
    };
    Ok(match call.app.auth.decide(actor, &wanted) {
        Ok(()) => json!({"allowed": true}),
        Err("") => json!({"allowed": false}),
        Err(reason) => json!({"allowed": false, "reason": reason}),
    })
}

/// A selector as text. Of requirements those count that name one value: the others narrow nothing that a rule knows of.
fn selector(given: &Value, path: &Path, errors: &mut FieldErrors) -> String {
    let raw = given["rawSelector"].as_str().unwrap_or_default();
    let requirements = given["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    if given.is_null() {
        return String::new();
    }
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            let told = "may not specified at the same time as requirements";
            errors.invalid(&path.child("rawSelector"), raw, told);
        }
        (true, true) => {
            let told = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(&path.child("requirements"), told);
        }
        _ => {}
    }
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let mut terms = Vec::new();
    for (i, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(i);
        let (key, values) = (requirement["key"].as_str().unwrap_or_default(), texts(&requirement["values"]));
        if key.is_empty() {
            errors.required(&path.child("key"), "must be specified");
        }
        let operator = requirement["operator"].as_str().unwrap_or_default();
        match (operator, values.as_slice()) {
            ("In" | "NotIn", []) => {
                errors
                    .required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            ("Exists" | "DoesNotExist", [_, ..]) => {
                errors.forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            ("In", [one]) => terms.push(format!("{key}={one}")),
            ("NotIn", [one]) => terms.push(format!("{key}!={one}")),
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            (other, _) => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    terms.join(",")
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

async fn token(call: &Call, spec: &Value) -> Result<Value, Status> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = texts(&spec["audiences"]);
    let mut audiences: Vec<&str> = asked.iter().map(String::as_str).collect();
    if audiences.is_empty() {
        audiences.push(tokens::ISSUER);
    }
    Ok(match call.app.auth.review_token(token, &audiences).await {
        Some((actor, named)) => json!({"authenticated": true, "user": user_info(&actor), "audiences": named}),
        None => json!({"authenticated": false, "error": "invalid bearer token"}),
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{Api, eventually};
    use serde_json::{Value, json};

    const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

    #[tokio::test]
    async fn a_question_about_rights_must_be_whole() {
        let api = Api::start().await;
        let ask = async |spec: Value| {
            let answer = api.call("POST", REVIEWS, json!({"spec": spec})).await;
            let field = answer.body["details"]["causes"][0]["field"].as_str().unwrap_or_default().to_owned();
            (answer.code.as_u16(), field)
        };
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "a"});
        assert_eq!(ask(json!({"resourceAttributes": pods})).await, (422, "spec.user".into()));
        assert_eq!(ask(json!({"user": "ann"})).await, (422, "spec.resourceAttributes".into()));
        let path = json!({"verb": "get", "path": "/version"});
        let both = json!({"user": "ann", "resourceAttributes": pods, "nonResourceAttributes": path});
        assert_eq!(ask(both).await, (422, "spec.nonResourceAttributes".into()));
        let mut selects = pods.clone();
        selects["fieldSelector"] =
            json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]});
        let field = "spec.resourceAttributes.fieldSelector.rawSelector";
        assert_eq!(ask(json!({"user": "ann", "resourceAttributes": selects})).await, (422, field.into()));
        let local = "/apis/authorization.k8s.io/v1/namespaces/b/localsubjectaccessreviews";
        let answer =
            api.call("POST", local, json!({"spec": {"user": "ann", "resourceAttributes": pods}})).await;
        assert_eq!(answer.code, 422);
        let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        assert_eq!(api.call("POST", rules, json!({"spec": {}})).await.code, 400);
    }

    #[tokio::test]
    async fn a_node_may_list_its_own_pods_and_the_review_knows() {
        let api = Api::start().await;
        let asks = |selector: Value| {
            let pods = json!({"verb": "list", "resource": "pods", "fieldSelector": selector});
            json!({"spec": {"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": pods}})
        };
        let term = |value: &str| json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [value]}]});
        for (selector, allowed) in
            [(term("n1"), true), (term("n2"), false), (json!({"rawSelector": "spec.nodeName=n1"}), true)]
        {
            assert_eq!(api.make(REVIEWS, asks(selector)).await["status"]["allowed"], allowed);
        }
    }

    #[tokio::test]
    async fn everybody_may_ask_who_they_are_and_nobody_else_what_there_is() {
        let api = Api::start().await;
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        eventually("the default bindings", async || {
            let answer = api.call_as(("ann", &["dev"]), "POST", path, json!({})).await;
            let mut all = answer.body["status"]["userInfo"]["username"] == "ann";
            for path in ["/healthz", "/livez", "/readyz", "/version"] {
                all &= api.send(None, "GET", path, Value::Null).await.code == 200;
            }
            all
        })
        .await;
        for path in ["/api", "/apis/apps/v1", "/openapi/v2", "/metrics", "/api/v1/namespaces"] {
            let answer = api.send(None, "GET", path, Value::Null).await;
            assert_eq!(answer.code, 403, "{path}");
            assert!(answer.message().contains(r#"User "system:anonymous" cannot"#), "{}", answer.message());
        }
        assert_eq!(api.send(Some("nonsense"), "GET", "/version", Value::Null).await.code, 401);
    }
}
