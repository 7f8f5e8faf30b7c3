//! Whether a custom object is as its schema says. Words the errors as Kubernetes' validator does, since people search
//! for them.
use super::formats;
use super::schema::{Additional, Checks, List, Schema};
use crate::validation::{FieldError, FieldErrorKind, FieldErrors, Path};
use serde_json::{Map, Number, Value};

/// All errors of `value`. What `old`, the same place before, had as well, is let pass: an object that became invalid
/// because its schema changed can still be written elsewhere.
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let mut found = Vec::new();
    walk(schema, value, old, &Path::default(), &mut found);
    check_lists(schema, value, old, &Path::default(), &mut found);
    found.into_iter().for_each(|error| errors.add(error));
}

/// Whether an object with this error is not what rules may look at: of the wrong type, or too large to be gone through.
pub fn blocks_rules(error: &FieldError) -> bool {
    use FieldErrorKind::*;
    matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

/// Said in place of what rules would have said.
pub fn rules_not_checked() -> FieldError {
    let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to \
                  complete validation";
    FieldError {
        kind: FieldErrorKind::Invalid,
        field: "<nil>".into(),
        value: Some(Value::Null),
        detail: detail.into(),
    }
}

type Errors = Vec<FieldError>;

fn add(errors: &mut Errors, kind: FieldErrorKind, path: &Path, value: Option<Value>, detail: String) {
    errors.push(FieldError { kind, field: path.to_string(), value, detail });
}

fn invalid(errors: &mut Errors, path: &Path, value: &Value, rule: String) {
    add(errors, FieldErrorKind::Invalid, path, Some(value.clone()), format!("{path} in body {rule}"));
}

/// An error about alternatives has no field of its own: Kubernetes names none.
fn undecided(errors: &mut Errors, detail: String) {
    errors.push(FieldError {
        kind: FieldErrorKind::Invalid,
        field: "<nil>".into(),
        value: Some("".into()),
        detail,
    });
}

fn walk(schema: &Schema, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    if old == Some(value) {
        return;
    }
    let before = errors.len();
    check_type(schema, value, path, errors);
    if errors.len() > before || value.is_null() {
        if value.is_null() && !schema.is_nullable {
            check_enum(&schema.checks, value, path, errors);
        }
        return;
    }
    check_alternatives(&schema.checks, value, old, path, errors);
    match value {
        Value::String(text) => check_text(&schema.checks, text, value, path, errors),
        Value::Number(number) => check_number(schema, number, value, path, errors),
        Value::Array(items) => check_items(schema, items, value, old, path, errors),
        _ => {}
    }
    check_enum(&schema.checks, value, path, errors);
    if let Value::Object(fields) = value {
        check_fields(schema, fields, value, old, path, errors);
    }
}

fn check_type(schema: &Schema, value: &Value, path: &Path, errors: &mut Errors) {
    let found = type_of(value);
    let fits = match (schema.of.as_str(), found) {
        (of, "null") if schema.is_nullable || of.is_empty() => true,
        ("", "integer" | "string") => true,
        ("", _) => !schema.is_int_or_string,
        ("number", "integer") => true,
        (wanted, found) => wanted == found,
    };
    if !fits {
        let wanted = if schema.is_int_or_string { "integer,string" } else { schema.of.as_str() };
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        add(errors, FieldErrorKind::TypeInvalid, path, Some(found.into()), detail);
    }
}

/// JSON Schema's name of a value's type.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_integer(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_integer(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9e15)
}

