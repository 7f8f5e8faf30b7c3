//! Which field of an object has the wrong type, told in the words that users of `kubectl` know.
use serde_json::Value;
use std::fmt;

/// The first value of an object that its type cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    pub kind: String,
    /// `spec.containers[0].image`.
    pub path: String,
    /// `string`, `number` …: what stands there.
    pub found: &'static str,
    /// `int32`, `string` …: what should.
    pub expected: String,
    /// Where that is, as a JSON pointer.
    pub pointer: String,
    /// The field that the type wants there and that is not.
    pub missing: Option<String>,
}

/// Worded as Go's decoder does, which is what users of `kubectl` know.
impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, path, found, expected, .. } = self;
        let dot = if path.is_empty() { "" } else { "." };
        write!(f, "json: cannot unmarshal {found} into Go struct field {kind}{dot}{path} of type {expected}")
    }
}

/// Finds the culprit by decoding ever smaller parts of the object: no field is required, so that a part decodes exactly
/// when there is nothing wrong in it. Only done for an object that is refused anyway; a decoder that tracks paths would
/// double the code of every type.
pub(crate) fn find(
    kind: &str,
    object: &Value,
    error: serde_json::Error,
    decode: &dyn Fn(&Value) -> Result<(), serde_json::Error>,
) -> TypeError {
    let mut path: Vec<Step> = Vec::new();
    let mut error = error;
    let mut found = object.clone();
    loop {
        let fails =
            |part: Value| decode(&path.iter().rev().fold(part, |inner, step| step.around(inner))).err();
        let mut suspects = children(&found);
        if suspects.is_empty() || fails(of_children(&found, &[])).is_some() {
            break;
        }
        while suspects.len() > 1 {
            let second_half = suspects.split_off(suspects.len() / 2);
            if fails(of_children(&found, &suspects)).is_none() {
                suspects = second_half;
            }
        }
        let Some((step, inner)) = suspects.pop() else {
            break;
        };
        // Each part alone is right: only together they are wrong, which no type of Kubernetes is.
        let Some(narrower) = fails(step.around(inner.clone())) else {
            break;
        };
        error = narrower;
        path.push(step);
        found = inner;
    }
    let error = error.to_string();
    TypeError {
        kind: kind.into(),
        path: path.iter().fold(String::new(), |path, step| step.printed_after(&path)),
        found: json_type(&found),
        expected: go_type(&error),
        pointer: path.iter().map(Step::pointed).collect(),
        missing: error.strip_prefix("missing field `").and_then(|e| e.split('`').next()).map(str::to_owned),
    }
}

enum Step {
    Field(String),
    Index(usize),
}

impl Step {
    /// An object or list with nothing but `inner` in this place.
    fn around(&self, inner: Value) -> Value {
        match self {
            Step::Field(name) => Value::Object([(name.clone(), inner)].into_iter().collect()),
            Step::Index(_) => Value::Array(vec![inner]),
        }
    }

    fn pointed(&self) -> String {
        match self {
            Step::Field(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => format!("/{index}"),
        }
    }

    fn printed_after(&self, path: &str) -> String {
        match self {
            Step::Field(name) if path.is_empty() => name.clone(),
            Step::Field(name) => format!("{path}.{name}"),
            Step::Index(index) => format!("{path}[{index}]"),
        }
    }
}

fn children(value: &Value) -> Vec<(Step, Value)> {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, v)| (Step::Field(name.clone()), v.clone())).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (Step::Index(i), v.clone())).collect(),
        _ => Vec::new(),
    }
}

/// An object or a list, as `like` is, of these children.
fn of_children(like: &Value, children: &[(Step, Value)]) -> Value {
    let fields = children.iter().filter_map(|(step, value)| match step {
        Step::Field(name) => Some((name.clone(), value.clone())),
        Step::Index(_) => None,
    });
    match like {
        Value::Object(_) => Value::Object(fields.collect()),
        _ => Value::Array(children.iter().map(|(_, value)| value.clone()).collect()),
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// From serde's `invalid type: string "x", expected i32` to Go's name of the type.
fn go_type(message: &str) -> String {
    let expected = message.rsplit_once("expected ").map_or(message, |(_, expected)| expected);
    match expected {
        "i32" | "a 32-bit integer" => "int32".into(),
        "i64" => "int64".into(),
        "u32" => "uint32".into(),
        "f64" => "float64".into(),
        "a string" | "string" => "string".into(),
        "a boolean" => "bool".into(),
        "a sequence" => "slice".into(),
        "a map" => "map".into(),
        other => other.to_owned(),
    }
}
