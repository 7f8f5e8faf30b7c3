//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy holds, and with which parameters.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::FieldErrors;
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct MutatingAdmissionPolicyBinding;

impl Kind for MutatingAdmissionPolicyBinding {
    type Object = admission::MutatingAdmissionPolicyBinding;
    const SINGULAR: &'static str = "mutatingadmissionpolicybinding";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        webhook::default_match_resources(spec, "matchResources");
        if let Some(parameters) = spec.get_mut("paramRef") {
            fill(parameters, "parameterNotFoundAction", "Deny");
        }
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let spec = object.spec.clone().unwrap_or_default();
        let (parameters, matching) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        admission_policy::validate_binding(
            spec.policy_name.as_deref().unwrap_or_default(),
            parameters,
            matching,
            errors,
        );
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("PolicyName"), text("ParamRef"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = admission_policy::param_cell(spec.param_ref.as_ref());
        vec![
            name_cell(&object.metadata),
            text_or(spec.policy_name.as_deref(), ""),
            parameters,
            age_cell(&object.metadata, now),
        ]
    }
}
