//! The list of kinds against Kubernetes' own discovery.
use super::all;
use crate::kind::{KindEntry, Scope, Verb};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A line as `tests/discovery.txt` has it: version, plural, kind, scope, singular, short names, categories, verbs and
/// subresources with their verbs.
fn line(entry: &KindEntry) -> String {
    let list = |items: &[String]| {
        if items.is_empty() { "-".to_owned() } else { items.join(",") }
    };
    let verbs = |verbs: &[Verb]| verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(",");
    let scope = if entry.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let subresources: Vec<String> =
        entry.subresources.iter().map(|s| format!("{}({})", s.name, verbs(s.verbs))).collect();
    let subresources = if subresources.is_empty() { "-".to_owned() } else { subresources.join(" ") };
    format!(
        "{} {} {} {scope} {} {} {} {} {subresources}",
        entry.api_version(),
        entry.plural,
        entry.kind,
        entry.singular,
        list(&entry.short_names),
        list(&entry.categories),
        verbs(&entry.verbs),
    )
}

#[test]
fn discovery_tells_what_kubernetes_tells() {
    let told: BTreeSet<String> = all().iter().map(line).collect();
    let expected: BTreeSet<String> = include_str!("tests/discovery.txt").lines().map(str::to_owned).collect();
    let missing: Vec<_> = expected.difference(&told).collect();
    let surplus: Vec<_> = told.difference(&expected).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:#?}\nsurplus {surplus:#?}");
}

#[test]
fn defaulting_twice_is_defaulting_once() {
    for entry in all() {
        let mut once = json!({"metadata": {"name": "x"}, "spec": {}});
        entry.rules.default(&mut once);
        let mut twice = once.clone();
        entry.rules.default(&mut twice);
        assert_eq!(once, twice, "{}", entry.resource);
    }
}

#[test]
fn defaulting_leaves_no_null_behind() {
    fn has_null(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Object(fields) => fields.values().any(has_null),
            Value::Array(list) => list.iter().any(has_null),
            _ => false,
        }
    }
    for entry in all() {
        for mut object in [json!({"metadata": {"name": "x"}}), json!({"metadata": {"name": "x"}, "spec": {}})]
        {
            entry.rules.default(&mut object);
            assert!(!has_null(&object), "{} {object}", entry.resource);
            entry.rules.from_stored(&mut object);
            entry.rules.to_stored(&mut object);
            assert!(!has_null(&object), "{} {object}", entry.resource);
        }
    }
}
