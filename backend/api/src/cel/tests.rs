//! Tests of rules, as tables: what holds, what does not, what is refused, and that nothing holds up the server.
use super::*;
use crate::custom::schema::Schema;
use serde_json::Value;
use serde_json::json;

fn run(source: &str, object: &Value, schema: &Value) -> String {
    let schema = Schema::root(schema);
    let expression = match Program::parse(source) {
        Ok(expression) => expression,
        Err(why) => return why,
    };
    let mut evaluation = Evaluation::new(1_000_000);
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
        "x".repeat(MAX_BYTES + 1),
        "\u{0}`\"".into(),
        "self.`".into(),
    ] {
        assert!(Program::parse(&deep).is_err(), "{deep:.40}");
    }
    assert!(Program::parse(&format!("true{}", " && true".repeat(500))).is_ok());
}
