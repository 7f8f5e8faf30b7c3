//! DeviceClass: devices of one sort that claims can ask for.
use super::support::*;
use crate::kind::{Column, Kind};
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct DeviceClass;

impl Kind for DeviceClass {
    type Object = resource::DeviceClass;
    const SINGULAR: &'static str = "deviceclass";
    const HAS_GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Age")]
    }

    fn cells(object: &resource::DeviceClass, now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), age_cell(&object.metadata, now)]
    }
}
