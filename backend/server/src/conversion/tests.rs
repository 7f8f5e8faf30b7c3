//! Custom kinds of several versions as a cluster's users meet them: a real HTTPS server converts.
use crate::testing::{Api, Https, eventually};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/hosts";

/// `hostPort` is v1's field, `host` and `port` are v2's.
fn converted(object: &Value, version: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = version.into();
    let fields = object.as_object_mut().unwrap();
    if version.ends_with("/v2") {
        if let Some(Value::String(both)) = fields.remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap();
            fields.insert("host".into(), host.into());
            fields.insert("port".into(), port.into());
        }
    } else if let (Some(host), Some(port)) = (fields.remove("host"), fields.remove("port")) {
        let both = format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
        fields.insert("hostPort".into(), both.into());
    }
    object
}

struct Converter {
    https: Https,
    /// How many objects each question held.
    asked: Arc<Mutex<Vec<usize>>>,
    /// What it answers instead.
    answer: Arc<Mutex<Option<Value>>>,
}

impl Converter {
    async fn start() -> Self {
        let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
        let answer: Arc<Mutex<Option<Value>>> = Arc::default();
        let (seen, other) = (asked.clone(), answer.clone());
        let convert = async move |body: Bytes| {
            let review: Value = serde_json::from_slice(&body).unwrap();
            let request = &review["request"];
            let objects = request["objects"].as_array().unwrap();
            seen.lock().push(objects.len());
            let version = request["desiredAPIVersion"].as_str().unwrap();
            let objects: Vec<Value> = objects.iter().map(|object| converted(object, version)).collect();
            let mut response = json!({"result": {"status": "Success"}, "convertedObjects": objects});
            if let Some(other) = &*other.lock() {
                response = other.clone();
            }
            response["uid"] = request["uid"].clone();
            json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": response})
                .to_string()
        };
        let https = Https::start(Router::new().route("/convert", post(convert))).await;
        Self { https, asked, answer }
    }
}

fn definition(stored: &str, client: Value) -> Value {
    let fields = |names: &[&str]| {
        let fields: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        json!({"openAPIV3Schema": {"type": "object", "properties": fields}})
    };
    let version = |name: &str, schema: Value| json!({"name": name, "served": true, "storage": name == stored, "schema": schema});
    json!({"metadata": {"name": "hosts.stable.example.com"}, "spec": {
        "group": "stable.example.com", "scope": "Namespaced",
        "names": {"plural": "hosts", "singular": "host", "kind": "Host", "listKind": "HostList"},
        "versions": [version("v1", fields(&["hostPort"])), version("v2", fields(&["host", "port"]))],
        "conversion": {"strategy": "Webhook",
            "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1", "v1beta1"]}}}})
}

async fn define(api: &Api, converter: &Converter) {
    api.run_loops();
    api.make(DEFINITIONS, definition("v1", converter.https.client_config("/convert"))).await;
    eventually("the kind", async || api.call("GET", V2, Value::Null).await.code == StatusCode::OK).await;
}

fn v1(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "Host", "metadata": {"name": name}, "hostPort": "localhost:8080"})
}

fn assert_v2(object: &Value) {
    assert_eq!(object["apiVersion"], "stable.example.com/v2");
    assert_eq!((&object["host"], &object["port"]), (&json!("localhost"), &json!("8080")));
    assert!(object["hostPort"].is_null());
}

#[tokio::test]
async fn every_verb_speaks_the_version_it_is_asked_in() {
    let (api, converter) = (Api::start().await, Converter::start().await);
    define(&api, &converter).await;
    api.make(V1, v1("one")).await;
    assert_v2(&api.call("GET", &format!("{V2}/one"), Value::Null).await.body);
    let two = json!({"apiVersion": "stable.example.com/v2", "kind": "Host", "metadata": {"name": "two"}, "host": "localhost", "port": "8080"});
    assert_v2(&api.make(V2, two).await);
    assert_eq!(api.call("GET", &format!("{V1}/two"), Value::Null).await.body["hostPort"], "localhost:8080");
    let changed = api.call("PATCH", &format!("{V2}/one"), json!({"port": "9"})).await.body;
    assert_eq!((&changed["host"], &changed["port"]), (&json!("localhost"), &json!("9")));
    assert_eq!(api.call("GET", &format!("{V1}/one"), Value::Null).await.body["hostPort"], "localhost:9");
    let watched = api
        .call(
            "GET",
            &format!("{V2}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name=two"),
            Value::Null,
        )
        .await;
    assert_v2(&watched.body["object"]);
    let gone = api.call("DELETE", &format!("{V2}/one"), Value::Null).await;
    assert_eq!(gone.code, StatusCode::OK);
}

#[tokio::test]
async fn a_list_of_objects_stored_in_several_versions_is_of_one() {
    let (api, converter) = (Api::start().await, Converter::start().await);
    define(&api, &converter).await;
    api.make(V1, v1("a")).await;
    let change = definition("v2", converter.https.client_config("/convert"))["spec"]["versions"].clone();
    let path = format!("{DEFINITIONS}/hosts.stable.example.com");
    let changed = api.call("PATCH", &path, json!({"spec": {"versions": change}})).await;
    assert_eq!(changed.body["status"]["storedVersions"], json!(["v1", "v2"]));
    let stored = async |name: &str| {
        let key = pilothouse_api::Key::new("hosts.stable.example.com", "default", name);
        api.state.store.get(&key).map(|object| object.value()["apiVersion"].clone())
    };
    eventually("the other storage version", async || {
        api.call("DELETE", &format!("{V1}/b"), Value::Null).await;
        api.call("POST", V1, v1("b")).await;
        stored("b").await == Some(json!("stable.example.com/v2"))
    })
    .await;
    assert_eq!(stored("a").await, Some(json!("stable.example.com/v1")));
    api.make(V1, v1("c")).await;
    converter.asked.lock().clear();
    let list = api.call("GET", V1, Value::Null).await.body;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert!(
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|o| o["hostPort"] == "localhost:8080" && o["port"].is_null())
    );
    let list = api.call("GET", V2, Value::Null).await.body;
    list["items"].as_array().unwrap().iter().for_each(assert_v2);
    assert_eq!(*converter.asked.lock(), [2, 1], "one question a list, for those that need it");
    let same = api.call("GET", &format!("{V1}/a"), Value::Null).await.body;
    api.call("PUT", &format!("{V1}/a"), same).await;
    assert_eq!(stored("a").await, Some(json!("stable.example.com/v2")), "writing it again moves it");
}

