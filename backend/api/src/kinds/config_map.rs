//! ConfigMap: configuration as plain text and bytes.
use crate::kind::{Column, Kind};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ConfigMap;

impl Kind for ConfigMap {
    type Object = core::ConfigMap;
    const SINGULAR: &'static str = "configmap";
    const SHORT_NAMES: &'static [&'static str] = &["cm"];

    fn validate_update(object: &core::ConfigMap, old: &core::ConfigMap, errors: &mut FieldErrors) {
        if old.immutable == Some(true) && (object.data != old.data || object.binary_data != old.binary_data) {
            errors.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::new("Name", "string"),
            Column::new("Data", "string"),
            Column::new("Age", "date"),
        ]
    }

    fn cells(object: &core::ConfigMap, now: Timestamp) -> Vec<Value> {
        let count =
            object.data.as_ref().map_or(0, |d| d.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        let metadata = json!({"metadata": object.metadata});
        vec![
            meta::name(&metadata).into(),
            count.into(),
            meta::age(&metadata, now).into(),
        ]
    }
}
