//! Bodies built field by field, as client-go sends them.
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = vec![number << 3 | 2, bytes.len() as u8];
    out.extend_from_slice(bytes);
    out
}

fn integer(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn body(api_version: &str, kind: &str, raw: Vec<u8>) -> Vec<u8> {
    let type_meta = [field(1, api_version), field(2, kind)].concat();
    [MAGIC.to_vec(), field(1, type_meta), field(2, raw), field(3, ""), field(4, "")].concat()
}

/// As client-go sends it: every field that is not a pointer, empty or not.
fn object_meta(name: &str) -> Vec<u8> {
    [
        field(1, name),
        field(2, ""),
        field(3, ""),
        field(4, ""),
        field(5, ""),
        field(6, ""),
        integer(7, 0),
        field(8, ""),
    ]
    .concat()
}

#[test]
fn an_object_reads_as_go_prints_it() {
    let entry = |key: &str, value: &[u8]| field(2, [field(1, key), field(2, value)].concat());
    let raw =
        [field(1, object_meta("s")), entry("user", b"me"), entry("bytes", &[0xff, 0]), field(3, "Opaque")]
            .concat();
    let expected = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque",
        "data": {"user": "bWU=", "bytes": "/wA="},
    });
    assert_eq!(read(&body("v1", "Secret", raw)), Ok(expected));
}

#[test]
fn embedded_structs_are_inlined_and_pointers_keep_their_zero() {
    let empty_dir = field(2, field(2, ""));
    let volume = field(1, [field(1, "scratch"), empty_dir].concat());
    let probe = field(
        10,
        [
            field(
                1,
                field(2, [field(1, "/"), field(2, [integer(1, 1), field(3, "http")].concat())].concat()),
            ),
            integer(2, 0),
        ]
        .concat(),
    );
    let container = field(2, [field(1, "c"), field(2, "i"), probe].concat());
    let pod_spec = field(2, [volume, container, integer(4, 0), integer(11, 0)].concat());
    let object = read(&body("v1", "Pod", [field(1, object_meta("p")), pod_spec].concat())).unwrap();
    let container =
        json!({"name": "c", "image": "i", "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}});
    let expected = json!({
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
    });
    assert_eq!(object["spec"], expected);
}

#[test]
fn options_belong_to_every_group() {
    let raw = [integer(1, 0), field(4, "Background")].concat();
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background",
    });
    assert_eq!(read(&body("apps/v1", "DeleteOptions", raw)), Ok(expected));
}

#[test]
fn what_is_not_protobuf_or_not_known_is_refused() {
    assert_eq!(read(b"{}"), Err("the body does not start with \"k8s\\0\"".into()));
    let unknown = read(&body("example.com/v1", "Widget", Vec::new()));
    assert_eq!(unknown, Err("no kind \"Widget\" is registered for version \"example.com/v1\"".into()));
    let cut = read(&body("v1", "Secret", vec![10, 200]));
    assert_eq!(cut, Err("unexpected end".into()));
}

#[test]
fn every_kind_has_a_message_and_every_message_its_parts() {
    for entry in crate::kinds::all() {
        let known = message_of(&entry.api_version(), &entry.kind).is_some();
        assert!(known || !entry.verbs.contains(&crate::Verb::Create), "{}", entry.kind);
    }
    for (name, message) in MESSAGES.iter() {
        for field in &message.fields {
            if let Type::Message(inner) = field.kind {
                let known = MESSAGES.contains_key(inner) || special(inner, &[], 0).is_ok_and(|s| s.is_some());
                assert!(known, "{name}.{}: {inner}", field.name);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_body_panics(kind in prop::sample::select(vec!["Pod", "Secret", "Node", "Service"]), raw in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = read(&body("v1", kind, raw));
    }
}
