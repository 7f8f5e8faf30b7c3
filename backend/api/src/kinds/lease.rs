//! Lease: a claim that ends unless it is renewed; nodes and leaders hold one.
use super::support::{age_cell, name_cell};
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Lease;

impl Kind for Lease {
    type Object = coordination::Lease;
    const SINGULAR: &'static str = "lease";
    const CREATED_BY_UPDATE: bool = true;

    fn validate(object: &coordination::Lease, errors: &mut FieldErrors) {
        let spec = object.spec.clone().unwrap_or_default();
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.invalid(
                &Path::new("spec").child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            );
        }
    }

    fn columns() -> Vec<Column> {
        vec![Column::new("Name", "string"), Column::new("Holder", "string"), Column::new("Age", "string")]
    }

    fn cells(object: &coordination::Lease, now: Timestamp) -> Vec<Value> {
        let holder = object.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        vec![name_cell(&object.metadata), holder.into(), age_cell(&object.metadata, now)]
    }
}
