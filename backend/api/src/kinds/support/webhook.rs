//! What webhook configurations and admission policies share: defaults, and the rules of one webhook.
use super::{child, fill, items, one_of};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::admissionregistration::v1::{MatchCondition, RuleWithOperations, WebhookClientConfig};
use serde_json::{Value, json};

/// The fields that both sorts of webhooks have.
pub struct Webhook<'a> {
    pub name: &'a str,
    pub client: &'a WebhookClientConfig,
    pub side_effects: &'a str,
    pub review_versions: &'a [String],
    pub timeout_seconds: Option<i32>,
    pub failure_policy: Option<&'a str>,
    pub match_policy: Option<&'a str>,
    pub rules: &'a [RuleWithOperations],
    pub match_conditions: &'a [MatchCondition],
}

pub fn default(object: &mut Value) {
    for webhook in items(object, "webhooks") {
        fill(webhook, "failurePolicy", "Fail");
        fill(webhook, "timeoutSeconds", 10);
        default_matching(webhook);
        if webhook["clientConfig"]["service"].is_object() {
            fill(&mut webhook["clientConfig"]["service"], "port", 443);
        }
        for rule in items(webhook, "rules") {
            fill(rule, "scope", "*");
        }
    }
}

fn default_matching(matching: &mut Value) {
    fill(matching, "matchPolicy", "Equivalent");
    fill(matching, "namespaceSelector", json!({}));
    fill(matching, "objectSelector", json!({}));
}

/// What an admission policy, or its binding, matches.
pub fn default_match_resources(spec: &mut Value, field: &str) {
    let Some(matching) = spec.get_mut(field).filter(|matching| matching.is_object()) else {
        return;
    };
    default_matching(matching);
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items(matching, list) {
            fill(rule, "scope", "*");
        }
    }
}

/// The defaults of an admission policy's spec.
pub fn default_policy(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "failurePolicy", "Fail");
    default_match_resources(spec, "matchConstraints");
}

pub fn validate(webhook: &Webhook<'_>, path: &Path, errors: &mut FieldErrors) {
    if let Err(why) = meta::dns_subdomain(webhook.name) {
        errors.invalid(&path.child("name"), webhook.name, why);
    } else if webhook.name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.invalid(&path.child("name"), webhook.name, detail);
    }
    if webhook.review_versions.is_empty() {
        let detail = "must specify one of v1, v1beta1";
        errors.required(&path.child("admissionReviewVersions"), detail);
    } else if !webhook.review_versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.invalid(
            &path.child("admissionReviewVersions"),
            webhook.review_versions.to_vec(),
            "must include at least one of v1, v1beta1",
        );
    }
    one_of(webhook.failure_policy, &["Fail", "Ignore"], &path.child("failurePolicy"), errors);
    one_of(webhook.match_policy, &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    one_of(Some(webhook.side_effects), &["None", "NoneOnDryRun"], &path.child("sideEffects"), errors);
    if let Some(seconds) = webhook.timeout_seconds.filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for (i, rule) in webhook.rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(i), errors);
    }
    #[cfg(feature = "schema")]
    {
        let conditions = super::admission_policy::as_json(&webhook.match_conditions);
        crate::policy::validate_conditions(&conditions, false, &path.child("matchConditions"), errors);
    }
    let service = webhook.client.service.as_ref().map(|s| (s.name.as_str(), s.namespace.as_str()));
    validate_client(webhook.client.url.as_deref(), service, &path.child("clientConfig"), errors);
}

/// Where a webhook is: a URL, or a service's name and namespace.
pub fn validate_client(
    url: Option<&str>,
    service: Option<(&str, &str)>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match (url, service) {
        (Some(_), Some(_)) | (None, None) => {
            errors.required(path, "exactly one of url or service is required");
        }
        (Some(url), None) if !url.starts_with("https://") => {
            let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
            errors.invalid(&path.child("url"), url, detail);
        }
        (Some(_), None) => {}
        (None, Some((name, namespace))) => {
            let path = path.child("service");
            for (field, text) in [("name", name), ("namespace", namespace)] {
                if text.is_empty() {
                    errors.required(&path.child(field), format!("service {field} is required"));
                }
            }
        }
    }
}

pub fn validate_rule(rule: &RuleWithOperations, path: &Path, errors: &mut FieldErrors) {
    let lists = [
        ("operations", &rule.operations),
        ("apiGroups", &rule.api_groups),
        ("apiVersions", &rule.api_versions),
        ("resources", &rule.resources),
    ];
    for (field, list) in lists {
        let path = path.child(field);
        let list = list.as_deref().unwrap_or_default();
        if list.is_empty() {
            errors.required(&path, "");
        }
        if list.len() > 1 && list.iter().any(|entry| entry == "*") {
            errors.invalid(
                &path,
                list.to_vec(),
                format!("if '*' is present, must not specify other {field}"),
            );
        }
    }
    for (i, operation) in rule.operations.iter().flatten().enumerate() {
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        one_of(Some(operation), &known, &path.child("operations").index(i), errors);
    }
    one_of(rule.scope.as_deref(), &["*", "Cluster", "Namespaced"], &path.child("scope"), errors);
}
