//! StorageClass: how volumes of a class are made.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct StorageClass;

const DEFAULT_MARK: &str = "storageclass.kubernetes.io/is-default-class";

impl Kind for StorageClass {
    type Object = storage::StorageClass;
    const SINGULAR: &'static str = "storageclass";
    const SHORT_NAMES: &'static [&'static str] = &["sc"];

    fn default(object: &mut Value) {
        fill(object, "reclaimPolicy", "Delete");
        fill(object, "volumeBindingMode", "Immediate");
    }

    fn validate(object: &storage::StorageClass, errors: &mut FieldErrors) {
        validate_required(Some(&object.provisioner), &Path::new("provisioner"), errors);
        one_of(object.reclaim_policy.as_deref(), &["Delete", "Retain"], &Path::new("reclaimPolicy"), errors);
        let modes = ["Immediate", "WaitForFirstConsumer"];
        one_of(object.volume_binding_mode.as_deref(), &modes, &Path::new("volumeBindingMode"), errors);
    }

    fn validate_update(
        object: &storage::StorageClass,
        old: &storage::StorageClass,
        errors: &mut FieldErrors,
    ) {
        let changes = [
            ("parameters", object.parameters != old.parameters),
            ("provisioner", object.provisioner != old.provisioner),
            ("reclaimPolicy", object.reclaim_policy != old.reclaim_policy),
        ];
        for (field, _) in changes.iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
        }
        let changed = object.volume_binding_mode != old.volume_binding_mode;
        let value = object.volume_binding_mode.clone().into();
        validate_immutable(changed, &Path::new("volumeBindingMode"), value, errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Provisioner"),
            text("ReclaimPolicy"),
            text("VolumeBindingMode"),
            text("AllowVolumeExpansion"),
            text("Age"),
        ]
    }

    fn cells(object: &storage::StorageClass, now: Timestamp) -> Vec<Value> {
        let mut name = object.metadata.name.clone().unwrap_or_default();
        if object.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_MARK)).is_some_and(|v| v == "true")
        {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            object.provisioner.clone().into(),
            text_or(object.reclaim_policy.as_deref(), "Delete"),
            text_or(object.volume_binding_mode.as_deref(), "Immediate"),
            object.allow_volume_expansion.unwrap_or(false).into(),
            age_cell(&object.metadata, now),
        ]
    }
}
