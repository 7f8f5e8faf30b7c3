//! ValidatingAdmissionPolicy: rules in CEL by which requests are refused.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ValidatingAdmissionPolicy;

impl Kind for ValidatingAdmissionPolicy {
    type Object = admission::ValidatingAdmissionPolicy;
    const SINGULAR: &'static str = "validatingadmissionpolicy";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const SUBRESOURCES: &'static [Subresource] =
        &[status("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        webhook::default_policy(object);
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        let none = spec.validations.as_ref().is_none_or(Vec::is_empty);
        if none && spec.audit_annotations.as_ref().is_none_or(Vec::is_empty) {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child("validations"), detail);
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
        vec![text("Name"), number("Validations"), text("ParamKind"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = spec
            .param_kind
            .map(|k| format!("{}/{}", k.api_version.unwrap_or_default(), k.kind.unwrap_or_default()));
        vec![
            name_cell(&object.metadata),
            spec.validations.map_or(0, |list| list.len()).into(),
            text_or(parameters.as_deref(), "<unset>"),
            age_cell(&object.metadata, now),
        ]
    }
}
