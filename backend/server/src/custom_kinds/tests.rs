//! The life of a custom kind, as its users see it over HTTP.
use crate::testing::{Api, eventually};
use axum::http::StatusCode;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOXES: &str = "/apis/example.com/v1/namespaces/default/boxes";

fn definition() -> Value {
    let spec = json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "x-kubernetes-validations": [
            {"rule": "self >= oldSelf", "message": "a box never shrinks"}]},
        "color": {"type": "string", "default": "red"},
    }});
    let status = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    let schema = json!({"type": "object", "properties": {"spec": spec, "status": status}});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "boxes", "kind": "Box"},
            "versions": [version("v1beta1", false), version("v1", true)]},
    })
}

fn a_box(name: &str, size: i64) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Box", "metadata": {"name": name}, "spec": {"size": size}})
}

async fn established() -> Api {
    let api = Api::start().await;
    api.run_loops();
    api.make(DEFINITIONS, definition()).await;
    eventually("the definition's acceptance", async || {
        let found = api.call("GET", &format!("{DEFINITIONS}/boxes.example.com"), Value::Null).await;
        pilothouse_api::custom::definition::is(&found.body, "Established")
    })
    .await;
    api
}

#[tokio::test]
async fn a_custom_kind_is_served_like_a_built_in_one_from_the_moment_it_is_established() {
    let api = established().await;
    let made = api.make(BOXES, a_box("a", 2)).await;
    assert_eq!(made["spec"], json!({"size": 2, "color": "red"}));
    let groups = api.call("GET", "/apis", Value::Null).await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "example.com").unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let older = api.call("GET", "/apis/example.com/v1beta1/namespaces/default/boxes/a", Value::Null).await;
    assert_eq!(
        (&older.body["apiVersion"], &older.body["spec"]["size"]),
        (&json!("example.com/v1beta1"), &json!(2))
    );
    let list = api.call("GET", &format!("{BOXES}?fieldSelector=spec.color=red"), Value::Null).await.body;
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("BoxList"), 1));
    let list = api.call("GET", &format!("{BOXES}?fieldSelector=spec.color=blue"), Value::Null).await.body;
    assert_eq!(list["items"], json!([]));
    let document = api.call("GET", "/openapi/v3/apis/example.com/v1", Value::Null).await.body;
    assert!(document["components"]["schemas"]["com.example.v1.Box"].is_object());

    let refused = api.call("POST", BOXES, a_box("b", 0)).await;
    let expected = "Box.example.com \"b\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater \
                    than or equal to 1";
    assert_eq!((refused.code.as_u16(), refused.message()), (422, expected));
    let mut unknown = a_box("b", 1);
    unknown["spec"]["extra"] = 1.into();
    let warned = api.call("POST", &format!("{BOXES}?dryRun=All"), unknown.clone()).await;
    assert_eq!(warned.warnings(), [r#""unknown field \"spec.extra\"""#]);
    let strict = api.call("POST", &format!("{BOXES}?fieldValidation=Strict"), unknown).await;
    assert_eq!(strict.code, StatusCode::BAD_REQUEST);

    let grown = api.call("PATCH", &format!("{BOXES}/a"), json!({"spec": {"size": 4}})).await;
    assert_eq!((&grown.body["spec"]["size"], &grown.body["metadata"]["generation"]), (&json!(4), &json!(2)));
    let shrunk = api.call("PATCH", &format!("{BOXES}/a"), json!({"spec": {"size": 3}})).await;
    assert!(
        shrunk.message().ends_with("spec.size: Invalid value: \"integer\": a box never shrinks"),
        "{}",
        shrunk.body
    );
    let both = json!({"status": {"size": 4}, "spec": {"size": 9}});
    let status = api.call("PATCH", &format!("{BOXES}/a/status"), both).await.body;
    assert_eq!((&status["status"]["size"], &status["spec"]["size"]), (&json!(4), &json!(4)));
    let scale = api.call("PATCH", &format!("{BOXES}/a/scale"), json!({"spec": {"replicas": 6}})).await.body;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(6), &json!(4)));
}

#[tokio::test]
async fn objects_follow_a_change_of_their_definition() {
    let api = established().await;
    api.make(BOXES, a_box("a", 2)).await;
    let path = format!("{DEFINITIONS}/boxes.example.com");
    let mut changed = api.call("GET", &path, Value::Null).await.body;
    let versions = changed["spec"]["versions"].as_array_mut().unwrap();
    (versions[0]["storage"], versions[1]["storage"]) = (true.into(), false.into());
    for version in versions {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"] =
            json!({"type": "integer", "default": 7});
    }
    let answer = api.call("PUT", &path, changed).await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    eventually("the new default", async || {
        let found = api.call("GET", &format!("{BOXES}/a"), Value::Null).await.body;
        found["spec"]["weight"] == 7 && found["apiVersion"] == "example.com/v1"
    })
    .await;
    let patched = api.call("PATCH", &format!("{BOXES}/a"), json!({"spec": {"weight": 8}})).await;
    assert_eq!((patched.code, &patched.body["spec"]["weight"]), (StatusCode::OK, &json!(8)));
}

#[tokio::test]
async fn with_its_definition_a_kind_goes_and_all_of_its_objects_too() {
    let api = established().await;
    let mut held = a_box("held", 1);
    held["metadata"]["finalizers"] = json!(["example.com/slow"]);
    api.make(BOXES, held).await;
    api.make(BOXES, a_box("free", 1)).await;
    let path = format!("{DEFINITIONS}/boxes.example.com");
    assert_eq!(api.call("DELETE", &path, Value::Null).await.code, StatusCode::OK);
    eventually("the end of what nothing holds", async || {
        api.call("GET", &format!("{BOXES}/free"), Value::Null).await.code == StatusCode::NOT_FOUND
    })
    .await;
    assert_eq!(api.call("GET", &format!("{BOXES}/held"), Value::Null).await.code, StatusCode::OK);
    let late = api.call("POST", BOXES, a_box("late", 1)).await;
    assert_eq!(late.code, StatusCode::METHOD_NOT_ALLOWED, "{}", late.body);
    let released =
        api.call("PATCH", &format!("{BOXES}/held"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, StatusCode::OK, "{}", released.body);
    eventually("the definition's end", async || {
        api.call("GET", &path, Value::Null).await.code == StatusCode::NOT_FOUND
    })
    .await;
    eventually("the end of the URLs", async || {
        api.call("GET", BOXES, Value::Null).await.code == StatusCode::NOT_FOUND
    })
    .await;
    assert!(api.state.store.list("boxes.example.com", None).objects.is_empty());
}
