//! OpenAPI: the document of every group version (v3) and the document of them all (v2), which `kubectl explain`,
//! `kubectl apply` and client generators read. They follow from the list of kinds, the schemas of their types and the
//! marks of their lists.
mod paths;
mod v2;
pub mod v2_protobuf;

use crate::kind::KindEntry;
use crate::marks::{self, ATOMIC_TYPES, KEY_DEFAULTS, ListType};
use crate::registry::Registry;
use k8s_openapi::api::{
    authentication::v1 as authentication, autoscaling::v1 as autoscaling, policy::v1 as policy,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

pub use v2::v2;
pub use v2_protobuf::v2_protobuf;

/// Where documents of v3 keep their schemas.
const COMPONENTS: &str = "#/components/schemas/";

type Components = BTreeMap<String, Value>;

/// Those of the built-in kinds take long to build and never change.
static BUILTIN: LazyLock<Components> = LazyLock::new(|| builtin_components(Registry::builtin().entries()));

/// Every schema of a built-in kind by its name (`io.k8s.api.apps.v1.Deployment`), with marks, in the form of OpenAPI v3.
fn builtin_components(entries: &[Arc<KindEntry>]) -> Components {
    let mut generator = generator();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<autoscaling::Scale>();
    generator.subschema_for::<policy::Eviction>();
    generator.subschema_for::<authentication::TokenRequest>();
    let schemas: Vec<Value> =
        entries.iter().map(|entry| entry.rules.schema(&mut generator).to_value()).collect();
    let mut components = finished(generator);
    insert_kinds(entries.iter().zip(schemas), &mut components);
    components
}

/// The schemas of custom kinds: they stand for themselves but for metadata.
fn custom_components(entries: &[&Arc<KindEntry>]) -> Components {
    let (mut generator, mut components) = (generator(), Components::new());
    let schemas: Vec<Value> =
        entries.iter().map(|entry| entry.rules.schema(&mut generator).to_value()).collect();
    insert_kinds(entries.iter().copied().zip(schemas), &mut components);
    components
}

fn insert_kinds<'a>(kinds: impl Iterator<Item = (&'a Arc<KindEntry>, Value)>, components: &mut Components) {
    for (entry, schema) in kinds {
        let name = schema_name(entry);
        if schema.get("$ref").is_none() {
            components.insert(name.clone(), schema);
        }
        components.insert(format!("{name}List"), list_schema(entry, &name));
        if let Some(schema) = components.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = json!([gvk(entry)]);
        }
    }
}

fn generator() -> SchemaGenerator {
    SchemaSettings::openapi3().into_generator()
}

fn finished(mut generator: SchemaGenerator) -> BTreeMap<String, Value> {
    let definitions = generator.take_definitions(true);
    let mut components: BTreeMap<String, Value> = definitions.into_iter().collect();
    for (name, schema) in &mut components {
        special_type(name, schema);
        mark(&marked_name(name), schema);
    }
    components
}

/// The name of a kind's schema: that of its Go package, or for a custom resource its group backwards.
pub fn schema_name(entry: &KindEntry) -> String {
    let KindEntry { group, version, kind, .. } = entry;
    let short = group.split('.').next().unwrap_or_default();
    match group.as_str() {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        "metrics.k8s.io" if !entry.rules.is_custom() => {
            format!("io.k8s.metrics.pkg.apis.metrics.{version}.{kind}")
        }
        group if !entry.rules.is_custom() && group.ends_with(".k8s.io") || !group.contains('.') => {
            format!("io.k8s.api.{short}.{version}.{kind}")
        }
        group => {
            let backwards: Vec<&str> = group.rsplit('.').collect();
            format!("{}.{version}.{kind}", backwards.join("."))
        }
    }
}

/// `io.k8s.api.core.v1.PodSpec` is `core.v1.PodSpec` in the marks.
fn marked_name(schema_name: &str) -> String {
    let parts: Vec<&str> = schema_name.rsplitn(4, '.').take(3).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(".")
}

fn gvk(entry: &KindEntry) -> Value {
    json!({"group": entry.group, "version": entry.version, "kind": entry.kind})
}

/// Types that are written otherwise than as the struct they are.
fn special_type(name: &str, schema: &mut Value) {
    let one_of = match name.rsplit('.').next() {
        Some("Quantity") => json!([{"type": "string"}, {"type": "number"}]),
        Some("IntOrString") => {
            schema["format"] = "int-or-string".into();
            json!([{"type": "integer"}, {"type": "string"}])
        }
        _ => return,
    };
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("x-kubernetes-int-or-string");
        fields.insert("oneOf".into(), one_of);
    }
}

fn mark(type_name: &str, schema: &mut Value) {
    if ATOMIC_TYPES.contains(&type_name) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if let Some((.., default)) = KEY_DEFAULTS.iter().find(|(of, key, _)| *of == type_name && key == field)
        {
            property["default"] = (*default).into();
        }
        if let (Some(marks), Some(property)) = (marks::marks(type_name, field), property.as_object_mut()) {
            mark_property(marks, property);
        }
    }
}

fn mark_property(marks: &marks::Field, property: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Value| {
        if value != "" {
            property.insert(format!("x-kubernetes-{name}"), value);
        }
    };
    match marks.list {
        None => {}
        Some(ListType::Atomic) => set("list-type", "atomic".into()),
        Some(ListType::Set) => set("list-type", "set".into()),
        Some(ListType::Map(keys)) => {
            set("list-type", "map".into());
            set("list-map-keys", json!(keys));
        }
    }
    set("map-type", marks.map_type.into());
    set("patch-strategy", marks.patch_strategy().into());
    set("patch-merge-key", marks.merge_key.unwrap_or_default().into());
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{COMPONENTS}{name}")})
}

