//! Rules of a pod's volumes (`ValidateVolumes`).
use super::one_of;
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{KeyToPath, ProjectedVolumeSource, Volume};
use std::collections::BTreeSet;

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// Permission bits and the three above them.
const MAX_MODE: i32 = 0o777;

/// The names of the volumes that mounts may refer to.
pub fn validate(volumes: &[Volume], path: &Path, errors: &mut FieldErrors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        if volume.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Err(why) = meta::dns_label(&volume.name) {
            errors.invalid(&path.child("name"), volume.name.as_str(), why);
        } else if !names.insert(volume.name.clone()) {
            errors.duplicate(&path.child("name"), volume.name.as_str());
        }
        validate_source(volume, &path, errors);
    }
    names
}

fn validate_source(volume: &Volume, path: &Path, errors: &mut FieldErrors) {
    let fields = serde_json::to_value(volume).ok();
    let fields: Vec<String> = fields
        .as_ref()
        .and_then(|v| v.as_object())
        .map(|o| o.keys().filter(|k| *k != "name").cloned().collect())
        .unwrap_or_default();
    if fields.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for field in fields.iter().skip(1) {
        errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
    }
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        required(source.secret_name.as_deref(), &path.child("secretName"), errors);
        mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path, errors);
    }
    if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        required(Some(&source.name), &path.child("name"), errors);
        mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path, errors);
    }
    if let Some(source) = &volume.host_path {
        let path = path.child("hostPath");
        required(Some(&source.path), &path.child("path"), errors);
        if source.path.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("path"), source.path.as_str(), "must not contain '..'");
        }
        one_of(source.type_.as_deref(), HOST_PATH_TYPES, &path.child("type"), errors);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        required(Some(&source.claim_name), &path.child("persistentVolumeClaim").child("claimName"), errors);
    }
    if let Some(source) = &volume.nfs {
        let path = path.child("nfs");
        required(Some(&source.server), &path.child("server"), errors);
        required(Some(&source.path), &path.child("path"), errors);
        if !source.path.is_empty() && !source.path.starts_with('/') {
            errors.invalid(&path.child("path"), source.path.as_str(), "must be an absolute path");
        }
    }
    if let Some(source) = &volume.empty_dir
        && let Some(limit) = &source.size_limit
        && crate::quantity::Quantity::parse(&limit.0).is_none_or(|q| q.is_negative())
    {
        let path = path.child("emptyDir").child("sizeLimit");
        errors.forbidden(&path, "SizeLimit field must be a valid resource quantity");
    }
    if let Some(source) = &volume.projected {
        validate_projected(source, &path.child("projected"), errors);
    }
    if let Some(source) = &volume.csi {
        required(Some(&source.driver), &path.child("csi").child("driver"), errors);
    }
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path, errors: &mut FieldErrors) {
    mode(source.default_mode, &path.child("defaultMode"), errors);
    for (i, source) in source.sources.iter().flatten().enumerate() {
        let path = path.child("sources").index(i);
        if let Some(secret) = &source.secret {
            required(Some(&secret.name), &path.child("secret").child("name"), errors);
            validate_items(secret.items.as_deref(), &path.child("secret"), errors);
        }
        if let Some(map) = &source.config_map {
            required(Some(&map.name), &path.child("configMap").child("name"), errors);
            validate_items(map.items.as_deref(), &path.child("configMap"), errors);
        }
        if let Some(token) = &source.service_account_token {
            let path = path.child("serviceAccountToken");
            required(Some(&token.path), &path.child("path"), errors);
            if let Some(seconds) = token.expiration_seconds.filter(|s| *s < 600) {
                let path = path.child("expirationSeconds");
                errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
            }
        }
    }
}

fn validate_items(items: Option<&[KeyToPath]>, path: &Path, errors: &mut FieldErrors) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let path = path.child("items").index(i);
        required(Some(&item.key), &path.child("key"), errors);
        required(Some(&item.path), &path.child("path"), errors);
        local_path(&item.path, &path.child("path"), errors);
        mode(item.mode, &path.child("mode"), errors);
    }
}

/// A path inside a volume: relative, and never upwards.
pub fn local_path(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

fn required(text: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    if text.is_none_or(str::is_empty) {
        errors.required(path, "");
    }
}

fn mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|m| !(0..=MAX_MODE).contains(m)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
