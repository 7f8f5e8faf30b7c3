//! ServiceCIDR: a range that cluster addresses of Services come from.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ServiceCIDR;

impl Kind for ServiceCIDR {
    type Object = networking::ServiceCIDR;
    const SINGULAR: &'static str = "servicecidr";
    const SUBRESOURCES: &'static [Subresource] = &[status("networking.k8s.io", "v1", "ServiceCIDR")];

    fn before_create(object: &mut Value) {
        reset_status(object, json!({}));
    }

    fn validate(object: &networking::ServiceCIDR, errors: &mut FieldErrors) {
        let cidrs = object.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        let path = Path::new("spec").child("cidrs");
        if cidrs.is_empty() {
            errors.required(&path, "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            errors.invalid(&path, cidrs.clone(), "may only hold up to 2 values");
        }
        for (i, cidr) in cidrs.iter().enumerate() {
            validate_cidr(cidr, &path.index(i), errors);
        }
    }

    fn validate_update(
        object: &networking::ServiceCIDR,
        old: &networking::ServiceCIDR,
        errors: &mut FieldErrors,
    ) {
        let cidrs = |c: &networking::ServiceCIDR| c.spec.as_ref().and_then(|s| s.cidrs.clone());
        let path = Path::new("spec").child("cidrs");
        validate_immutable(cidrs(object) != cidrs(old), &path, json!(cidrs(object)), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("CIDRs"), text("Age")]
    }

    fn cells(object: &networking::ServiceCIDR, now: Timestamp) -> Vec<Value> {
        let cidrs = object.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        vec![name_cell(&object.metadata), cidrs.join(",").into(), age_cell(&object.metadata, now)]
    }
}
