//! ComponentStatus: whether a part of the control plane is well. Read only, and kept for old clients.
use super::support::*;
use crate::kind::{Column, Kind, Verb};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ComponentStatus;

impl Kind for ComponentStatus {
    type Object = core::ComponentStatus;
    const SINGULAR: &'static str = "componentstatus";
    const SHORT_NAMES: &'static [&'static str] = &["cs"];
    const VERBS: &'static [Verb] = &[Verb::Get, Verb::List];

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Status"), text("Message"), text("Error")]
    }

    fn cells(object: &core::ComponentStatus, _now: Timestamp) -> Vec<Value> {
        let healthy = object.conditions.iter().flatten().find(|c| c.type_ == "Healthy");
        let word = match healthy.map(|c| c.status.as_str()) {
            Some("True") => "Healthy",
            Some("False") => "Unhealthy",
            _ => "Unknown",
        };
        vec![
            name_cell(&object.metadata),
            word.into(),
            text_or(healthy.and_then(|c| c.message.as_deref()), ""),
            text_or(healthy.and_then(|c| c.error.as_deref()), ""),
        ]
    }
}
