//! Tests of policies, as tables: what they refuse, in which words, what they change, and what is refused of them.
use super::*;
use crate::cel::Decision;
use crate::{FieldErrors, Path, Reason, Registry};

/// Lets `jane` do everything.
struct OnlyJane;

impl Authorizer for OnlyJane {
    fn decide(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(_, name)| name.as_str());
        Decision {
            allowed: account.is_none_or(|name| name == "jane"),
            reason: question.resource.clone(),
            ..Decision::default()
        }
    }
}

fn request() -> Value {
    json!({"operation": "CREATE", "name": "web", "namespace": "shop", "userInfo": {"username": "jane", "groups": ["dev"]},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"}})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {},
            "spec": {"containers": [{"name": "a", "image": "x:1"}]}}}})
}

fn judged(spec: Value) -> Verdict {
    let (object, request, params) = (deployment(), request(), json!({"data": {"most": "2"}}));
    let namespace = json!({"metadata": {"name": "shop", "labels": {"env": "prod"}}});
    let inputs = Inputs {
        object: &object,
        old: &Value::Null,
        request: &request,
        params: spec["paramKind"].is_object().then_some(&params),
        namespace: &namespace,
        authorizer: &OnlyJane,
    };
    ValidatingPolicy::new(&json!({"spec": spec})).judge(&inputs)
}

fn messages(spec: Value) -> Vec<String> {
    judged(spec).denials.into_iter().map(|denial| denial.message).collect()
}

#[test]
fn a_validation_refuses_in_its_own_words() {
    let rows = [
        (json!({"expression": "object.spec.replicas < 9"}), None),
        (
            json!({"expression": "object.spec.replicas > 5"}),
            Some("failed expression: object.spec.replicas > 5"),
        ),
        (json!({"expression": "false", "message": " no "}), Some("no")),
        (
            json!({"expression": "false", "message": "no", "messageExpression": "'got ' + string(object.spec.replicas)"}),
            Some("got 3"),
        ),
        (json!({"expression": "false", "message": "no", "messageExpression": "object.nothing"}), Some("no")),
        (json!({"expression": "false", "messageExpression": "'a\\nb'"}), Some("failed expression: false")),
        (
            json!({"expression": "object.spec.nothing == 1"}),
            Some("expression 'object.spec.nothing == 1' resulted in error: no such key: nothing"),
        ),
        (json!({"expression": "oldObject == null && request.operation == 'CREATE'"}), None),
        (json!({"expression": "namespaceObject.metadata.labels.env == 'prod'"}), None),
        (json!({"expression": "authorizer.requestResource.check('delete').allowed()"}), None),
        (
            json!({"expression": "authorizer.group('').resource('pods').namespace('a').check('get').reason() == 'pods'"}),
            None,
        ),
        (
            json!({"expression": "authorizer.serviceAccount('a', 'joe').path('/x').check('get').allowed()"}),
            Some(
                "failed expression: authorizer.serviceAccount('a', 'joe').path('/x').check('get').allowed()",
            ),
        ),
    ];
    for (validation, expected) in rows {
        let found = messages(json!({"validations": [validation]}));
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{validation}");
    }
}

