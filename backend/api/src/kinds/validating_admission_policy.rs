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
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;
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
            errors.required(&path.child("auditAnnotations"), detail);
        }
        let policy = admission_policy::Policy {
            failure_policy: spec.failure_policy.as_deref(),
            param_kind: spec.param_kind.as_ref(),
            match_constraints: spec.match_constraints.as_ref(),
        };
        admission_policy::validate(&policy, &path, errors);
        #[cfg(feature = "schema")]
        {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            crate::policy::validate_validating(name, &admission_policy::as_json(&spec), &path, errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), number("Validations"), text("ParamKind"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = admission_policy::param_kind_cell(spec.param_kind.as_ref());
        vec![
            name_cell(&object.metadata),
            spec.validations.map_or(0, |list| list.len()).into(),
            parameters,
            age_cell(&object.metadata, now),
        ]
    }
}
