//! CSIDriver: what a storage driver can do.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct CSIDriver;

impl Kind for CSIDriver {
    type Object = storage::CSIDriver;
    const SINGULAR: &'static str = "csidriver";
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "attachRequired", true);
        fill(spec, "podInfoOnMount", false);
        fill(spec, "storageCapacity", false);
        fill(spec, "requiresRepublish", false);
        fill(spec, "seLinuxMount", false);
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        fill(spec, "volumeLifecycleModes", serde_json::json!(["Persistent"]));
    }

    fn validate(object: &storage::CSIDriver, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        one_of(object.spec.fs_group_policy.as_deref(), &policies, &path.child("fsGroupPolicy"), errors);
        for mode in object.spec.volume_lifecycle_modes.iter().flatten() {
            one_of(Some(mode), &["Ephemeral", "Persistent"], &path.child("volumeLifecycleModes"), errors);
        }
    }

    fn validate_update(object: &storage::CSIDriver, old: &storage::CSIDriver, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let (new, old) = (&object.spec, &old.spec);
        let changed = new.attach_required != old.attach_required;
        validate_immutable(changed, &path.child("attachedRequired"), new.attach_required.into(), errors);
        let changed = new.volume_lifecycle_modes != old.volume_lifecycle_modes;
        let modes = new.volume_lifecycle_modes.clone().into();
        validate_immutable(changed, &path.child("volumeLifecycleModes"), modes, errors);
    }

    fn columns() -> Vec<Column> {
        let flag = |name: &str| Column::new(name, "boolean");
        vec![
            text("Name"),
            flag("AttachRequired"),
            flag("PodInfoOnMount"),
            flag("StorageCapacity"),
            text("TokenRequests"),
            flag("RequiresRepublish"),
            text("Modes"),
            text("Age"),
        ]
    }

    fn cells(object: &storage::CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let audiences: Vec<&str> =
            spec.token_requests.iter().flatten().map(|t| t.audience.as_str()).collect();
        let modes = spec.volume_lifecycle_modes.clone().unwrap_or_default().join(",");
        vec![
            name_cell(&object.metadata),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            text_or(Some(&audiences.join(",")), "<unset>"),
            spec.requires_republish.unwrap_or(false).into(),
            text_or(Some(&modes), "<none>"),
            age_cell(&object.metadata, now),
        ]
    }
}
