//! ResourceSlice: devices that a driver offers, on one node or to several.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ResourceSlice;

impl Kind for ResourceSlice {
    type Object = resource::ResourceSlice;
    const SINGULAR: &'static str = "resourceslice";
    const HAS_GENERATION: bool = true;

    fn validate(object: &resource::ResourceSlice, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &object.spec);
        validate_required(Some(&spec.driver), &path.child("driver"), errors);
        validate_required(Some(&spec.pool.name), &path.child("pool").child("name"), errors);
        let places = [
            spec.node_name.is_some(),
            spec.node_selector.is_some(),
            spec.all_nodes == Some(true),
            spec.per_device_node_selection == Some(true),
        ];
        let words =
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match places.iter().filter(|set| **set).count() {
            0 => errors.required(&path, words),
            1 => {}
            _ => errors.invalid(&path, "", format!("{words}, but multiple fields are set")),
        }
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let changed = object.spec.driver != old.spec.driver;
        validate_immutable(changed, &path.child("driver"), object.spec.driver.as_str().into(), errors);
        let changed = object.spec.pool.name != old.spec.pool.name;
        let name = object.spec.pool.name.as_str().into();
        validate_immutable(changed, &path.child("pool").child("name"), name, errors);
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        let text = |field: &str| object["spec"][field].as_str().unwrap_or_default().to_owned();
        vec![("spec.driver", text("driver")), ("spec.nodeName", text("nodeName"))]
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Node"), text("Driver"), text("Pool"), text("Age")]
    }

    fn cells(object: &resource::ResourceSlice, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        vec![
            name_cell(&object.metadata),
            text_or(spec.node_name.as_deref(), ""),
            spec.driver.clone().into(),
            spec.pool.name.clone().into(),
            age_cell(&object.metadata, now),
        ]
    }
}
