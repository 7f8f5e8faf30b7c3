//! ConfigMap: configuration as plain text and bytes.
use super::support::{age_cell, name_cell};
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ConfigMap;

/// Kubernetes' MaxSecretSize, which holds here too.
const MAX_BYTES: usize = 1024 * 1024;

/// A key becomes a file's name: `[-._a-zA-Z0-9]+`, at most 253, not `.` or `..`.
pub fn valid_key(key: &str) -> Result<(), String> {
    if key.len() > 253 {
        return Err("must be no more than 253 bytes".into());
    }
    let allowed = key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    if allowed && !key.is_empty() && key != "." && !key.starts_with("..") {
        return Ok(());
    }
    Err("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
         'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        .into())
}

impl Kind for ConfigMap {
    type Object = core::ConfigMap;
    const SINGULAR: &'static str = "configmap";
    const SHORT_NAMES: &'static [&'static str] = &["cm"];

    fn validate(object: &core::ConfigMap, errors: &mut FieldErrors) {
        let mut bytes = 0;
        for (key, value) in object.data.iter().flatten() {
            bytes += value.len();
            if let Err(why) = valid_key(key) {
                errors.invalid(&Path::new("data").key(key), key.as_str(), why);
            }
            if object.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                let detail = "duplicate of key present in binaryData";
                errors.invalid(&Path::new("data").key(key), key.as_str(), detail);
            }
        }
        for (key, value) in object.binary_data.iter().flatten() {
            bytes += value.0.len();
            if let Err(why) = valid_key(key) {
                errors.invalid(&Path::new("binaryData").key(key), key.as_str(), why);
            }
        }
        if bytes > MAX_BYTES {
            errors.too_long(&Path::new("data"), MAX_BYTES);
        }
    }

    fn validate_update(object: &core::ConfigMap, old: &core::ConfigMap, errors: &mut FieldErrors) {
        if old.immutable == Some(true) {
            if object.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
            }
            if object.data != old.data || object.binary_data != old.binary_data {
                errors.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![Column::new("Name", "string"), Column::new("Data", "integer"), Column::new("Age", "string")]
    }

    fn cells(object: &core::ConfigMap, now: Timestamp) -> Vec<Value> {
        let count =
            object.data.as_ref().map_or(0, |d| d.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![name_cell(&object.metadata), count.into(), age_cell(&object.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_file_names_and_stand_once() {
        let object =
            json!({"data": {"..": "", "a/b": "", "good.txt": "", "twice": ""}, "binaryData": {"twice": ""}});
        let mut errors = FieldErrors::default();
        ConfigMap::validate(&serde_json::from_value(object).unwrap(), &mut errors);
        let fields: Vec<_> = errors.as_slice().iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["data[..]", "data[a/b]", "data[twice]"]);
    }

    #[test]
    fn more_than_a_mebibyte_is_too_long() {
        let object = json!({"data": {"a": "x".repeat(MAX_BYTES + 1)}});
        let mut errors = FieldErrors::default();
        ConfigMap::validate(&serde_json::from_value(object).unwrap(), &mut errors);
        assert_eq!(errors.as_slice()[0].to_string(), "data: Too long: may not be more than 1048576 bytes");
    }
}
