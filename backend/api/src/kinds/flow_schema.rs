//! FlowSchema: which requests belong to which priority level.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct FlowSchema;

const DEFAULT_PRECEDENCE: i32 = 1000;
const MAX_PRECEDENCE: i32 = 10_000;

impl Kind for FlowSchema {
    type Object = flowcontrol::FlowSchema;
    const SINGULAR: &'static str = "flowschema";
    const SUBRESOURCES: &'static [Subresource] =
        &[status("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema")];
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        fill(child(object, "spec"), "matchingPrecedence", DEFAULT_PRECEDENCE);
    }

    fn validate(object: &flowcontrol::FlowSchema, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        if let Some(value) = spec.matching_precedence.filter(|p| !(1..=MAX_PRECEDENCE).contains(p)) {
            let detail = format!("must be between 1 and {MAX_PRECEDENCE}, inclusive");
            errors.invalid(&path.child("matchingPrecedence"), value, detail);
        }
        if spec.matching_precedence == Some(1) && object.metadata.name.as_deref() != Some("exempt") {
            let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
            errors.invalid(&path.child("matchingPrecedence"), 1, detail);
        }
        if let Some(method) = &spec.distinguisher_method {
            one_of(
                Some(&method.type_),
                &["ByNamespace", "ByUser"],
                &path.child("distinguisherMethod").child("type"),
                errors,
            );
        }
        let level = path.child("priorityLevelConfiguration").child("name");
        validate_required(Some(&spec.priority_level_configuration.name), &level, errors);
        for (i, rule) in spec.rules.iter().flatten().enumerate() {
            validate_rule(rule, &path.child("rules").index(i), errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("PriorityLevel"),
            number("MatchingPrecedence"),
            text("DistinguisherMethod"),
            text("Age"),
            text("MissingPL"),
        ]
    }

    fn cells(object: &flowcontrol::FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let dangling = conditions.iter().find(|c| c.type_.as_deref() == Some("Dangling"));
        let method = spec.distinguisher_method.map(|m| m.type_);
        vec![
            name_cell(&object.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or(DEFAULT_PRECEDENCE).into(),
            text_or(method.as_deref(), "<none>"),
            age_cell(&object.metadata, now),
            text_or(dangling.and_then(|c| c.status.as_deref()), "?"),
        ]
    }
}

fn validate_rule(rule: &flowcontrol::PolicyRulesWithSubjects, path: &Path, errors: &mut FieldErrors) {
    let at_least_one = |is_empty: bool, path: &Path, what: &str, errors: &mut FieldErrors| {
        if is_empty {
            errors.required(&path.child(what), format!("{what} must contain at least one value"));
        }
    };
    at_least_one(rule.subjects.is_empty(), path, "subjects", errors);
    for (i, subject) in rule.subjects.iter().enumerate() {
        validate_subject(subject, &path.child("subjects").index(i), errors);
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let paths = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && paths.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        let path = path.child("resourceRules").index(i);
        at_least_one(rule.verbs.is_empty(), &path, "verbs", errors);
        at_least_one(rule.api_groups.is_empty(), &path, "apiGroups", errors);
        at_least_one(rule.resources.is_empty(), &path, "resources", errors);
        let namespaces = rule.namespaces.as_deref().unwrap_or_default();
        if namespaces.is_empty() && rule.cluster_scope != Some(true) {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(&path.child("namespaces"), detail);
        }
    }
    for (i, rule) in paths.iter().enumerate() {
        let path = path.child("nonResourceRules").index(i);
        at_least_one(rule.verbs.is_empty(), &path, "verbs", errors);
        at_least_one(rule.non_resource_urls.is_empty(), &path, "nonResourceURLs", errors);
        for url in rule.non_resource_urls.iter().filter(|url| *url != "*" && !url.starts_with('/')) {
            errors.invalid(&path.child("nonResourceURLs"), url.as_str(), "must start with slash");
        }
    }
}

fn validate_subject(subject: &flowcontrol::Subject, path: &Path, errors: &mut FieldErrors) {
    let (field, name) = match subject.kind.as_str() {
        "User" => ("user", subject.user.as_ref().map(|user| &user.name)),
        "Group" => ("group", subject.group.as_ref().map(|group| &group.name)),
        "ServiceAccount" => {
            let account = subject.service_account.as_ref();
            if let Some(account) = account.filter(|account| account.namespace.is_empty()) {
                let path = path.child("serviceAccount").child("namespace");
                errors.required(&path, "must specify namespace for service account");
                return validate_required(Some(&account.name), &path, errors);
            }
            ("serviceAccount", account.map(|account| &account.name))
        }
        other => {
            return errors.not_supported(&path.child("kind"), other, &["Group", "ServiceAccount", "User"]);
        }
    };
    match name {
        None => {
            let detail = format!("{field} is required when subject kind is '{}'", subject.kind);
            errors.required(&path.child(field), detail);
        }
        Some(name) => validate_required(Some(name), &path.child(field).child("name"), errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_names_who_and_what() {
        let check = |name: &str, precedence: i32, rule: Value| {
            let object = json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": "l"}, "rules": [rule]}});
            let mut errors = FieldErrors::default();
            FlowSchema::validate(&serde_json::from_value(object).unwrap(), &mut errors);
            errors.as_slice().iter().map(|error| error.field.clone()).collect::<Vec<_>>()
        };
        let who = json!([{"kind": "User", "user": {"name": "ann"}}]);
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]);
        assert!(check("a", 2, json!({"subjects": who, "resourceRules": all})).is_empty());
        assert_eq!(
            check("a", 1, json!({"subjects": who, "resourceRules": all})),
            ["spec.matchingPrecedence"]
        );
        assert!(check("exempt", 1, json!({"subjects": who, "resourceRules": all})).is_empty());
        assert_eq!(check("a", 2, json!({"subjects": who})), ["spec.rules[0]"]);
        let strange = json!([{"kind": "Robot"}, {"kind": "Group"}]);
        assert_eq!(
            check("a", 2, json!({"subjects": strange, "resourceRules": all})),
            ["spec.rules[0].subjects[0].kind", "spec.rules[0].subjects[1].group"]
        );
        let rules = json!([{"verbs": [], "apiGroups": [""], "resources": ["pods"]}]);
        assert_eq!(
            check("a", 2, json!({"subjects": who, "resourceRules": rules})),
            ["spec.rules[0].resourceRules[0].verbs", "spec.rules[0].resourceRules[0].namespaces"]
        );
    }
}
