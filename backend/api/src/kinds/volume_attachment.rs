//! VolumeAttachment: a volume that is, or shall be, at a node.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct VolumeAttachment;

impl Kind for VolumeAttachment {
    type Object = storage::VolumeAttachment;
    const SINGULAR: &'static str = "volumeattachment";
    const SUBRESOURCES: &'static [Subresource] = &[status("storage.k8s.io", "v1", "VolumeAttachment")];
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;

    fn before_create(object: &mut Value) {
        reset_status(object, serde_json::json!({"attached": false}));
    }

    fn validate(object: &storage::VolumeAttachment, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        validate_required(Some(&object.spec.attacher), &path.child("attacher"), errors);
        validate_required(Some(&object.spec.node_name), &path.child("nodeName"), errors);
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let spec = serde_json::json!(object.spec);
        validate_immutable(object.spec != old.spec, &Path::new("spec"), spec, errors);
    }

    fn columns() -> Vec<Column> {
        let attached = Column::new("Attached", "boolean");
        vec![text("Name"), text("Attacher"), text("PV"), text("Node"), attached, text("Age")]
    }

    fn cells(object: &storage::VolumeAttachment, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        vec![
            name_cell(&object.metadata),
            spec.attacher.clone().into(),
            text_or(spec.source.persistent_volume_name.as_deref(), ""),
            spec.node_name.clone().into(),
            object.status.as_ref().is_some_and(|s| s.attached).into(),
            age_cell(&object.metadata, now),
        ]
    }
}
