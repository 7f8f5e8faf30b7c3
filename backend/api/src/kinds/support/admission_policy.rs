//! What the four kinds of admission policies share: their rules for what they match and which parameters they take.
use super::{label_selector, one_of, validate_required, webhook};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::admissionregistration::v1 as admission;
use serde::Serialize;
use serde_json::{Value, json};

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];

/// What both kinds of policies say of themselves.
pub struct Policy<'a> {
    pub failure_policy: Option<&'a str>,
    pub param_kind: Option<&'a admission::ParamKind>,
    pub match_constraints: Option<&'a admission::MatchResources>,
}

pub fn validate(policy: &Policy<'_>, path: &Path, errors: &mut FieldErrors) {
    one_of(policy.failure_policy, &FAILURE_POLICIES, &path.child("failurePolicy"), errors);
    let constraints = path.child("matchConstraints");
    match policy.match_constraints {
        None => errors.required(&constraints, ""),
        Some(matching) => {
            validate_match_resources(matching, &constraints, errors);
            // Without a rule nobody could say what kinds the expressions are about.
            if matching.resource_rules.as_ref().is_none_or(Vec::is_empty) {
                errors.required(&constraints.child("resourceRules"), "");
            }
        }
    }
    if let Some(kind) = policy.param_kind {
        validate_param_kind(kind, &path.child("paramKind"), errors);
    }
}

fn validate_param_kind(of: &admission::ParamKind, path: &Path, errors: &mut FieldErrors) {
    let version_path = path.child("apiVersion");
    validate_required(of.api_version.as_deref(), &version_path, errors);
    let given = of.api_version.as_deref().unwrap_or_default();
    let (group, version) = given.rsplit_once('/').unwrap_or(("", given));
    if group.contains('/') {
        errors.invalid(&version_path, given, format!("unexpected GroupVersion string: {given}"));
    } else if !given.is_empty() {
        if !group.is_empty()
            && let Err(why) = meta::dns_subdomain(group)
        {
            errors.invalid(&version_path, group, why);
        }
        match meta::dns_label(version) {
            _ if version.is_empty() => errors.invalid(&version_path, given, "version must be specified"),
            Err(why) => errors.invalid(&version_path, version, why),
            Ok(()) => {}
        }
    }
    let kind_path = path.child("kind");
    validate_required(of.kind.as_deref(), &kind_path, errors);
    let kind = of.kind.as_deref().unwrap_or_default();
    if !kind.is_empty()
        && let Err(why) = meta::dns_label(&kind.to_lowercase())
    {
        let why = format!("may have mixed case, but should otherwise match: {why}");
        errors.invalid(&kind_path, kind, why);
    }
}

pub fn validate_match_resources(of: &admission::MatchResources, path: &Path, errors: &mut FieldErrors) {
    one_of(of.match_policy.as_deref(), &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    for (field, selector) in
        [("namespaceSelector", &of.namespace_selector), ("objectSelector", &of.object_selector)]
    {
        if let Some(selector) = selector {
            label_selector::validate(selector, &path.child(field), errors);
        }
    }
    for (field, rules) in
        [("resourceRules", &of.resource_rules), ("excludeResourceRules", &of.exclude_resource_rules)]
    {
        for (i, rule) in rules.iter().flatten().enumerate() {
            let path = path.child(field).index(i);
            validate_resource_names(rule.resource_names.as_deref().unwrap_or_default(), &path, errors);
            let rule = admission::RuleWithOperations {
                api_groups: rule.api_groups.clone(),
                api_versions: rule.api_versions.clone(),
                operations: rule.operations.clone(),
                resources: rule.resources.clone(),
                scope: rule.scope.clone(),
            };
            webhook::validate_rule(&rule, &path, errors);
        }
    }
}

fn validate_resource_names(names: &[String], path: &Path, errors: &mut FieldErrors) {
    for (i, name) in names.iter().enumerate() {
        let path = path.child("resourceNames").index(i);
        validate_segment(name, &path, errors);
        if names[..i].contains(name) {
            errors.duplicate(&path, name.as_str());
        }
    }
}

/// A name that can stand in a URL.
fn validate_segment(name: &str, path: &Path, errors: &mut FieldErrors) {
    if matches!(name, "." | "..") {
        errors.invalid(path, name, format!("may not be '{name}'"));
    }
    for bad in ['/', '%'].into_iter().filter(|bad| name.contains(*bad)) {
        errors.invalid(path, name, format!("may not contain '{bad}'"));
    }
}

/// What both kinds of bindings say.
pub fn validate_binding(
    policy_name: &str,
    param_ref: Option<&admission::ParamRef>,
    matching: Option<&admission::MatchResources>,
    errors: &mut FieldErrors,
) {
    let path = Path::new("spec");
    if policy_name.is_empty() {
        errors.required(&path.child("policyName"), "");
    } else if let Err(why) = meta::dns_subdomain(policy_name) {
        errors.invalid(&path.child("policyName"), policy_name, why);
    }
    if let Some(matching) = matching {
        validate_match_resources(matching, &path.child("matchResources"), errors);
    }
    let Some(of) = param_ref else { return };
    let path = path.child("paramRef");
    let name = of.name.as_deref().unwrap_or_default();
    validate_segment(name, &path.child("name"), errors);
    match (name.is_empty(), &of.selector) {
        (true, None) => errors.required(&path, "one of name or selector must be specified"),
        (false, Some(_)) => {
            for field in ["name", "selector"] {
                errors.forbidden(&path.child(field), "name and selector are mutually exclusive");
            }
        }
        _ => {}
    }
    if let Some(selector) = &of.selector {
        label_selector::validate(selector, &path.child("selector"), errors);
    }
    let action = path.child("parameterNotFoundAction");
    validate_required(of.parameter_not_found_action.as_deref(), &action, errors);
    let given = of.parameter_not_found_action.as_deref().filter(|action| !action.is_empty());
    one_of(given, &["Allow", "Deny"], &action, errors);
}

/// A part of an object, for the checks of expressions.
#[cfg_attr(not(feature = "schema"), allow(dead_code))]
pub fn as_json(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_else(|_| json!({}))
}

/// The `ParamRef` column.
pub fn param_cell(param_ref: Option<&admission::ParamRef>) -> Value {
    let text = param_ref.map(|p| match (p.namespace.as_deref(), p.name.as_deref()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        (Some(namespace), None) => format!("{namespace}/*"),
        (None, None) => "*".to_owned(),
    });
    super::text_or(text.as_deref(), "<unset>")
}

/// The `ParamKind` column.
pub fn param_kind_cell(of: Option<&admission::ParamKind>) -> Value {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let cell = of.map(|kind| format!("{}/{}", text(&kind.api_version), text(&kind.kind)));
    super::text_or(cell.as_deref(), "<unset>")
}
