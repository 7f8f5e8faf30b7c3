//! Objects as bytes: the body that is stored, and the bytes that are sent, which differ by the resource version alone.
use crate::Object;
use bytes::{BufMut, Bytes, BytesMut};
use pilothouse_api::{Key, Revision};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every body starts so, which makes the place of the resource version a constant.
const HEAD: &[u8] = b"{\"metadata\":{";

/// The object without its resource version, `metadata` first.
pub fn encode(mut object: Value) -> Bytes {
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
pub fn with_revision(body: &[u8], revision: Revision) -> Bytes {
    let rest = body.get(HEAD.len()..).unwrap_or(b"}}");
    let mut bytes = BytesMut::with_capacity(body.len() + 40);
    bytes.put_slice(HEAD);
    bytes.put_slice(b"\"resourceVersion\":\"");
    bytes.put_slice(revision.to_string().as_bytes());
    bytes.put_u8(b'"');
    if rest.first() != Some(&b'}') {
        bytes.put_u8(b',');
    }
    bytes.put_slice(rest);
    bytes.freeze()
}

#[derive(serde::Deserialize, Default)]
struct Indexed {
    #[serde(default)]
    metadata: IndexedMeta,
}

#[derive(serde::Deserialize, Default)]
struct IndexedMeta {
    #[serde(default)]
    uid: Arc<str>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// One version of an object from its stored body; `fields` are what the kind offers to field selectors.
pub fn decode(key: Key, revision: Revision, body: &[u8], mut fields: Vec<(String, String)>) -> Object {
    let meta = serde_json::from_slice::<Indexed>(body).unwrap_or_default().metadata;
    fields.push(("metadata.name".into(), key.name.as_ref().into()));
    fields.push(("metadata.namespace".into(), key.namespace.as_ref().into()));
    let labels = meta.labels.unwrap_or_default();
    Object { key, uid: meta.uid, revision, bytes: with_revision(body, revision), labels, fields }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_resource_version_is_spliced_in_and_nothing_else_changes() {
        let rows = [
            json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": [1, 2]}}),
            json!({"metadata": {}}),
            json!({"metadata": {"resourceVersion": "9"}, "data": {"}": "{\"metadata\":{"}}),
            json!({"kind": "Odd"}),
        ];
        for object in rows {
            let sent = with_revision(&encode(object.clone()), 42);
            let mut expected = object;
            if expected["metadata"].is_null() {
                expected["metadata"] = json!({});
            }
            expected["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
        }
    }
}
