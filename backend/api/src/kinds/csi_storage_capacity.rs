//! CSIStorageCapacity: how much a driver has left, by class and place.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct CSIStorageCapacity;

impl Kind for CSIStorageCapacity {
    type Object = storage::CSIStorageCapacity;
    const SINGULAR: &'static str = "csistoragecapacity";

    fn validate(object: &storage::CSIStorageCapacity, errors: &mut FieldErrors) {
        validate_required(Some(&object.storage_class_name), &Path::new("storageClassName"), errors);
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let changed = object.node_topology != old.node_topology;
        validate_immutable(
            changed,
            &Path::new("nodeTopology"),
            serde_json::json!(object.node_topology),
            errors,
        );
        let changed = object.storage_class_name != old.storage_class_name;
        let class = object.storage_class_name.as_str().into();
        validate_immutable(changed, &Path::new("storageClassName"), class, errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("StorageClassName"), text("Capacity")]
    }

    fn cells(object: &storage::CSIStorageCapacity, _now: Timestamp) -> Vec<Value> {
        let capacity = object.capacity.as_ref().map(|q| q.0.as_str());
        vec![
            name_cell(&object.metadata),
            object.storage_class_name.clone().into(),
            text_or(capacity, "<unset>"),
        ]
    }
}
