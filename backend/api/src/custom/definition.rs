//! What a CustomResourceDefinition may say of its kind: structural schemas, columns, selectable fields, subresources.
//! Follows Kubernetes' rules and words.
use super::schema::{self, Schema};
use super::{prune, rules, validate};
use crate::json_path::JsonPath;
use crate::validation::{FieldErrors, Path};
use serde_json::{Value, json};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Kubernetes' limit of fields that one kind offers to field selectors.
const MAX_SELECTABLE_FIELDS: usize = 8;
/// What OpenAPI knows and structural schemas do not.
const UNSUPPORTED: [&str; 5] = ["$ref", "id", "definitions", "dependencies", "patternProperties"];
/// What only the structure may say, not the parts under `allOf`, `anyOf`, `oneOf` and `not`, and how they must be there.
const STRUCTURE_ONLY: [(&str, &str); 13] = [
    ("type", "empty"),
    ("additionalProperties", "undefined"),
    ("default", "undefined"),
    ("description", "empty"),
    ("nullable", "false"),
    ("title", "empty"),
    ("x-kubernetes-embedded-resource", "false"),
    ("x-kubernetes-int-or-string", "false"),
    ("x-kubernetes-list-map-keys", "empty"),
    ("x-kubernetes-list-type", "undefined"),
    ("x-kubernetes-map-type", "undefined"),
    ("x-kubernetes-preserve-unknown-fields", "false"),
    ("x-kubernetes-validations", "empty"),
];
/// Deeper schemas would make walks overflow the stack.
const MAX_DEPTH: usize = 64;

/// Whether a condition of the definition holds.
pub fn is(definition: &Value, condition: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

pub fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Checks one of `spec.versions`.
pub fn validate_version(version: &Value, path: &Path, errors: &mut FieldErrors) {
    let schema = &version["schema"]["openAPIV3Schema"];
    let schema_path = path.child("schema").child("openAPIV3Schema");
    if schema.is_object() {
        let before = errors.as_slice().len();
        validate_schema(schema, &schema_path, Place::Root, errors, 0);
        if errors.as_slice().len() == before {
            let compiled = Schema::root(schema);
            validate_defaults(&compiled, schema, &schema_path, errors);
            rules::validate_rules(&compiled, schema, &schema_path, errors);
        }
    }
    validate_columns(&version["additionalPrinterColumns"], &path.child("additionalPrinterColumns"), errors);
    validate_selectable(version, &path.child("selectableFields"), errors);
    validate_scale(&version["subresources"]["scale"], &path.child("subresources").child("scale"), errors);
}

/// Checks what the rules of one of `spec.versions` may cost. A schema that is in use already is not judged again.
pub fn validate_costs(version: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("schema").child("openAPIV3Schema");
    rules::validate_costs(&Schema::root(&version["schema"]["openAPIV3Schema"]), &path, errors);
}

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Field,
    Items,
    /// Under `allOf` and its like.
    Checks,
    /// The first under `allOf`.
    FirstCheck,
}

fn validate_schema(schema: &Value, path: &Path, place: Place, errors: &mut FieldErrors, depth: usize) {
    if depth > MAX_DEPTH {
        return errors.forbidden(path, "the schema nests too deep");
    }
    for field in UNSUPPORTED {
        if !schema[field].is_null() {
            errors.forbidden(&path.child(field), format!("{field} is not supported"));
        }
    }
    if schema["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), why);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = schema::pattern_of(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.invalid(&path.child("pattern"), pattern, why);
    }
    match place {
        Place::Checks | Place::FirstCheck => {
            for (field, how) in STRUCTURE_ONLY.iter().filter(|(field, _)| !schema[*field].is_null()) {
                errors.forbidden(&path.child(field), format!("must be {how} to be structural"));
            }
            if !schema["properties"]["metadata"].is_null() {
                let why = "must not be specified in a nested context";
                errors.forbidden(&path.child("properties").key("metadata"), why);
            }
        }
        place => validate_structure(schema, path, place, errors),
    }
    let is_check = matches!(place, Place::Checks | Place::FirstCheck);
    let may_be_idiom = place != Place::Checks;
    let of_child = |child: Place| if is_check { Place::Checks } else { child };
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let place = of_child(Place::Field);
        validate_schema(schema, &path.child("properties").key(name), place, errors, depth + 1);
    }
    if schema["additionalProperties"].is_object() {
        let (schema, path) = (&schema["additionalProperties"], path.child("additionalProperties"));
        validate_schema(schema, &path, of_child(Place::Field), errors, depth + 1);
    }
    if schema["items"].is_object() {
        let place = of_child(Place::Items);
        validate_schema(&schema["items"], &path.child("items"), place, errors, depth + 1);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        if field == "anyOf" && may_be_idiom && is_int_or_string_idiom(schema) {
            continue;
        }
        for (index, schema) in schema[field].as_array().into_iter().flatten().enumerate() {
            let place = if field == "allOf" && index == 0 { Place::FirstCheck } else { Place::Checks };
            validate_schema(schema, &path.child(field).index(index), place, errors, depth + 1);
        }
    }
    if schema["not"].is_object() {
        validate_schema(&schema["not"], &path.child("not"), Place::Checks, errors, depth + 1);
    }
}

