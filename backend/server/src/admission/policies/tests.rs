//! Admission policies as a cluster's users meet them, over HTTP.
use crate::testing::{Answer, Api, eventually};
use axum::http::StatusCode;
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn rules(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [group], "apiVersions": ["v1"],
        "resources": [resource]}]})
}

fn policy(name: &str, matching: Value, more: Value) -> Value {
    let mut policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": matching}});
    policy["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    policy
}

/// Makes a policy with one binding and waits until the server goes by them.
async fn bind(api: &Api, kind: &str, policy: Value, binding: Value) {
    let before = api.state.policies.count();
    let name = policy["metadata"]["name"].clone();
    api.make(&format!("{GROUP}/{kind}admissionpolicies"), policy).await;
    let mut spec = json!({"policyName": name});
    if kind == "validating" {
        spec["validationActions"] = json!(["Deny"]);
    }
    spec.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    let object = json!({"metadata": {"name": format!("{}-binding", name.as_str().unwrap())}, "spec": spec});
    api.make(&format!("{GROUP}/{kind}admissionpolicybindings"), object).await;
    eventually("the binding", async || api.state.policies.count() > before).await;
}

async fn create_map(api: &Api, name: &str, data: Value) -> Answer {
    api.call("POST", MAPS, json!({"metadata": {"name": name}, "data": data})).await
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}})
}

#[tokio::test]
async fn a_policy_refuses_a_deployment_and_nothing_else() {
    let api = Api::start().await;
    let validation = json!({"expression": "object.spec.replicas > 1", "messageExpression":
        "'wants replicas > 1, got ' + string(object.spec.replicas)"});
    let mut matching = rules("apps", "deployments");
    matching["resourceRules"][0]["operations"] = json!(["CREATE", "UPDATE"]);
    bind(&api, "validating", policy("many", matching, json!({"validations": [validation]})), json!({})).await;
    let refused = api.call("POST", DEPLOYMENTS, deployment("web", 1)).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused.message(),
        "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'many' with binding 'many-binding' denied \
         request: wants replicas > 1, got 1"
    );
    assert_eq!(refused.body["reason"], "Invalid");
    assert_eq!(refused.body["details"]["kind"], "deployments");
    assert!(refused.body["details"]["causes"][0]["message"].as_str().unwrap().ends_with("got 1"));
    let mut stored = deployment("web", 1);
    stored["metadata"]["resourceVersion"] = "7".into();
    let refused = api.call("POST", DEPLOYMENTS, stored.clone()).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY, "the policy's word comes first");
    stored["spec"]["replicas"] = 2.into();
    let refused = api.call("POST", DEPLOYMENTS, stored).await;
    assert_eq!(refused.message(), "resourceVersion should not be set on objects to be created");
    api.make(DEPLOYMENTS, deployment("web", 2)).await;
    let scaled = api.call("PATCH", &format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 1}})).await;
    assert_eq!(scaled.code, StatusCode::UNPROCESSABLE_ENTITY);
    api.make(&DEPLOYMENTS.replace("deployments", "replicasets"), deployment("set", 1)).await;
    let gone = api.call("DELETE", &format!("{DEPLOYMENTS}/web"), Value::Null).await;
    assert_eq!(gone.code, StatusCode::OK);
}

