//! What Kubernetes' own tests expect of its API machinery, kind by kind and question by question.
use crate::testing::{Api, eventually};
use axum::http::StatusCode;
use pilothouse_api::{KindEntry, Verb, meta};
use serde_json::{Value, json};
use std::path::Path;

const NAMESPACE: &str = "life";
const CHOSEN: &str = "labelSelector=x%3Dy";

/// One object of each kind, from the corpus of the fuzz targets.
fn objects() -> Vec<Value> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/decode");
    let mut files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = files.iter().filter_map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).ok());
    // A label marks those that were made to be accepted.
    read.filter(|object: &Value| object["metadata"]["labels"]["x"] == "y").map(fitting).collect()
}

/// With the name that its kind asks for, in the namespace of the test.
fn fitting(mut object: Value) -> Value {
    let name = match object["kind"].as_str().unwrap() {
        "IPAddress" => "10.96.77.7",
        "APIService" => "v1.ex.com",
        kind => &format!("life-{}", kind.to_lowercase()),
    };
    object["metadata"]["name"] = name.into();
    object
}

struct Life<'a> {
    api: &'a Api,
    entry: &'a KindEntry,
    collection: String,
    one: String,
}

impl Life<'_> {
    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.api.call(method, path, body).await;
        assert!(answer.code.is_success(), "{method} {path}: {}", answer.body);
        answer.body
    }

    async fn patch(&self, kind: &str, query: &str, body: Value) -> Value {
        let path = format!("{}{query}", self.one);
        let answer = self.api.with("PATCH", &path, &[("content-type", kind)], &body.to_string()).await;
        assert!(answer.code.is_success(), "{kind} {path}: {}", answer.body);
        answer.body
    }

    async fn changes(&self, first: &Value) {
        let annotated = |key: &str| json!({"metadata": {"annotations": {key: "1"}}});
        let merged = self.patch("application/merge-patch+json", "", annotated("merged")).await;
        assert_eq!(merged["metadata"]["annotations"]["merged"], "1");
        let strategic =
            self.patch("application/strategic-merge-patch+json", "", annotated("strategic")).await;
        assert_eq!(strategic["metadata"]["annotations"]["strategic"], "1");
        let operations = json!([{"op": "add", "path": "/metadata/annotations/json", "value": "1"}]);
        let patched = self.patch("application/json-patch+json", "", operations).await;
        assert_eq!(patched["metadata"]["annotations"]["json"], "1");
        let config = json!({
            "apiVersion": self.entry.api_version(), "kind": self.entry.kind,
            "metadata": {"name": meta::name(first), "annotations": {"applied": "1"}},
        });
        let applied = self.patch("application/apply-patch+yaml", "?fieldManager=life", config.clone()).await;
        assert_eq!(applied["metadata"]["annotations"]["applied"], "1");
        let again = self.patch("application/apply-patch+yaml", "?fieldManager=life", config).await;
        assert_eq!(again["metadata"]["resourceVersion"], applied["metadata"]["resourceVersion"]);

        let mut updated = again;
        updated["metadata"]["annotations"]["updated"] = "1".into();
        let updated = self.ok("PUT", &self.one, updated).await;
        let mut stale = updated.clone();
        stale["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"].clone();
        let refused = self.api.call("PUT", &self.one, stale).await;
        assert_eq!((refused.code, &refused.body["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    }

    async fn status_is_written(&self) {
        let before = self.ok("GET", &format!("{}/status", self.one), Value::Null).await;
        let change = json!({"metadata": {"annotations": {"patchedstatus": "1"}}});
        let after = self.patch("application/merge-patch+json", "/status", change).await;
        let takes = !self.entry.rules.status_keeps().contains(&"annotations");
        assert_eq!(after["metadata"]["annotations"]["patchedstatus"].is_string(), takes);
        assert_eq!(after["spec"], before["spec"]);
        self.ok("PUT", &format!("{}/status", self.one), after).await;
    }
}

#[tokio::test]
async fn an_object_of_every_kind_is_made_read_changed_and_deleted_as_the_conformance_tests_do() {
    let api = Api::start().await;
    api.make("/api/v1/namespaces", json!({"metadata": {"name": NAMESPACE}})).await;
    let registry = api.state.registry.load();
    let mut kinds = 0;
    for mut object in objects() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        // Its request must be a real one: `certificates.rs` tells its story.
        if kind == "CertificateSigningRequest" {
            continue;
        }
        let entry = registry.by_kind(object["apiVersion"].as_str().unwrap(), &kind).unwrap();
        let root = if entry.group.is_empty() { "/api" } else { "/apis" };
        let scope = if entry.is_namespaced() { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let collection = format!("{root}/{}{scope}/{}", entry.api_version(), entry.plural);
        let one = format!("{collection}/{}", meta::name(&object));
        let life = Life { api: &api, entry, collection, one };
        for about in ["involvedObject", "regarding"] {
            if object[about].is_object() {
                object[about]["namespace"] = NAMESPACE.into();
            }
        }
        let made = api.call("POST", &life.collection, object.clone()).await;
        assert_eq!(made.code, StatusCode::CREATED, "{kind}: {}", made.body);
        assert_eq!((&made.body["kind"], &made.body["apiVersion"]), (&object["kind"], &object["apiVersion"]));
        let twice = api.call("POST", &life.collection, object).await;
        assert_eq!(
            (twice.code, &twice.body["reason"]),
            (StatusCode::CONFLICT, &json!("AlreadyExists")),
            "{kind}"
        );
        let read = life.ok("GET", &life.one, Value::Null).await;
        assert_eq!(read["metadata"]["uid"], made.body["metadata"]["uid"]);
        let list = life.ok("GET", &format!("{}?{CHOSEN}", life.collection), Value::Null).await;
        assert_eq!(
            (&list["kind"], list["items"].as_array().unwrap().len()),
            (&json!(format!("{kind}List")), 1)
        );
        life.changes(&made.body).await;
        if entry.has_status() {
            life.status_is_written().await;
        }
        life.ok("DELETE", &format!("{}?dryRun=All", life.one), Value::Null).await;
        life.ok("GET", &life.one, Value::Null).await;
        match entry.verbs.contains(&Verb::DeleteCollection) {
            true => life.ok("DELETE", &format!("{}?{CHOSEN}", life.collection), Value::Null).await,
            false => life.ok("DELETE", &life.one, Value::Null).await,
        };
        // What protects some kinds lets them go when its controller says so.
        let left = api.call("GET", &life.one, Value::Null).await;
        let is_leaving = left.body["metadata"]["deletionTimestamp"].is_string();
        assert!(left.code == StatusCode::NOT_FOUND || is_leaving, "{kind}: {}", left.body);
        kinds += 1;
    }
    assert!(kinds > 50, "only {kinds} kinds were tried");
}

#[tokio::test]
async fn questions_are_answered_with_the_codes_and_words_that_clients_know() {
    let api = Api::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for number in 0..3 {
        api.make(maps, json!({"metadata": {"name": format!("m{number}"), "labels": {"a": "b"}}})).await;
    }
    for path in [
        "/api/",
        "/apis/",
        "/apis/apps/",
        "/apis/apps/v1/",
        "/api/v1/",
        "/version/",
        "/livez/ping",
        "/readyz/etcd",
    ] {
        assert_eq!(api.call("GET", path, Value::Null).await.code, StatusCode::OK, "{path}");
    }
    let rows = [
        (
            "?resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        ("?resourceVersionMatch=Exact&resourceVersion=0", 422, "is forbidden for resourceVersion \"0\""),
        (
            "?resourceVersionMatch=Some&resourceVersion=1",
            422,
            "supported values: \"\", \"Exact\", \"NotOlderThan\"",
        ),
        ("?sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        ("?watch&sendInitialEvents=true", 422, "requires setting resourceVersionMatch to NotOlderThan"),
        ("?watch&resourceVersionMatch=Exact&resourceVersion=1", 422, "is forbidden for watch unless"),
        ("?resourceVersion=999999", 504, "Too large resource version: 999999, current: "),
        ("?resourceVersion=x", 422, "must be an unsigned integer"),
        ("?timeout=soon", 400, "invalid timeout specified in the request URL"),
        ("?continue=x", 400, "continue key is not valid"),
        ("?fieldSelector=data%3Dx", 400, "field label not supported: data"),
    ];
    for (query, code, words) in rows {
        let answer = api.call("GET", &format!("{maps}{query}"), Value::Null).await;
        assert_eq!(answer.code.as_u16(), code, "{query}: {}", answer.body);
        assert!(answer.message().contains(words), "{query}: {}", answer.message());
    }
    // What is behind a proxy may be asked with any method, what is not may not.
    let code = async |path: &str| api.call("OPTIONS", path, Value::Null).await.code;
    assert_eq!(code("/api/v1/namespaces/default/pods/none/proxy/x").await, StatusCode::NOT_FOUND);
    assert_eq!(code("/api/v1/namespaces/default/pods/none/log").await, StatusCode::METHOD_NOT_ALLOWED);
    let page = |query: &'static str| api.call("GET", query, Value::Null);
    let all = page("/api/v1/namespaces/default/configmaps?limit=1").await.body;
    assert_eq!(all["metadata"]["remainingItemCount"], 2);
    let some = page("/api/v1/namespaces/default/configmaps?limit=1&labelSelector=a").await.body;
    assert!(some["metadata"]["continue"].is_string() && some["metadata"]["remainingItemCount"].is_null());
    let resources = page("/api/v1").await.body;
    let pods = resources["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "pods");
    assert_eq!(pods.unwrap()["storageVersionHash"], "xPOwRZ+Yhw8=", "as Kubernetes computes it");
}

#[tokio::test]
async fn what_a_body_says_wrong_is_told_where_and_how_kubernetes_tells_it() {
    let api = Api::start().await;
    let one = "/apis/apps/v1/namespaces/default/deployments/d";
    let json = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"unknown":1,"replicas":1,"replicas":2,
        "selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}"#;
    let create = |query: &str| {
        let path = format!("/apis/apps/v1/namespaces/default/deployments?fieldValidation={query}");
        let api = &api;
        async move { api.with("POST", &path, &[("content-type", "application/json")], json).await }
    };
    let strict = create("Strict").await;
    let words = "strict decoding error: unknown field \"spec.unknown\", duplicate field \"spec.replicas\"";
    assert!(strict.code == StatusCode::BAD_REQUEST && strict.message().contains(words), "{}", strict.body);
    assert_eq!(create("Sometimes").await.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(create("Warn").await.code, StatusCode::CREATED);

    let apply = [("content-type", "application/apply-patch+yaml")];
    let config = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  paused: true\n  paused: false\n";
    let twice =
        api.with("PATCH", &format!("{one}?fieldManager=m&fieldValidation=Strict"), &apply, config).await;
    assert!(twice.message().contains("line 7: key \"paused\" already set in map"), "{}", twice.body);
    let unknown = config.replace("paused: true", "poised: true");
    let unknown =
        api.with("PATCH", &format!("{one}?fieldManager=m&fieldValidation=Ignore"), &apply, &unknown).await;
    assert!(unknown.message().ends_with(".spec.poised: field not declared in schema"), "{}", unknown.body);
    let other = api
        .with("PATCH", &format!("{one}?fieldManager=m"), &apply, &config.replace("name: d", "name: e"))
        .await;
    assert_eq!(other.code, StatusCode::BAD_REQUEST, "{}", other.body);
    let forced = api.call("PATCH", &format!("{one}?force=true"), json!({})).await;
    assert_eq!(forced.code, StatusCode::UNPROCESSABLE_ENTITY, "{}", forced.body);

    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let table =
        [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.with("POST", path, &table, &review).await.code, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(api.with("GET", one, &[("accept", "text/html")], "").await.code, StatusCode::NOT_ACCEPTABLE);
    let yaml = api.with("GET", one, &[("accept", "application/yaml")], "").await;
    assert!(yaml.body.as_str().is_some_and(|text| text.contains("\nkind: Deployment\n")), "{}", yaml.body);
}

#[tokio::test]
async fn a_put_makes_what_is_not_there_where_kubernetes_lets_it_and_the_caller_may() {
    let api = Api::start().await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let object = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": "x"}});
    let role = json!({"metadata": {"name": "renews"}, "rules": [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update", "patch"]}]});
    api.make("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await;
    let binding = json!({"metadata": {"name": "renews"}, "subjects": [{"kind": "User", "name": "joe"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "renews"}});
    api.make("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let joe: (&str, &[&str]) = ("joe", &[]);
    crate::testing::eventually("the right to renew", async || {
        let refused = api.call_as(joe, "PUT", lease, object("l")).await;
        refused.code == StatusCode::FORBIDDEN
            && refused.message().contains("cannot create resource \"leases\"")
    })
    .await;
    let misnamed = api.call("PUT", lease, object("other")).await;
    assert_eq!(misnamed.code, StatusCode::BAD_REQUEST, "{}", misnamed.body);
    assert_eq!(api.call("PUT", lease, object("l")).await.code, StatusCode::CREATED);
    assert_eq!(api.call_as(joe, "PUT", lease, object("l")).await.code, StatusCode::OK);
    let map = api.call("PUT", "/api/v1/namespaces/default/configmaps/m", object("m")).await;
    assert_eq!(map.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_old_paths_of_watches_still_watch() {
    let api = Api::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b"] {
        api.make(maps, json!({"metadata": {"name": name}})).await;
    }
    let mut one = api.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    let event = one.next().await;
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
    let mut all = api.watch("/api/v1/watch/namespaces").await;
    assert_eq!(all.next().await["object"]["kind"], "Namespace");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_is_told_so_by_an_event() {
    let api = Api::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let first = api.make(leases, json!({"metadata": {"name": "l"}, "spec": {}})).await;
    // More than is remembered of leases.
    for number in 0..210 {
        let change = json!({"spec": {"leaseTransitions": number}});
        api.call("PATCH", &format!("{leases}/l"), change).await;
    }
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let event = api.watch(&format!("{leases}?watch=1&resourceVersion={from}")).await.next().await;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
}

#[tokio::test]
async fn an_openapi_document_is_kept_by_its_hash() {
    let api = Api::start().await;
    let get = async |path: &str| api.call("GET", path, Value::Null).await;
    let header = |answer: &crate::testing::Answer, name: &str| {
        answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let plain = get("/openapi/v3/apis/batch/v1").await;
    assert_eq!(header(&plain, "cache-control"), "no-cache, private");
    let index = get("/openapi/v3").await.body;
    let url = index["paths"]["apis/batch/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(url.starts_with("/openapi/v3/apis/batch/v1?hash="), "{url}");
    let kept = get(&url).await;
    assert_eq!(kept.body, plain.body);
    assert!(header(&kept, "cache-control").contains("immutable"));
    let moved = get("/openapi/v3/apis/batch/v1?hash=0").await;
    assert_eq!((moved.code, header(&moved, "location")), (StatusCode::MOVED_PERMANENTLY, url.clone()));
    let tag = header(&kept, "etag");
    let again = api.with("GET", &url, &[("if-none-match", &tag)], "").await;
    assert_eq!(again.code, StatusCode::NOT_MODIFIED);
    for (path, entry) in index["paths"].as_object().unwrap() {
        assert!(entry["serverRelativeURL"].as_str().unwrap().contains("?hash="), "{path}");
    }
}

#[tokio::test]
async fn the_old_openapi_document_is_sent_when_it_has_changed_and_says_nothing_of_what_may_be_anything() {
    let api = Api::start().await;
    let get = async |tag: &str| api.with("GET", "/openapi/v2", &[("if-none-match", tag)], "").await;
    let first = get("").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(get(&tag).await.code, StatusCode::NOT_MODIFIED);
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}});
    let definition = json!({"metadata": {"name": "anys.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
        "names": {"plural": "anys", "singular": "any", "kind": "Any", "listKind": "AnyList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    api.run_loops();
    api.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    eventually("the kind is served", async || {
        api.call("GET", "/apis/x.io/v1", Value::Null).await.code == StatusCode::OK
    })
    .await;
    let second = get(&tag).await;
    assert_eq!(second.code, StatusCode::OK);
    let kinds = json!([{"group": "x.io", "version": "v1", "kind": "Any"}]);
    let expected = json!({"type": "object", "x-kubernetes-group-version-kind": kinds});
    assert_eq!(second.body["definitions"]["io.x.v1.Any"], expected);
}

#[tokio::test]
async fn a_condition_without_its_time_is_taken_as_go_takes_it() {
    let api = Api::start().await;
    let services = "/api/v1/namespaces/default/services";
    let mut service =
        api.make(services, json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})).await;
    service["status"]["conditions"] =
        json!([{"type": "A", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": null}]);
    let put = api.call("PUT", &format!("{services}/s/status"), service).await;
    assert_eq!(put.code, StatusCode::OK, "{}", put.body);
    let change = json!({"status": {"conditions": [{"type": "B", "status": "False", "reason": "R"}]}});
    let patched = api.call("PATCH", &format!("{services}/s/status"), change).await;
    let condition = &patched.body["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["lastTransitionTime"]),
        (&json!("B"), &json!("0001-01-01T00:00:00Z"))
    );
}

#[tokio::test]
async fn an_event_is_found_by_its_source_whichever_field_names_it() {
    let api = Api::start().await;
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "regarding": {"namespace": "default"}, "reason": "Test",
        "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Do", "reportingController": "tester", "reportingInstance": "t", "type": "Normal"});
    api.make("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let found =
        api.call("GET", "/api/v1/namespaces/default/events?fieldSelector=source%3Dtester", Value::Null).await;
    assert_eq!(found.body["items"].as_array().map(Vec::len), Some(1), "{}", found.body);
}
