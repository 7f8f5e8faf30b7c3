//! Namespace: a room of names; it ends only after everything in it.
use super::support::{age_cell, child, fill, name_cell, status, subresource};
use crate::kind::{Column, Kind, Subresource, Verb};
use crate::meta;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct Namespace;

/// Held in `spec.finalizers` until the namespace is empty.
pub const FINALIZER: &str = "kubernetes";

impl Kind for Namespace {
    type Object = core::Namespace;
    const SINGULAR: &'static str = "namespace";
    const SHORT_NAMES: &'static [&'static str] = &["ns"];
    const VERBS: &'static [Verb] =
        &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
    const SUBRESOURCES: &'static [Subresource] =
        &[subresource("finalize", "", "v1", "Namespace", &[Verb::Update]), status("", "v1", "Namespace")];

    fn default(object: &mut Value) {
        // Selectors over namespaces find each by its name.
        let name = meta::name(object).to_owned();
        child(child(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
    }

    fn before_create(object: &mut Value) {
        object["spec"] = json!({"finalizers": [FINALIZER]});
        object["status"] = json!({"phase": "Active"});
    }

    fn before_update(object: &mut Value, old: &Value) {
        object["spec"] = old["spec"].clone();
    }

    fn validate_name(name: &str) -> Result<(), String> {
        meta::dns_label(name)
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        // `name` is how the first clients asked for `metadata.name`.
        vec![("status.phase", phase.to_owned()), ("name", meta::name(object).to_owned())]
    }

    fn columns() -> Vec<Column> {
        vec![Column::new("Name", "string"), Column::new("Status", "string"), Column::new("Age", "string")]
    }

    fn cells(object: &core::Namespace, now: Timestamp) -> Vec<Value> {
        let phase = object.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        vec![name_cell(&object.metadata), phase.into(), age_cell(&object.metadata, now)]
    }

    fn holds_deletion(object: &Value) -> bool {
        object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
    }

    fn before_marked_for_deletion(object: &mut Value) {
        fill(object, "status", json!({}));
        object["status"]["phase"] = "Terminating".into();
    }
}