#[tokio::test]
async fn parameters_come_from_the_namespace_and_may_be_missing() {
    let api = Api::start().await;
    let kind = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "variables": [
        {"name": "word", "expression": "params.data.forbidden"}], "validations": [
        {"expression": "!object.data.exists(k, object.data[k] == variables.word)", "reason": "Forbidden",
         "messageExpression": "variables.word + ' is not welcome'"}]});
    let mut matching = rules("", "configmaps");
    matching["objectSelector"] = json!({"matchLabels": {"checked": "yes"}});
    let by_name = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    bind(&api, "validating", policy("words", matching.clone(), kind.clone()), by_name).await;
    let make = async |name: &str, word: &str| {
        let object = json!({"metadata": {"name": name, "labels": {"checked": "yes"}}, "data": {"a": word}});
        api.call("POST", MAPS, object).await
    };
    let refused = make("a", "good").await;
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'words' with binding 'words-binding' denied request: \
         failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
    api.make(
        MAPS,
        json!({"metadata": {"name": "limits", "labels": {"is": "limits"}}, "data": {"forbidden": "bad"}}),
    )
    .await;
    assert_eq!(make("a", "good").await.code, StatusCode::CREATED);
    let refused = make("b", "bad").await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert!(refused.message().ends_with("denied request: bad is not welcome"), "{}", refused.message());

    let cluster = json!({"paramKind": {"apiVersion": "v1", "kind": "Namespace"}, "validations": [
        {"expression": "!has(params.metadata.labels.closed)", "message": "closed"}]});
    let selected = json!({"paramRef": {"selector": {"matchLabels": {"watched": "yes"}}, "parameterNotFoundAction": "Allow"}});
    bind(&api, "validating", policy("open", rules("", "secrets"), cluster), selected).await;
    let secrets = MAPS.replace("configmaps", "secrets");
    let secret =
        async |name: &str| api.call("POST", &secrets, json!({"metadata": {"name": name}})).await.code;
    assert_eq!(secret("one").await, StatusCode::CREATED, "no parameters are there");
    api.make(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "p", "labels": {"watched": "yes", "closed": "yes"}}}),
    )
    .await;
    assert_eq!(secret("two").await, StatusCode::UNPROCESSABLE_ENTITY);
    let unknown = json!({"paramKind": {"apiVersion": "example.com/v1", "kind": "Thing"}, "validations": [{"expression": "true"}]});
    bind(&api, "validating", policy("lost", rules("", "endpoints"), unknown), json!({})).await;
    let refused =
        api.call("POST", &MAPS.replace("configmaps", "endpoints"), json!({"metadata": {"name": "e"}})).await;
    assert!(
        refused.message().ends_with(
            "ValidatingAdmissionPolicy 'lost' denied request: failed to configure policy: failed to find resource \
             referenced by paramKind: 'example.com/v1, Kind=Thing'"
        ),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn a_binding_may_warn_only_and_a_failure_may_be_ignored() {
    let api = Api::start().await;
    let never = json!({"validations": [{"expression": "false", "message": "never"}]});
    let warn = json!({"validationActions": ["Warn", "Audit"]});
    bind(&api, "validating", policy("soft", rules("", "configmaps"), never.clone()), warn).await;
    let made = create_map(&api, "a", json!({})).await;
    assert_eq!(made.code, StatusCode::CREATED);
    assert_eq!(
        made.warnings(),
        ["\"Validation failed for ValidatingAdmissionPolicy 'soft' with binding 'soft-binding': never\""]
    );
    let broken = json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nothing == 1"}]});
    bind(&api, "validating", policy("lenient", rules("", "secrets"), broken), json!({})).await;
    api.make(&MAPS.replace("configmaps", "secrets"), json!({"metadata": {"name": "a"}})).await;
    let narrow = json!({"matchResources": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["configmaps"], "resourceNames": ["precious"]}]}});
    bind(&api, "validating", policy("named", rules("", "configmaps"), never), narrow).await;
    assert_eq!(create_map(&api, "common", json!({})).await.code, StatusCode::CREATED);
    assert_eq!(create_map(&api, "precious", json!({})).await.code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn expressions_ask_what_the_caller_may_and_which_namespace_it_is() {
    let api = Api::start().await;
    api.make("/api/v1/namespaces", json!({"metadata": {"name": "prod", "labels": {"env": "prod"}}})).await;
    let validations = json!({"validations": [
        {"expression": "namespaceObject.metadata.labels[?'env'].orValue('') != 'prod' || \
            authorizer.group('').resource('secrets').namespace(request.namespace).check('delete').allowed()",
         "message": "who may not delete secrets may not write here"},
        {"expression": "request.operation != 'DELETE' || oldObject.metadata.name != 'kept'", "message": "it is kept"}]});
    bind(&api, "validating", policy("rights", rules("", "configmaps"), validations), json!({})).await;
    let role = json!({"metadata": {"name": "maps"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    api.make("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let binding = json!({"metadata": {"name": "jane"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"}});
    api.make("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let jane: (&str, &[&str]) = ("jane", &[]);
    let prod = MAPS.replace("default", "prod");
    eventually("jane's rights", async || {
        api.call_as(jane, "POST", MAPS, json!({"metadata": {"generateName": "x"}})).await.code
            == StatusCode::CREATED
    })
    .await;
    let refused = api.call_as(jane, "POST", &prod, json!({"metadata": {"name": "a"}})).await;
    assert!(
        refused.message().ends_with("who may not delete secrets may not write here"),
        "{}",
        refused.message()
    );
    api.make(&prod, json!({"metadata": {"name": "kept"}})).await;
    let refused = api.call("DELETE", &format!("{prod}/kept"), Value::Null).await;
    assert!(refused.message().ends_with("it is kept"), "{}", refused.message());
}

#[tokio::test]
async fn a_policy_that_cannot_work_is_not_taken_and_one_that_may_not_is_warned_about() {
    let api = Api::start().await;
    api.run_loops();
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let bad =
        policy("bad", rules("apps", "deployments"), json!({"validations": [{"expression": "foo == 1"}]}));
    let refused = api.call("POST", &path, bad).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.validations[0].expression");
    assert!(
        refused.message().contains("undeclared reference to 'foo' (in container '')"),
        "{}",
        refused.message()
    );
    let status = async |name: &str| {
        eventually("the types' check", async || {
            !api.call("GET", &format!("{path}/{name}"), Value::Null).await.body["status"]["typeChecking"]
                .is_null()
        })
        .await;
        api.call("GET", &format!("{path}/{name}"), Value::Null).await.body["status"].clone()
    };
    let good = json!({"validations": [{"expression": "object.spec.replicas > 1"}]});
    api.make(&path, policy("good", rules("apps", "deployments"), good)).await;
    assert_eq!(status("good").await, json!({"observedGeneration": 1, "typeChecking": {}}));
    let confused = json!({"validations": [{"expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]});
    api.make(&path, policy("confused", rules("apps", "deployments"), confused)).await;
    let warnings = &status("confused").await["typeChecking"]["expressionWarnings"];
    assert_eq!(warnings.as_array().unwrap().len(), 2);
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    assert!(warnings[0]["warning"].as_str().unwrap().contains("'_>_' applied to '(int, string)'"));
}

#[tokio::test]
async fn mutating_policies_change_what_comes_in_and_look_again_where_they_want_to() {
    let api = Api::start().await;
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let annotate = r#"Object{metadata: Object.metadata{annotations: {"mutated-by": "admission-policy"}}}"#;
    let spec = json!({"mutations": [apply(annotate)]});
    bind(&api, "mutating", policy("annotate", rules("apps", "deployments"), spec), json!({})).await;
    let made = api.make(DEPLOYMENTS, deployment("web", 2)).await;
    assert_eq!(made["metadata"]["annotations"]["mutated-by"], "admission-policy");

    let count = r#"Object{metadata: Object.metadata{labels: {"keys": string(object.data.size())}}}"#;
    let spec = json!({"reinvocationPolicy": "IfNeeded", "mutations": [apply(count)]});
    bind(&api, "mutating", policy("a-count", rules("", "configmaps"), spec), json!({})).await;
    let patch =
        r#"[JSONPatch{op: "add", path: "/data/" + jsonpatch.escapeKey(params.data.key), value: "yes"}]"#;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "has-data", "expression": "has(object.data) && object.metadata.name != 'names'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]});
    let by_name = json!({"paramRef": {"name": "names", "namespace": "default"}});
    api.make(MAPS, json!({"metadata": {"name": "names"}, "data": {"key": "added"}})).await;
    bind(&api, "mutating", policy("b-add", rules("", "configmaps"), spec), by_name).await;
    let made = create_map(&api, "m", json!({"own": "x"})).await.body;
    assert_eq!(made["data"], json!({"own": "x", "added": "yes"}));
    assert_eq!(made["metadata"]["labels"]["keys"], "2", "it saw the other's key");

    let spec = json!({"mutations": [apply("Object{spec: Object.spec{nothing: 1}}")]});
    bind(&api, "mutating", policy("broken", rules("", "services"), spec), json!({})).await;
    let refused =
        api.call("POST", &MAPS.replace("configmaps", "services"), json!({"metadata": {"name": "s"}})).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused.message(),
        "policy 'broken' with binding 'broken-binding' denied request: failed to convert patch object to typed object: \
         .spec.nothing: field not declared in schema"
    );
}
