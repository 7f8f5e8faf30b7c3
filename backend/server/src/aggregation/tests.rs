//! Aggregated APIs as a cluster's users meet them: a real HTTPS server answers for a group.
use super::publish;
use crate::http::discovery::aggregated_list;
use crate::testing::{Answer, Api, Https, eventually, front_proxy};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{any, get};
use futures::StreamExt;
use serde_json::{Value, json};
use std::convert::Infallible;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const ROOT: &str = "/apis/wardle.example.com/v1alpha1";

/// Answers with what it was asked, and by whom.
async fn echo(uri: Uri, headers: HeaderMap, body: Bytes) -> String {
    let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    json!({
        "kind": "Flunder", "path": uri.path(), "user": all("x-remote-user"), "groups": all("x-remote-group"),
        "authorization": all("authorization"), "host": all("host"), "body": String::from_utf8_lossy(&body),
    })
    .to_string()
}

fn sample() -> Router {
    let resources = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
        "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["create", "get", "list"],
             "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]});
    let v2 = json!({"swagger": "2.0", "paths": {format!("{ROOT}/flunders"): {}, "/other": {}},
        "definitions": {"com.example.wardle.v1alpha1.Flunder": {"type": "object"}}});
    let endless = async || {
        let first = futures::stream::iter([Ok::<_, Infallible>("{\"type\":\"ADDED\"}\n")]);
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    Router::new()
        .route(ROOT, get(async move || resources.to_string()))
        .route("/openapi/v2", get(async move || v2.to_string()))
        .route(
            &format!("/openapi/v3{ROOT}"),
            get(async || r#"{"openapi": "3.0.0", "info": {"title": "sample"}}"#),
        )
        .route(&format!("{ROOT}/watched"), get(endless))
        .fallback(any(echo))
}

fn service(bundle: &str) -> Value {
    json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": bundle,
        "service": {"namespace": "default", "name": "hooks", "port": 443}}})
}

async fn condition(api: &Api) -> Value {
    let service = api.call("GET", &format!("{SERVICES}/v1alpha1.wardle.example.com"), Value::Null).await.body;
    service["status"]["conditions"][0].clone()
}

async fn becomes(api: &Api, reason: &str) {
    eventually(reason, async || condition(api).await["reason"] == reason).await;
}

/// A cluster with the sample server behind a service.
async fn start() -> (Api, Https) {
    let api = Api::start().await;
    let identity = front_proxy();
    let https = Https::start_for(sample(), &identity.ca_pem).await;
    api.state.aggregation.identify(identity);
    api.run_loops();
    let service_object = json!({"metadata": {"name": "hooks"}, "spec": {"ports": [{"port": 443}]}});
    api.make("/api/v1/namespaces/default/services", service_object).await;
    let slice = json!({"metadata": {"name": "hooks", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"port": https.port}]});
    api.make("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    api.make(SERVICES, service(&https.bundle)).await;
    becomes(&api, "Passed").await;
    (api, https)
}

async fn get_as(api: &Api, user: &str, groups: &[&str], path: &str) -> Answer {
    api.call_as((user, groups), "GET", path, Value::Null).await
}