#[tokio::test]
async fn a_webhook_that_fails_is_told_in_kubernetes_words() {
    let (api, converter) = (Api::start().await, Converter::start().await);
    define(&api, &converter).await;
    api.make(V1, v1("a")).await;
    let rows = [
        (json!({"result": {"status": "Failure", "message": "no way"}}), "failed: no way"),
        (
            json!({"result": {"status": "Failed"}}),
            "failed: response.result.status was 'Failed', not 'Success'",
        ),
        (json!({"result": {"status": "Success"}, "convertedObjects": []}), "returned 0 objects, expected 1"),
        (
            json!({"result": {"status": "Success"}, "convertedObjects": [v1("a")]}),
            "returned invalid converted object at index 0: invalid groupVersion (expected stable.example.com/v2, received \
             stable.example.com/v1)",
        ),
        (
            json!({"result": {"status": "Success"}, "convertedObjects": [{"apiVersion": "stable.example.com/v2", "kind": "Host",
                "metadata": {"name": "other", "namespace": "default"}}]}),
            "returned invalid converted object at index 0: must have the same name: a != other",
        ),
    ];
    for (answer, expected) in rows {
        *converter.answer.lock() = Some(answer);
        let failed = api.call("GET", &format!("{V2}/a"), Value::Null).await;
        assert_eq!(failed.code, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            failed.message(),
            format!("conversion webhook for stable.example.com/v1, Kind=Host {expected}")
        );
    }
    assert_eq!(
        api.call("GET", &format!("{V1}/a"), Value::Null).await.code,
        StatusCode::OK,
        "v1 needs nobody"
    );
    let path = format!("{DEFINITIONS}/hosts.stable.example.com");
    let nowhere = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://localhost:1/convert"}}}}});
    api.call("PATCH", &path, nowhere).await;
    eventually("the other address", async || {
        let failed = api.call("GET", &format!("{V2}/a"), Value::Null).await;
        failed.message().contains("failed: Post \"https://localhost:1/convert?timeout=30s\": dial tcp")
    })
    .await;
    let mut bad = definition("v1", json!({}));
    bad["metadata"]["name"] = "others.stable.example.com".into();
    bad["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
    let refused = api.call("POST", DEFINITIONS, bad).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.conversion.webhook.clientConfig");
}

#[tokio::test]
async fn fields_are_selected_in_the_version_asked_for() {
    let (api, converter) = (Api::start().await, Converter::start().await);
    let mut definition = definition("v1", converter.https.client_config("/convert"));
    definition["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".hostPort"}]);
    definition["spec"]["versions"][1]["selectableFields"] =
        json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    api.run_loops();
    api.make(DEFINITIONS, definition).await;
    eventually("the kind", async || api.call("GET", V2, Value::Null).await.code == StatusCode::OK).await;
    let host = |name: &str, host: &str, port: &str| json!({"apiVersion": "stable.example.com/v2", "kind": "Host", "metadata": {"name": name}, "host": host, "port": port});
    let mut watch = api.watch(&format!("{V2}?watch=true&fieldSelector=host%3Da")).await;
    api.make(V2, host("one", "a", "80")).await;
    api.make(V2, host("other", "b", "80")).await;
    let second = api.make(V2, host("two", "a", "81")).await;
    let names = async |path: String| {
        let list = api.call("GET", &path, Value::Null).await.body;
        let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}")).clone();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(format!("{V2}?fieldSelector=host%3Da")).await, ["one", "two"]);
    assert_eq!(names(format!("{V2}?fieldSelector=host%3Da,port%3D80")).await, ["one"]);
    assert_eq!(names(format!("{V1}?fieldSelector=hostPort%3Da:81")).await, ["two"]);
    let mut moved = second;
    moved["host"] = "b".into();
    api.call("PUT", &format!("{V2}/two"), moved).await;
    api.call("DELETE", &format!("{V2}?fieldSelector=host%3Da"), Value::Null).await;
    assert_eq!(names(V2.to_owned()).await, ["other", "two"]);
    for (kind, name) in [("ADDED", "one"), ("ADDED", "two"), ("DELETED", "two"), ("DELETED", "one")] {
        let event = watch.next().await;
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["name"]),
            (&json!(kind), &json!(name)),
            "{event}"
        );
    }
}

#[test]
fn a_long_list_is_asked_about_in_parts() {
    let object = |kilobytes: usize| json!({"a": "x".repeat(kilobytes * 1024)});
    let sizes = |kilobytes: &[usize]| {
        let parts = super::parts(kilobytes.iter().map(|size| object(*size)));
        parts.iter().map(Vec::len).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&[1, 1, 1]), [3]);
    assert_eq!(sizes(&[1500, 400, 300, 3000, 1]), [2, 1, 1, 1]);
    assert!(sizes(&[]).is_empty());
}
