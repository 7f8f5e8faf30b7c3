//! Bodies of requests: JSON, YAML or protobuf into a JSON tree, with what `fieldValidation` has to say about them.
mod yaml_lines;

use crate::kind::{KindEntry, TypeError};
use crate::protobuf;
use crate::status::{Reason, Status};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// A body that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// What strict decoding says of fields that stand twice in one object, in the order met. The last one counts, as in
    /// Go.
    pub duplicates: Vec<String>,
}

/// Go's zero time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// How deep a body may nest: a deeper one would exhaust the stack of whoever walks it.
const MAX_DEPTH: usize = 128;

/// Reads JSON, YAML or protobuf, told apart by the media type; without one, by the first character. Errors: BadRequest for a
/// body that is broken, UnsupportedMediaType.
pub fn decode(body: &[u8], content_type: Option<&str>) -> Result<Decoded, Status> {
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    let is_yaml = match media_type.as_str() {
        "" | "*/*" => !matches!(first, Some(b'{' | b'[') | None),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "application/apply-patch+yaml" => true,
        "application/json" | "text/json" => false,
        other if other.ends_with("+json") => false,
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::read(body)
                .map_err(|why| Status::bad_request(format!("couldn't get version/kind; {why}")))?;
            return Ok(Decoded { value, duplicates: Vec::new() });
        }
        _ => {
            return Err(Status::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    let duplicates = RefCell::new(Vec::new());
    let seed = Tree { path: "", depth: 0, duplicates: &duplicates };
    let value = if is_yaml { read_yaml(body, seed) } else { read_json(body, seed) };
    let value = value.map_err(|why| Status::bad_request(format!("couldn't get version/kind; {why}")))?;
    let duplicates = duplicates.into_inner();
    let duplicates = match is_yaml {
        true => yaml_lines::duplicates(body, &duplicates).into_iter().collect(),
        false => duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect(),
    };
    Ok(Decoded { value, duplicates })
}

fn read_json(body: &[u8], seed: Tree<'_>) -> Result<Value, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err("json parse error: unexpected end of JSON input".into());
    }
    let mut source = serde_json::Deserializer::from_slice(body);
    let value = seed.deserialize(&mut source).map_err(|e| format!("json parse error: {e}"))?;
    source.end().map_err(|e| format!("json parse error: {e}"))?;
    Ok(value)
}

fn read_yaml(body: &[u8], seed: Tree<'_>) -> Result<Value, String> {
    let source = serde_yaml_ng::Deserializer::from_slice(body);
    seed.deserialize(source).map_err(|e| format!("error converting YAML to JSON: {e}"))
}

/// Builds the tree and notes fields that come twice.
#[derive(Clone, Copy)]
struct Tree<'a> {
    path: &'a str,
    depth: usize,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'a> Tree<'a> {
    fn below<'b>(&self, path: &'b str) -> Tree<'b>
    where
        'a: 'b,
    {
        Tree { path, depth: self.depth + 1, duplicates: self.duplicates }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom("exceeded max depth"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        let number = Number::from_f64(v).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(number.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match access.next_element_seed(self.below(&path))? {
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(Name(name)) = access.next_key()? {
            let path = child_path(self.path, &name);
            let value = access.next_value_seed(self.below(&path))?;
            if fields.insert(name, value).is_some() {
                self.duplicates.borrow_mut().push(path);
            }
        }
        Ok(fields.into())
    }
}

fn child_path(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    }
}

/// A key: YAML allows numbers and booleans, which JSON writes as text.
struct Name(String);

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }
            fn visit_str<E>(self, v: &str) -> Result<Name, E> {
                Ok(Name(v.into()))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Name, E> {
                Ok(Name(v.to_string()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Name, E> {
                Ok(Name(v.to_string()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Name, E> {
                Ok(Name(v.to_string()))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Name, E> {
                Ok(Name(v.to_string()))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

/// The paths of fields that the kind does not know, found by reading the object as its type and writing it again.
/// Empty when the object does not even have the right types: then that is what the client must be told.
pub fn unknown_fields(entry: &KindEntry, object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut object = object.clone();
    // A null says nothing, but for a required list serde takes it for a wrong type.
    prune_nulls(&mut object);
    if let Some(known) = entry.rules.normalized(&object) {
        compare("", &object, &known, &mut unknown);
    }
    unknown
}

/// What `object` has and `known`, the same after a typed round trip, has not. Values may differ (a quantity given as a
/// number comes back as text): only names count.
fn compare(path: &str, object: &Value, known: &Value, unknown: &mut Vec<String>) {
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (name, value) in fields {
                let path = child_path(path, name);
                match known.get(name) {
                    Some(known) => compare(&path, value, known, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                compare(&format!("{path}[{index}]"), item, known, unknown);
            }
        }
        _ => {}
    }
}

/// Drops fields that are null: they mean the same as fields left out, and Kubernetes does not store them.
pub fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// `unknown field "spec.foo"`, `duplicate field "spec.replicas"`: the warnings under `fieldValidation=Warn`, one each.
/// Custom objects are read before their schema is asked, so what stands twice in them is told first.
pub fn strict_errors(entry: &KindEntry, duplicates: &[String], unknown_fields: &[String]) -> Vec<String> {
    let unknown = unknown_fields.iter().map(|path| format!("unknown field {path:?}"));
    match entry.rules.is_custom() {
        true => duplicates.iter().cloned().chain(unknown).collect(),
        false => unknown.chain(duplicates.iter().cloned()).collect(),
    }
}

/// The refusal under `fieldValidation=Strict`, for create and update.
pub fn strict_status(entry: &KindEntry, errors: &[String]) -> Status {
    cannot_be_handled(entry, &format!("strict decoding error: {}", errors.join(", ")))
}

/// The refusal under `fieldValidation=Strict` of a patch whose result has duplicate or unknown fields.
pub fn strict_patch_status(patch: &str, errors: &[String]) -> Status {
    let mut field_errors = crate::FieldErrors::default();
    let detail = format!("strict decoding error: {}", errors.join(", "));
    field_errors.invalid(&crate::Path::new("patch"), patch, detail);
    Status::invalid("", "", "", &field_errors)
}

/// Lists whose times are filled in, of one object.
const LISTS_WITHOUT_TIMES: usize = 8;

/// As [`check_types`], of what comes from a client. Go reads a time that is null or not there as its zero time, and clients
/// written in Go send such conditions; types that want a time have no place for none, so it is written out.
pub fn settle_types(entry: &KindEntry, object: &mut Value) -> Result<(), Status> {
    for _ in 0..LISTS_WITHOUT_TIMES {
        match entry.rules.type_error(object) {
            None => return Ok(()),
            Some(error) if fill_times(object, &error) => {}
            Some(_) => break,
        }
    }
    check_types(entry, object)
}

/// Whether anything was filled in.
fn fill_times(object: &mut Value, error: &TypeError) -> bool {
    // The whole list at once: one condition without its time is seldom alone.
    let list = error.pointer.rsplit_once('/').filter(|(_, index)| index.parse::<usize>().is_ok());
    let places = match object.pointer_mut(list.map_or(&*error.pointer, |(list, _)| list)) {
        Some(Value::Array(items)) => items.iter_mut().collect(),
        Some(other) => vec![other],
        None => Vec::new(),
    };
    let mut changed = false;
    for fields in places.into_iter().filter_map(Value::as_object_mut) {
        let before = fields.len();
        fields.retain(|_, value| !value.is_null());
        changed |= fields.len() < before;
        // A time is all that a type of Kubernetes cannot do without.
        if let Some(time) = error.missing.as_ref().filter(|time| !fields.contains_key(*time)) {
            fields.insert(time.clone(), ZERO_TIME.into());
            changed = true;
        }
    }
    changed
}

/// Refuses an object some field of which has the wrong type.
pub fn check_types(entry: &KindEntry, object: &Value) -> Result<(), Status> {
    match entry.rules.type_error(object) {
        Some(error) => Err(cannot_be_handled(entry, &error.to_string())),
        None => Ok(()),
    }
}

/// A body whose shape is not the kind's, as `kubectl` prints it.
fn cannot_be_handled(entry: &KindEntry, why: &str) -> Status {
    let KindEntry { kind, version, .. } = entry;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn config_map() -> KindEntry {
        KindEntry::clone(crate::Registry::builtin().by_resource("configmaps").unwrap())
    }

    #[test]
    fn yaml_and_json_give_the_same_tree() {
        let yaml = b"apiVersion: v1\nkind: ConfigMap\ndata: {a: x, 1: 'y', true: z}\nlist:\n- 1\n- ~\n- 1.5\n- \"yes\"\n";
        let json = br#"{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"x","1":"y","true":"z"},"list":[1,null,1.5,"yes"]}"#;
        let yaml = decode(yaml, Some("application/yaml")).unwrap();
        assert_eq!(yaml, decode(json, Some("application/json; charset=utf-8")).unwrap());
        assert_eq!(decode(b"a: 1", None).unwrap().value, json!({"a": 1}));
        assert_eq!(
            decode(br#"{"a":1}"#, Some("application/apply-patch+yaml")).unwrap().value,
            json!({"a": 1})
        );
    }

    #[test]
    fn a_field_given_twice_is_named_and_the_last_counts() {
        let body = br#"{"spec":{"replicas":1,"replicas":2,"c":[{"x":1},{"x":1,"x":2}]}}"#;
        let decoded = decode(body, None).unwrap();
        let twice = ["duplicate field \"spec.replicas\"", "duplicate field \"spec.c[1].x\""];
        assert_eq!(decoded.duplicates, twice);
        assert_eq!(decoded.value["spec"]["replicas"], 2);
        let yaml = decode(b"spec:\n  a: 1\n  a: 2\n", Some("application/yaml")).unwrap();
        assert_eq!(yaml.duplicates, ["yaml: unmarshal errors:\n  line 3: key \"a\" already set in map"]);
    }

    #[test]
    fn broken_bodies_are_bad_requests() {
        let deep = "[".repeat(100_000);
        for body in ["", "{", "{\"a\":}", "{} {}", &deep] {
            assert_eq!(
                decode(body.as_bytes(), Some("application/json")).unwrap_err().code(),
                400,
                "{body:.9}"
            );
        }
        for body in ["a: b: c", "a: [1", "a: .inf", "\t- x", &deep] {
            assert_eq!(
                decode(body.as_bytes(), Some("application/yaml")).unwrap_err().code(),
                400,
                "{body:.9}"
            );
        }
        assert_eq!(decode(b"x", Some("application/vnd.kubernetes.protobuf")).unwrap_err().code(), 400);
        assert_eq!(decode(b"x", Some("application/cbor")).unwrap_err().code(), 415);
    }

    #[test]
    fn unknown_fields_are_named_with_their_paths() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "extra": 1, "none": null, "data": null,
            "metadata": {"name": "x", "labels": {"anything": "goes"}, "ownerReferences": [{"uuid": "1"}], "annotations": {}},
        });
        let unknown = unknown_fields(&config_map(), &object);
        assert_eq!(unknown, ["extra", "metadata.ownerReferences[0].uuid"]);
        let duplicates = ["duplicate field \"data.a\"".to_owned()];
        let errors = strict_errors(&config_map(), &duplicates, &unknown[..1]);
        assert_eq!(
            strict_status(&config_map(), &errors).message,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
             unknown field \"extra\", duplicate field \"data.a\""
        );
        let status = strict_patch_status("{}", &strict_errors(&config_map(), &[], &unknown[..1]));
        let expected =
            " \"\" is invalid: patch: Invalid value: \"{}\": strict decoding error: unknown field \"extra\"";
        assert_eq!(status.message, expected);
    }

    #[test]
    fn a_wrong_type_is_told_with_its_field() {
        let rows = [
            (json!({"data": {"a": 1}}), "number into Go struct field ConfigMap.data.a of type string"),
            (json!({"immutable": "yes"}), "string into Go struct field ConfigMap.immutable of type bool"),
            (
                json!({"metadata": {"ownerReferences": [{"uid": "1"}, {"uid": {}}]}}),
                "object into Go struct field ConfigMap.metadata.ownerReferences[1].uid of type string",
            ),
            (
                json!({"metadata": {"generation": "x"}}),
                "string into Go struct field ConfigMap.metadata.generation of type int64",
            ),
            (json!({"metadata": []}), "array into Go struct field ConfigMap.metadata of type ObjectMeta"),
        ];
        for (object, expected) in rows {
            let error = check_types(&config_map(), &object).unwrap_err();
            let prefix =
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal ";
            assert_eq!(error.message, format!("{prefix}{expected}"));
            assert_eq!(error.code(), 400);
        }
    }

    #[test]
    fn a_time_that_must_be_there_is_the_zero_time_where_it_is_not() {
        let entry = KindEntry::clone(crate::Registry::builtin().by_resource("services").unwrap());
        let mut service = json!({"status": {"conditions": [
            {"type": "A", "status": "True", "lastTransitionTime": null}, {"type": "B", "status": "True"},
            {"type": "C", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]}});
        settle_types(&entry, &mut service).unwrap();
        let conditions = service["status"]["conditions"].as_array().unwrap();
        let times: Vec<&Value> = conditions.iter().map(|c| &c["lastTransitionTime"]).collect();
        assert_eq!(times, ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]);
        let mut wrong = json!({"status": {"conditions": [{"type": "A", "lastTransitionTime": 5}]}});
        settle_types(&entry, &mut wrong).unwrap_err();
        assert_eq!(wrong["status"]["conditions"][0]["lastTransitionTime"], 5);
    }

    #[test]
    fn a_wrong_type_is_found_among_many_and_beside_others() {
        let mut owners = vec![json!({"uid": "x"}); 5000];
        owners[4321]["uid"] = json!(1);
        owners[4322]["uid"] = json!(1);
        let object = json!({"metadata": {"ownerReferences": owners, "labels": {"z": 1}}});
        let error = check_types(&config_map(), &object).unwrap_err();
        assert!(error.message.contains("ConfigMap.metadata.labels.z of type string"), "{}", error.message);
        let mut object = object;
        object["metadata"]["labels"] = json!({});
        let error = check_types(&config_map(), &object).unwrap_err();
        assert!(error.message.contains("ownerReferences[4321].uid of type string"), "{}", error.message);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in crate::arbitrary::object()) {
            let json = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(&decode(&json, None).unwrap().value, &value);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes, Some("application/json"));
            let _ = decode(&bytes, Some("application/yaml"));
        }
    }
}