#[tokio::test]
async fn requests_reach_the_other_server_in_the_callers_name() {
    let (api, _https) = start().await;
    let path = format!("{ROOT}/namespaces/default/flunders");
    let answer = api.call("POST", &path, json!({"a": 1})).await.body;
    assert_eq!(answer["path"], path);
    assert_eq!((&answer["user"], &answer["body"]), (&json!(["admin"]), &json!(r#"{"a":1}"#)));
    assert_eq!(answer["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(answer["authorization"], json!([]), "the credential stays here");
    assert_eq!(answer["host"], json!(["hooks.default.svc:443"]));
    let refused = get_as(&api, "jane", &[], &path).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert_eq!(
        refused.message(),
        r#"flunders.wardle.example.com is forbidden: User "jane" cannot list resource "flunders" in API group "wardle.example.com" in the namespace "default""#
    );
    assert_eq!(api.send(None, "GET", &path, Value::Null).await.code, StatusCode::FORBIDDEN);
    let mut watch = api.watch(&format!("{ROOT}/watched?watch=true")).await;
    assert_eq!(watch.next().await["type"], "ADDED", "before the watch ends");
}

#[tokio::test]
async fn discovery_and_schemas_show_what_the_other_server_serves() {
    let (api, _https) = start().await;
    let groups = api.call("GET", "/apis", Value::Null).await.body;
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    assert!(names.contains(&"wardle.example.com") && names.contains(&"apps"), "{names:?}");
    let position = |name: &str| names.iter().position(|own| *own == name).unwrap();
    assert!(
        position("apps") < position("batch") && position("batch") < position("wardle.example.com"),
        "by priority"
    );
    let group = api.call("GET", "/apis/wardle.example.com", Value::Null).await.body;
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    let resources = get_as(&api, "jane", &[], ROOT).await;
    assert_eq!(resources.body["resources"][0]["name"], "flunders", "{}", resources.body);
    let list = aggregated_list(&api.state, &api.state.registry.load(), false).await;
    let own = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "wardle.example.com")
        .unwrap();
    assert_eq!(own["versions"][0]["freshness"], "Current");
    let flunders = &own["versions"][0]["resources"][0];
    assert_eq!((&flunders["resource"], &flunders["scope"]), (&json!("flunders"), &json!("Namespaced")));
    assert_eq!(
        flunders["responseKind"],
        json!({"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"})
    );
    assert_eq!(flunders["subresources"][0]["subresource"], "status");
    let index = api.call("GET", "/openapi/v3", Value::Null).await.body;
    let url = index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(api.call("GET", url, Value::Null).await.body["info"]["title"], "sample");
    let v2 = api.call("GET", "/openapi/v2", Value::Null).await.body;
    assert!(v2["definitions"]["com.example.wardle.v1alpha1.Flunder"].is_object());
    assert!(v2["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    assert!(v2["paths"][format!("{ROOT}/flunders")].is_object() && v2["paths"]["/other"].is_null());
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_and_not_asked() {
    let (api, https) = start().await;
    api.call("DELETE", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/hooks", Value::Null)
        .await;
    let touch = |n: i64| json!({"metadata": {"annotations": {"n": n.to_string()}}});
    let path = format!("{SERVICES}/v1alpha1.wardle.example.com");
    api.call("PATCH", &path, touch(1)).await;
    becomes(&api, "MissingEndpoints").await;
    let told = condition(&api).await;
    assert_eq!(
        told["message"],
        "endpointslices for service/hooks in \"default\" have no addresses with port name \"\""
    );
    eventually("nothing is asked of it", async || {
        let answer = api.call("GET", &format!("{ROOT}/flunders"), Value::Null).await;
        answer.code == StatusCode::SERVICE_UNAVAILABLE && answer.body == "service unavailable\n"
    })
    .await;
    api.call("DELETE", "/api/v1/namespaces/default/services/hooks", Value::Null).await;
    api.call("PATCH", &path, touch(2)).await;
    becomes(&api, "ServiceNotFound").await;
    let table = aggregated_list(&api.state, &api.state.registry.load(), false).await;
    let own = table["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "wardle.example.com")
        .unwrap();
    assert!(own["versions"][0]["version"] == "v1alpha1");
    drop(https);
    api.call("DELETE", &path, Value::Null).await;
    eventually("the group is gone", async || {
        api.call("GET", "/apis/wardle.example.com", Value::Null).await.code == StatusCode::NOT_FOUND
    })
    .await;
}

#[tokio::test]
async fn the_servers_own_groups_are_local_and_available() {
    let api = Api::start().await;
    api.state.aggregation.identify(front_proxy());
    publish(&api.state).await.unwrap();
    api.run_loops();
    let own = async |name: &str| api.call("GET", &format!("{SERVICES}/{name}"), Value::Null).await.body;
    eventually("the core group's", async || own("v1.").await["status"]["conditions"][0]["reason"] == "Local")
        .await;
    eventually("apps'", async || own("v1.apps").await["status"]["conditions"][0]["status"] == "True").await;
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.make(definitions, definition).await;
    eventually("the custom group's", async || own("v1.example.com").await["spec"]["versionPriority"] == 100)
        .await;
    api.call("DELETE", &format!("{definitions}/things.example.com"), Value::Null).await;
    eventually("it to go", async || own("v1.example.com").await["code"] == 404).await;
    let map = api
        .call(
            "GET",
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
            Value::Null,
        )
        .await;
    assert_eq!(map.body["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    assert!(
        map.body["data"]["requestheader-client-ca-file"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    publish(&api.state).await.unwrap();
    let again = api
        .call(
            "GET",
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
            Value::Null,
        )
        .await;
    assert_eq!(again.body["data"], map.body["data"], "a second start adds nothing");
}
