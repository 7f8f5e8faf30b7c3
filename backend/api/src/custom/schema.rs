//! Structural schemas: what a CustomResourceDefinition says of its objects, made ready to be walked.
//! Follows Kubernetes' "Extend the Kubernetes API with CustomResourceDefinitions", section "Specifying a structural schema".
use super::rules::Rule;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeMap;

/// What stands at one place of an object. The parts under `allOf`, `anyOf`, `oneOf` and `not` have the same form, but
/// only their checks count.
#[derive(Debug, Default)]
pub struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty for any.
    pub of: String,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,
    pub is_nullable: bool,
    pub is_int_or_string: bool,
    pub preserves_unknown_fields: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata`: the root, and what is marked so.
    pub is_embedded: bool,
    pub default: Option<Value>,
    pub list: List,
    pub checks: Checks,
    /// `x-kubernetes-validations`.
    pub rules: Vec<Rule>,
}

#[derive(Debug)]
pub enum Additional {
    /// `additionalProperties: true`
    Any,
    Of(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default, PartialEq)]
pub enum List {
    #[default]
    Atomic,
    Set,
    /// By these keys.
    Map(Vec<String>),
}

/// The checks of values that OpenAPI v3 names.
#[derive(Debug, Default)]
pub struct Checks {
    pub format: String,
    /// As written, and compiled.
    pub pattern: Option<(String, Regex)>,
    pub r#enum: Option<Vec<Value>>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub required: Vec<String>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

impl Schema {
    /// The schema of a whole custom object. What is not understood is left out: a stored definition was checked when it
    /// came.
    pub fn root(json: &Value) -> Self {
        Self { is_embedded: true, ..Self::new(json) }
    }

    pub fn new(json: &Value) -> Self {
        let flag = |name: &str| json[name] == true;
        let children = |name: &str| -> BTreeMap<String, Schema> {
            let fields = json[name].as_object().into_iter().flatten();
            fields.map(|(name, schema)| (name.clone(), Self::new(schema))).collect()
        };
        let additional = match &json["additionalProperties"] {
            Value::Bool(true) => Some(Additional::Any),
            of @ Value::Object(_) => Some(Additional::Of(Box::new(Self::new(of)))),
            _ => None,
        };
        Self {
            of: json["type"].as_str().unwrap_or_default().to_owned(),
            properties: children("properties"),
            additional,
            items: json["items"].is_object().then(|| Box::new(Self::new(&json["items"]))),
            is_nullable: flag("nullable"),
            is_int_or_string: flag("x-kubernetes-int-or-string"),
            preserves_unknown_fields: flag("x-kubernetes-preserve-unknown-fields"),
            is_embedded: flag("x-kubernetes-embedded-resource"),
            default: json.get("default").cloned(),
            list: List::new(json),
            checks: Checks::new(json),
            rules: json["x-kubernetes-validations"].as_array().into_iter().flatten().map(Rule::new).collect(),
        }
    }

    /// Whether there is a rule here or below.
    pub fn has_rules(&self) -> bool {
        let additional = match &self.additional {
            Some(Additional::Of(schema)) => schema.has_rules(),
            Some(Additional::Any) | None => false,
        };
        !self.rules.is_empty()
            || additional
            || self.items.as_ref().is_some_and(|items| items.has_rules())
            || self.properties.values().any(Schema::has_rules)
    }

    /// The schema of a property, declared or additional.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Of(schema)) => Some(schema),
            Some(Additional::Any) | None => None,
        })
    }
}

impl List {
    fn new(json: &Value) -> Self {
        match json["x-kubernetes-list-type"].as_str() {
            Some("set") => Self::Set,
            Some("map") => Self::Map(strings(&json["x-kubernetes-list-map-keys"])),
            _ => Self::Atomic,
        }
    }
}

impl Checks {
    fn new(json: &Value) -> Self {
        let count = |name: &str| json[name].as_f64().map(|count| count as u64);
        let many = |name: &str| -> Vec<Schema> {
            json[name].as_array().into_iter().flatten().map(Schema::new).collect()
        };
        let pattern = json["pattern"].as_str().filter(|pattern| !pattern.is_empty());
        Self {
            format: json["format"].as_str().unwrap_or_default().to_owned(),
            pattern: pattern.and_then(|text| Some((text.to_owned(), pattern_of(text).ok()?))),
            r#enum: json["enum"].as_array().filter(|values| !values.is_empty()).cloned(),
            minimum: json["minimum"].as_f64(),
            maximum: json["maximum"].as_f64(),
            exclusive_minimum: json["exclusiveMinimum"] == true,
            exclusive_maximum: json["exclusiveMaximum"] == true,
            multiple_of: json["multipleOf"].as_f64(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: strings(&json["required"]),
            all_of: many("allOf"),
            any_of: many("anyOf"),
            one_of: many("oneOf"),
            not: json["not"].is_object().then(|| Box::new(Schema::new(&json["not"]))),
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// A regular expression as Go reads it: there the classes are those of ASCII, and brackets in brackets mean themselves.
pub fn pattern_of(go: &str) -> Result<Regex, regex::Error> {
    let (mut rust, mut in_class) = (String::with_capacity(go.len() + 16), false);
    let mut rest = go.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('d') => rust.push_str("[0-9]"),
                Some('D') => rust.push_str("[^0-9]"),
                Some('w') => rust.push_str("[0-9A-Za-z_]"),
                Some('W') => rust.push_str("[^0-9A-Za-z_]"),
                Some('s') => rust.push_str(r"[\t\n\x0C\r ]"),
                Some('S') => rust.push_str(r"[^\t\n\x0C\r ]"),
                Some('b') if !in_class => rust.push_str(r"(?-u:\b)"),
                Some('B') if !in_class => rust.push_str(r"(?-u:\B)"),
                // Rust takes these escaped for the edges of words.
                Some(c @ ('<' | '>')) => rust.push(c),
                Some(next) => rust.extend(['\\', next]),
                None => rust.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                rust.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    rust.push('^');
                }
                // The first bracket of a class means itself.
                if rest.next_if_eq(&']').is_some() {
                    rust.push_str(r"\]");
                }
            }
            '[' if rest.peek() == Some(&':') => {
                rust.push('[');
                for c in rest.by_ref() {
                    rust.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' if in_class => rust.extend(['\\', c]),
            ']' => {
                in_class = false;
                rust.push(']');
            }
            c => rust.push(c),
        }
    }
    Regex::new(&rust)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        let rows = [
            (r"^\d+$", "٣", false),
            (r"^\d+$", "12", true),
            (r"^[\w.]+$", "a_b.C", true),
            (r"^[\w.]+$", "ä", false),
            (r"^[[a]+$", "[a", true),
            (r"^[]a]+$", "]", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a&&b]$", "&", true),
            (r"^\S+\/x$", "ab/x", true),
            (r"^(a|b){1,3}$", "abab", false),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(pattern_of(pattern).unwrap().is_match(text), expected, "{pattern} {text}");
        }
        assert!(pattern_of("(").is_err());
    }
}
