//! Kinds that users bring: what a CustomResourceDefinition becomes in the registry.
//! Follows Kubernetes' "Extend the Kubernetes API with CustomResourceDefinitions".
pub mod definition;
pub(crate) mod formats;
mod prune;
mod rules;
pub mod schema;
mod validate;

use crate::json_path::JsonPath;
use crate::kind::{Column, KindEntry, Rules, Scope, Subresource, TypeError, Verb, type_error};
use crate::marks::TypeRef;
use crate::meta;
use crate::scale::{LabelSelectorSource, ScalePaths};
use crate::validation::FieldErrors;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use schema::Schema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// The entries of a definition, one a version, the stored version first. None are there before its names are accepted.
pub fn entries(definition: &Value) -> Vec<KindEntry> {
    if !definition::is(definition, "Established") {
        return Vec::new();
    }
    let versions = definition["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let (stored, others): (Vec<&Value>, Vec<&Value>) = versions.iter().partition(|v| v["storage"] == true);
    let offered = others.into_iter().filter(|version| version["served"] == true);
    stored.into_iter().chain(offered).map(|version| entry(definition, version)).collect()
}

fn entry(definition: &Value, version: &Value) -> KindEntry {
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let group = text(&spec["group"]);
    let resource: Arc<str> = format!("{}.{group}", text(&names["plural"])).into();
    let is_terminating = definition::is(definition, "Terminating");
    let sub = &version["subresources"];
    let (version_name, kind) = (text(&version["name"]), text(&names["kind"]));
    let mut subresources = Vec::new();
    if sub["status"].is_object() {
        subresources.push(Subresource {
            name: "status".into(),
            group: group.clone().into(),
            version: version_name.clone().into(),
            kind: kind.clone().into(),
            verbs: READ_WRITE,
        });
    }
    let scale = scale_paths(&sub["scale"]);
    if scale.is_some() {
        subresources.push(crate::kinds::support::SCALE);
    }
    KindEntry {
        version: version_name,
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        short_names: definition::strings(&names["shortNames"]),
        categories: definition::strings(&names["categories"]),
        scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        // What is on its way out takes nothing new.
        verbs: Verb::ALL.iter().copied().filter(|verb| *verb != Verb::Create || !is_terminating).collect(),
        subresources,
        has_generation: true,
        is_served: version["served"] == true,
        scale,
        stored_as: resource.clone(),
        resource,
        rules: Arc::new(CustomRules::new(version, &kind)),
        group,
        kind,
    }
}

fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    let path = |field: &str| JsonPath::parse(scale[field].as_str()?).ok();
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        label_selector: path("labelSelectorPath")
            .map_or(LabelSelectorSource::None, LabelSelectorSource::Text),
    })
}

/// [`Rules`] of one version of a custom kind.
struct CustomRules {
    kind: String,
    schema: Schema,
    /// As it was sent, for what reads the marks of lists and for OpenAPI.
    json: Value,
    columns: Vec<(Column, JsonPath)>,
    selectable: Vec<(String, JsonPath)>,
}

impl CustomRules {
    fn new(version: &Value, kind: &str) -> Self {
        let mut json = version["schema"]["openAPIV3Schema"].clone();
        if let Some(fields) = json.as_object_mut() {
            // The root is an object with metadata, though nobody writes that down.
            fields.insert("x-kubernetes-embedded-resource".into(), true.into());
        }
        let selectable = version["selectableFields"].as_array().into_iter().flatten();
        let selectable = selectable.filter_map(|field| {
            let path = field["jsonPath"].as_str()?;
            Some((path.trim_start_matches('.').to_owned(), JsonPath::parse(path).ok()?))
        });
        Self {
            kind: kind.to_owned(),
            schema: Schema::root(&json),
            columns: columns(&version["additionalPrinterColumns"]),
            selectable: selectable.collect(),
            json,
        }
    }

    fn check(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let mut own = FieldErrors::default();
        validate::validate(&self.schema, object, old, &mut own);
        let is_blocked = own.as_slice().iter().any(validate::blocks_rules);
        for error in own.as_slice() {
            errors.add(error.clone());
        }
        match is_blocked {
            true if self.schema.has_rules() => errors.add(validate::rules_not_checked()),
            true => {}
            false => rules::check(&self.schema, object, old, errors),
        }
    }
}

