//! ResourceClaimTemplate: what ResourceClaims are made from, one a pod.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ResourceClaimTemplate;

impl Kind for ResourceClaimTemplate {
    type Object = resource::ResourceClaimTemplate;
    const SINGULAR: &'static str = "resourceclaimtemplate";

    fn default(object: &mut Value) {
        super::resource_claim::default_requests(child(child(object, "spec"), "spec"));
    }

    fn validate(object: &resource::ResourceClaimTemplate, errors: &mut FieldErrors) {
        super::resource_claim::validate_spec(&object.spec.spec, &Path::new("spec").child("spec"), errors);
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let spec = serde_json::json!(object.spec);
        validate_immutable(object.spec != old.spec, &Path::new("spec"), spec, errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Age")]
    }

    fn cells(object: &resource::ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), age_cell(&object.metadata, now)]
    }
}
