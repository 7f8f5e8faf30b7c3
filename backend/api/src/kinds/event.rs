//! Event: what happened to an object, for people. The core/v1 shape is the stored one; events.k8s.io/v1 is a view of it.
use super::support::{age_cell, fill};
use crate::kind::{Column, Kind};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Event;
pub struct EventsEvent;

fn fields(object: &Value) -> Vec<(&'static str, String)> {
    let about = &object["involvedObject"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let source = &object["source"]["component"];
    let source = if text(source).is_empty() { &object["reportingComponent"] } else { source };
    vec![
        ("involvedObject.kind", text(&about["kind"])),
        ("involvedObject.namespace", text(&about["namespace"])),
        ("involvedObject.name", text(&about["name"])),
        ("involvedObject.uid", text(&about["uid"])),
        ("involvedObject.apiVersion", text(&about["apiVersion"])),
        ("involvedObject.resourceVersion", text(&about["resourceVersion"])),
        ("involvedObject.fieldPath", text(&about["fieldPath"])),
        ("reason", text(&object["reason"])),
        ("reportingComponent", text(&object["reportingComponent"])),
        ("source", text(source)),
        ("type", text(&object["type"])),
    ]
}

fn columns() -> Vec<Column> {
    let text = |name: &str| Column::new(name, "string");
    vec![
        text("Last Seen"),
        text("Type"),
        text("Reason"),
        text("Object"),
        text("Subobject").wide(),
        text("Source").wide(),
        text("Message"),
        text("First Seen").wide(),
        text("Count").wide(),
        text("Name").wide(),
    ]
}

impl Kind for Event {
    type Object = core::Event;
    const SINGULAR: &'static str = "event";
    const CREATED_BY_UPDATE: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["ev"];

    fn default(object: &mut Value) {
        fill(object, "type", "Normal");
    }

    fn validate(object: &core::Event, errors: &mut FieldErrors) {
        let (namespace, about) = (&object.metadata.namespace, &object.involved_object.namespace);
        // Events about cluster-scoped objects live in `default`.
        let fits = match about.as_deref() {
            None | Some("") => matches!(namespace.as_deref(), None | Some("default" | "kube-system")),
            Some(about) => namespace.as_deref() == Some(about),
        };
        if !fits {
            let given = about.as_deref().unwrap_or("");
            errors.invalid(
                &Path::new("involvedObject").child("namespace"),
                given,
                "does not match event.namespace",
            );
        }
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        fields(object)
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(object: &core::Event, now: Timestamp) -> Vec<Value> {
        let ago = |at: Option<Timestamp>| match at {
            Some(at) => meta::human_duration((now.as_second() - at.as_second()).max(0)),
            None => "<unknown>".into(),
        };
        let first = object.first_timestamp.as_ref().map(|t| t.0).or(object.event_time.as_ref().map(|t| t.0));
        let series = object.series.as_ref();
        let last = series.and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
        let last = last.or(object.last_timestamp.as_ref().map(|t| t.0)).or(first);
        let count = series.and_then(|s| s.count).or(object.count).unwrap_or(1);
        let seen =
            if count > 1 { format!("{} (x{count} over {})", ago(last), ago(first)) } else { ago(last) };
        let about = &object.involved_object;
        let kind = about.kind.clone().unwrap_or_default().to_lowercase();
        let source = object.source.clone().unwrap_or_default();
        let source = match (source.component, source.host) {
            (Some(component), Some(host)) if !host.is_empty() => format!("{component}, {host}"),
            (component, _) => component.or(object.reporting_component.clone()).unwrap_or_default(),
        };
        vec![
            seen.into(),
            object.type_.clone().unwrap_or_default().into(),
            object.reason.clone().unwrap_or_default().into(),
            format!("{kind}/{}", about.name.as_deref().unwrap_or_default()).into(),
            about.field_path.clone().unwrap_or_default().into(),
            source.into(),
            object.message.as_deref().unwrap_or_default().trim().into(),
            ago(first).into(),
            count.into(),
            object.metadata.name.clone().unwrap_or_default().into(),
        ]
    }
}

/// The fields that both shapes have under different names: stored, then viewed.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

impl Kind for EventsEvent {
    type Object = events::Event;
    const SINGULAR: &'static str = "event";
    const CREATED_BY_UPDATE: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["ev"];
    const STORED_AS: Option<&'static str> = Some("events");

    fn default(object: &mut Value) {
        fill(object, "type", "Normal");
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        let about = &object["regarding"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        vec![
            ("regarding.kind", text(&about["kind"])),
            ("regarding.namespace", text(&about["namespace"])),
            ("regarding.name", text(&about["name"])),
            ("regarding.uid", text(&about["uid"])),
            ("regarding.apiVersion", text(&about["apiVersion"])),
            ("regarding.resourceVersion", text(&about["resourceVersion"])),
            ("regarding.fieldPath", text(&about["fieldPath"])),
            ("reason", text(&object["reason"])),
            ("reportingController", text(&object["reportingController"])),
            ("type", text(&object["type"])),
        ]
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(object: &events::Event, now: Timestamp) -> Vec<Value> {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        Self::to_stored(&mut value);
        match serde_json::from_value::<core::Event>(value) {
            Ok(stored) => Event::cells(&stored, now),
            Err(_) => vec![age_cell(&object.metadata, now)],
        }
    }

    fn to_stored(object: &mut Value) {
        rename(object, "v1", RENAMED.iter().map(|(stored, viewed)| (*viewed, *stored)));
    }

    fn from_stored(object: &mut Value) {
        rename(object, "events.k8s.io/v1", RENAMED.iter().copied());
    }
}

fn rename<'a>(object: &mut Value, api_version: &str, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
    fields.insert("apiVersion".into(), api_version.into());
}
