//! Secret: configuration that is hidden until asked for, and sealed where it is stored.
use super::support::{age_cell, child, fill, name_cell};
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use base64::Engine;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Secret;

/// Kubernetes' MaxSecretSize.
const MAX_BYTES: usize = 1024 * 1024;
/// The keys that well-known types must hold.
const REQUIRED_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

impl Kind for Secret {
    type Object = core::Secret;
    const SINGULAR: &'static str = "secret";

    fn default(object: &mut Value) {
        fill(object, "type", "Opaque");
        // stringData is a way to write data, never stored.
        let Some(plain) = object.as_object_mut().and_then(|o| o.remove("stringData")) else {
            return;
        };
        for (key, value) in plain.as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            child(object, "data")[key] = base64::engine::general_purpose::STANDARD.encode(text).into();
        }
    }

    fn validate(object: &core::Secret, errors: &mut FieldErrors) {
        let path = Path::new("data");
        let data = object.data.clone().unwrap_or_default();
        for key in data.keys() {
            if let Err(why) = super::config_map::valid_key(key) {
                errors.invalid(&path.key(key), key.as_str(), why);
            }
        }
        if data.values().map(|v| v.0.len()).sum::<usize>() > MAX_BYTES {
            errors.too_long(&path, MAX_BYTES);
        }
        let kind = object.type_.as_deref().unwrap_or_default();
        validate_type(object, kind, &data, errors);
        for key in REQUIRED_KEYS.iter().filter(|(t, _)| *t == kind).flat_map(|(_, keys)| *keys) {
            if !data.contains_key(*key) {
                errors.required(&path.key(key), "");
            }
        }
    }

    fn validate_update(object: &core::Secret, old: &core::Secret, errors: &mut FieldErrors) {
        if object.type_ != old.type_ {
            errors.invalid(&Path::new("type"), object.type_.as_deref().unwrap_or(""), "field is immutable");
        }
        if old.immutable == Some(true) {
            if object.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
            }
            if object.data != old.data {
                errors.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
            }
        }
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", object["type"].as_str().unwrap_or_default().to_owned())]
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::new("Name", "string"),
            Column::new("Type", "string"),
            Column::new("Data", "integer"),
            Column::new("Age", "string"),
        ]
    }

    fn cells(object: &core::Secret, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&object.metadata),
            object.type_.clone().unwrap_or_default().into(),
            object.data.as_ref().map_or(0, |d| d.len()).into(),
            age_cell(&object.metadata, now),
        ]
    }
}

/// What the well-known types ask besides their keys.
fn validate_type(
    object: &core::Secret,
    kind: &str,
    data: &std::collections::BTreeMap<String, k8s_openapi::ByteString>,
    errors: &mut FieldErrors,
) {
    let path = Path::new("data");
    match kind {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            let annotations = object.metadata.annotations.as_ref();
            if annotations.and_then(|a| a.get(account)).is_none_or(String::is_empty) {
                errors.required(&Path::new("metadata").child("annotations").key(account), "");
            }
        }
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson" => {
            let key = if kind.ends_with("json") { ".dockerconfigjson" } else { ".dockercfg" };
            let wrong =
                data.get(key).and_then(|text| serde_json::from_slice::<serde_json::Map<_, _>>(&text.0).err());
            if let Some(wrong) = wrong {
                errors.invalid(&path.key(key), "<secret contents redacted>", wrong.to_string());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(object: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        Secret::validate(&serde_json::from_value(object).unwrap(), &mut errors);
        errors.as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn well_known_types_hold_their_keys() {
        let rows: [(Value, &[&str]); 5] = [
            (json!({"type": "Opaque"}), &[]),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
                &["data[tls.key]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}), &[]),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
        ];
        for (object, expected) in rows {
            assert_eq!(errors_of(object.clone()), expected, "{object}");
        }
        let broken = json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "eA=="}});
        assert!(
            errors_of(broken)[0]
                .starts_with("data[.dockercfg]: Invalid value: \"<secret contents redacted>\"")
        );
    }

    #[test]
    fn an_immutable_secret_stays_as_it_is() {
        let old = json!({"type": "Opaque", "immutable": true, "data": {"a": "eA=="}});
        let new = json!({"type": "other", "data": {"a": "eQ=="}});
        let mut errors = FieldErrors::default();
        let typed = |value| serde_json::from_value(value).unwrap();
        Secret::validate_update(&typed(new), &typed(old), &mut errors);
        let fields: Vec<_> = errors.as_slice().iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["type", "immutable", "data"]);
    }

    #[test]
    fn plain_strings_are_stored_as_data() {
        let mut object = json!({"stringData": {"a": "hush"}, "data": {"b": "eA=="}});
        Secret::default(&mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "aHVzaA==", "b": "eA=="}}));
    }
}