/// `anyOf: [{type: integer}, {type: string}]` says in OpenAPI what `x-kubernetes-int-or-string` says.
fn is_int_or_string_idiom(schema: &Value) -> bool {
    schema["anyOf"] == json!([{"type": "integer"}, {"type": "string"}])
}

fn validate_structure(schema: &Value, path: &Path, place: Place, errors: &mut FieldErrors) {
    let flag = |field: &str| schema[field] == true;
    let of = schema["type"].as_str().unwrap_or_default();
    let (int_or_string, preserves) =
        (flag("x-kubernetes-int-or-string"), flag("x-kubernetes-preserve-unknown-fields"));
    match of {
        "" if int_or_string || (preserves && place != Place::Root) => {}
        "" => {
            let at = match place {
                Place::Root => "at the root",
                Place::Items => "for specified array items",
                _ => "for specified object fields",
            };
            errors.required(&path.child("type"), format!("must not be empty {at}"));
        }
        of if int_or_string => {
            errors.invalid(&path.child("type"), of, "must be empty if x-kubernetes-int-or-string is true");
        }
        of if place == Place::Root && of != "object" => {
            errors.invalid(&path.child("type"), of, "must be object at the root");
        }
        of if !TYPES.contains(&of) => errors.not_supported(&path.child("type"), of, &TYPES),
        _ => {}
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&path, false, "must be true or undefined");
    }
    if int_or_string && preserves {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&path, true, "must be false if x-kubernetes-int-or-string is true");
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() && place == Place::Root {
        errors.forbidden(&path.child("additionalProperties"), "must not be used at the root");
    }
    if *additional == false {
        let why = "additionalProperties cannot be set to false";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    if additional.is_object() && schema["properties"].as_object().is_some_and(|p| !p.is_empty()) {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    if of == "array" && schema["items"].is_null() && place != Place::Root {
        errors.required(&path.child("items"), "must be specified");
    }
    if schema["items"].is_array() {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if flag("x-kubernetes-embedded-resource") {
        let marker = path.child("x-kubernetes-embedded-resource");
        if of != "object" {
            errors.invalid(
                &path.child("type"),
                of,
                "must be object if x-kubernetes-embedded-resource is true",
            );
        }
        let is_empty = schema["properties"].as_object().is_none_or(serde_json::Map::is_empty);
        if !preserves && is_empty && place != Place::Root {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                       x-kubernetes-preserve-unknown-fields";
            errors.required(&path.child("properties"), why);
        }
        if place == Place::Root {
            errors.forbidden(&marker, "must not be true at the root");
        }
    }
    validate_metadata(schema, path, place, errors);
    validate_list(schema, path, of, errors);
}

/// The server knows what metadata is; a schema may only narrow the name.
fn validate_metadata(schema: &Value, path: &Path, place: Place, errors: &mut FieldErrors) {
    let is_resource = place == Place::Root || schema["x-kubernetes-embedded-resource"] == true;
    let metadata = &schema["properties"]["metadata"];
    if !is_resource || !metadata.is_object() {
        return;
    }
    let path = path.child("properties").key("metadata");
    if metadata["type"] != "object" {
        let found = metadata["type"].as_str().unwrap_or_default();
        errors.invalid(&path.child("type"), found, "must be object");
    }
    let names = metadata["properties"].as_object().into_iter().flatten();
    for (name, _) in names.filter(|(name, _)| !matches!(name.as_str(), "name" | "generateName")) {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&path.child("properties").key(name), why);
    }
}

fn validate_list(schema: &Value, path: &Path, of: &str, errors: &mut FieldErrors) {
    let keys = strings(&schema["x-kubernetes-list-map-keys"]);
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if let Some(list) = schema["x-kubernetes-list-type"].as_str() {
        let path = path.child("x-kubernetes-list-type");
        if !matches!(list, "atomic" | "set" | "map") {
            errors.not_supported(&path, list, &["atomic", "map", "set"]);
        }
        if of != "array" {
            errors.invalid(&path, of, "must be array if x-kubernetes-list-type is specified");
        }
    }
    match schema["x-kubernetes-list-type"] == "map" {
        true if keys.is_empty() => {
            errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
        }
        false if !keys.is_empty() => {
            errors.forbidden(&keys_path, "must be empty if x-kubernetes-list-type is not map");
        }
        true => {
            let (items, path) = (&schema["items"], path.child("items"));
            let required = strings(&items["required"]);
            for key in keys {
                let property = &items["properties"][&key];
                let place = path.child("properties").key(&key);
                if !property.is_object() {
                    errors.invalid(&keys_path, key.as_str(), "entries must all be names of item properties");
                } else if property["default"].is_null() && !required.contains(&key) {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                               required property";
                    errors.required(&place.child("default"), why);
                }
            }
        }
        false => {}
    }
    if let Some(map) = schema["x-kubernetes-map-type"].as_str() {
        let path = path.child("x-kubernetes-map-type");
        if !matches!(map, "atomic" | "granular") {
            errors.not_supported(&path, map, &["atomic", "granular"]);
        }
        if of != "object" {
            errors.invalid(&path, of, "must be object if x-kubernetes-map-type is specified");
        }
    }
}

/// A default must be as the schema wants values to be.
fn validate_defaults(schema: &Schema, json: &Value, path: &Path, errors: &mut FieldErrors) {
    if let Some(default) = &schema.default {
        let path = path.child("default");
        let mut pruned = default.clone();
        prune::prune(schema, &mut pruned);
        if pruned != *default {
            errors.invalid(&path, default.clone(), "must not have unknown fields");
        }
        prune::default(schema, &mut pruned);
        let mut found = FieldErrors::default();
        validate::validate(schema, &pruned, None, &mut found);
        for mut error in found.as_slice().iter().cloned() {
            error.field = match error.field.as_str() {
                "" | "<nil>" => path.to_string(),
                below if below.starts_with('[') => format!("{path}{below}"),
                below => format!("{path}.{below}"),
            };
            errors.add(error);
        }
    }
    for (name, schema) in &schema.properties {
        let path = path.child("properties").key(name);
        validate_defaults(schema, &json["properties"][name], &path, errors);
    }
    if let Some(schema::Additional::Of(schema)) = &schema.additional {
        let path = path.child("additionalProperties");
        validate_defaults(schema, &json["additionalProperties"], &path, errors);
    }
    if let Some(items) = &schema.items {
        validate_defaults(items, &json["items"], &path.child("items"), errors);
    }
}

fn validate_columns(columns: &Value, path: &Path, errors: &mut FieldErrors) {
    for (index, column) in columns.as_array().into_iter().flatten().enumerate() {
        let path = path.index(index);
        let text = |field: &str| column[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            errors.required(&path.child("name"), "");
        }
        match text("type") {
            "" => {
                let why = format!("must be one of {}", COLUMN_TYPES.join(","));
                errors.required(&path.child("type"), why);
            }
            of if !COLUMN_TYPES.contains(&of) => {
                let why = format!("must be one of {}", COLUMN_TYPES.join(","));
                errors.invalid(&path.child("type"), of, why);
            }
            _ => {}
        }
        let format = text("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.invalid(&path.child("format"), format, why);
        }
        validate_path(text("jsonPath"), &path.child("jsonPath"), errors);
    }
}

fn validate_path(text: &str, path: &Path, errors: &mut FieldErrors) -> Option<JsonPath> {
    match text {
        "" => errors.required(path, ""),
        text if !text.starts_with('.') => {
            errors.invalid(path, text, "must be a simple json path starting with .");
        }
        text => match JsonPath::parse(text) {
            Ok(parsed) => return Some(parsed),
            Err(why) => errors.invalid(path, text, format!("is an invalid path: {why}")),
        },
    }
    None
}

fn validate_selectable(version: &Value, path: &Path, errors: &mut FieldErrors) {
    let fields = version["selectableFields"].as_array().map_or(&[][..], Vec::as_slice);
    if fields.len() > MAX_SELECTABLE_FIELDS {
        errors.too_many(path, fields.len(), MAX_SELECTABLE_FIELDS);
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let path = path.index(index).child("jsonPath");
        let text = field["jsonPath"].as_str().unwrap_or_default();
        let Some(parsed) = validate_path(text, &path, errors) else { continue };
        if !seen.insert(text) {
            errors.duplicate(&path, text);
        }
        let names = parsed.fields().unwrap_or_default();
        if names.first() == Some(&"metadata") {
            errors.invalid(&path, text, "must not point to fields in metadata");
            continue;
        }
        let root = &version["schema"]["openAPIV3Schema"];
        let found = names.iter().fold(root, |schema, name| &schema["properties"][*name]);
        let of = found["type"].as_str().unwrap_or_default();
        if names.is_empty() || !matches!(of, "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.invalid(&path, text, why);
        }
    }
}

fn validate_scale(scale: &Value, path: &Path, errors: &mut FieldErrors) {
    if !scale.is_object() {
        return;
    }
    let fields = [
        ("specReplicasPath", &[".spec"][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status"][..], "should be a json path under .status"),
        (
            "labelSelectorPath",
            &[".spec", ".status"][..],
            "should be a json path under either .spec or .status",
        ),
    ];
    for (field, roots, why) in fields {
        let path = path.child(field);
        let text = scale[field].as_str().unwrap_or_default();
        if text.is_empty() {
            if field != "labelSelectorPath" {
                errors.required(&path, "");
            }
            continue;
        }
        let is_below =
            roots.iter().any(|root| text.strip_prefix(root).is_some_and(|rest| rest.starts_with('.')));
        let is_simple = JsonPath::parse(text).is_ok_and(|path| path.fields().is_some());
        if !is_below || !is_simple {
            errors.invalid(&path, text, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(version: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate_version(&version, &Path::new("v"), &mut errors);
        let texts = errors.as_slice().iter().map(ToString::to_string);
        texts.map(|text| text.replace("v.schema.openAPIV3Schema", "s")).collect()
    }

    #[test]
    fn a_schema_must_be_structural() {
        let rows = [
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (json!({"type": "array"}), r#"s.type: Invalid value: "array": must be object at the root"#),
            (
                json!({"type": "object", "properties": {"a": {}}}),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array"}}}),
                "s.properties[a].items: Required value: must be specified",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array", "items": {}}}}),
                "s.properties[a].items.type: Required value: must not be empty for specified array items",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-int-or-string": true}}}),
                r#"s.properties[a].type: Invalid value: "string": must be empty if x-kubernetes-int-or-string is true"#,
            ),
            (
                json!({"type": "object", "anyOf": [{"description": "x"}]}),
                "s.anyOf[0].description: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}),
                "s.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s.properties[metadata].properties[labels]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
                r#"s.properties[a].default: Invalid value: "string":  in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}),
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ),
        ];
        for (schema, expected) in rows {
            assert_eq!(errors_of(json!({"schema": {"openAPIV3Schema": schema}})), [expected]);
        }
        let good = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^a$"},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}},
            "d": {"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer"}}},
        }}}});
        assert_eq!(errors_of(json!({"schema": {"openAPIV3Schema": good}})), Vec::<String>::new());
    }

    #[test]
    fn columns_selectable_fields_and_scale_must_lead_somewhere() {
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"color": {"type": "string"}, "o": {"type": "object"}}}}}});
        let rows = [
            (
                json!({"additionalPrinterColumns": [{"name": "A", "type": "text", "jsonPath": ".a"}]}),
                r#"v.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
            ),
            (
                json!({"additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": "a"}]}),
                r#"v.additionalPrinterColumns[0].jsonPath: Invalid value: "a": must be a simple json path starting with ."#,
            ),
            (
                json!({"selectableFields": [{"jsonPath": ".spec.o"}]}),
                "v.selectableFields[0].jsonPath: Invalid value: \".spec.o\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ),
            (
                json!({"subresources": {"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.y"}}}),
                r#"v.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
            ),
        ];
        for (mut version, expected) in rows {
            version["schema"] = schema.clone();
            assert_eq!(errors_of(version), [expected]);
        }
    }
}
