//! PersistentVolume: a piece of storage that claims can be bound to.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use storage::*;

pub struct PersistentVolume;

/// The fields of the spec that are not the kind of storage itself.
const COMMON: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The kind of storage: the rest of the spec.
fn source(spec: &core::PersistentVolumeSpec) -> serde_json::Map<String, Value> {
    let mut fields = serde_json::to_value(spec).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
    fields.retain(|field, _| !COMMON.contains(&field.as_str()));
    fields
}

impl Kind for PersistentVolume {
    type Object = core::PersistentVolume;
    const SINGULAR: &'static str = "persistentvolume";
    const SHORT_NAMES: &'static [&'static str] = &["pv"];
    const SUBRESOURCES: &'static [Subresource] = &[status("", "v1", "PersistentVolume")];

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
        if spec["hostPath"].is_object() {
            fill(&mut spec["hostPath"], "type", "");
        }
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"phase": "Pending"}));
    }

    fn validate(object: &core::PersistentVolume, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        validate_access_modes(spec.access_modes.as_ref(), &path, errors);
        let capacity = path.child("capacity");
        if spec.capacity.as_ref().is_none_or(|c| c.is_empty()) {
            errors.required(&capacity, "");
        }
        container_validation::quantities(spec.capacity.as_ref(), &capacity, errors);
        let policies = ["Delete", "Recycle", "Retain"];
        let policy = spec.persistent_volume_reclaim_policy.as_deref();
        one_of(policy, &policies, &path.child("persistentVolumeReclaimPolicy"), errors);
        one_of(spec.volume_mode.as_deref(), VOLUME_MODES, &path.child("volumeMode"), errors);
        let sources = source(&spec);
        if sources.is_empty() {
            errors.required(&path, "must specify a volume type");
        }
        for field in sources.keys().skip(1) {
            errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
        }
        if spec.local.is_some() && spec.node_affinity.is_none() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
        let terms =
            spec.node_affinity.and_then(|a| a.required).map(|r| r.node_selector_terms).unwrap_or_default();
        for (i, term) in terms.iter().enumerate() {
            let path = path.child("nodeAffinity").child("required").child("nodeSelectorTerms").index(i);
            scheduling_validation::validate_term(term, &path, errors);
        }
    }

    fn validate_update(
        object: &core::PersistentVolume,
        old: &core::PersistentVolume,
        errors: &mut FieldErrors,
    ) {
        let (Some(new), Some(old)) = (&object.spec, &old.spec) else {
            return;
        };
        let path = Path::new("spec");
        if source(new) != source(old) {
            let path = path.child("persistentvolumesource");
            errors.forbidden(&path, "spec.persistentvolumesource is immutable after creation");
        }
        let changed = new.volume_mode != old.volume_mode;
        validate_immutable(changed, &path.child("volumeMode"), json!(new.volume_mode), errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Capacity"),
            text("Access Modes"),
            text("Reclaim Policy"),
            text("Status"),
            text("Claim"),
            text("StorageClass"),
            text("VolumeAttributesClass"),
            text("Reason"),
            text("Age"),
            wide("VolumeMode"),
        ]
    }

    fn cells(object: &core::PersistentVolume, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let claim = spec
            .claim_ref
            .map(|c| format!("{}/{}", c.namespace.unwrap_or_default(), c.name.unwrap_or_default()));
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => status.phase.as_deref().unwrap_or_default(),
        };
        vec![
            name_cell(&object.metadata),
            storage_cell(spec.capacity.as_ref()),
            access_modes_cell(spec.access_modes.as_ref()),
            text_or(spec.persistent_volume_reclaim_policy.as_deref(), ""),
            phase.into(),
            text_or(claim.as_deref(), ""),
            class_cell(&object.metadata, spec.storage_class_name.as_deref()),
            text_or(spec.volume_attributes_class_name.as_deref(), "<unset>"),
            text_or(status.reason.as_deref(), ""),
            age_cell(&object.metadata, now),
            text_or(spec.volume_mode.as_deref(), "<unset>"),
        ]
    }
}
