//! The values of expressions. Parts of objects stay JSON until they are looked at.
use super::authorizer::{Decision, Question};
use crate::custom::formats::duration_nanoseconds;
use crate::custom::schema::Schema;
use crate::quantity::Quantity;
use base64::Engine;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub enum V<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Rc<str>),
    Bytes(Rc<[u8]>),
    List(Rc<Vec<V<'a>>>),
    /// In the order of insertion; keys are told apart by equality.
    Map(Rc<Vec<(V<'a>, V<'a>)>>),
    /// `Object.spec{…}`: the name of the type, and the fields that were set.
    Struct(Rc<str>, Rc<Vec<(Rc<str>, V<'a>)>>),
    /// A list or an object of an object of the API, with its schema where it has one.
    Json(&'a Value, Option<&'a Schema>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    Type(&'static str),
    Optional(Option<Box<V<'a>>>),
    Quantity(Quantity),
    Url(Rc<Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    /// A named format: what `format.dns1123Label()` gives.
    Format(&'static str),
    /// `authorizer`, and what is said after it.
    Question(Rc<Question>),
    Decision(Rc<Decision>),
}

/// Go's `url.URL`, as far as Kubernetes' functions ask.
#[derive(Debug, PartialEq)]
pub struct Url {
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub query: String,
}

/// Words of CEL that a property can only be named by in underscores.
pub const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The property that a name in an expression stands for: `x__dash__y` is `x-y`.
pub fn property_name(name: &str) -> String {
    let inner = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    if let Some(word) = inner.filter(|inner| RESERVED.contains(inner)) {
        return word.to_owned();
    }
    if !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__underscores__", "\u{0}")
        .replace("__dash__", "-")
        .replace("__dot__", ".")
        .replace("__slash__", "/")
        .replace('\u{0}', "__")
}

impl<'a> V<'a> {
    pub fn text(text: impl Into<Rc<str>>) -> Self {
        V::String(text.into())
    }

    pub fn list(items: Vec<V<'a>>) -> Self {
        V::List(Rc::new(items))
    }

    /// A part of an object, typed by its schema.
    pub fn of(value: &'a Value, schema: Option<&'a Schema>) -> Self {
        match value {
            Value::Null => V::Null,
            Value::Bool(value) => V::Bool(*value),
            Value::Number(number) => {
                let of = schema.map_or("", |schema| schema.of.as_str());
                match (number.as_i64(), number.as_f64()) {
                    (Some(int), _) if of != "number" => V::Int(int),
                    (_, Some(double)) if of == "integer" => V::Int(double as i64),
                    (_, Some(double)) => V::Double(double),
                    _ => V::Null,
                }
            }
            Value::String(text) => {
                Self::of_text(text, schema.map_or("", |schema| schema.checks.format.as_str()))
            }
            Value::Array(_) | Value::Object(_) => V::Json(value, schema),
        }
    }

    fn of_text(text: &str, format: &str) -> Self {
        let typed = match format {
            "date-time" | "datetime" => text.parse().ok().map(V::Timestamp),
            "date" => format!("{text}T00:00:00Z").parse().ok().map(V::Timestamp),
            "duration" => duration_nanoseconds(text).map(V::Duration),
            "byte" => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                bytes.ok().map(|bytes| V::Bytes(bytes.into()))
            }
            _ => None,
        };
        typed.unwrap_or_else(|| V::text(text))
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            V::Null => "null_type",
            V::Bool(_) => "bool",
            V::Int(_) => "int",
            V::Uint(_) => "uint",
            V::Double(_) => "double",
            V::String(_) => "string",
            V::Bytes(_) => "bytes",
            V::List(_) | V::Json(Value::Array(_), _) => "list",
            V::Map(_) | V::Json(..) => "map",
            V::Duration(_) => "google.protobuf.Duration",
            V::Timestamp(_) => "google.protobuf.Timestamp",
            V::Type(_) => "type",
            V::Optional(_) => "optional_type",
            V::Quantity(_) => "kubernetes.Quantity",
            V::Url(_) => "kubernetes.URL",
            V::Ip(_) => "net.IP",
            V::Cidr(..) => "net.CIDR",
            V::Format(_) => "kubernetes.NamedFormat",
            V::Struct(..) => "object",
            V::Question(_) => "kubernetes.authorization.Authorizer",
            V::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self, V::List(_) | V::Json(Value::Array(_), _))
    }

    pub fn is_map(&self) -> bool {
        matches!(self, V::Map(_) | V::Struct(..) | V::Json(Value::Object(_), _))
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<V<'a>>> {
        match self {
            V::List(items) => Some(items.to_vec()),
            V::Json(Value::Array(items), schema) => {
                let of = schema.and_then(|schema| schema.items.as_deref());
                Some(items.iter().map(|item| V::of(item, of)).collect())
            }
            _ => None,
        }
    }

    /// The entries of a map or an object.
    pub fn entries(&self) -> Option<Vec<(V<'a>, V<'a>)>> {
        match self {
            V::Map(entries) => Some(entries.to_vec()),
            V::Struct(_, fields) => {
                Some(fields.iter().map(|(name, value)| (V::String(name.clone()), value.clone())).collect())
            }
            V::Json(Value::Object(fields), schema) => {
                let value = |name: &str, value| V::of(value, schema.and_then(|s| s.property(name)));
                let entries = fields.iter();
                Some(entries.map(|(name, of)| (V::text(name.as_str()), value(name, of))).collect())
            }
            _ => None,
        }
    }

    /// Items or entries; characters of a text.
    pub fn size(&self) -> Option<usize> {
        match self {
            V::String(text) => Some(text.chars().count()),
            V::Bytes(bytes) => Some(bytes.len()),
            V::List(items) => Some(items.len()),
            V::Map(entries) => Some(entries.len()),
            V::Struct(_, fields) => Some(fields.len()),
            V::Json(Value::Array(items), _) => Some(items.len()),
            V::Json(Value::Object(fields), _) => Some(fields.len()),
            _ => None,
        }
    }

    /// The value of a field, by its name in expressions; of a map, by key.
    pub fn field(&self, name: &str) -> Option<V<'a>> {
        match self {
            V::Json(Value::Object(fields), schema) => {
                let is_map = schema.is_some_and(|schema| schema.additional.is_some());
                // Without a schema it may be a map, whose keys are as they are.
                let as_is = is_map || (schema.is_none() && fields.contains_key(name));
                let name = if as_is { name.to_owned() } else { property_name(name) };
                let value = fields.get(&name)?;
                Some(V::of(value, schema.and_then(|schema| schema.property(&name))))
            }
            V::Map(entries) => {
                let found = entries.iter().find(|(key, _)| matches!(key, V::String(key) if **key == *name));
                found.map(|(_, value)| value.clone())
            }
            V::Struct(_, fields) => {
                let found = fields.iter().find(|(own, _)| **own == *property_name(name));
                found.map(|(_, value)| value.clone())
            }
            _ => None,
        }
    }

    /// As it stands in an object. None for what has no place in one.
    pub fn to_json(&self) -> Option<Value> {
        let object = |fields: Vec<(V<'a>, V<'a>)>| {
            let fields = fields.iter().map(|(key, value)| match key {
                V::String(key) => Some((key.to_string(), value.to_json()?)),
                _ => None,
            });
            fields.collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
        };
        Some(match self {
            V::Null | V::Optional(None) => Value::Null,
            V::Bool(value) => (*value).into(),
            V::Int(n) => (*n).into(),
            V::Uint(n) => (*n).into(),
            V::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => (*n as i64).into(),
            V::Double(n) => (*n).into(),
            V::String(text) => (**text).into(),
            V::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            V::Json(value, _) => (*value).clone(),
            V::Timestamp(time) => time.to_string().into(),
            V::Duration(n) => format!("{}s", *n as f64 / 1e9).into(),
            V::Quantity(quantity) => quantity.to_string().into(),
            V::Optional(Some(inner)) => inner.to_json()?,
            V::List(items) => Value::Array(items.iter().map(V::to_json).collect::<Option<_>>()?),
            V::Map(_) | V::Struct(..) => object(self.entries()?)?,
            _ => return None,
        })
    }

    /// The value at an index or a key. An error for what cannot be indexed so.
    pub fn at(&self, key: &V<'a>) -> Result<Option<V<'a>>, String> {
        match (self, key) {
            (V::List(_) | V::Json(Value::Array(_), _), key) => {
                let Some(index) = key.as_index() else {
                    return Err("no such overload".into());
                };
                let index = usize::try_from(index).ok();
                Ok(match (self, index) {
                    (V::List(items), Some(index)) => items.get(index).cloned(),
                    (V::Json(list, schema), Some(index)) => {
                        let of = schema.and_then(|schema| schema.items.as_deref());
                        list.get(index).map(|item| V::of(item, of))
                    }
                    _ => None,
                })
            }
            (V::Json(Value::Object(fields), schema), V::String(name)) => {
                Ok(fields.get(&**name).map(|value| V::of(value, schema.and_then(|s| s.property(name)))))
            }
            (V::Map(entries), key) => {
                Ok(entries.iter().find(|(other, _)| other.equals(key)).map(|(_, value)| value.clone()))
            }
            _ => Err("no such overload".into()),
        }
    }

    fn as_index(&self) -> Option<i64> {
        match self {
            V::Int(index) => Some(*index),
            V::Uint(index) => i64::try_from(*index).ok(),
            V::Double(index) if index.fract() == 0.0 => Some(*index as i64),
            _ => None,
        }
    }

    pub fn as_double(&self) -> Option<f64> {
        match self {
            V::Int(n) => Some(*n as f64),
            V::Uint(n) => Some(*n as f64),
            V::Double(n) => Some(*n),
            _ => None,
        }
    }

    /// Whether a list may be compared without regard to order.
    fn is_set(&self) -> bool {
        matches!(self, V::Json(_, Some(schema)) if schema.list == crate::custom::schema::List::Set)
    }

    pub fn equals(&self, other: &V<'a>) -> bool {
        match (self, other) {
            (V::Null, V::Null) => true,
            (V::Bool(a), V::Bool(b)) => a == b,
            (V::String(a), V::String(b)) => a == b,
            (V::Bytes(a), V::Bytes(b)) => a == b,
            (V::Type(a), V::Type(b)) => a == b,
            (V::Optional(a), V::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (V::Url(a), V::Url(b)) => a == b,
            (V::Cidr(a, x), V::Cidr(b, y)) => (a, x) == (b, y),
            (V::Format(a), V::Format(b)) => a == b,
            _ => match (self.items(), other.items()) {
                (Some(a), Some(b)) if self.is_set() || other.is_set() => {
                    a.len() == b.len() && a.iter().all(|item| b.iter().any(|other| item.equals(other)))
                }
                (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b)),
                _ => match (self.entries(), other.entries()) {
                    (Some(a), Some(b)) => {
                        let has = |key: &V<'a>, value: &V<'a>| {
                            other.at(key).ok().flatten().is_some_and(|other| other.equals(value))
                        };
                        a.len() == b.len() && a.iter().all(|(key, value)| has(key, value))
                    }
                    _ => self.compare(other) == Some(Ordering::Equal),
                },
            },
        }
    }

    /// None where the two cannot be ordered.
    pub fn compare(&self, other: &V<'a>) -> Option<Ordering> {
        match (self, other) {
            (V::Bool(a), V::Bool(b)) => Some(a.cmp(b)),
            (V::Int(a), V::Int(b)) => Some(a.cmp(b)),
            (V::Uint(a), V::Uint(b)) => Some(a.cmp(b)),
            (V::Int(a), V::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (V::Uint(a), V::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (V::String(a), V::String(b)) => Some(a.cmp(b)),
            (V::Bytes(a), V::Bytes(b)) => Some(a.cmp(b)),
            (V::Duration(a), V::Duration(b)) => Some(a.cmp(b)),
            (V::Timestamp(a), V::Timestamp(b)) => Some(a.cmp(b)),
            (V::Quantity(a), V::Quantity(b)) => Some(a.cmp(b)),
            (V::Ip(a), V::Ip(b)) => (a == b).then_some(Ordering::Equal),
            (a, b) => a.as_double()?.partial_cmp(&b.as_double()?),
        }
    }

    /// How much going through the value costs.
    pub fn weight(&self) -> u64 {
        match self {
            V::String(text) => text.len() as u64 / 10,
            V::Bytes(bytes) => bytes.len() as u64 / 10,
            V::Json(value, _) => json_weight(value),
            V::List(items) => items.iter().map(|item| 1 + item.weight()).sum(),
            V::Map(entries) => entries.iter().map(|(key, value)| 1 + key.weight() + value.weight()).sum(),
            V::Struct(_, fields) => fields.iter().map(|(_, value)| 1 + value.weight()).sum(),
            _ => 1,
        }
    }
}

fn json_weight(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.iter().map(|item| 1 + json_weight(item)).sum(),
        Value::Object(fields) => fields.values().map(|value| 1 + json_weight(value)).sum(),
        Value::String(text) => text.len() as u64 / 10,
        _ => 1,
    }
}