fn check_alternatives(checks: &Checks, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    let errors_of = |schema: &Schema| {
        let mut errors = Vec::new();
        walk(schema, value, old, path, &mut errors);
        errors
    };
    let place = path.to_string();
    if !checks.any_of.is_empty() {
        let failures: Vec<Errors> = checks.any_of.iter().map(errors_of).collect();
        if failures.iter().all(|errors| !errors.is_empty()) {
            undecided(errors, format!("{place:?} must validate at least one schema (anyOf)"));
            errors.extend(failures.into_iter().min_by_key(Vec::len).into_iter().flatten());
        }
    }
    if !checks.one_of.is_empty() {
        let failures: Vec<Errors> = checks.one_of.iter().map(errors_of).collect();
        let valid = failures.iter().filter(|errors| errors.is_empty()).count();
        if valid != 1 {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                valid => format!("Found {valid} valid alternatives"),
            };
            undecided(errors, format!("{place:?} must validate one and only one schema (oneOf). {found}"));
            let best = failures.into_iter().filter(|errors| !errors.is_empty()).min_by_key(Vec::len);
            errors.extend(best.into_iter().flatten());
        }
    }
    let before = errors.len();
    checks.all_of.iter().for_each(|schema| errors.extend(errors_of(schema)));
    if errors.len() > before {
        undecided(errors, format!("{place:?} must validate all the schemas (allOf)"));
    }
    if checks.not.as_deref().is_some_and(|schema| errors_of(schema).is_empty()) {
        undecided(errors, format!("{place:?} must not validate the schema (not)"));
    }
}

fn check_text(checks: &Checks, text: &str, value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(most) = checks.max_length
        && text.chars().count() as u64 > most
    {
        add(errors, FieldErrorKind::TooLong, path, None, format!("may not be more than {most} bytes"));
    }
    if let Some(least) = checks.min_length
        && (text.chars().count() as u64) < least
    {
        invalid(errors, path, value, format!("should be at least {least} chars long"));
    }
    if let Some((pattern, regex)) = &checks.pattern
        && !regex.is_match(text)
    {
        invalid(errors, path, value, format!("should match '{pattern}'"));
    }
    if !formats::fits(&checks.format, text) {
        let detail = format!("{path} in body must be of type {}: {text:?}", checks.format);
        add(errors, FieldErrorKind::TypeInvalid, path, Some(value.clone()), detail);
    }
}

fn check_number(schema: &Schema, number: &Number, value: &Value, path: &Path, errors: &mut Errors) {
    let (checks, Some(n)) = (&schema.checks, number.as_f64()) else { return };
    let is_in_range = match checks.format.as_str() {
        "int32" => (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&n),
        "int64" => number.is_i64() || !number.is_u64(),
        _ => true,
    };
    if !is_in_range {
        let (of, format) = (&schema.of, &checks.format);
        let detail = format!("Checked value must be of type {of} with format {format}");
        add(errors, FieldErrorKind::Invalid, path, Some(value.clone()), detail);
    }
    if let Some(factor) = checks.multiple_of
        && factor > 0.0
        && (n / factor).fract() != 0.0
    {
        invalid(errors, path, value, format!("should be a multiple of {factor}"));
    }
    match checks.maximum {
        Some(most) if checks.exclusive_maximum && n >= most => {
            invalid(errors, path, value, format!("should be less than {most}"));
        }
        Some(most) if n > most => {
            invalid(errors, path, value, format!("should be less than or equal to {most}"))
        }
        _ => {}
    }
    match checks.minimum {
        Some(least) if checks.exclusive_minimum && n <= least => {
            invalid(errors, path, value, format!("should be greater than {least}"));
        }
        Some(least) if n < least => {
            invalid(errors, path, value, format!("should be greater than or equal to {least}"))
        }
        _ => {}
    }
}

fn check_enum(checks: &Checks, value: &Value, path: &Path, errors: &mut Errors) {
    let Some(allowed) = &checks.r#enum else { return };
    if allowed.iter().any(|other| is_same(other, value)) {
        return;
    }
    let shown: Vec<String> = allowed
        .iter()
        .map(|value| match value {
            Value::String(text) => format!("{text:?}"),
            other => format!("{:?}", other.to_string()),
        })
        .collect();
    let detail = format!("supported values: {}", shown.join(", "));
    add(errors, FieldErrorKind::NotSupported, path, Some(value.clone()), detail);
}

/// Equality of JSON values; `1` and `1.0` are one number.
pub fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| is_same(value, other)))
        }
        (a, b) => a == b,
    }
}

fn too_many(errors: &mut Errors, path: &Path, count: usize, most: u64) {
    let detail = format!("must have at most {most} items");
    add(errors, FieldErrorKind::TooMany, path, Some(count.into()), detail);
}

