//! ResourceClaim: a pod's wish for devices.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ResourceClaim;

impl Kind for ResourceClaim {
    type Object = resource::ResourceClaim;
    const SINGULAR: &'static str = "resourceclaim";
    const SUBRESOURCES: &'static [Subresource] = &[status("resource.k8s.io", "v1", "ResourceClaim")];
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;

    fn default(object: &mut Value) {
        default_requests(child(object, "spec"));
    }

    fn validate(object: &resource::ResourceClaim, errors: &mut FieldErrors) {
        validate_spec(&object.spec, &Path::new("spec"), errors);
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let spec = serde_json::json!(object.spec);
        validate_immutable(object.spec != old.spec, &Path::new("spec"), spec, errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("State"), text("Age")]
    }

    fn cells(object: &resource::ResourceClaim, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let mut states = Vec::new();
        if object.metadata.deletion_timestamp.is_some() {
            states.push("deleted");
        }
        if status.allocation.is_some() {
            states.push("allocated");
        } else if object.metadata.deletion_timestamp.is_none() {
            states.push("pending");
        }
        if status.reserved_for.as_ref().is_some_and(|r| !r.is_empty()) {
            states.push("reserved");
        }
        vec![name_cell(&object.metadata), states.join(",").into(), age_cell(&object.metadata, now)]
    }
}

/// A request asks for exactly one device where it tells nothing else. Also of templates.
pub fn default_requests(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else {
        return;
    };
    for request in items(devices, "requests") {
        if request["exactly"].is_object() {
            default_amount(&mut request["exactly"]);
        }
        for choice in items(request, "firstAvailable") {
            default_amount(choice);
        }
    }
}

fn default_amount(request: &mut Value) {
    fill(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        fill(request, "count", 1);
    }
}

pub fn validate_spec(spec: &resource::ResourceClaimSpec, path: &Path, errors: &mut FieldErrors) {
    let requests = spec.devices.as_ref().and_then(|d| d.requests.clone()).unwrap_or_default();
    let mut names = std::collections::BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.child("devices").child("requests").index(i);
        validate_required(Some(&request.name), &path.child("name"), errors);
        if !names.insert(&request.name) {
            errors.duplicate(&path.child("name"), request.name.as_str());
        }
        let several = request.first_available.as_ref().is_some_and(|f| !f.is_empty());
        match (&request.exactly, several) {
            (None, false) => {
                errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required")
            }
            (Some(_), true) => {
                errors.invalid(
                    &path,
                    "",
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (Some(exactly), false) => {
                let path = path.child("exactly").child("deviceClassName");
                validate_required(Some(&exactly.device_class_name), &path, errors);
            }
            (None, true) => {}
        }
    }
}
