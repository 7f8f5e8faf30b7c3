//! PodDisruptionBudget: how many pods of a set may be down on purpose.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct PodDisruptionBudget;

impl Kind for PodDisruptionBudget {
    type Object = policy::PodDisruptionBudget;
    const SINGULAR: &'static str = "poddisruptionbudget";
    const SHORT_NAMES: &'static [&'static str] = &["pdb"];
    const SUBRESOURCES: &'static [Subresource] = &[status("policy", "v1", "PodDisruptionBudget")];
    const HAS_GENERATION: bool = true;

    fn before_create(object: &mut Value) {
        let none = ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"];
        reset_status(object, none.iter().map(|field| ((*field).to_owned(), json!(0))).collect());
    }

    fn validate(object: &policy::PodDisruptionBudget, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, json!(spec), "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, bound) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            let path = path.child(field);
            match bound {
                Some(IntOrString::Int(count)) => validate_count(Some(*count), &path, errors),
                Some(IntOrString::String(text)) => {
                    let percent = text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok());
                    if percent.is_none() {
                        errors.invalid(&path, text.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
                    } else if percent.is_some_and(|p| p > 100) {
                        errors.invalid(&path, text.as_str(), "must not be greater than 100%");
                    }
                }
                None => {}
            }
        }
        if let Some(selector) = &spec.selector {
            label_selector::validate(selector, &path.child("selector"), errors);
        }
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        let given = spec.unhealthy_pod_eviction_policy.as_deref();
        one_of(given, &policies, &path.child("unhealthyPodEvictionPolicy"), errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Min Available"),
            text("Max Unavailable"),
            number("Allowed Disruptions"),
            text("Age"),
        ]
    }

    fn cells(object: &policy::PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let bound = |bound: Option<IntOrString>| match bound {
            Some(IntOrString::Int(count)) => Value::from(count.to_string()),
            Some(IntOrString::String(text)) => text.into(),
            None => "N/A".into(),
        };
        let allowed = object.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
        vec![
            name_cell(&object.metadata),
            bound(spec.min_available),
            bound(spec.max_unavailable),
            allowed.into(),
            age_cell(&object.metadata, now),
        ]
    }
}