fn check_items(
    schema: &Schema,
    items: &[Value],
    value: &Value,
    old: Option<&Value>,
    path: &Path,
    errors: &mut Errors,
) {
    if let Some(least) = schema.checks.min_items
        && (items.len() as u64) < least
    {
        invalid(errors, path, value, format!("should have at least {least} items"));
    }
    if let Some(most) = schema.checks.max_items
        && items.len() as u64 > most
    {
        too_many(errors, path, items.len(), most);
    }
    let Some(of) = schema.items.as_deref() else { return };
    for (index, item) in items.iter().enumerate() {
        walk(of, item, old_item(&schema.list, item, index, old), &path.index(index), errors);
    }
}

/// The item of the list as it was that this one was before, where that can be told.
pub fn old_item<'a>(list: &List, item: &Value, index: usize, old: Option<&'a Value>) -> Option<&'a Value> {
    let old = old?.as_array()?;
    match list {
        List::Map(keys) => old.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key))),
        List::Set => old.iter().find(|other| *other == item),
        // Whether an item moved in an atomic list nobody can say: the one in its place counts if it is the same.
        List::Atomic => old.get(index).filter(|other| *other == item),
    }
}

fn check_fields(
    schema: &Schema,
    fields: &Map<String, Value>,
    value: &Value,
    old: Option<&Value>,
    path: &Path,
    errors: &mut Errors,
) {
    if let Some(least) = schema.checks.min_properties
        && (fields.len() as u64) < least
    {
        invalid(errors, path, value, format!("should have at least {least} properties"));
    }
    if let Some(most) = schema.checks.max_properties
        && fields.len() as u64 > most
    {
        too_many(errors, path, fields.len(), most);
    }
    for name in &schema.checks.required {
        if !fields.contains_key(name) {
            add(errors, FieldErrorKind::Required, &path.child(name), None, String::new());
        }
    }
    for (name, value) in fields {
        if let Some(schema) = schema.property(name) {
            walk(schema, value, old.and_then(|old| old.get(name)), &path.child(name), errors);
        }
    }
}

