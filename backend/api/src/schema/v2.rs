//! The OpenAPI v2 document, made from those of v3: the same facts in the older form.
use super::{COMPONENTS, v3};
use crate::registry::Registry;
use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "#/definitions/";
const ANYTHING: &str = "x-kubernetes-preserve-unknown-fields";

/// One document for all groups.
pub fn v2(registry: &Registry) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for document in v3(registry).into_values() {
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            paths.insert(path.clone(), path_item(item));
        }
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            if !definitions.contains_key(name) {
                definitions.insert(name.clone(), definition(schema));
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Pilothouse", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header",
            "description": "Bearer Token authentication"}},
        "security": [{"BearerToken": []}],
    })
}

/// Of a kind whose objects may hold anything nothing is said: clients of v2 take what is not named for forbidden.
fn definition(schema: &Value) -> Value {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    if schema[ANYTHING] == true && !schema[KINDS].is_null() {
        return json!({"type": "object", KINDS: schema[KINDS]});
    }
    schema_of(schema)
}

/// v2 has no `oneOf`, and takes a description beside a reference.
fn schema_of(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut result = Map::new();
            let is_open = fields.get(ANYTHING).is_some_and(|open| *open == true);
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("properties" | "items", _) if is_open => {}
                    ("allOf", Value::Array(parts)) if parts.len() == 1 => {
                        if let Value::Object(part) = schema_of(&parts[0]) {
                            result.extend(part);
                        }
                    }
                    ("oneOf", Value::Array(parts)) => {
                        if is_text_or_number(parts) {
                            result.insert("type".into(), "string".into());
                        }
                    }
                    ("nullable" | "anyOf" | "not", _) => {}
                    ("$ref", Value::String(target)) => {
                        result.insert("$ref".into(), target.replace(COMPONENTS, DEFINITIONS).into());
                    }
                    _ => drop(result.insert(name.clone(), schema_of(value))),
                }
            }
            Value::Object(result)
        }
        Value::Array(items) => Value::Array(items.iter().map(schema_of).collect()),
        other => other.clone(),
    }
}

/// A quantity or a port by name or number: v2 calls both text.
fn is_text_or_number(parts: &[Value]) -> bool {
    parts.iter().any(|part| part["type"] == "string")
}

fn path_item(item: &Value) -> Value {
    let mut result = Map::new();
    for (name, value) in item.as_object().into_iter().flatten() {
        let value = match name.as_str() {
            "parameters" => Value::Array(value.as_array().into_iter().flatten().map(parameter).collect()),
            _ => operation(value),
        };
        result.insert(name.clone(), value);
    }
    Value::Object(result)
}

fn operation(operation: &Value) -> Value {
    let mut result = operation.as_object().cloned().unwrap_or_default();
    let mut parameters: Vec<Value> =
        operation["parameters"].as_array().into_iter().flatten().map(parameter).collect();
    if let Some(body) = result.remove("requestBody") {
        let mut types: Vec<String> =
            body["content"].as_object().into_iter().flatten().map(|(t, _)| t.clone()).collect();
        let schema =
            body["content"].as_object().and_then(|c| c.values().next()).map(|c| schema_of(&c["schema"]));
        let mut parameter = json!({"name": "body", "in": "body", "schema": schema});
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
        types.sort();
        result.insert("consumes".into(), types.into());
    }
    result.insert("parameters".into(), parameters.into());
    result.insert("produces".into(), json!(["application/json", "application/yaml"]));
    result.insert("schemes".into(), json!(["https"]));
    for response in
        result.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten().map(|(_, r)| r)
    {
        let content = response.as_object_mut().and_then(|fields| fields.remove("content"));
        if let Some(schema) = content.as_ref().and_then(|c| c.get("application/json")) {
            response["schema"] = schema_of(&schema["schema"]);
        }
    }
    Value::Object(result)
}

/// In v2 the type stands beside the name.
fn parameter(parameter: &Value) -> Value {
    let mut result = parameter.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(schema)) = result.remove("schema") {
        result.extend(schema);
    }
    Value::Object(result)
}
