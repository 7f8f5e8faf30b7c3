//! The definitions of OpenAPI v2 in protobuf, which `kubectl` asks for by default. After gnostic's `OpenAPIv2.proto`; paths
//! are left out, for no client reads them from this form.
use serde_json::Value;

/// What clients name this form in `Accept`.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What an answer in it says it is: the form that clients name is no media type that they could read.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// gnostic's `Document`, of one in JSON.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.string(1, &document["info"]["title"]);
    info.string(2, &document["info"]["version"]);
    let mut out = Message::default();
    out.string(1, &document["swagger"]);
    out.message(2, info);
    out.message(8, Message::default());
    out.message(9, named_schemas(&document["definitions"]));
    out.0
}

/// A map as a list of names and values.
fn named_schemas(schemas: &Value) -> Message {
    let mut out = Message::default();
    for (name, inner) in schemas.as_object().into_iter().flatten() {
        let mut named = Message::default();
        named.text(1, name);
        named.message(2, schema(inner));
        out.message(1, named);
    }
    out
}

fn schema(schema_: &Value) -> Message {
    let mut out = Message::default();
    for (field, value) in schema_.as_object().into_iter().flatten() {
        match field.as_str() {
            "$ref" => out.string(1, value),
            "format" => out.string(2, value),
            "title" => out.string(3, value),
            "description" => out.string(4, value),
            "default" => out.message(5, any(value)),
            "pattern" => out.string(13, value),
            "uniqueItems" => out.boolean(16, value == true),
            "required" => value.as_array().into_iter().flatten().for_each(|name| out.string(19, name)),
            "enum" => value.as_array().into_iter().flatten().for_each(|one| out.message(20, any(one))),
            "additionalProperties" => {
                let mut item = Message::default();
                match value.as_bool() {
                    Some(allowed) => item.boolean(2, allowed),
                    None => item.message(1, schema(value)),
                }
                out.message(21, item);
            }
            "type" => {
                let mut item = Message::default();
                item.string(1, value);
                out.message(22, item);
            }
            "items" => {
                let mut item = Message::default();
                item.message(1, schema(value));
                out.message(23, item);
            }
            "allOf" => value.as_array().into_iter().flatten().for_each(|part| out.message(24, schema(part))),
            "properties" => out.message(25, named_schemas(value)),
            extension if extension.starts_with("x-") => {
                let mut named = Message::default();
                named.text(1, extension);
                named.message(2, any(value));
                out.message(31, named);
            }
            // Bounds of numbers and lengths: the server checks them, clients do not.
            _ => {}
        }
    }
    out
}

/// Any value travels as YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(2, &value.to_string());
    out
}

/// A message's bytes, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn message(&mut self, number: u32, inner: Message) {
        self.bytes(number, &inner.0);
    }

    fn string(&mut self, number: u32, value: &Value) {
        self.text(number, value.as_str().unwrap_or_default());
    }

    fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    fn boolean(&mut self, number: u32, value: bool) {
        self.varint(u64::from(number) << 3);
        self.varint(value.into());
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_keeps_what_clients_look_at() {
        let bytes = schema(&json!({"type": "string", "x-a": 1, "additionalProperties": false})).0;
        let type_item = [0xb2, 0x01, 8, 10, 6, b's', b't', b'r', b'i', b'n', b'g'];
        let extension = [0xfa, 0x01, 10, 10, 3, b'x', b'-', b'a', 18, 3, 18, 1, b'1'];
        let closed = [0xaa, 0x01, 2, 16, 0];
        let mut expected = Vec::new();
        for part in [&closed[..], &type_item, &extension] {
            expected.extend_from_slice(part);
        }
        assert_eq!(bytes, expected);
    }
}
