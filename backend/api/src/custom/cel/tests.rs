//! Tests of rules, as tables: what holds, what does not, what is refused, and that nothing holds up the server.
use super::*;
use serde_json::json;

fn run(source: &str, object: &Value, schema: &Value) -> String {
    let schema = Schema::root(schema);
    let expression = match parse(source) {
        Ok(expression) => expression,
        Err(why) => return why,
    };
    let mut evaluation = Evaluation::new(RULE_BUDGET);
    evaluation.bind("self", V::of(object, Some(&schema)));
    match evaluation.run(&expression) {
        Ok(V::Bool(value)) => value.to_string(),
        Ok(other) => format!("{other:?}"),
        Err(Failure::Error(why)) => why,
        Err(Failure::Spent) => "spent".into(),
    }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "min": {"type": "integer"}, "max": {"type": "integer"},
        "name": {"type": "string"}, "when": {"type": "string", "format": "date-time"},
        "wait": {"type": "string", "format": "duration"}, "share": {"type": "number"},
        "list": {"type": "array", "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "ports": {"type": "array", "items": {"type": "object", "properties": {
            "name": {"type": "string"}, "port": {"x-kubernetes-int-or-string": true}}}},
        "a-b": {"type": "string"}, "namespace": {"type": "string"},
        "any": {"x-kubernetes-preserve-unknown-fields": true},
    }})
}

fn object() -> Value {
    json!({
        "replicas": 3, "min": 1, "max": 5, "name": "web-1", "when": "2026-01-02T03:04:05Z", "wait": "90s", "share": 2,
        "list": ["a", "b", "c"], "set": ["x", "y"], "map": {"k": "v", "l": "w"},
        "ports": [{"name": "http", "port": 80}, {"name": "x", "port": "y"}], "a-b": "dash", "namespace": "n",
        "any": {"x": [1, 2.5, "s"]}, "metadata": {"name": "obj"},
    })
}

#[test]
fn expressions_mean_what_they_mean_in_kubernetes() {
    let rows = [
        "self.min <= self.replicas && self.replicas <= self.max",
        "self.replicas in [1, 2, 3] && !(4 in [1])",
        "self.name.startsWith('web') && self.name.matches('^[a-z]+-[0-9]+$') && size(self.name) == 5",
        "self.when > timestamp('2026-01-01T00:00:00Z') && self.when.getFullYear() == 2026 && self.when.getMonth() == 0",
        "self.wait == duration('1m30s') && self.wait.getSeconds() == 90",
        "self.when + duration('24h') > self.when && self.when - self.when == duration('0s')",
        "self.share == 2.0 && type(self.share) == double && type(1) == int",
        "self.list.all(x, x.size() == 1) && self.list.exists(x, x == 'b') && self.list.exists_one(x, x == 'c')",
        "self.list.map(x, x + '!') == ['a!', 'b!', 'c!'] && self.list.filter(x, x != 'a') == ['b', 'c']",
        "self.list.map(x, x > 'a', x.upperAscii()) == ['B', 'C']",
        "self.set == ['y', 'x'] && self.list != ['b', 'a', 'c']",
        "self.map.all(k, self.map[k].size() == 1) && 'k' in self.map && self.map.k == 'v'",
        "self.ports.all(p, type(p.port) == int ? p.port > 0 : p.port == 'y')",
        "self.a__dash__b == 'dash' && self.__namespace__ == 'n'",
        "has(self.name) && !has(self.any.y) && self.any.x[1] == 2.5",
        "self.metadata.name == 'obj'",
        "(self.list[7] == 'x' || true) && !(false && self.list[7] == 'x')",
        "'%s-%d %.2f'.format(['a', 3, 1.5]) == 'a-3 1.50'",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && 'abc'.substring(1, 2) == 'b'",
        "' x '.trim() == 'x' && 'abca'.replace('a', 'z') == 'zbcz' && 'abc'.indexOf('c') == 2 && 'äb'.charAt(0) == 'ä'",
        "'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1'.find('[0-9]') == '1'",
        "[1, 2, 2].isSorted() && [3, 1].min() == 1 && [3, 1].max() == 3 && [1, 2].sum() == 3 && [1, 2, 1].lastIndexOf(1) == 2",
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && quantity('50k').add(quantity('10k')) == quantity('60k')",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && isQuantity('1Mi') && !isQuantity('1x')",
        "quantity('2').asInteger() == 2 && quantity('-1').sign() == -1 && !quantity('500m').isInteger()",
        "url('https://e.com:80/p?a=1&a=2').getHost() == 'e.com:80' && url('https://e.com:80/p').getHostname() == 'e.com'",
        "url('https://e.com/p?a=1').getQuery()['a'] == ['1'] && url('/x').getScheme() == '' && !isURL('x y')",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && ip('127.0.0.1').isLoopback() && !isIP('1.2.3')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1')) && cidr('10.0.0.0/8').prefixLength() == 8",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
        "self.?name.hasValue() && self.?any.?nothing.orValue('d') == 'd' && self.any.?x[0].value() == 1",
        "optional.none().or(optional.of(1)).value() == 1 && optional.of(2).optMap(x, x + 1).value() == 3",
        "cel.bind(x, self.replicas * 2, x + x == 12)",
        "self.list.all(i, x, i < 3 && x != '') && self.map.transformMap(k, v, v + k)['k'] == 'vk'",
        "sets.contains([1, 2], [1]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])",
        "!format.dns1123Label().validate('a-b').hasValue() && format.named('dns1123Label').value().validate('A').hasValue()",
        "int('3') == 3 && double('1.5') == 1.5 && string(7) == '7' && uint(3) == 3u && bool('true')",
        "7 / 2 == 3 && 7 % 2 == 1 && -7 / 2 == -3 && 1 < 2 && 1.0 == 1 && b'a' == bytes('a')",
        "[3, 1, 2].sort() == [1, 2, 3] && [1, 1].distinct() == [1] && [[1], [2]].flatten() == [1, 2] && [1, 2, 3].slice(1, 3) == [2, 3]",
        "{'a': 1}.a == 1 && {'a': 1} == {'a': 1} && {1: 'x'}[1] == 'x'",
        "dyn([1, 'a'])[1] == 'a' && null == null && self.any.x.size() == 3",
    ];
    for rule in rows {
        assert_eq!(run(rule, &object(), &schema()), "true", "{rule}");
    }
}

