//! Label selectors inside objects: their rules, and how `kubectl` prints them.
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;
use std::collections::BTreeMap;

/// Whether it asks for nothing, and so matches everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether a well-formed selector does not match `labels`. A malformed one is [`validate`]'s to tell.
pub fn misses(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let selector = serde_json::to_value(selector).unwrap_or_default();
    crate::selector::LabelSelector::from_object(&selector).is_ok_and(|selector| !selector.matches(labels))
}

/// `ValidateLabelSelector`.
pub fn validate(selector: &LabelSelector, path: &Path, errors: &mut FieldErrors) {
    super::labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    for (i, rule) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = path.child("values");
        let empty = rule.values.as_ref().is_none_or(Vec::is_empty);
        match rule.operator.as_str() {
            "In" | "NotIn" if empty => {
                errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !empty => {
                errors
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        if let Err(why) = meta::qualified_name(&rule.key) {
            errors.invalid(&path.child("key"), rule.key.as_str(), why);
        }
        for (j, value) in rule.values.iter().flatten().enumerate() {
            if let Err(why) = meta::label_value(value) {
                errors.invalid(&values.index(j), value.as_str(), why);
            }
        }
    }
}

/// `app=web,tier in (a,b)`.
pub fn cell(selector: &LabelSelector) -> Value {
    let mut parts: Vec<String> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    for rule in selector.match_expressions.iter().flatten() {
        let values = rule.values.clone().unwrap_or_default().join(",");
        parts.push(match rule.operator.as_str() {
            "In" => format!("{} in ({values})", rule.key),
            "NotIn" => format!("{} notin ({values})", rule.key),
            "Exists" => rule.key.clone(),
            _ => format!("!{}", rule.key),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",").into() }
}