fn list_schema(entry: &KindEntry, name: &str) -> Value {
    let KindEntry { group, version, kind, .. } = entry;
    json!({
        "description": format!("{kind}List is a list of {kind}."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."},
            "kind": {"type": "string", "description": "Kind is a string value representing the REST resource this object represents."},
            "items": {"type": "array", "description": format!("The objects, each a {kind}."), "items": reference(name)},
            "metadata": {"description": "Standard list metadata.", "allOf": [reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")]},
        },
        "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": format!("{kind}List")}],
    })
}

/// The group versions that have a document, as `/openapi/v3` lists them: `api/v1`, `apis/apps/v1`.
pub fn group_versions(registry: &Registry) -> BTreeSet<String> {
    registry.entries().iter().map(|entry| prefix(entry)).collect()
}

fn prefix(entry: &KindEntry) -> String {
    match entry.group.as_str() {
        "" => format!("api/{}", entry.version),
        group => format!("apis/{group}/{}", entry.version),
    }
}

/// The kinds of one group version (`apis/apps/v1`).
pub fn entries_of(registry: &Registry, group_version: &str) -> Vec<Arc<KindEntry>> {
    registry.entries().iter().filter(|entry| prefix(entry) == group_version).cloned().collect()
}

/// The kinds of every group version that has a document.
pub fn grouped(registry: &Registry) -> BTreeMap<String, Vec<Arc<KindEntry>>> {
    let mut groups: BTreeMap<String, Vec<Arc<KindEntry>>> = BTreeMap::new();
    for entry in registry.entries() {
        groups.entry(prefix(entry)).or_default().push(entry.clone());
    }
    groups
}

/// The OpenAPI v3 documents by group version (`apis/apps/v1`).
pub fn v3(registry: &Registry) -> BTreeMap<String, Value> {
    let paths = group_versions(registry).into_iter();
    paths.filter_map(|path| Some((path.clone(), document(registry, &path)?))).collect()
}

/// The OpenAPI v3 document of one group version (`apis/apps/v1`), with the schemas it needs. None: nothing is served
/// there.
pub fn document(registry: &Registry, group_version: &str) -> Option<Value> {
    document_of(group_version, &entries_of(registry, group_version))
}

/// As [`document`], of the kinds that are there.
pub fn document_of(group_version: &str, entries: &[Arc<KindEntry>]) -> Option<Value> {
    if entries.is_empty() {
        return None;
    }
    let custom: Vec<&Arc<KindEntry>> = entries.iter().filter(|e| e.rules.is_custom()).collect();
    let custom = custom_components(&custom);
    let find = |name: &str| custom.get(name).or_else(|| BUILTIN.get(name));
    let mut paths = Map::new();
    let mut needed = BTreeSet::new();
    for entry in entries {
        paths::insert(entry, group_version, &mut paths);
        reach(&schema_name(entry), find, &mut needed);
    }
    for name in references(&Value::Object(paths.clone())) {
        reach(&name, find, &mut needed);
    }
    let schemas: Map<String, Value> =
        needed.into_iter().filter_map(|name| Some((name.clone(), find(&name)?.clone()))).collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Pilothouse", "version": "v1.36.0"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header",
                "description": "Bearer Token authentication"}},
        },
    }))
}

/// The schema of a kind with every reference put in its place: what expressions are checked against.
pub fn resolved(entry: &Arc<KindEntry>) -> Value {
    let custom = if entry.rules.is_custom() { custom_components(&[entry]) } else { Components::new() };
    let find = |name: &str| custom.get(name).or_else(|| BUILTIN.get(name));
    inlined(&reference(&schema_name(entry)), &find, &mut Vec::new())
}

/// A schema inside itself is cut off: there anything goes.
fn inlined<'a>(schema: &Value, find: &impl Fn(&str) -> Option<&'a Value>, open: &mut Vec<String>) -> Value {
    let target = schema["$ref"].as_str().or_else(|| match schema["allOf"].as_array().map(Vec::as_slice) {
        Some([one]) => one["$ref"].as_str(),
        _ => None,
    });
    if let Some(name) = target.and_then(|target| target.strip_prefix(COMPONENTS)) {
        let Some(found) = find(name).filter(|_| !open.iter().any(|other| other == name)) else {
            return json!({"x-kubernetes-preserve-unknown-fields": true});
        };
        open.push(name.to_owned());
        let found = inlined(found, find, open);
        open.pop();
        return found;
    }
    let mut schema = schema.clone();
    if schema["format"] == "int-or-string" {
        schema["x-kubernetes-int-or-string"] = true.into();
    }
    let is_bare = schema["properties"].is_null() && schema["additionalProperties"].is_null();
    if schema["type"] == "object" && is_bare {
        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    for (_, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        *property = inlined(property, find, open);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            schema[field] = inlined(&schema[field], find, open);
        }
    }
    schema
}

/// Adds `name` and all that its schema refers to.
fn reach<'a>(name: &str, find: impl Fn(&str) -> Option<&'a Value>, needed: &mut BTreeSet<String>) {
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        if let Some(schema) = find(&name)
            && needed.insert(name)
        {
            open.extend(references(schema));
        }
    }
}

/// The names of the schemas that a part of a document refers to.
fn references(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(COMPONENTS));
            names.extend(own.map(str::to_owned));
            fields.values().for_each(|value| names.extend(references(value)));
        }
        Value::Array(items) => items.iter().for_each(|item| names.extend(references(item))),
        _ => {}
    }
    names
}

#[cfg(test)]
mod tests;
