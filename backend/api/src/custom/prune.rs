//! What the server does to a custom object before it looks at it: fields that no schema names go, and what the client
//! left out is filled in.
use super::schema::{Additional, Schema};
use serde_json::Value;

/// The fields of `metadata`: others are not kept.
const METADATA_FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

fn is_identity(schema: &Schema, name: &str) -> bool {
    schema.is_embedded && matches!(name, "apiVersion" | "kind" | "metadata")
}

/// Drops fields that the schema does not know, and nulls where it allows none.
pub fn prune(schema: &Schema, value: &mut Value) {
    drop_nulls(schema, value);
    drop_unknown(Some(schema), value);
}

fn drop_unknown(schema: Option<&Schema>, value: &mut Value) {
    if let Some(schema) = schema.filter(|schema| schema.preserves_unknown_fields) {
        return drop_unknown_below(schema, value);
    }
    match value {
        Value::Object(fields) => {
            let keeps = |name: &str| {
                let additional = |schema: &Schema| schema.additional.is_some();
                schema.is_some_and(|schema| {
                    is_identity(schema, name) || schema.properties.contains_key(name) || additional(schema)
                })
            };
            fields.retain(|name, _| keeps(name));
            for (name, value) in fields {
                match schema {
                    Some(schema) if is_identity(schema, name) => prune_identity(name, value),
                    schema => drop_unknown(schema.and_then(|schema| schema.property(name)), value),
                }
            }
        }
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            items.iter_mut().for_each(|item| drop_unknown(schema, item));
        }
        _ => {}
    }
}

/// Under `x-kubernetes-preserve-unknown-fields` everything stays, but what is named is pruned by its own schema.
fn drop_unknown_below(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match schema.property(name) {
                    _ if is_identity(schema, name) => prune_identity(name, value),
                    Some(schema) => drop_unknown(Some(schema), value),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter_mut().for_each(|item| drop_unknown_below(schema, item));
            }
        }
        _ => {}
    }
}

fn prune_identity(name: &str, value: &mut Value) {
    if let (Value::Object(fields), "metadata") = (value, name) {
        fields.retain(|name, _| METADATA_FIELDS.contains(&name.as_str()));
    }
}

/// A null where none may stand means the same as nothing; where there is a default, that takes its place.
fn drop_nulls(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                let is_loose = |schema: &Schema| schema.is_nullable || schema.default.is_some();
                let may_be_null = || !is_identity(schema, name) && schema.property(name).is_none_or(is_loose);
                !value.is_null() || may_be_null()
            });
            for (name, value) in fields {
                match schema.property(name) {
                    _ if is_identity(schema, name) => crate::decode::prune_nulls(value),
                    Some(schema) => drop_nulls(schema, value),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(schema, item));
            }
        }
        _ => {}
    }
}

/// Fills in the defaults of the schema. Idempotent.
pub fn default(schema: &Schema, value: &mut Value) {
    let is_wrong_null = |schema: &Schema, value: &Value| value.is_null() && !schema.is_nullable;
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                let Some(wanted) = &property.default else { continue };
                if fields.get(name).is_none_or(|value| is_wrong_null(property, value)) {
                    fields.insert(name.clone(), wanted.clone());
                }
            }
            for (name, value) in fields {
                match (schema.properties.get(name), &schema.additional) {
                    (Some(schema), _) => default(schema, value),
                    (None, Some(Additional::Of(schema))) => {
                        if let (true, Some(wanted)) = (is_wrong_null(schema, value), &schema.default) {
                            *value = wanted.clone();
                        }
                        default(schema, value);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            for item in items {
                if let (true, Some(wanted)) = (is_wrong_null(schema, item), &schema.default) {
                    *item = wanted.clone();
                }
                default(schema, item);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_schema_knows_is_kept() {
        let schema = Schema::root(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"known": {"type": "object", "properties": {"x": {"type": "string"}}}}},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            }},
        }}));
        let mut object = json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "foo": 1, "labels": {"a": "b"}}, "extra": 1,
            "spec": {
                "a": "1", "b": "2", "map": {"k": {"x": "1", "y": "2"}}, "list": [{"x": "1", "y": 1}],
                "free": {"any": {"thing": 1}, "known": {"x": "1", "y": 2}},
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"y": 1}, "y": 1},
            },
        });
        prune(&schema, &mut object);
        let expected = json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "labels": {"a": "b"}},
            "spec": {
                "a": "1", "map": {"k": {"x": "1"}}, "list": [{"x": "1"}],
                "free": {"any": {"thing": 1}, "known": {"x": "1"}},
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
            },
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn defaults_fill_what_is_missing_or_a_null_that_may_not_be() {
        let schema = Schema::root(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "default": {}, "properties": {
                "a": {"type": "string", "default": "x"},
                "b": {"type": "string", "nullable": true, "default": "y"},
                "c": {"type": "string"},
                "d": {"type": "string", "nullable": true},
                "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            }},
        }}));
        let rows = [
            (json!({}), json!({"spec": {"a": "x", "b": "y"}})),
            (
                json!({"spec": {"a": null, "b": null, "c": null, "d": null, "list": [{}]}}),
                json!({"spec": {"a": "x", "b": null, "d": null, "list": [{"p": "TCP"}]}}),
            ),
            (json!({"spec": {"a": "z"}}), json!({"spec": {"a": "z", "b": "y"}})),
        ];
        for (mut object, expected) in rows {
            prune(&schema, &mut object);
            default(&schema, &mut object);
            assert_eq!(object, expected);
        }
    }
}