fn columns(additional: &Value) -> Vec<(Column, JsonPath)> {
    let age = json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    let additional = if additional.as_array().is_some_and(|a| !a.is_empty()) { additional } else { &age };
    let read = |column: &Value| {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let path = JsonPath::parse(column["jsonPath"].as_str()?).ok()?;
        let column = Column {
            name: text("name"),
            r#type: text("type"),
            format: text("format"),
            description: text("description"),
            priority: column["priority"].as_i64().unwrap_or(0) as i32,
        };
        Some((column, path))
    };
    additional.as_array().into_iter().flatten().filter_map(read).collect()
}

fn cell(column: &Column, path: &JsonPath, object: &Value, now: Timestamp) -> Value {
    let found = path.find(object);
    let Some(first) = found.first() else { return Value::Null };
    match column.r#type.as_str() {
        "date" => match first.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
            Some(time) => match now.as_second() - time.as_second() {
                ..-1 => "<invalid>".into(),
                seconds => meta::human_duration(seconds.max(0)).into(),
            },
            None => "<invalid>".into(),
        },
        "integer" => first.as_f64().map_or(Value::Null, |number| (number as i64).into()),
        "number" | "boolean" => Value::clone(first),
        _ => {
            let texts = found.iter().map(|value| match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            });
            texts.collect::<Vec<_>>().join(" ").into()
        }
    }
}

/// What every object has, for finding fields of the wrong type in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    metadata: Option<ObjectMeta>,
}

impl Rules for CustomRules {
    fn default(&self, object: &mut Value) {
        prune::default(&self.schema, object);
    }
    fn before_create(&self, _object: &mut Value) {}
    fn before_update(&self, _object: &mut Value, _old: &Value) {}
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        self.check(object, None, errors);
    }
    fn validate_update(&self, object: &Value, old: &Value, errors: &mut FieldErrors) {
        self.check(object, Some(old), errors);
    }
    fn validate_status(&self, object: &Value, old: &Value, errors: &mut FieldErrors) {
        self.check(object, Some(old), errors);
    }
    fn validate_name(&self, name: &str) -> Result<(), String> {
        meta::dns_subdomain(name)
    }
    fn selectable_fields(&self, object: &Value) -> Vec<(String, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let fields = self.selectable.iter();
        fields.map(|(name, path)| (name.clone(), path.first(object).map(text).unwrap_or_default())).collect()
    }
    fn columns(&self) -> Vec<Column> {
        let name = Column::new("Name", "string");
        std::iter::once(name).chain(self.columns.iter().map(|(column, _)| column.clone())).collect()
    }
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let additional = self.columns.iter().map(|(column, path)| cell(column, path, object, now));
        std::iter::once(meta::name(object).into()).chain(additional).collect()
    }
    fn to_stored(&self, _object: &mut Value) {}
    fn from_stored(&self, object: &mut Value) {
        prune::prune(&self.schema, object);
        prune::default(&self.schema, object);
    }
    fn normalized(&self, object: &Value) -> Option<Value> {
        let mut known = object.clone();
        prune::prune(&self.schema, &mut known);
        if let Some(metadata) = known.get_mut("metadata") {
            let typed = ObjectMeta::deserialize(&*metadata).ok()?;
            *metadata = serde_json::to_value(typed).ok()?;
        }
        Some(known)
    }
    fn type_error(&self, object: &Value) -> Option<TypeError> {
        let identity = |name: &&str| object.get(*name).is_some_and(|value| !value.is_null());
        let head = ["apiVersion", "kind", "metadata"].into_iter().filter(identity);
        let head: Value = head.map(|name| (name.to_owned(), object[name].clone())).collect();
        let decode = |value: &Value| Head::deserialize(value).map(|head| drop(head.metadata));
        let error = decode(&head).err()?;
        Some(type_error::find(&self.kind, &head, error, &decode))
    }
    fn type_ref(&self) -> TypeRef<'_> {
        TypeRef::Schema(&self.json)
    }
    fn prune(&self, object: &mut Value) {
        prune::prune(&self.schema, object);
    }
    fn is_custom(&self) -> bool {
        true
    }
    fn schema(&self, _generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut json = self.json.clone();
        if let Some(fields) = json.as_object_mut() {
            fields.remove("x-kubernetes-embedded-resource");
        }
        if json["properties"].is_null() {
            json["properties"] = json!({});
        }
        let reference =
            json!([{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]);
        for (field, schema) in [
            (
                "apiVersion",
                json!({"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."}),
            ),
            (
                "kind",
                json!({"type": "string", "description": "Kind is a string value representing the REST resource this object represents."}),
            ),
            ("metadata", json!({"description": "Standard object's metadata.", "allOf": reference})),
        ] {
            json["properties"][field] = schema;
        }
        schemars::Schema::try_from(json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
