//! PersistentVolumeClaim: a pod's wish for storage that outlives it.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use storage::*;

pub struct PersistentVolumeClaim;

impl Kind for PersistentVolumeClaim {
    type Object = core::PersistentVolumeClaim;
    const SINGULAR: &'static str = "persistentvolumeclaim";
    const SHORT_NAMES: &'static [&'static str] = &["pvc"];
    const SUBRESOURCES: &'static [Subresource] = &[status("", "v1", "PersistentVolumeClaim")];

    fn default(object: &mut Value) {
        fill(child(object, "spec"), "volumeMode", "Filesystem");
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"phase": "Pending"}));
    }

    fn validate(object: &core::PersistentVolumeClaim, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        validate_access_modes(spec.access_modes.as_ref(), &path, errors);
        if let Some(selector) = &spec.selector {
            label_selector::validate(selector, &path.child("selector"), errors);
        }
        let requests = spec.resources.and_then(|r| r.requests);
        let at = path.child("resources");
        match requests.as_ref().and_then(|r| r.get("storage")) {
            None => errors.required(&at.key("storage"), ""),
            Some(amount) => {
                let amount =
                    crate::quantity::Quantity::parse(&amount.0).filter(|q| !q.is_zero() && !q.is_negative());
                if amount.is_none() {
                    let given = requests.as_ref().and_then(|r| r.get("storage")).map_or("", |q| q.0.as_str());
                    errors.invalid(&at.key("storage"), given, "must be greater than zero");
                }
            }
        }
        one_of(spec.volume_mode.as_deref(), VOLUME_MODES, &path.child("volumeMode"), errors);
        if let Some(class) = spec.storage_class_name.as_deref().filter(|c| !c.is_empty())
            && let Err(why) = crate::meta::dns_subdomain(class)
        {
            errors.invalid(&path.child("storageClassName"), class, why);
        }
    }

    fn validate_update(
        object: &core::PersistentVolumeClaim,
        old: &core::PersistentVolumeClaim,
        errors: &mut FieldErrors,
    ) {
        let (Some(new), Some(before)) = (&object.spec, &old.spec) else {
            return;
        };
        let mut allowed = new.clone();
        let bound = old.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if bound {
            allowed.resources.clone_from(&before.resources);
        }
        if before.volume_name.as_deref().is_none_or(str::is_empty) {
            allowed.volume_name.clone_from(&before.volume_name);
        }
        if before.storage_class_name.is_none() {
            allowed.storage_class_name.clone_from(&before.storage_class_name);
        }
        allowed.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
        if allowed != *before {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.forbidden(&Path::new("spec"), detail);
        }
        let amount = |spec: &core::PersistentVolumeClaimSpec| {
            let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
            requests.and_then(|r| r.get("storage")).and_then(|q| crate::quantity::Quantity::parse(&q.0))
        };
        if let (Some(new), Some(before)) = (amount(new), amount(before))
            && new < before
        {
            let path = Path::new("spec").child("resources").child("requests").child("storage");
            errors.forbidden(&path, "field can not be less than previous value");
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Status"),
            text("Volume"),
            text("Capacity"),
            text("Access Modes"),
            text("StorageClass"),
            text("VolumeAttributesClass"),
            text("Age"),
            wide("VolumeMode"),
        ]
    }

    fn cells(object: &core::PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => status.phase.as_deref().unwrap_or_default(),
        };
        let is_placed = spec.volume_name.as_deref().is_some_and(|v| !v.is_empty());
        let (capacity, modes) = match is_placed {
            true => (storage_cell(status.capacity.as_ref()), access_modes_cell(status.access_modes.as_ref())),
            false => ("".into(), "".into()),
        };
        vec![
            name_cell(&object.metadata),
            phase.into(),
            text_or(spec.volume_name.as_deref(), ""),
            capacity,
            modes,
            class_cell(&object.metadata, spec.storage_class_name.as_deref()),
            text_or(spec.volume_attributes_class_name.as_deref(), "<unset>"),
            age_cell(&object.metadata, now),
            text_or(spec.volume_mode.as_deref(), "<unset>"),
        ]
    }
}
