//! ControllerRevision: one past state of a DaemonSet's or StatefulSet's template.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ControllerRevision;

impl Kind for ControllerRevision {
    type Object = apps::ControllerRevision;
    const SINGULAR: &'static str = "controllerrevision";

    fn validate(object: &apps::ControllerRevision, errors: &mut FieldErrors) {
        if object.data.is_none() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        if object.revision < 0 {
            errors.invalid(&Path::new("revision"), object.revision, "must be greater than or equal to 0");
        }
    }

    fn validate_update(
        object: &apps::ControllerRevision,
        old: &apps::ControllerRevision,
        errors: &mut FieldErrors,
    ) {
        validate_immutable(object.data != old.data, &Path::new("data"), json!(object.data), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Controller"), text("Revision"), text("Age")]
    }

    fn cells(object: &apps::ControllerRevision, now: Timestamp) -> Vec<Value> {
        let owner = object.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let owner = owner.map(|o| {
            let group =
                o.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", o.kind.to_lowercase(), o.name)
        });
        vec![
            name_cell(&object.metadata),
            text_or(owner.as_deref(), "<none>"),
            object.revision.into(),
            age_cell(&object.metadata, now),
        ]
    }
}
