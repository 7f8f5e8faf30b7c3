//! `metrics.k8s.io`: what is used now, of the nodes and pods there are. Made when it is asked for.
use super::read::{Selectors, Shape};
use super::reply;
use super::resources::Call;
use crate::objects::read_failed;
use crate::state::AppState;
use axum::http::StatusCode;
use axum::response::Response;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::kinds::metrics;
use pilothouse_api::table::{partial_metadata, table};
use pilothouse_api::{Key, KindEntry, Status};
use pilothouse_store::Object;
use serde_json::{Value, json};

const NODES: &str = "nodes";
const PODS: &str = "pods";

/// Whether objects of this kind are made here, not stored.
pub fn serves(entry: &KindEntry) -> bool {
    entry.group == metrics::GROUP && !entry.rules.is_custom()
}

/// Whose usage it is.
fn of(entry: &KindEntry) -> &'static str {
    if entry.plural == NODES { NODES } else { PODS }
}

/// None: nothing was measured lately.
fn measured(app: &AppState, object: &Object) -> Option<Value> {
    let Key { resource, namespace, name } = &object.key;
    if &**resource == NODES {
        return Some(metrics::of_node(name, &object.labels, &*app.metrics.node(name)?));
    }
    let (_, node) = object.fields.iter().find(|(field, _)| field == "spec.nodeName")?;
    let look = app.metrics.node(node)?;
    Some(metrics::of_pod(namespace, name, &object.labels, look.pod(&object.uid)?, &look))
}

pub async fn get(call: &Call) -> Result<Response, Status> {
    call.app.store.fresh().await.map_err(read_failed)?;
    let key = Key::new(of(&call.entry), call.namespace.as_str(), call.name.as_str());
    let found = call.app.store.get(&key).and_then(|object| measured(&call.app, &object));
    let found = found.ok_or_else(|| Status::not_found(&call.entry.resource, &call.name))?;
    let answer = match Shape::of(call) {
        Shape::Whole => found,
        Shape::Metadata => partial_metadata(&found),
        Shape::Table(include) => table(&call.entry, &[found], include, Timestamp::now(), json!({})),
    };
    Ok(reply::json(StatusCode::OK, &answer))
}

pub async fn list(call: &Call) -> Result<Response, Status> {
    let selectors = Selectors::of(call)?;
    call.app.store.fresh().await.map_err(read_failed)?;
    let namespace = Some(call.namespace.as_str()).filter(|n| !n.is_empty());
    let listing = call.app.store.list(of(&call.entry), namespace);
    let wanted = listing.objects.iter().filter(|object| selectors.matches(object));
    let items: Vec<Value> = wanted.filter_map(|object| measured(&call.app, object)).collect();
    let answer = match Shape::of(call) {
        Shape::Table(include) => table(&call.entry, &items, include, Timestamp::now(), json!({})),
        Shape::Metadata => {
            let items: Vec<Value> = items.iter().map(partial_metadata).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
        }
        Shape::Whole => json!({
            "kind": format!("{}List", call.entry.kind), "apiVersion": call.entry.api_version(), "metadata": {},
            "items": items,
        }),
    };
    Ok(reply::json(StatusCode::OK, &answer))
}

#[cfg(test)]
mod tests {
    use crate::testing::Api;
    use axum::http::StatusCode;
    use pilothouse_api::jiff::Timestamp;
    use pilothouse_api::metrics::{ContainerUsage, NodeUsage, PodUsage, Usage};
    use serde_json::{Value, json};

    const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

    async fn pod(api: &Api, name: &str, node: &str, app: &str) -> Value {
        let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": "x"}], "serviceAccountName": "default"});
        let pod = json!({"metadata": {"name": name, "labels": {"app": app}}, "spec": spec});
        api.make("/api/v1/namespaces/default/pods", pod).await
    }

    fn look(uids: &[&Value]) -> NodeUsage {
        let usage = Usage { cpu_nanoseconds: 1, cpu_nanocores: 2_000_000, memory_bytes: 3 << 20 };
        let containers = vec![ContainerUsage { name: "main".into(), usage }];
        let pod =
            |uid: &&Value| PodUsage { uid: uid.as_str().unwrap().into(), containers: containers.clone() };
        let pods = uids.iter().map(pod).collect();
        NodeUsage { taken_at: Timestamp::now(), window_milliseconds: 10_000, node: usage, pods }
    }

    fn names(list: &Value) -> Vec<&str> {
        list["items"].as_array().unwrap().iter().filter_map(|o| o["metadata"]["name"].as_str()).collect()
    }

    #[tokio::test]
    async fn usage_is_told_of_what_is_there_and_was_measured_by_the_node_it_is_on() {
        let api = Api::start().await;
        api.make("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
        let account = "/api/v1/namespaces/default/serviceaccounts";
        api.call("POST", account, json!({"metadata": {"name": "default"}})).await;
        let a = pod(&api, "a", "n1", "web").await["metadata"]["uid"].clone();
        let b = pod(&api, "b", "n1", "db").await["metadata"]["uid"].clone();
        let elsewhere = pod(&api, "c", "n2", "web").await["metadata"]["uid"].clone();
        api.state.metrics.observe("n1", look(&[&b, &elsewhere, &a]));
        api.state.metrics.observe("gone", look(&[]));

        let get = async |path: &str| api.call("GET", &format!("{METRICS}{path}"), Value::Null).await;
        let pods = get("/pods").await.body;
        assert_eq!((&pods["kind"], names(&pods)), (&json!("PodMetricsList"), vec!["a", "b"]));
        assert_eq!(pods["items"][0]["containers"][0]["usage"], json!({"cpu": "2m", "memory": "3Mi"}));
        assert_eq!(names(&get("/nodes").await.body), ["n1"]);
        assert_eq!(names(&get("/namespaces/default/pods?labelSelector=app=db").await.body), ["b"]);
        assert_eq!(names(&get("/pods?fieldSelector=metadata.name=a").await.body), ["a"]);
        assert_eq!(names(&get("/namespaces/other/pods").await.body), Vec::<&str>::new());
        assert_eq!(get("/namespaces/default/pods/a").await.body["metadata"]["labels"]["app"], "web");
        assert_eq!(
            get("/namespaces/default/pods/c").await.code,
            StatusCode::NOT_FOUND,
            "n1 speaks for itself only"
        );
        let refused = api.call("DELETE", &format!("{METRICS}/nodes/n1"), Value::Null).await;
        assert_eq!(refused.code, StatusCode::METHOD_NOT_ALLOWED);
        let refused = api.call_as(("joe", &[]), "GET", &format!("{METRICS}/nodes"), Value::Null).await;
        assert_eq!(refused.code, StatusCode::FORBIDDEN);
        let groups = api.call("GET", "/apis/metrics.k8s.io/v1beta1", Value::Null).await.body;
        assert_eq!(groups["resources"][1]["kind"], "PodMetrics");
    }
}