/// Duplicates in sets and keyed lists, and embedded objects without a type.
fn check_lists(schema: &Schema, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    if old == Some(value) {
        return;
    }
    match value {
        Value::Object(fields) => {
            if schema.is_embedded && !path.is_empty() {
                for name in ["apiVersion", "kind"] {
                    if fields.get(name).is_none_or(|text| text.as_str().is_none_or(str::is_empty)) {
                        let detail = "must not be empty".to_owned();
                        add(errors, FieldErrorKind::Required, &path.child(name), None, detail);
                    }
                }
            }
            for (name, value) in fields {
                let below = match (schema.properties.get(name), &schema.additional) {
                    (Some(schema), _) => (schema, path.child(name)),
                    (None, Some(Additional::Of(schema))) => (&**schema, path.key(name)),
                    _ => continue,
                };
                check_lists(below.0, value, old.and_then(|old| old.get(name)), &below.1, errors);
            }
        }
        Value::Array(items) => {
            check_duplicates(&schema.list, items, path, errors);
            let Some(of) = schema.items.as_deref() else { return };
            for (index, item) in items.iter().enumerate() {
                let old = old_item(&schema.list, item, index, old);
                check_lists(of, item, old, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn check_duplicates(list: &List, items: &[Value], path: &Path, errors: &mut Errors) {
    if *list == List::Atomic {
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let identity = match list {
            List::Map(keys) => {
                let keys = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Value::Object(keys.collect())
            }
            _ => item.clone(),
        };
        if !seen.insert(identity.to_string()) {
            let path = path.index(index);
            add(errors, FieldErrorKind::Duplicate, &path, Some(identity), String::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(spec_schema: Value, spec: Value, old: Option<Value>) -> Vec<String> {
        let schema = Schema::root(&json!({"type": "object", "properties": {"spec": spec_schema}}));
        let object = |spec: Value| json!({"apiVersion": "v1", "kind": "X", "spec": spec});
        let mut errors = FieldErrors::default();
        validate(&schema, &object(spec), old.map(object).as_ref(), &mut errors);
        errors.as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_keyword_refuses_in_kubernetes_words() {
        let rows = [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(1),
                r#"spec: Invalid value: "integer": spec in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "integer"}),
                json!(1.5),
                r#"spec: Invalid value: "number": spec in body must be of type integer: "number""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"spec: Invalid value: "null": spec in body must be of type string: "null""#,
            ),
            (
                json!({"type": "string", "enum": ["b", "a"]}),
                json!("c"),
                r#"spec: Unsupported value: "c": supported values: "b", "a""#,
            ),
            (
                json!({"type": "integer", "enum": [1, 2]}),
                json!(3),
                r#"spec: Unsupported value: 3: supported values: "1", "2""#,
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                r#"spec: Invalid value: "b": spec in body should match '^a+$'"#,
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "spec: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("ä"),
                r#"spec: Invalid value: "ä": spec in body should be at least 2 chars long"#,
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("1.2.3"),
                r#"spec: Invalid value: "1.2.3": spec in body must be of type ipv4: "1.2.3""#,
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
                json!(1),
                "spec: Invalid value: 1: spec in body should be greater than 1",
            ),
            (
                json!({"type": "number", "maximum": 1.5}),
                json!(2),
                "spec: Invalid value: 2: spec in body should be less than or equal to 1.5",
            ),
            (
                json!({"type": "number", "maximum": 2, "exclusiveMaximum": true}),
                json!(2),
                "spec: Invalid value: 2: spec in body should be less than 2",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "spec: Invalid value: 4: spec in body should be a multiple of 3",
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000_u64),
                "spec: Invalid value: 3000000000: Checked value must be of type integer with format int32",
            ),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "spec: Invalid value: []: spec in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "maxItems": 1}),
                json!([1, 2]),
                "spec: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!(["a", 1]),
                r#"spec[1]: Invalid value: "integer": spec[1] in body must be of type string: "integer""#,
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "spec: Invalid value: {}: spec in body should have at least 1 properties",
            ),
            (
                json!({"type": "object", "maxProperties": 1}),
                json!({"a": 1, "b": 1}),
                "spec: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"a": 1}),
                r#"spec.a: Invalid value: "integer": spec.a in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
                json!(["a", "b", "a"]),
                r#"spec[2]: Duplicate value: "a""#,
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object"}}),
                json!([{"n": "a", "v": 1}, {"n": "a"}]),
                r#"spec[1]: Duplicate value: {"n":"a"}"#,
            ),
            (
                json!({"type": "integer", "not": {"enum": [1]}}),
                json!(1),
                r#"<nil>: Invalid value: "": "spec" must not validate the schema (not)"#,
            ),
            (
                json!({"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]}),
                json!(2),
                r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ),
        ];
        for (schema, value, expected) in rows {
            assert_eq!(errors_of(schema, value, None), [expected]);
        }
        let any = json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
        let expected = [
            r#"<nil>: Invalid value: "": "spec" must validate at least one schema (anyOf)"#,
            "spec.a: Required value",
        ];
        assert_eq!(errors_of(any.clone(), json!({}), None), expected);
        assert!(errors_of(any, json!({"b": 1}), None).is_empty());
    }

    #[test]
    fn what_fits_is_let_pass() {
        let rows = [
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "integer"}), json!(1.0)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("25%")),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!(5),
            ),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!([1, {"a": null}])),
            (json!({"type": "string", "format": "nobody-knows"}), json!("x")),
        ];
        for (schema, value) in rows {
            assert_eq!(errors_of(schema.clone(), value, None), Vec::<String>::new(), "{schema}");
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let schema = json!({"type": "object", "properties": {
            "old": {"type": "string", "maxLength": 1}, "new": {"type": "string", "maxLength": 1},
        }});
        let before = json!({"old": "long", "new": "a"});
        assert!(
            errors_of(schema.clone(), json!({"old": "long", "new": "b"}), Some(before.clone())).is_empty()
        );
        assert_eq!(errors_of(schema, json!({"old": "longer", "new": "b"}), Some(before)).len(), 1);
    }
}
