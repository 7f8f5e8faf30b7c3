//! Webhooks as a cluster's users meet them: a real HTTPS server answers.
use crate::testing::{Answer, Api, Https, eventually};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A webhook server that answers what it is told to, and remembers what it was asked.
struct Server {
    https: Https,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    /// `answer` gets the review's request and gives the response, without the uid.
    async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + Clone + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let seen = asked.clone();
        let app = Router::new().route(
            "/hook",
            post(async move |body: Bytes| {
                let review: Value = serde_json::from_slice(&body).unwrap();
                let mut response = answer(&review["request"]);
                response["uid"] = review["request"]["uid"].clone();
                seen.lock().push(review["request"].clone());
                json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response})
                    .to_string()
            }),
        );
        Self { https: Https::start(app).await, asked }
    }

    fn by_url(&self) -> Value {
        self.https.client_config("/hook")
    }
}

fn configuration(kind: &str, name: &str, client: Value, more: Value) -> Value {
    let rule =
        json!({"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let mut webhook = json!({
        "name": format!("{name}.example.com"), "clientConfig": client, "rules": [rule], "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        webhook[field] = value.clone();
    }
    json!({"kind": kind, "metadata": {"name": name}, "webhooks": [webhook]})
}

/// Makes a configuration and waits until the server goes by it.
async fn configure(api: &Api, kind: &str, name: &str, client: Value, more: Value) {
    let path = format!("{GROUP}/{}s", kind.to_lowercase());
    let before = api.hooks();
    api.make(&path, configuration(kind, name, client, more)).await;
    eventually("the configuration", async || api.hooks() > before).await;
}

async fn create(api: &Api, name: &str) -> Answer {
    api.call("POST", MAPS, json!({"metadata": {"name": name}, "data": {"a": "b"}})).await
}

impl Api {
    fn hooks(&self) -> usize {
        self.state.webhooks.0.hooks.load().len()
    }
}

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

#[tokio::test]
async fn a_validating_webhook_refuses_in_its_own_words_and_warns() {
    let api = Api::start().await;
    let server = Server::start(|request| match request["object"]["metadata"]["name"].as_str() {
        Some("bad") => json!({"allowed": false, "status": {"message": "not this one", "code": 403}}),
        _ => json!({"allowed": true, "warnings": ["careful"]}),
    })
    .await;
    configure(&api, "ValidatingWebhookConfiguration", "v", server.by_url(), json!({})).await;
    let refused = create(&api, "bad").await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert_eq!(refused.message(), r#"admission webhook "v.example.com" denied the request: not this one"#);
    let made = create(&api, "good").await;
    assert_eq!((made.code, made.warnings()), (StatusCode::CREATED, vec!["\"careful\"".to_owned()]));
    api.call("PATCH", &format!("{MAPS}/good"), json!({"data": {"a": "c"}})).await;
    api.call("DELETE", &format!("{MAPS}/good?dryRun=All"), Value::Null).await;
    let asked = server.asked.lock().clone();
    let facts: Vec<_> = asked
        .iter()
        .map(|r| {
            (r["operation"].clone(), r["object"].is_null(), r["oldObject"].is_null(), r["dryRun"].clone())
        })
        .collect();
    assert_eq!(
        facts,
        [
            (json!("CREATE"), false, true, json!(false)),
            (json!("CREATE"), false, true, json!(false)),
            (json!("UPDATE"), false, false, json!(false)),
            (json!("DELETE"), true, false, json!(true)),
        ]
    );
    let review = &asked[1];
    assert_eq!(review["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(review["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&review["name"], &review["namespace"]), (&json!("good"), &json!("default")));
    assert_eq!(review["userInfo"]["username"], "admin");
    assert_eq!(review["options"]["kind"], "CreateOptions");
}

#[tokio::test]
async fn mutating_webhooks_change_one_after_another_and_see_again_what_changed() {
    let api = Api::start().await;
    let counter = Server::start(|request| {
        let seen = request["object"]["data"].as_object().map_or(0, |data| data.len());
        patch(json!([{"op": "add", "path": "/metadata/annotations", "value": {"seen": seen.to_string()}}]))
    })
    .await;
    let adder = Server::start(|_| patch(json!([{"op": "add", "path": "/data/added", "value": "yes"}]))).await;
    let kind = "MutatingWebhookConfiguration";
    configure(&api, kind, "a-counter", counter.by_url(), json!({"reinvocationPolicy": "IfNeeded"})).await;
    configure(&api, kind, "b-adder", adder.by_url(), json!({})).await;
    let made = create(&api, "m").await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.body);
    assert_eq!(made.body["data"], json!({"a": "b", "added": "yes"}));
    assert_eq!(made.body["metadata"]["annotations"]["seen"], "2");
    assert_eq!((counter.asked.lock().len(), adder.asked.lock().len()), (2, 1));
}

#[tokio::test]
async fn what_a_webhook_changed_is_judged_by_the_clusters_own_rules() {
    let api = Api::start().await;
    let server = Server::start(|_| {
        patch(json!([{"op": "add", "path": "/spec/priorityClassName", "value": "system-node-critical"},
            {"op": "remove", "path": "/spec/priority"}]))
    })
    .await;
    let rule =
        json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    configure(&api, "MutatingWebhookConfiguration", "p", server.by_url(), json!({"rules": [rule]})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let made = api.call("POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.body["spec"]["priority"], 2_000_001_000, "{}", made.body);
    let shown = server.asked.lock()[0]["object"].clone();
    assert_eq!(shown["spec"]["restartPolicy"], "Always", "webhooks see defaults");
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked_stops_or_lets_pass() {
    let api = Api::start().await;
    let nobody = json!({"url": "https://localhost:1/hook", "caBundle": Server::start(|_| json!({})).await.https.bundle});
    let kind = "ValidatingWebhookConfiguration";
    configure(&api, kind, "open", nobody.clone(), json!({"failurePolicy": "Ignore"})).await;
    assert_eq!(create(&api, "a").await.code, StatusCode::CREATED);
    configure(&api, kind, "shut", nobody, json!({})).await;
    let refused = create(&api, "b").await;
    assert_eq!(refused.code, StatusCode::INTERNAL_SERVER_ERROR);
    let start = r#"Internal error occurred: failed calling webhook "shut.example.com": failed to call webhook: Post "https://localhost:1/hook?timeout=5s": dial tcp"#;
    assert!(refused.message().starts_with(start), "{}", refused.message());
    let gone =
        api.call("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/shut"), Value::Null).await;
    assert_eq!(gone.code, StatusCode::OK, "what is broken can be removed");
}

#[tokio::test]
async fn a_webhook_that_is_slow_or_not_who_it_should_be_is_not_believed() {
    let api = Api::start().await;
    let kind = "ValidatingWebhookConfiguration";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(|_| json!({"allowed": true})).await;
    let silent = json!({"url": format!("https://localhost:{}/hook", listener.local_addr().unwrap().port()), "caBundle": server.https.bundle});
    configure(&api, kind, "slow", silent, json!({"timeoutSeconds": 1})).await;
    let refused = create(&api, "a").await;
    assert!(refused.message().ends_with("context deadline exceeded"), "{}", refused.message());
    api.call("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/slow"), Value::Null).await;
    eventually("the removal", async || api.hooks() == 0).await;
    let mut stranger = server.by_url();
    stranger["caBundle"] = Server::start(|_| json!({})).await.https.bundle.into();
    configure(&api, kind, "stranger", stranger, json!({})).await;
    let refused = create(&api, "a").await;
    assert!(refused.message().contains("tls: invalid peer certificate"), "{}", refused.message());
}

#[tokio::test]
async fn a_service_leads_to_its_endpoints() {
    let api = Api::start().await;
    let server = Server::start(|_| json!({"allowed": false, "status": {"reason": "Conflict"}})).await;
    let service = json!({"metadata": {"name": "hooks"}, "spec": {"ports": [{"port": 443}]}});
    api.make("/api/v1/namespaces/default/services", service).await;
    let slice = json!({
        "metadata": {"name": "hooks", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.2"]}], "ports": [{"port": 1}],
    });
    let client = json!({"service": {"namespace": "default", "name": "hooks", "path": "/hook"}, "caBundle": server.https.bundle});
    configure(&api, "ValidatingWebhookConfiguration", "s", client, json!({})).await;
    let refused = create(&api, "m").await;
    assert!(
        refused.message().ends_with(r#"Post "https://hooks.default.svc:443/hook?timeout=5s": no endpoints available for service "hooks""#),
        "{}",
        refused.message()
    );
    let mut slice = slice;
    slice["endpoints"][0]["addresses"][0] = "127.0.0.1".into();
    slice["ports"][0]["port"] = server.https.port.into();
    // Loopback is refused as an endpoint's address by validation, so it is written past it.
    slice["apiVersion"] = "discovery.k8s.io/v1".into();
    slice["kind"] = "EndpointSlice".into();
    slice["metadata"]["namespace"] = "default".into();
    let key = pilothouse_api::Key::new("endpointslices.discovery.k8s.io", "default", "hooks");
    api.state.store.write(pilothouse_store::Write::Create { key, object: slice }).await.unwrap();
    let refused = create(&api, "m").await;
    assert_eq!(refused.code, StatusCode::CONFLICT, "{}", refused.message());
}
