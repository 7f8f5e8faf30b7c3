//! VolumeAttributesClass: how volumes of a driver behave, changeable while they are used.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct VolumeAttributesClass;

impl Kind for VolumeAttributesClass {
    type Object = storage::VolumeAttributesClass;
    const SINGULAR: &'static str = "volumeattributesclass";
    const SHORT_NAMES: &'static [&'static str] = &["vac"];

    fn validate(object: &storage::VolumeAttributesClass, errors: &mut FieldErrors) {
        validate_required(Some(&object.driver_name), &Path::new("driverName"), errors);
        if object.parameters.as_ref().is_none_or(|p| p.is_empty()) {
            errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
        }
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        if object.driver_name != old.driver_name {
            errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
        }
        if object.parameters != old.parameters {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("DriverName"), text("Age")]
    }

    fn cells(object: &storage::VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), object.driver_name.clone().into(), age_cell(&object.metadata, now)]
    }
}
