//! PriorityClass: how much a pod's place matters, by name.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::scheduling::v1 as scheduling;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct PriorityClass;

/// Above it only what the system itself brings.
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
const SYSTEM: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

impl Kind for PriorityClass {
    type Object = scheduling::PriorityClass;
    const SINGULAR: &'static str = "priorityclass";
    const SHORT_NAMES: &'static [&'static str] = &["pc"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        fill(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(object: &scheduling::PriorityClass, errors: &mut FieldErrors) {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let value = object.value.unwrap_or(0);
        if name.starts_with("system-") {
            if !SYSTEM.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only";
                errors.forbidden(&Path::new("metadata").child("name"), detail);
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail =
                format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            errors.forbidden(&Path::new("value"), detail);
        }
        let policies = ["Never", "PreemptLowerPriority"];
        one_of(object.preemption_policy.as_deref(), &policies, &Path::new("preemptionPolicy"), errors);
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        if object.value.unwrap_or(0) != old.value.unwrap_or(0) {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let changed = object.preemption_policy != old.preemption_policy;
        let policy = object.preemption_policy.clone().into();
        validate_immutable(changed, &Path::new("preemptionPolicy"), policy, errors);
    }

    fn columns() -> Vec<Column> {
        let global = Column::new("Global-Default", "boolean");
        vec![text("Name"), number("Value"), global, text("Age"), text("PreemptionPolicy")]
    }

    fn cells(object: &scheduling::PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&object.metadata),
            object.value.unwrap_or(0).into(),
            object.global_default.unwrap_or(false).into(),
            age_cell(&object.metadata, now),
            text_or(object.preemption_policy.as_deref(), "PreemptLowerPriority"),
        ]
    }
}
