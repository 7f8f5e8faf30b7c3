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
        one_of(spec.failure_policy.as_deref(), &["Fail", "Ignore"], &path.child("failurePolicy"), errors);
        let constraints = path.child("matchConstraints");
        match &spec.match_constraints {
            None => errors.required(&constraints, ""),
            Some(matching) if matching.resource_rules.as_ref().is_none_or(Vec::is_empty) => {
                errors.required(&constraints.child("resourceRules"), "");
            }
            Some(_) => {}
        }
        if let Some(kind) = &spec.param_kind {
            let path = path.child("paramKind");
            validate_required(kind.api_version.as_deref(), &path.child("apiVersion"), errors);
            validate_required(kind.kind.as_deref(), &path.child("kind"), errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), number("Mutations"), text("ParamKind"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = spec
            .param_kind
            .map(|k| format!("{}/{}", k.api_version.unwrap_or_default(), k.kind.unwrap_or_default()));
        vec![
            name_cell(&object.metadata),
            spec.mutations.map_or(0, |list| list.len()).into(),
            text_or(parameters.as_deref(), "<unset>"),
            age_cell(&object.metadata, now),
        ]
    }
}
