//! Kubernetes' protobuf encoding of objects, read into the JSON that Go's own encoder would print: typed Go clients
//! (`kubectl create`, controllers written with client-go) send bodies in it.
//!
//! What number a field has comes from `fields.txt`, which `fields.py` renews; it explains the notation.
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>
use crate::jiff::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may nest: a deeper body would exhaust the stack.
const MAX_DEPTH: usize = 64;
const TABLE: &str = include_str!("protobuf/fields.txt");

/// An object's envelope and message as JSON, `apiVersion` and `kind` included. The error is a sentence's end.
pub fn read(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the body does not start with \"k8s\\0\"")?;
    let (mut type_meta, mut raw, mut content_type) = ((String::new(), String::new()), &[][..], String::new());
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(inner)) => type_meta = read_type_meta(inner)?,
            (2, Wire::Bytes(inner)) => raw = inner,
            (4, Wire::Bytes(inner)) => content_type = text(inner)?,
            _ => {}
        }
    }
    let (api_version, kind) = type_meta;
    if content_type.contains("json") {
        return serde_json::from_slice(raw).map_err(|e| e.to_string());
    }
    let message = message_of(&api_version, &kind)
        .ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?}"))?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    message.read_into(&mut object, raw, 0)?;
    Ok(object.into())
}

fn read_type_meta(bytes: &[u8]) -> Result<(String, String), String> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(inner)) => api_version = text(inner)?,
            (2, Wire::Bytes(inner)) => kind = text(inner)?,
            _ => {}
        }
    }
    Ok((api_version, kind))
}

/// The message of a kind. The table names groups by their first label; options of calls belong to every group.
fn message_of(api_version: &str, kind: &str) -> Option<&'static Message> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or(group);
    MESSAGES
        .get(format!("{group}.{version}.{kind}").as_str())
        .or_else(|| MESSAGES.get(format!("meta.v1.{kind}").as_str()))
}

// --- the table -----------------------------------------------------------------------------------------------------

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
        (name, Message { fields: fields.split(' ').filter_map(Field::parse).collect() })
    };
    TABLE.lines().map(line).collect()
});

struct Message {
    fields: Vec<Field>,
}

struct Field {
    name: &'static str,
    number: u64,
    holds: Holds,
    presence: Presence,
    kind: Type,
}

#[derive(Clone, Copy, PartialEq)]
enum Holds {
    One,
    List,
    /// By string keys.
    Map,
}

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    /// A zero value is the same as none.
    OmitZero,
    /// A zero value is printed.
    Always,
    /// What was sent counts, zero too.
    Sent,
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    String,
    Bytes,
    Integer,
    Boolean,
    Double,
    Message(&'static str),
}

impl Field {
    fn parse(notation: &'static str) -> Option<Field> {
        let (name, rest) = notation.split_once('=')?;
        let (number, kind) = rest.split_once(':')?;
        let (holds, kind) = match kind.as_bytes().first()? {
            b'*' => (Holds::List, &kind[1..]),
            b'%' => (Holds::Map, &kind[1..]),
            _ => (Holds::One, kind),
        };
        let (presence, kind) = match kind.as_bytes().last()? {
            b'?' => (Presence::Sent, &kind[..kind.len() - 1]),
            b'!' => (Presence::Always, &kind[..kind.len() - 1]),
            _ => (Presence::OmitZero, kind),
        };
        let kind = match kind {
            "s" => Type::String,
            "b" => Type::Bytes,
            "i" => Type::Integer,
            "t" => Type::Boolean,
            "d" => Type::Double,
            message => Type::Message(message),
        };
        Some(Field { name, number: number.parse().ok()?, holds, presence, kind })
    }

    fn is_inline(&self) -> bool {
        self.name == "<"
    }
}

// --- messages ------------------------------------------------------------------------------------------------------

