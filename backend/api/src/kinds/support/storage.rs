//! What volumes and claims share: access modes, classes, amounts of storage.
use crate::validation::{FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::collections::BTreeMap;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// `RWO,ROX`, in the order `kubectl` prints them.
pub fn access_modes_cell(modes: Option<&Vec<String>>) -> Value {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.into_iter().flatten().any(|m| m == mode);
    let words: Vec<&str> = short.iter().filter(|(mode, _)| has(mode)).map(|(_, word)| *word).collect();
    words.join(",").into()
}

pub fn validate_access_modes(modes: Option<&Vec<String>>, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("accessModes");
    let modes = modes.map(Vec::as_slice).unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes {
        super::one_of(Some(mode), ACCESS_MODES, &path, errors);
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The class by its older annotation, or by its field.
pub fn class_cell(metadata: &ObjectMeta, class: Option<&str>) -> Value {
    let annotations = metadata.annotations.as_ref();
    let annotated = annotations.and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    annotated.map(String::as_str).or(class).unwrap_or_default().into()
}

pub fn storage_cell(capacity: Option<&BTreeMap<String, Quantity>>) -> Value {
    capacity.and_then(|c| c.get("storage")).map_or("", |q| q.0.as_str()).into()
}
