//! ReplicaSet: so many pods of one template.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ReplicaSet;

impl Kind for ReplicaSet {
    type Object = apps::ReplicaSet;
    const SINGULAR: &'static str = "replicaset";
    const SHORT_NAMES: &'static [&'static str] = &["rs"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[SCALE, status("apps", "v1", "ReplicaSet")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "replicas", 1);
        pod_spec::default_template(spec);
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"replicas": 0}));
    }

    fn validate(object: &apps::ReplicaSet, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        validate_count(spec.replicas, &path.child("replicas"), errors);
        validate_count(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
        match &spec.template {
            Some(template) => pod_validation::validate_selected_template(
                &spec.selector,
                template,
                &["Always"],
                &path,
                errors,
            ),
            None => errors.required(&path.child("template"), ""),
        }
    }

    fn validate_update(object: &apps::ReplicaSet, old: &apps::ReplicaSet, errors: &mut FieldErrors) {
        let selector = |o: &apps::ReplicaSet| o.spec.as_ref().map(|s| s.selector.clone());
        let changed = selector(object) != selector(old);
        validate_immutable(changed, &Path::new("spec").child("selector"), json!(selector(object)), errors);
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }

    fn columns() -> Vec<Column> {
        let wide = |name: &str| Column::new(name, "string").wide();
        let count = |name: &str| Column::new(name, "integer");
        vec![
            Column::new("Name", "string"),
            count("Desired"),
            count("Current"),
            count("Ready"),
            Column::new("Age", "string"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(object: &apps::ReplicaSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let pod = spec.template.and_then(|t| t.spec).unwrap_or_default();
        let (names, images) = container_cells(&pod);
        vec![
            name_cell(&object.metadata),
            spec.replicas.unwrap_or(1).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age_cell(&object.metadata, now),
            names,
            images,
            label_selector::cell(&spec.selector),
        ]
    }
}
