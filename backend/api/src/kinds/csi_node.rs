//! CSINode: which storage drivers a node has.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct CSINode;

impl Kind for CSINode {
    type Object = storage::CSINode;
    const SINGULAR: &'static str = "csinode";

    fn validate(object: &storage::CSINode, errors: &mut FieldErrors) {
        let mut names = std::collections::BTreeSet::new();
        for (i, driver) in object.spec.drivers.iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(i);
            validate_required(Some(&driver.name), &path.child("name"), errors);
            validate_required(Some(&driver.node_id), &path.child("nodeID"), errors);
            if !names.insert(&driver.name) {
                errors.duplicate(&path.child("name"), driver.name.as_str());
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), number("Drivers"), text("Age")]
    }

    fn cells(object: &storage::CSINode, now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), object.spec.drivers.len().into(), age_cell(&object.metadata, now)]
    }
}
