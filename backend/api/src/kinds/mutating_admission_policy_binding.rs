//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy holds, and with which parameters.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
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
        webhook::default_match_resources(child(object, "spec"), "matchResources");
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        validate_required(spec.policy_name.as_deref(), &path.child("policyName"), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("PolicyName"), text("ParamRef"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = spec.param_ref.as_ref().map(|p| match (p.namespace.as_deref(), p.name.as_deref()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => name.to_owned(),
            (Some(namespace), None) => format!("{namespace}/*"),
            (None, None) => "*".to_owned(),
        });
        vec![
            name_cell(&object.metadata),
            text_or(spec.policy_name.as_deref(), ""),
            text_or(parameters.as_deref(), "<unset>"),
            age_cell(&object.metadata, now),
        ]
    }
}
