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
        let count = object.data.as_ref().map_or(0, |d| d.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![name_cell(&object.metadata), count.into(), age_cell(&object.metadata, now)]
    }
}
