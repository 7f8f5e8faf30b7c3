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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_cell_for_every_column_and_the_metadata_of_its_object() {
        let registry = crate::Registry::builtin();
        let entry = registry.by_resource("configmaps").unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"},
            "metadata": {"name": "x", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
        });
        let table = table(entry, &[object], IncludeObject::Metadata, now, json!({"resourceVersion": "7"}));
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(table["rows"][0]["cells"], json!(["x", 1, "60s"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert!(table["rows"][0]["object"].get("data").is_none());
        assert_eq!(table["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for entry in crate::Registry::builtin().entries() {
            let object =
                json!({"apiVersion": entry.api_version(), "kind": entry.kind, "metadata": {"name": "x"}});
            let cells = entry.rules.cells(&object, Timestamp::UNIX_EPOCH).len();
            assert_eq!(cells, entry.rules.columns().len(), "{}", entry.resource);
        }
    }
}
