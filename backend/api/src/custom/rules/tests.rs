//! Tests of rules, as tables: what is refused and how it is told.
use super::*;
use serde_json::json;

fn errors_of(spec: Value, object: Value, old: Option<Value>) -> Vec<String> {
    let schema = Schema::root(&json!({"type": "object", "properties": {"spec": spec}}));
    let whole =
        |spec: Value| json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": spec});
    let old = old.map(whole);
    let object = whole(object);
    let mut errors = FieldErrors::default();
    check(&schema, &object, old.as_ref(), &mut errors);
    errors.as_slice().iter().map(ToString::to_string).collect()
}

#[test]
fn a_broken_rule_is_told_in_kubernetes_words() {
    let rows = [
        (
            json!({"rule": "self.min <= self.max"}),
            r#"spec: Invalid value: "object": failed rule: self.min <= self.max"#,
        ),
        (
            json!({"rule": "self.min <= self.max", "message": "min too large"}),
            r#"spec: Invalid value: "object": min too large"#,
        ),
        (
            json!({"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is too large'"}),
            r#"spec: Invalid value: "object": min 9 is too large"#,
        ),
        (
            json!({"rule": "self.min <= self.max", "message": "m", "messageExpression": "self.nope"}),
            r#"spec: Invalid value: "object": m"#,
        ),
        (
            json!({"rule": "false", "fieldPath": ".min", "reason": "FieldValueForbidden", "message": "no"}),
            "spec.min: Forbidden: no",
        ),
        (
            json!({"rule": "self.nope == 1"}),
            r#"spec: Invalid value: "object": no such key: nope evaluating rule: self.nope == 1"#,
        ),
    ];
    for (rule, expected) in rows {
        let spec = json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}}});
        assert_eq!(errors_of(spec, json!({"min": 9, "max": 5}), None), [expected]);
    }
}

#[test]
fn a_rule_about_a_change_needs_a_past() {
    let immutable = |more: Value| {
        let mut rule = json!({"rule": "self == oldSelf", "message": "is immutable"});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-validations": [rule]}}})
    };
    let plain = immutable(json!({}));
    assert!(errors_of(plain.clone(), json!({"a": "x"}), None).is_empty());
    assert!(errors_of(plain.clone(), json!({"a": "x"}), Some(json!({"a": "x"}))).is_empty());
    assert!(errors_of(plain.clone(), json!({"a": "x"}), Some(json!({}))).is_empty());
    let expected = [r#"spec.a: Invalid value: "string": is immutable"#];
    assert_eq!(errors_of(plain, json!({"a": "y"}), Some(json!({"a": "x"}))), expected);
    let optional = json!({"rule": "oldSelf.hasValue() || self == 'first'", "optionalOldSelf": true});
    let optional = immutable(optional);
    assert!(errors_of(optional.clone(), json!({"a": "first"}), None).is_empty());
    assert_eq!(errors_of(optional, json!({"a": "second"}), None), expected);
    let keyed = json!({"type": "object", "properties": {"list": {"type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
            "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "v goes down"}],
            "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}}});
    let list = |a: i64, b: i64| json!({"list": [{"k": "b", "v": b}, {"k": "a", "v": a}]});
    let old = json!({"list": [{"k": "a", "v": 2}, {"k": "c", "v": 9}]});
    assert!(errors_of(keyed.clone(), list(3, 0), Some(old.clone())).is_empty());
    let expected = [r#"spec.list[1]: Invalid value: "object": v goes down"#];
    assert_eq!(errors_of(keyed, list(1, 0), Some(old)), expected);
}

#[test]
fn what_a_rule_refused_before_may_stay_as_it_is() {
    let spec = json!({"type": "object", "properties": {
        "a": {"type": "string", "x-kubernetes-validations": [{"rule": "self.size() < 3"}]}, "b": {"type": "string"}}});
    assert!(
        errors_of(spec.clone(), json!({"a": "long", "b": "2"}), Some(json!({"a": "long", "b": "1"})))
            .is_empty()
    );
    assert_eq!(errors_of(spec, json!({"a": "longer"}), Some(json!({"a": "long"}))).len(), 1);
}

#[test]
fn a_definition_with_a_rule_that_cannot_work_is_refused() {
    let rows = [
        (json!({"rule": ""}), "s[0].rule: Required value: rule is not specified"),
        (json!({"rule": "self.nope == 1"}), "undefined field 'nope'"),
        (json!({"rule": "self.min == other"}), "undeclared reference to 'other'"),
        (json!({"rule": "self.min.foo() == 1"}), "undeclared reference to 'foo'"),
        (json!({"rule": "self.min + "}), "compilation failed"),
        (json!({"rule": "'text'"}), "must evaluate to bool"),
        (json!({"rule": "self.list.all(x, x.nope)"}), "undefined field 'nope'"),
        (json!({"rule": "true", "message": " "}), "must be non-empty if specified"),
        (json!({"rule": "true\n"}), ""),
        (json!({"rule": "true ||\n false"}), "message must be specified if rule contains line breaks"),
        (json!({"rule": "true", "reason": "Because"}), "Unsupported value: \"Because\""),
        (json!({"rule": "true", "fieldPath": ".nope"}), "must be a valid path"),
        (json!({"rule": "true", "messageExpression": "1"}), "must evaluate to string"),
        (json!({"rule": "self.min <= self.max && self.list.all(x, x.a == 'b') && has(self.min)"}), ""),
        (json!({"rule": "self.metadata.name.size() < 9 && self.kind == 'X'"}), ""),
        (json!({"rule": "cel.bind(m, self.min, m > 1) && self.list.existsOne(x, x.a == 'c')"}), ""),
    ];
    for (rule, expected) in rows {
        let json = json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}});
        let mut errors = FieldErrors::default();
        validate_rules(&Schema::root(&json), &json, &Path::new("s"), &mut errors);
        let found: Vec<String> = errors
            .as_slice()
            .iter()
            .map(|e| e.to_string().replace("s.x-kubernetes-validations", "s"))
            .collect();
        match expected {
            "" => assert!(found.is_empty(), "{rule} {found:?}"),
            expected => {
                assert!(found.len() == 1 && found[0].contains(expected), "{rule} {found:?}");
            }
        }
    }
}
