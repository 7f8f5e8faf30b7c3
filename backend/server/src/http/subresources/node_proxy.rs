//! `nodes/proxy`: what a kubelet answers at its own port, for the little that is asked of it through the API. Nothing dials a
//! node, so it is told from what the node has told.
use super::super::reply;
use super::super::resources::Call;
use super::parent;
use crate::routes;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use pilothouse_api::lifecycle::seconds;
use pilothouse_api::metrics::{NodeUsage, Usage};
use pilothouse_api::{Status, meta};
use serde_json::{Value, json};

/// `path` is below `…/proxy`, without its first slash.
pub async fn handle(mut call: Call, method: &Method, path: &str) -> Result<Response, Status> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(routes::not_found());
    }
    // `NAME:PORT`, as clients of the kubelet write it.
    if let Some((name, _)) = call.name.split_once(':') {
        call.name = name.to_owned();
    }
    let node = parent(&call).await?;
    match path.trim_end_matches('/') {
        "healthz" => Ok("ok".into_response()),
        "pods" => Ok(reply::json(StatusCode::OK, &list(pods(&call).collect()))),
        "runningpods" => {
            let running = pods(&call).filter_map(|pod| running(&pod)).collect();
            Ok(reply::json(StatusCode::OK, &list(running)))
        }
        "stats/summary" => {
            let usage = call.app.metrics.node(&node.key.name);
            let usage =
                usage.ok_or_else(|| Status::unavailable("the node has not been measured lately", 10))?;
            let pods: Vec<Value> = pods(&call).collect();
            Ok(reply::json(StatusCode::OK, &summary(&call.name, &usage, &pods)))
        }
        _ => Err(routes::not_found()),
    }
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// A pod as its runtime has it: its name and the containers of it that run. None: nothing of it runs.
fn running(pod: &Value) -> Option<Value> {
    let statuses = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"].into_iter();
    let all = statuses.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    let run = all.filter(|status| status["state"]["running"].is_object());
    let containers: Vec<Value> = run
        .map(|status| json!({"name": status["name"], "image": status["image"], "resources": {}}))
        .collect();
    let metadata = json!({"name": meta::name(pod), "namespace": meta::namespace(pod), "uid": meta::uid(pod)});
    (!containers.is_empty())
        .then(|| json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}))
}

/// Those that are on the node.
fn pods(call: &Call) -> impl Iterator<Item = Value> {
    let all = call.app.store.list("pods", None).objects;
    let node = call.name.clone();
    let here =
        move |fields: &[(String, String)]| fields.iter().any(|(f, v)| f == "spec.nodeName" && *v == node);
    all.into_iter().filter(move |pod| here(&pod.fields)).map(|pod| pod.value())
}

/// `Summary` of the kubelet's `stats/v1alpha1`: CPU and memory of the node and of each container.
fn summary(node: &str, look: &NodeUsage, pods: &[Value]) -> Value {
    let time = seconds(look.taken_at);
    let cpu = |usage: &Usage| json!({"time": time, "usageNanoCores": usage.cpu_nanocores, "usageCoreNanoSeconds": usage.cpu_nanoseconds});
    let memory = |usage: &Usage| json!({"time": time, "workingSetBytes": usage.memory_bytes, "usageBytes": usage.memory_bytes});
    let pod = |pod: &Value| {
        let usage = look.pod(meta::uid(pod))?;
        let containers: Vec<Value> = usage
            .containers
            .iter()
            .map(|c| json!({"name": c.name, "startTime": pod["status"]["startTime"], "cpu": cpu(&c.usage), "memory": memory(&c.usage)}))
            .collect();
        let all = usage.of(None).unwrap_or_default();
        let reference =
            json!({"name": meta::name(pod), "namespace": meta::namespace(pod), "uid": meta::uid(pod)});
        Some(json!({
            "podRef": reference, "startTime": pod["status"]["startTime"], "containers": containers,
            "cpu": cpu(&all), "memory": memory(&all),
        }))
    };
    let pods: Vec<Value> = pods.iter().filter_map(pod).collect();
    json!({"node": {"nodeName": node, "cpu": cpu(&look.node), "memory": memory(&look.node)}, "pods": pods})
}

#[cfg(test)]
mod tests {
    use crate::testing::Api;
    use axum::http::StatusCode;
    use pilothouse_api::jiff::Timestamp;
    use pilothouse_api::metrics::{ContainerUsage, NodeUsage, PodUsage, Usage};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn a_node_is_asked_as_a_kubelet_is() {
        let api = Api::start().await;
        api.make("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
        let account = "/api/v1/namespaces/default/serviceaccounts";
        api.call("POST", account, json!({"metadata": {"name": "default"}})).await;
        let spec = json!({"nodeName": "n1", "containers": [{"name": "main", "image": "x"}]});
        let pod = json!({"metadata": {"name": "a"}, "spec": spec});
        let pod = api.make("/api/v1/namespaces/default/pods", pod).await;
        let get = async |path: &str| api.call("GET", &format!("/api/v1/nodes/n1{path}"), Value::Null).await;
        assert_eq!(get("/proxy/stats/summary").await.code, StatusCode::SERVICE_UNAVAILABLE);
        let usage = Usage { cpu_nanoseconds: 5, cpu_nanocores: 7, memory_bytes: 9 };
        let uid = pod["metadata"]["uid"].as_str().unwrap().into();
        let pods = vec![PodUsage { uid, containers: vec![ContainerUsage { name: "main".into(), usage }] }];
        let look = NodeUsage { taken_at: Timestamp::now(), window_milliseconds: 10_000, node: usage, pods };
        api.state.metrics.observe("n1", look);
        let summary = get("/proxy/stats/summary").await.body;
        assert_eq!(summary["node"]["cpu"]["usageNanoCores"], 7);
        assert_eq!(summary["pods"][0]["podRef"]["name"], "a");
        assert_eq!(summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 9);
        assert_eq!(get(":10250/proxy/pods").await.body["items"][0]["metadata"]["name"], "a");
        assert_eq!(get("/proxy/runningpods/").await.body["items"], json!([]));
        let mut begun = pod.clone();
        begun["status"]["containerStatuses"] = json!([{"name": "main", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]);
        api.call("PUT", "/api/v1/namespaces/default/pods/a/status", begun).await;
        let running = get(":10250/proxy/runningpods/").await.body;
        assert_eq!(running["items"][0]["spec"]["containers"][0]["name"], "main");
        assert_eq!(get("/proxy/elsewhere").await.code, StatusCode::NOT_FOUND);
    }
}
