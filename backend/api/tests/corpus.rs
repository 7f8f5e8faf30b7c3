//! The corpus of the fuzz targets, through the same functions: what once made something panic never does again. And its
//! objects with odd values in odd places, through all that becomes of an object.
#![cfg(feature = "schema")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // the harness is compiled as part of this test
#[path = "../../fuzz/src/harness.rs"]
mod harness;

use pilothouse_api::{Registry, decode};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;

#[test]
fn nothing_in_the_corpus_makes_anything_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in harness::TARGETS {
        let files = std::fs::read_dir(corpus.join(name)).unwrap();
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            if std::panic::catch_unwind(|| target(&data)).is_err() {
                panic!("{} makes {name} panic", path.display());
            }
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}

/// The places in a value, as JSON pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, below) in fields {
                places(below, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), all);
            }
        }
        Value::Array(items) => {
            for (index, below) in items.iter().enumerate() {
                places(below, &format!("{at}/{index}"), all);
            }
        }
        _ => {}
    }
}

/// What may stand where something else is expected.
fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(""),
        json!("a"),
        json!("-"),
        json!("1"),
        json!("2026-01-01T00:00:00Z"),
        json!("9999999999999999999Gi"),
        json!("ü\u{0}\u{fffd}"),
        json!("x".repeat(300)),
        json!(-1),
        json!(0),
        json!(2_147_483_648_i64),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1.5),
        json!(true),
        json!([]),
        json!({}),
        json!([null]),
        json!([{}]),
        json!({"": null}),
        json!({"a": "b"}),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_object_makes_anything_panic(seed in any::<prop::sample::Index>(), changes in changes()) {
        let mut object = seed.get(seeds()).clone();
        for (place, odd) in changes {
            let mut all = Vec::new();
            places(&object, "", &mut all);
            let place = place.get(&all[1..]);
            if let Some(found) = object.pointer_mut(place) {
                *found = odd;
            }
        }
        let kind = object["kind"].as_str().unwrap_or_default();
        for entry in REGISTRY.entries().iter().filter(|entry| entry.kind == kind) {
            harness::live(entry, object.clone());
        }
    }
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Value)>> {
    prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(odd_values())), 1..4)
}

/// One object of every kind, from the corpus.
fn seeds() -> &'static [Value] {
    static SEEDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/decode");
        let mut files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let read = files.iter().map(|path| std::fs::read(path).unwrap());
        let decoded = read.filter_map(|data| decode::decode(&data, None).ok());
        decoded.map(|decoded| decoded.value).filter(|value| value["kind"].is_string()).collect()
    });
    &SEEDS
}
