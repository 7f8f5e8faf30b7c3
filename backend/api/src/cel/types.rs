//! The types of expressions, as far as they are known before anything runs.
use crate::custom::schema::{Additional, Schema};
use std::fmt;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub enum Type<'s> {
    /// Anything: what it is shows when it runs.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Rc<Type<'s>>),
    Map(Rc<Type<'s>>, Rc<Type<'s>>),
    Optional(Rc<Type<'s>>),
    /// An object with the fields of a schema.
    Object(&'s Schema),
    /// An object with these fields and no others.
    Fields(Rc<Vec<(String, Type<'s>)>>),
    /// One of Kubernetes' own, or a type of changes: `kubernetes.URL`, `Object.spec`.
    Named(Rc<str>),
}

impl<'s> Type<'s> {
    /// Of values with this schema.
    pub fn of(schema: &'s Schema) -> Self {
        if schema.is_int_or_string {
            return Self::Dyn;
        }
        let items = |schema: Option<&'s Schema>| Rc::new(schema.map_or(Self::Dyn, Self::of));
        match (schema.of.as_str(), schema.checks.format.as_str()) {
            ("boolean", _) => Self::Bool,
            ("integer", _) => Self::Int,
            ("number", _) => Self::Double,
            ("string", "date" | "date-time" | "datetime") => Self::Timestamp,
            ("string", "duration") => Self::Duration,
            ("string", "byte") => Self::Bytes,
            ("string", _) => Self::String,
            ("array", _) => Self::List(items(schema.items.as_deref())),
            ("object", _) if schema.is_embedded || !schema.properties.is_empty() => Self::Object(schema),
            ("object", _) => match &schema.additional {
                Some(Additional::Of(of)) => Self::Map(Rc::new(Self::String), items(Some(of))),
                _ if schema.preserves_unknown_fields || schema.additional.is_some() => Self::Dyn,
                _ => Self::Object(schema),
            },
            _ => Self::Dyn,
        }
    }

    pub fn optional(of: Self) -> Self {
        Self::Optional(Rc::new(of))
    }

    pub fn list(of: Self) -> Self {
        Self::List(Rc::new(of))
    }

    pub fn named(name: &str) -> Self {
        Self::Named(name.into())
    }

    /// Whether a value of the other type may stand where this one is asked for.
    pub fn takes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::Null, Self::Null)
            | (Self::Bool, Self::Bool)
            | (Self::Int, Self::Int)
            | (Self::Uint, Self::Uint)
            | (Self::Double, Self::Double)
            | (Self::String, Self::String)
            | (Self::Bytes, Self::Bytes)
            | (Self::Timestamp, Self::Timestamp)
            | (Self::Duration, Self::Duration) => true,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.takes(b),
            (Self::Map(k, v), Self::Map(l, w)) => k.takes(l) && v.takes(w),
            (Self::Named(a), Self::Named(b)) => a == b,
            // What may be missing may be compared with null.
            (of, Self::Null) | (Self::Null, of) => !of.is_plain(),
            (a, b) => a.is_object() && b.is_object(),
        }
    }

    /// Numbers, texts and their like: never null.
    fn is_plain(&self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Uint | Self::Double | Self::String | Self::Bytes)
    }

    fn is_object(&self) -> bool {
        matches!(self, Self::Object(_) | Self::Fields(_) | Self::Map(..))
    }

    pub fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// The type both fit, or anything.
    pub fn join(self, other: &Self) -> Self {
        match (&self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => Self::Dyn,
            (Self::Null, other) => other.clone(),
            (_, Self::Null) => self,
            (a, b) if a.takes(b) && !a.is_object() => self,
            _ => Self::Dyn,
        }
    }
}

/// As CEL's compiler names types.
impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Object(_) | Self::Fields(_) => f.write_str("object"),
            Self::Named(name) => f.write_str(name),
        }
    }
}
