//! What the pages show, computed from objects: pure, and tested natively.
pub mod columns;
pub mod deploy_form;
pub mod diff;
pub mod discovery;
pub mod key_values;
pub mod log;
pub mod names;
pub mod overview;
pub mod palette;
pub mod pod;
pub mod rollout;
pub mod rules;
pub mod status;
pub mod time;
pub mod units;
pub mod workload;
pub mod yaml;

use serde_json::Value;

/// The text at a path of names, empty where there is none.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a path of names.
pub fn number(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The elements at a path of names, none where there is no array.
pub fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(*name))
}

/// Name and value of a map of strings, in order.
pub fn pairs(object: &Value, path: &[&str]) -> Vec<(String, String)> {
    let map = at(object, path).and_then(Value::as_object);
    let pair =
        |(name, value): (&String, &Value)| (name.clone(), value.as_str().unwrap_or_default().to_owned());
    map.into_iter().flatten().map(pair).collect()
}

pub fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

pub fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

pub fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

/// `status.conditions` by type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind)
}

pub fn is_owned_by(object: &Value, uid: &str) -> bool {
    list(object, &["metadata", "ownerReferences"])
        .iter()
        .any(|owner| owner["uid"] == uid && owner["controller"] == true)
}
