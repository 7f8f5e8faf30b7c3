//! Objects as bytes: the body that is stored, and the bytes that are sent, which differ by the resource version alone.
use crate::{Index, Object};
use bytes::{BufMut, Bytes, BytesMut};
use pilothouse_api::{Key, Revision};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every body starts so, which makes the place of the resource version a constant.
const HEAD: &[u8] = b"{\"metadata\":{";
const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// An object that has no revision yet: encoded and indexed by its writer, so that the one pipeline all writers share
/// has little left to do.
pub struct Draft {
    /// Without the resource version.
    body: Bytes,
    facts: Facts,
}

/// What is known of an object without parsing it again.
#[derive(Clone)]
struct Facts {
    uid: Arc<str>,
    labels: BTreeMap<String, String>,
    fields: Vec<(String, String)>,
}

impl Facts {
    fn of(key: &Key, value: &Value, index: &Index) -> Self {
        let metadata = &value["metadata"];
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let mut fields = index(key, value);
        for (name, value) in [("metadata.name", &key.name), ("metadata.namespace", &key.namespace)] {
            if !fields.iter().any(|(known, _)| known == name) {
                fields.push((name.to_owned(), value.to_string()));
            }
        }
        Self { uid: metadata["uid"].as_str().unwrap_or_default().into(), labels: labels.collect(), fields }
    }
}

impl Draft {
    pub fn new(key: &Key, object: Value, index: &Index) -> Self {
        let facts = Facts::of(key, &object, index);
        Self { body: encode(object), facts }
    }

    /// The object, and the body to store.
    pub fn finish(&self, key: Key, revision: Revision) -> (Object, Bytes) {
        (build(key, revision, with_revision(&self.body, revision), self.facts.clone()), self.body.clone())
    }
}

/// One version of an object from its stored body.
pub fn decode(key: Key, revision: Revision, body: &[u8], index: &Index) -> Object {
    let value = serde_json::from_slice(body).unwrap_or_default();
    let facts = Facts::of(&key, &value, index);
    build(key, revision, with_revision(body, revision), facts)
}

/// The same object at another revision, and its body: what a deletion says of the last state.
pub fn at_revision(object: &Object, revision: Revision) -> (Object, Bytes) {
    let body = without_revision(&object.bytes);
    let facts =
        Facts { uid: object.uid.clone(), labels: object.labels.clone(), fields: object.fields.clone() };
    (build(object.key.clone(), revision, with_revision(&body, revision), facts), body)
}

fn build(key: Key, revision: Revision, bytes: Bytes, facts: Facts) -> Object {
    Object { key, uid: facts.uid, revision, bytes, labels: facts.labels, fields: facts.fields }
}

/// The object without its resource version, `metadata` first.
fn encode(mut object: Value) -> Bytes {
    let mut metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
    }
    match metadata.as_object_mut() {
        Some(fields) => drop(fields.remove("resourceVersion")),
        None => metadata = Value::Object(serde_json::Map::new()),
    }
    let metadata = metadata.to_string();
    let rest = object.to_string();
    let mut body = BytesMut::with_capacity(HEAD.len() + metadata.len() + rest.len());
    body.put_slice(HEAD);
    body.put_slice(&metadata.as_bytes()[1..]);
    match rest.as_str() {
        "{}" | "null" => body.put_u8(b'}'),
        rest => {
            body.put_u8(b',');
            body.put_slice(&rest.as_bytes()[1..]);
        }
    }
    body.freeze()
}

/// What clients are sent: the body with its resource version spliced in.
fn with_revision(body: &[u8], revision: Revision) -> Bytes {
    let rest = body.get(HEAD.len()..).unwrap_or(b"}}");
    let revision = revision.to_string();
    let mut bytes = BytesMut::with_capacity(body.len() + VERSION.len() + revision.len() + 2);
    bytes.put_slice(HEAD);
    bytes.put_slice(VERSION);
    bytes.put_slice(revision.as_bytes());
    bytes.put_u8(b'"');
    if rest.first() != Some(&b'}') {
        bytes.put_u8(b',');
    }
    bytes.put_slice(rest);
    bytes.freeze()
}

/// The stored body of bytes that [`with_revision`] made.
fn without_revision(bytes: &[u8]) -> Bytes {
    let after = bytes.get(HEAD.len() + VERSION.len()..).unwrap_or_default();
    let end = after.iter().position(|byte| *byte == b'"').map_or(after.len(), |quote| quote + 1);
    let rest = &after[end..];
    let rest = rest.strip_prefix(b",").unwrap_or(rest);
    [HEAD, rest].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_resource_version_is_spliced_in_and_out_and_nothing_else_changes() {
        let rows = [
            json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": [1, 2]}}),
            json!({"metadata": {}}),
            json!({"metadata": {"resourceVersion": "9"}, "data": {"}": "{\"metadata\":{"}}),
            json!({"kind": "Odd"}),
        ];
        for object in rows {
            let body = encode(object.clone());
            let sent = with_revision(&body, 42);
            let mut expected = object;
            if expected["metadata"].is_null() {
                expected["metadata"] = json!({});
            }
            expected["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
            assert_eq!(without_revision(&sent), body);
        }
    }
}
