//! The entries of a Secret or ConfigMap as a form edits them.
use super::{at, pairs};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Secret,
    ConfigMap,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Text(String),
    /// Not UTF-8: kept and downloaded, not edited.
    Bytes(Vec<u8>),
}

impl Content {
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub fn size(&self) -> usize {
        self.bytes().len()
    }
}

pub type Entries = BTreeMap<String, Content>;

pub fn entries(object: &Value, holder: Holder) -> Entries {
    let decode = |text: &str| Content::from_bytes(STANDARD.decode(text).unwrap_or_default());
    let data = pairs(object, &["data"]).into_iter();
    match holder {
        Holder::Secret => data.map(|(key, value)| (key, decode(&value))).collect(),
        Holder::ConfigMap => data
            .map(|(key, value)| (key, Content::Text(value)))
            .chain(pairs(object, &["binaryData"]).into_iter().map(|(key, value)| (key, decode(&value))))
            .collect(),
    }
}

/// Why these rows can't be saved: the row and the reason. Rows without key and value are left out of everything.
pub fn check(rows: &[(String, Content)]) -> Option<(usize, String)> {
    for (index, (key, content)) in rows.iter().enumerate() {
        if key.is_empty() {
            if content.size() > 0 {
                return Some((index, "give this value a key".into()));
            }
            continue;
        }
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Some((index, "a key has only letters, digits, '-', '_' and '.'".into()));
        }
        if key.len() > 253 {
            return Some((index, "a key has at most 253 characters".into()));
        }
        if rows[..index].iter().any(|(other, _)| other == key) {
            return Some((index, "this key is there twice".into()));
        }
    }
    None
}

fn fields(rows: &[(String, Content)], holder: Holder) -> (Map<String, Value>, Map<String, Value>) {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, content) in rows.iter().filter(|(key, _)| !key.is_empty()) {
        match (holder, content) {
            (Holder::Secret, content) => data.insert(key.clone(), STANDARD.encode(content.bytes()).into()),
            (Holder::ConfigMap, Content::Text(text)) => data.insert(key.clone(), text.clone().into()),
            (Holder::ConfigMap, Content::Bytes(bytes)) => {
                binary.insert(key.clone(), STANDARD.encode(bytes).into())
            }
        };
    }
    (data, binary)
}

/// A new object; `kind` is a Secret's type and otherwise unused.
pub fn object(holder: Holder, namespace: &str, name: &str, kind: &str, rows: &[(String, Content)]) -> Value {
    let (data, binary) = fields(rows, holder);
    let metadata = json!({"name": name, "namespace": namespace});
    match holder {
        Holder::Secret => {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data})
        }
        Holder::ConfigMap => {
            let mut object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
            if !binary.is_empty() {
                object["binaryData"] = binary.into();
            }
            object
        }
    }
}

/// A merge patch that turns the entries of `object` into `rows`, and fails if somebody else changed it meanwhile.
pub fn patch(object: &Value, holder: Holder, rows: &[(String, Content)]) -> Value {
    let (data, binary) = fields(rows, holder);
    let version = at(object, &["metadata", "resourceVersion"]).cloned().unwrap_or(Value::Null);
    let mut patch = json!({"metadata": {"resourceVersion": version}});
    for (field, new) in [("data", data), ("binaryData", binary)] {
        let removed = pairs(object, &[field]).into_iter().filter(|(key, _)| !new.contains_key(key));
        let mut merged: Map<String, Value> = removed.map(|(key, _)| (key, Value::Null)).collect();
        merged.extend(new.into_iter().filter(|(key, value)| object[field].get(key) != Some(value)));
        if !merged.is_empty() {
            patch[field] = merged.into();
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Content {
        Content::Text(value.into())
    }

    #[test]
    fn a_secrets_values_are_decoded_and_encoded() {
        let object = object(
            Holder::Secret,
            "n",
            "s",
            "Opaque",
            &[("a".into(), text("hällo\n")), (String::new(), text(""))],
        );
        assert_eq!(object["data"], json!({"a": "aMOkbGxvCg=="}));
        assert_eq!(entries(&object, Holder::Secret), Entries::from([("a".into(), text("hällo\n"))]));
    }

    #[test]
    fn bytes_that_are_no_text_survive_in_either_holder() {
        let rows = [("bin".to_owned(), Content::Bytes(vec![0xff, 0]))];
        for holder in [Holder::Secret, Holder::ConfigMap] {
            let object = object(holder, "n", "o", "Opaque", &rows);
            assert_eq!(entries(&object, holder)["bin"], rows[0].1);
        }
    }

    #[test]
    fn a_patch_holds_only_what_changed_and_the_version_it_was_made_for() {
        let object =
            json!({"metadata": {"resourceVersion": "5"}, "data": {"keep": "a2VlcA==", "drop": "eA=="}});
        let rows = [("keep".into(), text("keep")), ("new".into(), text("v"))];
        assert_eq!(
            patch(&object, Holder::Secret, &rows),
            json!({"metadata": {"resourceVersion": "5"}, "data": {"drop": null, "new": "dg=="}})
        );
    }

    #[test]
    fn rows_that_can_not_be_saved_are_named() {
        assert_eq!(check(&[("a".into(), text("")), ("a".into(), text("x"))]).map(|e| e.0), Some(1));
        assert_eq!(check(&[("a b".into(), text(""))]).map(|e| e.0), Some(0));
        assert_eq!(check(&[(String::new(), text("x"))]).map(|e| e.0), Some(0));
        assert_eq!(check(&[(String::new(), text("")), ("ok.key".into(), text(""))]), None);
    }
}
