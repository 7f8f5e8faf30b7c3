//! ReplicationController: the elder of ReplicaSet, with a plain selector.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ReplicationController;

impl Kind for ReplicationController {
    type Object = core::ReplicationController;
    const SINGULAR: &'static str = "replicationcontroller";
    const SHORT_NAMES: &'static [&'static str] = &["rc"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[SCALE, status("", "v1", "ReplicationController")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "replicas", 1);
        pod_spec::default_template(spec);
        // A plain selector follows the template, and so do the labels.
        let labels = spec["template"]["metadata"]["labels"].clone();
        if labels.as_object().is_some_and(|l| !l.is_empty()) {
            fill(spec, "selector", labels.clone());
            fill(child(object, "metadata"), "labels", labels);
        }
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"replicas": 0}));
    }

    fn validate(object: &core::ReplicationController, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        validate_count(spec.replicas, &path.child("replicas"), errors);
        validate_count(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            errors.required(&path.child("selector"), "");
        }
        let Some(template) = &spec.template else {
            return errors.required(&path.child("template"), "");
        };
        let path = path.child("template");
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        if selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
            let path = path.child("metadata").child("labels");
            errors.invalid(&path, json!(labels), "`selector` does not match template `labels`");
        }
        pod_validation::validate_template(template, &["Always"], &path, errors);
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            number("Desired"),
            number("Current"),
            number("Ready"),
            text("Age"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(object: &core::ReplicationController, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let (names, images) = container_cells(&spec.template.and_then(|t| t.spec).unwrap_or_default());
        vec![
            name_cell(&object.metadata),
            spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age_cell(&object.metadata, now),
            names,
            images,
            labels_cell(spec.selector.as_ref()),
        ]
    }
}
