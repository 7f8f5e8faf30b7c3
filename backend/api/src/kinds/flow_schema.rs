//! FlowSchema: which requests belong to which priority level.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct FlowSchema;

const DEFAULT_PRECEDENCE: i32 = 1000;
const MAX_PRECEDENCE: i32 = 10_000;

impl Kind for FlowSchema {
    type Object = flowcontrol::FlowSchema;
    const SINGULAR: &'static str = "flowschema";
    const SUBRESOURCES: &'static [Subresource] =
        &[status("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        fill(child(object, "spec"), "matchingPrecedence", DEFAULT_PRECEDENCE);
    }

    fn validate(object: &flowcontrol::FlowSchema, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        if let Some(value) = spec.matching_precedence.filter(|p| !(1..=MAX_PRECEDENCE).contains(p)) {
            let detail = format!("must be between 1 and {MAX_PRECEDENCE}, inclusive");
            errors.invalid(&path.child("matchingPrecedence"), value, detail);
        }
        if let Some(method) = &spec.distinguisher_method {
            one_of(
                Some(&method.type_),
                &["ByNamespace", "ByUser"],
                &path.child("distinguisherMethod").child("type"),
                errors,
            );
        }
        let level = path.child("priorityLevelConfiguration").child("name");
        validate_required(Some(&spec.priority_level_configuration.name), &level, errors);
        for (i, rule) in spec.rules.iter().flatten().enumerate() {
            if rule.subjects.is_empty() {
                let path = path.child("rules").index(i).child("subjects");
                errors.required(&path, "subjects must contain at least one value");
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("PriorityLevel"),
            number("MatchingPrecedence"),
            text("DistinguisherMethod"),
            text("Age"),
            text("MissingPL"),
        ]
    }

    fn cells(object: &flowcontrol::FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let dangling = conditions.iter().find(|c| c.type_.as_deref() == Some("Dangling"));
        let method = spec.distinguisher_method.map(|m| m.type_);
        vec![
            name_cell(&object.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or(DEFAULT_PRECEDENCE).into(),
            text_or(method.as_deref(), "<none>"),
            age_cell(&object.metadata, now),
            text_or(dangling.and_then(|c| c.status.as_deref()), "?"),
        ]
    }
}
