//! `meta.k8s.io/v1 Table`: what `kubectl get` asks for and prints.
use crate::kind::KindEntry;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// The `includeObject` query parameter.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// `objects` as a table; `list_meta` is the list's `metadata`.
pub fn table(
    entry: &KindEntry,
    objects: &[Value],
    include: IncludeObject,
    now: Timestamp,
    list_meta: Value,
) -> Value {
    let columns: Vec<Value> = entry
        .rules
        .columns()
        .into_iter()
        .map(|c| json!({"name": c.name, "type": c.r#type, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| json!({"cells": entry.rules.cells(object, now), "object": row_object(object, include)}))
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "columnDefinitions": columns, "rows": rows})
}

fn row_object(object: &Value, include: IncludeObject) -> Value {
    match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => object.clone(),
        IncludeObject::Metadata => partial_metadata(object),
    }
}

/// `PartialObjectMetadata`: an object without spec and status.
pub fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
