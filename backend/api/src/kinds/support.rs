//! What several kinds share: defaults over JSON, pod templates, subresources, selectors, cells.
pub mod admission_policy;
pub mod container_validation;
pub mod label_selector;
pub mod pod_spec;
pub mod pod_validation;
pub mod probe_validation;
pub mod scheduling_validation;
pub mod storage;
pub mod volume_validation;
pub mod webhook;

use crate::kind::{Column, Subresource, Verb};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// The `status` subresource of a kind.
pub const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    subresource("status", group, version, kind, GET_PATCH_UPDATE)
}

/// The `scale` subresource, the same for every kind that has it.
pub const SCALE: Subresource = subresource("scale", "autoscaling", "v1", "Scale", GET_PATCH_UPDATE);

/// A subresource that answers some verbs with its own type.
pub const fn subresource(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [Verb],
) -> Subresource {
    Subresource {
        name: Cow::Borrowed(name),
        group: Cow::Borrowed(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        verbs,
    }
}

/// Sets `object.field` where the client left it out.
pub fn fill(object: &mut Value, field: &str, value: impl Into<Value>) {
    if !object.is_object() {
        return;
    }
    let slot = &mut object[field];
    if slot.is_null() {
        *slot = value.into();
    }
}

/// The object at `object.field`, made where it is missing.
pub fn child<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    if object.is_object() && object[field].is_null() {
        object[field] = json!({});
    }
    match object {
        Value::Object(_) => &mut object[field],
        other => other,
    }
}

/// The entries of the list at `object.field`.
pub fn items<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A new object starts with the status the server gives it, whatever the client sent.
pub fn reset_status(object: &mut Value, status: Value) {
    if object.is_object() {
        object["status"] = status;
    }
}

/// `Name` and `Age` cells of typed metadata.
pub fn name_cell(metadata: &ObjectMeta) -> Value {
    metadata.name.clone().unwrap_or_default().into()
}

pub fn age_cell(metadata: &ObjectMeta, now: Timestamp) -> Value {
    match &metadata.creation_timestamp {
        Some(created) => meta::human_duration((now.as_second() - created.0.as_second()).max(0)).into(),
        None => "<unknown>".into(),
    }
}

pub fn text(name: &str) -> Column {
    Column::new(name, "string")
}

pub fn number(name: &str) -> Column {
    Column::new(name, "integer")
}

/// A text that only `-o wide` shows.
pub fn wide(name: &str) -> Column {
    text(name).wide()
}

/// When an object was made, where `kubectl` prints the time itself.
pub fn created_cell(metadata: &ObjectMeta) -> Value {
    metadata.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default().into()
}

/// A text, or what stands in the column where there is none.
pub fn text_or(text: Option<&str>, otherwise: &str) -> Value {
    text.filter(|t| !t.is_empty()).unwrap_or(otherwise).into()
}

/// For how long, as `kubectl` prints ages; empty where it has not begun.
pub fn since(start: Option<Timestamp>, now: Timestamp) -> String {
    start.map(|start| meta::human_duration((now.as_second() - start.as_second()).max(0))).unwrap_or_default()
}

/// A text that must be there.
pub fn validate_required(text: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    if text.is_none_or(str::is_empty) {
        errors.required(path, "");
    }
}

/// `a=1,b=2`, as `kubectl` prints a plain selector.
pub fn labels_cell(labels: Option<&BTreeMap<String, String>>) -> Value {
    match labels {
        Some(labels) if !labels.is_empty() => {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(",").into()
        }
        _ => "<none>".into(),
    }
}

/// The keys and values of labels, node selectors and the like.
pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        if let Err(why) = meta::qualified_name(key) {
            errors.invalid(path, key.as_str(), why);
        }
        if let Err(why) = meta::label_value(value) {
            errors.invalid(path, value.as_str(), why);
        }
    }
}

/// A field with a closed set of values. Left out is fine: the default fills it.
pub fn one_of(value: Option<&str>, allowed: &[&str], path: &Path, errors: &mut FieldErrors) {
    if let Some(value) = value.filter(|v| !allowed.contains(v)) {
        errors.not_supported(path, value, allowed);
    }
}

/// An address and the length of its prefix.
pub fn validate_cidr(text: &str, path: &Path, errors: &mut FieldErrors) {
    let parts = text.split_once('/').and_then(|(ip, bits)| {
        let ip: std::net::IpAddr = ip.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some(())
    });
    if parts.is_none() {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// A count that must not be negative.
pub fn validate_count(value: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(value) = value.filter(|v| *v < 0) {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// A field that an update must leave alone.
pub fn validate_immutable(changed: bool, path: &Path, value: Value, errors: &mut FieldErrors) {
    if changed {
        errors.invalid(path, value, "field is immutable");
    }
}

/// The Containers and Images columns of a workload.
pub fn container_cells(pod: &k8s_openapi::api::core::v1::PodSpec) -> (Value, Value) {
    let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = pod.containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    (names.join(",").into(), images.join(",").into())
}