impl Message {
    fn read_into(&self, object: &mut Map<String, Value>, bytes: &[u8], depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("exceeded max depth".into());
        }
        for field in self.fields.iter().filter(|f| f.presence == Presence::Always && f.holds == Holds::One) {
            if let Some(zero) = zero(field.kind) {
                object.insert(field.name.into(), zero);
            }
        }
        for sent in Fields(bytes) {
            let (number, wire) = sent?;
            // A field of a newer release: read over, as every protobuf reader does.
            let Some(field) = self.fields.iter().find(|f| f.number == number) else { continue };
            field.read_into(object, wire, depth).map_err(|why| format!("{}: {why}", field.name))?;
        }
        Ok(())
    }
}

impl Field {
    fn read_into(&self, object: &mut Map<String, Value>, wire: Wire<'_>, depth: usize) -> Result<(), String> {
        match (self.holds, wire) {
            (Holds::One, Wire::Bytes(inner)) if self.is_inline() => {
                let Type::Message(name) = self.kind else { return Ok(()) };
                message(name)?.read_into(object, inner, depth + 1)?;
            }
            (Holds::One, wire) => {
                let value = value(self.kind, wire, depth)?;
                if value.is_null() || (self.presence == Presence::OmitZero && is_zero(&value)) {
                    return Ok(());
                }
                object.insert(self.name.into(), value);
            }
            (Holds::List, Wire::Bytes(packed)) if self.kind == Type::Integer => {
                let mut rest = packed;
                while !rest.is_empty() {
                    let number = varint(&mut rest)?;
                    push(object, self.name, (number as i64).into());
                }
            }
            (Holds::List, wire) => {
                push(object, self.name, value(self.kind, wire, depth)?);
            }
            (Holds::Map, Wire::Bytes(entry)) => {
                let (mut key, mut found) = (String::new(), None);
                for part in Fields(entry) {
                    match part? {
                        (1, Wire::Bytes(inner)) => key = text(inner)?,
                        (2, wire) => found = Some(value(self.kind, wire, depth)?),
                        _ => {}
                    }
                }
                let entries = object.entry(self.name).or_insert_with(|| Map::new().into());
                if let (Some(entries), Some(value)) =
                    (entries.as_object_mut(), found.or_else(|| zero(self.kind)))
                {
                    entries.insert(key, value);
                }
            }
            (Holds::Map, _) => return Err("expected a map entry".into()),
        }
        Ok(())
    }
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) {
    match object.get_mut(name) {
        Some(Value::Array(items)) => items.push(value),
        _ => drop(object.insert(name.into(), vec![value].into())),
    }
}

fn message(name: &str) -> Result<&'static Message, String> {
    MESSAGES.get(name).ok_or_else(|| format!("the message {name} is not known"))
}

