//! PodTemplate: a template of pods, kept for controllers that ask for one.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct PodTemplate;

impl Kind for PodTemplate {
    type Object = core::PodTemplate;
    const SINGULAR: &'static str = "podtemplate";
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        child(object, "template");
        pod_spec::default_template(object);
    }

    fn validate(object: &core::PodTemplate, errors: &mut FieldErrors) {
        let template = object.template.clone().unwrap_or_default();
        let any = ["Always", "Never", "OnFailure"];
        pod_validation::validate_template(&template, &any, &Path::new("template"), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Containers"), text("Images"), text("Pod Labels")]
    }

    fn cells(object: &core::PodTemplate, _now: Timestamp) -> Vec<Value> {
        let template = object.template.clone().unwrap_or_default();
        let (names, images) = container_cells(&template.spec.unwrap_or_default());
        let labels = template.metadata.and_then(|m| m.labels);
        vec![name_cell(&object.metadata), names, images, labels_cell(labels.as_ref())]
    }
}
