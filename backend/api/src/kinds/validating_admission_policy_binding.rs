//! ValidatingAdmissionPolicyBinding: where a ValidatingAdmissionPolicy holds, and with which parameters.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ValidatingAdmissionPolicyBinding;

impl Kind for ValidatingAdmissionPolicyBinding {
    type Object = admission::ValidatingAdmissionPolicyBinding;
    const SINGULAR: &'static str = "validatingadmissionpolicybinding";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        webhook::default_match_resources(child(object, "spec"), "matchResources");
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone();
        let (parameters, matching) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        admission_policy::validate_binding(&spec.policy_name, parameters, matching, errors);
        let actions = path.child("validationActions");
        if spec.validation_actions.is_empty() {
            errors.required(&actions, "at least one validation action is required");
        }
        for (i, action) in spec.validation_actions.iter().enumerate() {
            one_of(Some(action), &["Audit", "Deny", "Warn"], &actions.index(i), errors);
            if spec.validation_actions[..i].contains(action) {
                errors.duplicate(&actions.index(i), action.as_str());
            }
        }
        let has = |action: &str| spec.validation_actions.iter().any(|a| a == action);
        if has("Deny") && has("Warn") {
            let given = spec.validation_actions.clone();
            errors.invalid(&actions, given, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("PolicyName"), text("ParamRef"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone();
        let parameters = admission_policy::param_cell(spec.param_ref.as_ref());
        vec![
            name_cell(&object.metadata),
            text_or(Some(spec.policy_name.as_str()), ""),
            parameters,
            age_cell(&object.metadata, now),
        ]
    }
}
