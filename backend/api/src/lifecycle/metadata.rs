//! The rules for `metadata`, the same for every kind (apimachinery `ValidateObjectMeta`).
use super::strings;
use crate::kind::KindEntry;
use crate::meta;
use crate::validation::{FieldErrors, Path};
use serde_json::Value;

/// Kubernetes' TotalAnnotationSizeLimitB: keys and values together.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizers that need no domain in their name. Those of custom objects are their owners' business.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];

pub(super) fn validate(entry: &KindEntry, object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    let fields = &object["metadata"];
    validate_names(entry, fields, &path, errors);
    for (key, value) in fields["labels"].as_object().into_iter().flatten() {
        let path = path.child("labels");
        if let Err(why) = meta::qualified_name(key) {
            errors.invalid(&path, key.as_str(), why);
        }
        let value = value.as_str().unwrap_or_default();
        if let Err(why) = meta::label_value(value) {
            errors.invalid(&path, value, why);
        }
    }
    let mut bytes = 0;
    for (key, value) in fields["annotations"].as_object().into_iter().flatten() {
        if let Err(why) = meta::qualified_name(&key.to_lowercase()) {
            errors.invalid(&path.child("annotations"), key.as_str(), why);
        }
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > MAX_ANNOTATION_BYTES {
        errors.too_long(&path.child("annotations"), MAX_ANNOTATION_BYTES);
    }
    validate_owners(&fields["ownerReferences"], &path.child("ownerReferences"), errors);
    validate_finalizers(entry, &fields["finalizers"], &path.child("finalizers"), errors);
}

fn validate_names(entry: &KindEntry, fields: &Value, path: &Path, errors: &mut FieldErrors) {
    let text = |field: &str| fields[field].as_str().unwrap_or_default();
    let prefix = text("generateName");
    // A prefix may end where a name may not: the suffix follows.
    let as_name = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |rest| format!("{rest}a"));
    if !prefix.is_empty()
        && let Err(why) = entry.rules.validate_name(&as_name)
    {
        errors.invalid(&path.child("generateName"), prefix, why);
    }
    match text("name") {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        name => {
            if let Err(why) = entry.rules.validate_name(name) {
                errors.invalid(&path.child("name"), name, why);
            }
        }
    }
    if !entry.is_namespaced() {
        return;
    }
    match text("namespace") {
        "" => errors.required(&path.child("namespace"), ""),
        namespace => {
            if let Err(why) = meta::dns_label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, why);
            }
        }
    }
}

fn validate_owners(owners: &Value, path: &Path, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for (index, owner) in owners.as_array().into_iter().flatten().enumerate() {
        let path = path.index(index);
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        if text("apiVersion").rsplit('/').next().is_none_or(str::is_empty) {
            errors.invalid(&path.child("apiVersion"), text("apiVersion"), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            errors.invalid(&path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] != true {
            continue;
        }
        match &controller {
            None => controller = Some(text("name").to_owned()),
            Some(first) => {
                let second = text("name");
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
                );
                errors.invalid(&path.child("controller"), true, detail);
            }
        }
    }
}

fn validate_finalizers(entry: &KindEntry, finalizers: &Value, path: &Path, errors: &mut FieldErrors) {
    let names = strings(finalizers);
    for (index, name) in names.iter().enumerate() {
        let path = path.index(index);
        if let Err(why) = meta::qualified_name(name) {
            errors.invalid(&path, name.as_str(), why);
        } else if !entry.rules.is_custom()
            && !name.contains('/')
            && !STANDARD_FINALIZERS.contains(&name.as_str())
        {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, name.as_str(), detail);
        }
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(ORPHAN) && has(FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.invalid(path, finalizers.clone(), detail);
    }
}

/// What an update may not do to metadata.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (&new["metadata"][field], &old["metadata"][field]);
        if new != old {
            errors.invalid(&path.child(field), new.clone(), "field is immutable");
        }
    }
    if old["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let before = strings(&old["metadata"]["finalizers"]);
    let added: Vec<String> =
        strings(&new["metadata"]["finalizers"]).into_iter().filter(|name| !before.contains(name)).collect();
    if !added.is_empty() {
        let quoted: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            quoted.join(", ")
        );
        errors.forbidden(&path.child("finalizers"), detail);
    }
}
