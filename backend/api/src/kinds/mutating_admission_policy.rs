//! MutatingAdmissionPolicy: rules in CEL by which objects change on their way in.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct MutatingAdmissionPolicy;

impl Kind for MutatingAdmissionPolicy {
    type Object = admission::MutatingAdmissionPolicy;
    const SINGULAR: &'static str = "mutatingadmissionpolicy";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        webhook::default_policy(object);
        fill(child(object, "spec"), "reinvocationPolicy", "Never");
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        if spec.mutations.as_ref().is_none_or(Vec::is_empty) {
            errors.required(&path.child("mutations"), "mutations must contain at least one item");
        }
        let reinvocation = path.child("reinvocationPolicy");
        one_of(spec.reinvocation_policy.as_deref(), &["IfNeeded", "Never"], &reinvocation, errors);
        let policy = admission_policy::Policy {
            failure_policy: spec.failure_policy.as_deref(),
            param_kind: spec.param_kind.as_ref(),
            match_constraints: spec.match_constraints.as_ref(),
        };
        admission_policy::validate(&policy, &path, errors);
        #[cfg(feature = "schema")]
        crate::policy::validate_mutating(&admission_policy::as_json(&spec), &path, errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), number("Mutations"), text("ParamKind"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = admission_policy::param_kind_cell(spec.param_kind.as_ref());
        vec![
            name_cell(&object.metadata),
            spec.mutations.map_or(0, |list| list.len()).into(),
            parameters,
            age_cell(&object.metadata, now),
        ]
    }
}