/// What Go prints for a value nobody set; none where it prints null.
fn zero(kind: Type) -> Option<Value> {
    match kind {
        Type::String | Type::Bytes => Some("".into()),
        Type::Integer | Type::Double => Some(0.into()),
        Type::Boolean => Some(false.into()),
        Type::Message(name) => value(Type::Message(name), Wire::Bytes(&[]), 0).ok().filter(|v| !v.is_null()),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn value(kind: Type, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (kind, wire) {
        (Type::String, Wire::Bytes(inner)) => text(inner)?.into(),
        (Type::Bytes, Wire::Bytes(inner)) => STANDARD.encode(inner).into(),
        (Type::Integer, Wire::Varint(number)) => (number as i64).into(),
        (Type::Boolean, Wire::Varint(number)) => (number != 0).into(),
        (Type::Double, Wire::Fixed(bits)) => {
            Number::from_f64(f64::from_bits(bits)).ok_or("a number must be finite")?.into()
        }
        (Type::Message(name), Wire::Bytes(inner)) => match special(name, inner, depth)? {
            Some(value) => value,
            None => {
                let mut object = Map::new();
                message(name)?.read_into(&mut object, inner, depth + 1)?;
                // A named list is a message around its items.
                object.remove("[]").unwrap_or_else(|| object.into())
            }
        },
        _ => return Err("the field has another wire type".into()),
    })
}

/// Types whose JSON is written by hand in Go. None: an ordinary message.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, String> {
    let part = |number: u64| Fields(bytes).filter_map(Result::ok).filter(move |f| f.0 == number).map(|f| f.1);
    let integer = |number| match part(number).last() {
        Some(Wire::Varint(value)) => value as i64,
        _ => 0,
    };
    let inner = |number| match part(number).last() {
        Some(Wire::Bytes(inner)) => inner,
        _ => &[][..],
    };
    let json = |raw: &[u8]| match raw {
        [] => Ok(Value::Null),
        raw if raw.starts_with(MAGIC) => read(raw),
        raw => serde_json::from_slice(raw).map_err(|e| e.to_string()),
    };
    let schema = |bytes: &[u8]| {
        value(Type::Message("apiextensions.v1.JSONSchemaProps"), Wire::Bytes(bytes), depth + 1)
    };
    if depth > MAX_DEPTH {
        return Err("exceeded max depth".into());
    }
    Ok(Some(match name {
        "meta.v1.Time" | "meta.v1.MicroTime" if bytes.is_empty() => Value::Null,
        "meta.v1.Time" | "meta.v1.MicroTime" => {
            let nanoseconds = if name == "meta.v1.Time" { 0 } else { integer(2) as i32 };
            let time = Timestamp::new(integer(1), nanoseconds).map_err(|e| e.to_string())?;
            if name == "meta.v1.Time" { time.to_string() } else { format!("{time:.6}") }.into()
        }
        "meta.v1.Duration" => format!("{}s", integer(1) as f64 / 1e9).into(),
        "resource.Quantity" => text(inner(1))?.into(),
        "intstr.IntOrString" if integer(1) == 0 => integer(2).into(),
        "intstr.IntOrString" => text(inner(3))?.into(),
        "meta.v1.FieldsV1" | "runtime.RawExtension" | "apiextensions.v1.JSON" => json(inner(1))?,
        "apiextensions.v1.JSONSchemaPropsOrBool" if inner(2).is_empty() => (integer(1) != 0).into(),
        "apiextensions.v1.JSONSchemaPropsOrBool" => schema(inner(2))?,
        "apiextensions.v1.JSONSchemaPropsOrArray" | "apiextensions.v1.JSONSchemaPropsOrStringArray"
            if part(1).next().is_some() =>
        {
            schema(inner(1))?
        }
        "apiextensions.v1.JSONSchemaPropsOrArray" | "apiextensions.v1.JSONSchemaPropsOrStringArray" => {
            let item = |wire: Wire<'_>| match wire {
                Wire::Bytes(inner) if name.ends_with("OrStringArray") => Ok(text(inner)?.into()),
                Wire::Bytes(inner) => schema(inner),
                _ => Err("the field has another wire type".to_owned()),
            };
            part(2).map(item).collect::<Result<Vec<Value>, String>>()?.into()
        }
        _ => return Ok(None),
    }))
}

// --- the wire ------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in the order sent; ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Wire<'a>), String> {
        let key = varint(&mut self.0)?;
        let wire = match key & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => Wire::Fixed(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| "unexpected end")?)),
            2 => {
                let length = varint(&mut self.0)?;
                Wire::Bytes(self.take(usize::try_from(length).map_err(|_| "unexpected end")?)?)
            }
            5 => Wire::Fixed(
                u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| "unexpected end")?).into(),
            ),
            other => return Err(format!("unknown wire type {other}")),
        };
        Ok((key >> 3, wire))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("unexpected end")?;
        self.0 = rest;
        Ok(taken)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("unexpected end")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is longer than 64 bits".into())
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string is not UTF-8".into())
}

#[cfg(test)]
mod tests;