#[test]
fn what_cannot_be_said_is_an_error_and_never_a_panic() {
    let rows = [
        ("self.nothing", "no such key: nothing"),
        ("self.list[9] == 'x'", "index out of bounds: 9"),
        ("self.list[-1] == 'x'", "index out of bounds: -1"),
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("(-9223372036854775807 - 1) / -1 > 0", "integer overflow"),
        ("'a' + 1 == 'a1'", "no such overload"),
        ("'a'.matches('(')", "regex parse error:\n    (\n    ^\nerror: unclosed group"),
        ("self.map['z'] == 'x'", "no such key: z"),
        ("optional.none().value()", "optional.none() dereference"),
        ("'abc'.substring(2, 1) == ''", "index out of range: 2"),
        ("'abc'.substring(-1) == ''", "index out of range: -1"),
        (
            "timestamp('9990-12-31T00:00:00Z') + duration('200000h') > timestamp('2026-01-01T00:00:00Z')",
            "timestamp overflow",
        ),
        (
            "[0.0 / 0.0, 1.0].sort().size() == 2 && [1, 'a'].sort() == []",
            "list elements must have the same type",
        ),
    ];
    for (rule, expected) in rows {
        assert_eq!(run(rule, &object(), &schema()), expected, "{rule}");
    }
}

#[test]
fn no_rule_holds_up_the_server() {
    let many: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    let object = json!({"list": many, "name": "a".repeat(100_000)});
    let rows = [
        "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c != '')))",
        "self.list.map(a, self.list.map(b, self.list)).size() > 0",
        "self.list.all(a, self.name.matches('(a|aa)+$'))",
        "self.list.all(a, (self.name + self.name + self.name) != a)",
        "self.list.all(a, self.list.distinct().size() > 0)",
    ];
    for rule in rows {
        assert_eq!(run(rule, &object, &schema()), "spent", "{rule}");
    }
    for deep in [
        format!("{}1{} == 1", "(".repeat(2000), ")".repeat(2000)),
        format!("1{} == 1", "+1".repeat(2000)),
        format!("self{}", ".a".repeat(2000)),
        format!("{}1{}", "[".repeat(2000), "]".repeat(2000)),
        format!("true{}", " ? true : true".repeat(300)),
        "x".repeat(MAX_RULE_BYTES + 1),
        "\u{0}`\"".into(),
        "self.`".into(),
    ] {
        assert!(parse(&deep).is_err(), "{deep:.40}");
    }
    assert!(parse(&format!("true{}", " && true".repeat(500))).is_ok());
}

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