#[test]
fn reasons_conditions_variables_and_parameters_count() {
    let of = |more: Value| {
        let mut spec = json!({"validations": [{"expression": "false", "reason": "Forbidden"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        judged(spec)
    };
    assert_eq!(of(json!({})).denials[0].reason, Reason::Forbidden);
    let condition = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    assert!(of(condition("'ops' in request.userInfo.groups")).denials.is_empty());
    assert_eq!(
        of(condition("object.nothing")).denials[0].message,
        "expression 'object.nothing' resulted in error: no such key: nothing"
    );
    let ignored = json!({"failurePolicy": "Ignore", "matchConditions": [{"name": "c", "expression": "object.nothing"}]});
    assert!(of(ignored).denials.is_empty());
    let variables = json!([{"name": "count", "expression": "object.spec.replicas"},
        {"name": "most", "expression": "int(params.data.most)"},
        {"name": "over", "expression": "variables.count - variables.most"}]);
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "variables": variables,
        "validations": [{"expression": "variables.over <= 0", "messageExpression": "string(variables.over) + ' too many'"},
            {"expression": "[1].all(count, variables.count == 3)"}]});
    assert_eq!(messages(spec), ["1 too many"]);
    let broken = json!({"variables": [{"name": "a", "expression": "object.nothing"}], "validations": [{"expression": "variables.a"}]});
    assert_eq!(
        messages(broken),
        [
            "expression 'variables.a' resulted in error: composited variable \"a\" fails to evaluate: no such key: nothing"
        ]
    );
}

#[test]
fn conditions_see_the_objects_and_the_request() {
    let (object, request) = (deployment(), request());
    let inputs = Inputs {
        object: &object,
        old: &Value::Null,
        request: &request,
        params: None,
        namespace: &Value::Null,
        authorizer: &OnlyJane,
    };
    let of = |expressions: &[&str]| {
        let list: Vec<Value> = expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
        Conditions::new(&list.into()).hold(&inputs)
    };
    for (expression, holds) in [
        ("object.spec.replicas > 2", true),
        ("request.userInfo.username == 'joe'", false),
        ("'dev' in request.userInfo.groups", true),
        ("oldObject == null", true),
        ("has(object.metadata.labels.app) && object.metadata.labels['app'] == 'web'", true),
        ("!('system:nodes' in request.userInfo.groups)", true),
        ("authorizer.group('').resource('pods').check('get').allowed()", true),
    ] {
        assert_eq!(of(&[expression]), Ok(holds), "{expression}");
    }
    assert!(of(&["object.spec.nothing > 2"]).is_err());
    assert!(of(&["1 +"]).is_err());
    assert!(of(&["1 + 1"]).is_err());
    assert_eq!(of(&["object.spec.nothing > 2", "false"]), Ok(false));
    assert_eq!(of(&[]), Ok(true));
}

#[test]
fn no_policy_holds_up_the_server() {
    let many = "[1,2,3,4,5,6,7,8,9,10]";
    let loops = format!(
        "{many}.all(a, {many}.all(b, {many}.all(c, {many}.all(d, {many}.all(e, {many}.all(f, true))))))"
    );
    let found = messages(json!({"validations": [{"expression": loops}]}));
    assert!(
        found[0].ends_with("resulted in error: operation cancelled: actual cost limit exceeded"),
        "{found:?}"
    );
    let validations: Vec<Value> = (0..40).map(|_| json!({"expression": loops})).collect();
    assert_eq!(messages(json!({"validations": validations})), [OUT_OF_BUDGET]);
}

#[test]
fn annotations_are_texts_or_nothing() {
    let annotation = |value: &str| json!({"auditAnnotations": [{"key": "k", "valueExpression": value}]});
    assert_eq!(
        judged(annotation("'n: ' + object.metadata.name")).annotations,
        [("k".to_owned(), "n: web".to_owned())]
    );
    assert!(judged(annotation("null")).annotations.is_empty());
    let failures = judged(annotation("1")).failures;
    assert_eq!(
        failures,
        [
            "valueExpression '1' resulted in unsupported return type: int. Return type must be either string or null."
        ]
    );
}

fn mutated(mutations: Value, more: Value) -> (Value, Vec<String>) {
    let registry = Registry::builtin();
    let entry = registry.by_kind("apps/v1", "Deployment").unwrap();
    let mut spec = json!({"mutations": mutations});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (mut object, request) = (deployment(), request());
    let inputs = Inputs {
        object: &Value::Null,
        old: &Value::Null,
        request: &request,
        params: None,
        namespace: &Value::Null,
        authorizer: &OnlyJane,
    };
    let failures = MutatingPolicy::new(&json!({"spec": spec})).mutate(entry, &inputs, &mut object);
    (object, failures)
}

#[test]
fn a_configuration_is_merged_and_a_patch_is_applied() {
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let (object, failures) = mutated(
        json!([
            apply(
                r#"Object{metadata: Object.metadata{labels: {"by": "policy"}}, spec: Object.spec{replicas: object.spec.replicas + 1}}"#
            ),
            apply(
                "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'b', image: 'y'}]}}}}"
            ),
            patch(
                r#"[JSONPatch{op: "test", path: "/spec/replicas", value: 4}, JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: "c"}]"#
            ),
            patch(
                "object.spec.template.spec.containers.map(c, JSONPatch{op: 'add', path: '/metadata/labels/' + c.name, value: c.image})"
            ),
        ]),
        json!({}),
    );
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(
        object["metadata"]["labels"],
        json!({"app": "web", "by": "policy", "a/b": "c", "a": "x:1", "b": "y"})
    );
    assert_eq!(object["spec"]["replicas"], 4);
    let rows = [
        (
            apply("Object{spec: Object.spec{nothing: 1}}"),
            "failed to convert patch object to typed object: .spec.nothing: field not declared in schema",
        ),
        (
            apply("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}"),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        (patch("[JSONPatch{op: 'remove', path: '/spec/nothing'}]"), "JSON Patch: "),
        (apply("object"), "must evaluate to Object, not map"),
    ];
    for (mutation, expected) in rows {
        let (object, failures) = mutated(json!([mutation]), json!({}));
        assert!(failures[0].starts_with(expected), "{mutation} {failures:?}");
        assert_eq!(object, deployment());
    }
    let condition = json!({"matchConditions": [{"name": "c", "expression": "object.spec.replicas > 5"}]});
    assert_eq!(
        mutated(json!([apply("Object{spec: Object.spec{replicas: 1}}")]), condition),
        (deployment(), vec![])
    );
}

#[test]
fn a_policy_with_an_expression_that_cannot_work_is_refused() {
    let rows = [
        (json!({"validations": [{"expression": "object.a == 1"}]}), ""),
        (
            json!({"validations": [{"expression": "1"}]}),
            r#"spec.validations[0].expression: Invalid value: "1": must evaluate to bool"#,
        ),
        (
            json!({"validations": [{"expression": "foo"}]}),
            "spec.validations[0].expression: Invalid value: \"foo\": compilation failed: ERROR: <input>:1:1: undeclared \
             reference to 'foo' (in container '')\n | foo\n | ^",
        ),
        (json!({"validations": [{"expression": "params.a == 1"}]}), "undeclared reference to 'params'"),
        (json!({"paramKind": {}, "validations": [{"expression": "params.a == 1"}]}), ""),
        (json!({"validations": [{"expression": "request.nope == ''"}]}), "undefined field 'nope'"),
        (
            json!({"validations": [{"expression": "1 > 'a'"}]}),
            "found no matching overload for '_>_' applied to '(int, string)'",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"}]}),
            "undeclared reference to 'authorizer'",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "1"}]}),
            "must evaluate to string",
        ),
        (
            json!({"validations": [{"expression": ""}]}),
            "spec.validations[0].expression: Required value: expression is not specified",
        ),
        (json!({"validations": [{"expression": "true", "reason": "Because"}]}), "Unsupported value"),
        (
            json!({"variables": [{"name": "a", "expression": "1"}], "validations": [{"expression": "variables.a == 1"}]}),
            "",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "1"}], "validations": [{"expression": "variables.b == 1"}]}),
            "undefined field 'b'",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "1"}], "validations": [{"expression": "variables.a == 'x'"}]}),
            "applied to '(int, string)'",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]}),
            "undefined field 'b'",
        ),
        (json!({"variables": [{"name": "in", "expression": "1"}]}), "name is not a valid CEL identifier"),
        (
            json!({"matchConditions": [{"name": "a", "expression": "object == "}]}),
            "spec.matchConditions[0].expression: Invalid value",
        ),
        (
            json!({"auditAnnotations": [{"key": "k", "valueExpression": "1"}]}),
            "must evaluate to one of [string null]",
        ),
        (
            json!({"validations": [{"expression": "authorizer.group('apps').check('get').allowed()"}]}),
            "found no matching overload for 'check'",
        ),
    ];
    for (spec, expected) in rows {
        let mut errors = FieldErrors::default();
        validate_validating("p", &spec, &Path::new("spec"), &mut errors);
        let found: Vec<String> = errors.as_slice().iter().map(ToString::to_string).collect();
        match expected {
            "" => assert!(found.is_empty(), "{spec} {found:?}"),
            expected => assert!(found.len() == 1 && found[0].contains(expected), "{spec} {found:?}"),
        }
    }
    let apply = |expression: &str| json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    let patch = |expression: &str| json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]});
    let rows = [
        (apply("Object{spec: Object.spec{replicas: 3}}"), ""),
        (
            apply(
                "\n\t\t\tObject{\n\tmetadata: Object.metadata{ annotations: {\n\"mutated-by\": \"admission-policy\"\n} } }",
            ),
            "",
        ),
        (
            apply("Object{spec: Object.status{replicas: 3}}"),
            "expected type of field 'spec' is 'Object.spec' but provided type is 'Object.status'",
        ),
        (apply("true"), "must evaluate to Object"),
        (apply("Thing{}"), "undeclared reference to 'Thing'"),
        (patch("[JSONPatch{op: 'add', path: '/a', value: 1}]"), ""),
        (patch("[JSONPatch{op: 1}]"), "expected type of field 'op' is 'string' but provided type is 'int'"),
        (patch("[1]"), "must evaluate to list(JSONPatch)"),
        (json!({"mutations": [{"patchType": "JSONPatch"}]}), "must be specified when patchType is JSONPatch"),
    ];
    for (spec, expected) in rows {
        let mut errors = FieldErrors::default();
        validate_mutating(&spec, &Path::new("spec"), &mut errors);
        let found: Vec<String> = errors.as_slice().iter().map(ToString::to_string).collect();
        match expected {
            "" => assert!(found.is_empty(), "{spec} {found:?}"),
            expected => assert!(found.len() == 1 && found[0].contains(expected), "{spec} {found:?}"),
        }
    }
}

#[test]
fn a_policys_types_are_checked_against_its_kinds() {
    let policy = |validation: Value| {
        json!({"spec": {"matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]}, "validations": [validation]}})
    };
    let registry = Registry::builtin();
    assert_eq!(
        warnings(&policy(json!({"expression": "object.spec.replicas > 1"})), &registry),
        Vec::<Value>::new()
    );
    let found = warnings(
        &policy(json!({"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"})),
        &registry,
    );
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
    assert_eq!(
        found[0]["warning"],
        "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n \
         | object.spec.replicas > '1'\n | .....................^\n"
    );
    assert_eq!(found[1]["fieldRef"], "spec.validations[0].messageExpression");
    let why = found[1]["warning"].as_str().unwrap();
    assert!(why.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{why}");
    let deep = "object.spec.template.spec.containers.all(c, c.imag == 'x')";
    let found = warnings(&policy(json!({"expression": deep})), &registry);
    assert!(found[0]["warning"].as_str().unwrap().contains("undefined field 'imag'"), "{found:?}");
    let good = "object.spec.template.spec.containers.all(c, !has(c.ports) || c.ports.all(p, p.containerPort > 1)) && \
                object.metadata.creationTimestamp < timestamp('2030-01-01T00:00:00Z') && \
                object.spec.template.spec.?securityContext.?runAsNonRoot.orValue(false) == false && \
                object.spec.strategy.rollingUpdate.maxSurge == '1'";
    assert_eq!(warnings(&policy(json!({"expression": good})), &registry), Vec::<Value>::new());
}
