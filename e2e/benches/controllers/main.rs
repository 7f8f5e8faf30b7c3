//! What controllers cost: a Deployment of 1,000 replicas on a real server, and the view at up to 150,000 pods. `./dev bench
//! controllers` runs it and `docs/benchmarks.md` keeps what it printed. Names of scenarios as arguments run those alone.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]
#[path = "../api/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../api/measure.rs"]
mod measure;

use anyhow::Result;
use client::Api;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use pilothouse_controllers::{Cluster, Controller};
use pilothouse_e2e::cluster::Cluster as Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REPLICAS: usize = 1000;
const ROUNDS: usize = 5;
/// Pods of one Deployment, of one namespace, of one node.
const OF_A_SET: usize = 100;
const OF_A_NAMESPACE: usize = 1500;
const OF_A_NODE: usize = 30;
/// Changes of single pods that are timed.
const CHANGES: usize = 3000;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    println!("{}\n", measure::machine());
    if is_wanted("deployment") {
        deployment()?;
    }
    if is_wanted("view") {
        let mut costs = Vec::new();
        for pods in [1500, 15_000, 150_000] {
            costs.push(view(pods)?);
        }
        row("one pod's change at 150,000 pods, against 1,500", &format!("{:.2} times", costs[2] / costs[0]));
    }
    Ok(())
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

/// From the POST of a Deployment to the event of its last pod, through the whole of a real server.
fn deployment() -> Result<()> {
    let mut server = Server::start("bench-controllers", &["--no-agent"])?;
    let api = Api::of(&server.dir().join("data"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut took = runtime.block_on(async {
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            took.push(one_deployment(&api, &format!("round-{round}")).await?);
        }
        Ok::<_, anyhow::Error>(took)
    })?;
    took.sort();
    let all: Vec<String> = took.iter().map(|t| format!("{:.2}", t.as_secs_f64())).collect();
    let figure =
        format!("{:.2} s (median of {}: {})", took[ROUNDS / 2].as_secs_f64(), ROUNDS, all.join(", "));
    row("Deployment of 1,000 replicas: from its POST to the watch event of its last Pod", &figure);
    server.stop()
}

async fn one_deployment(api: &Api, namespace: &str) -> Result<Duration> {
    let mut caller = api.connect().await?;
    let mut watcher = api.connect().await?;
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    caller.call("POST", "/api/v1/namespaces", &object.to_string()).await?;
    // Pods need their namespace's account.
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    while caller.call("GET", &account, "").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    watcher.watch(&format!("/api/v1/namespaces/{namespace}/pods?watch=true")).await?;
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            // Another scheduler's pods: what is measured is the controllers.
            "spec": {"schedulerName": "nobody", "containers": [{"name": "web", "image": "registry.example/web:1"}]},
        }},
    });
    let begun = Instant::now();
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    caller.call("POST", &path, &deployment.to_string()).await?;
    let mut made = 0;
    while made < REPLICAS {
        let line = watcher.next_line().await?;
        made += usize::from(line.starts_with(b"{\"type\":\"ADDED\""));
    }
    let took = begun.elapsed();
    caller.call("DELETE", &format!("{path}/web"), "").await?;
    while caller.call("GET", &format!("/api/v1/namespaces/{namespace}/pods"), "").await? > 2000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(took)
}

fn observed(resource: &str, namespace: &str, name: &str, revision: u64, object: Value) -> Observed {
    let bytes = object.to_string().into();
    let key = Key::new(resource, namespace, name);
    Observed { key, revision, object: Some(Arc::new(object)), previous: None, bytes }
}

fn meta(namespace: &str, name: &str, owner: Option<(&str, &str)>) -> Value {
    let mut meta = json!({"name": name, "namespace": namespace, "uid": format!("uid-{namespace}-{name}"), "generation": 1,
        "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": owner.map_or(name, |(_, app)| app)}});
    if let Some((kind, owner)) = owner {
        let version = "apps/v1";
        meta["ownerReferences"] = json!([{"apiVersion": version, "kind": kind, "name": owner, "uid": format!("uid-{namespace}-{owner}"),
            "controller": true, "blockOwnerDeletion": true}]);
    }
    meta
}

fn pod(namespace: &str, set: &str, name: &str, node: usize, ready: bool, revision: usize) -> Value {
    let mut meta = meta(namespace, name, Some(("ReplicaSet", set)));
    meta["resourceVersion"] = revision.to_string().into();
    let word = if ready { "True" } else { "False" };
    let address = format!("10.244.{}.{}", node / 256, node % 256);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {"nodeName": format!("node-{node:05}"), "serviceAccountName": "default", "restartPolicy": "Always",
            "containers": [{"name": "web", "image": "registry.example/web:1", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "env": [{"name": "MODE", "value": "fast"}], "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "hostIP": "192.0.2.1", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": word, "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "web", "ready": ready, "restartCount": 0, "image": "registry.example/web:1", "imageID": "",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]},
    })
}

/// Deployments with their sets, services and nodes; not the pods.
fn surroundings(pods: usize) -> Vec<Observed> {
    let mut all = Vec::new();
    for node in 0..pods.div_ceil(OF_A_NODE) {
        let name = format!("node-{node:05}");
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": meta("", &name, None), "spec": {"podCIDR": "10.244.0.0/24"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"}}});
        all.push(observed("nodes", "", &name, 1, object));
    }
    for namespace in 0..pods.div_ceil(OF_A_NAMESPACE) {
        let ns = format!("ns-{namespace}");
        all.push(observed(
            "namespaces",
            "",
            &ns,
            1,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta("", &ns, None),
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        ));
        for set in 0..OF_A_NAMESPACE / OF_A_SET {
            let name = format!("web-{set}");
            let labels = json!({"matchLabels": {"app": name}});
            let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "web", "image": "registry.example/web:1"}]}});
            let spec = json!({"replicas": OF_A_SET, "selector": labels, "template": template});
            let status = json!({"replicas": OF_A_SET, "readyReplicas": OF_A_SET, "availableReplicas": OF_A_SET, "observedGeneration": 1});
            all.push(observed(
                "replicasets.apps",
                &ns,
                &name,
                1,
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": meta(&ns, &name, None), "spec": spec, "status": status}),
            ));
            all.push(observed("services", &ns, &name, 1, json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(&ns, &name, None),
                "spec": {"selector": {"app": name}, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}})));
        }
    }
    all
}

/// Where the nth pod is: its namespace, its set and its node.
fn place(number: usize) -> (String, String, usize) {
    let namespace = number / OF_A_NAMESPACE;
    (format!("ns-{namespace}"), format!("web-{}", number % OF_A_NAMESPACE / OF_A_SET), number / OF_A_NODE)
}

/// The view of so many pods: what it takes of memory, and what one pod's change costs, in microseconds.
fn view(pods: usize) -> Result<f64> {
    let now: Timestamp = "2026-01-01T01:00:00Z".parse()?;
    let mut cluster = Cluster::default();
    surroundings(pods).iter().for_each(|change| cluster.apply(change, now));
    let of = |number: usize, ready: bool, revision: usize| {
        let (namespace, set, node) = place(number);
        let name = format!("{set}-{number:05}");
        let object = pod(&namespace, &set, &name, node, ready, revision);
        observed("pods", &namespace, &name, revision as u64, object)
    };
    // The bytes are the store's, which has them whether there is a view or not.
    let stored: Vec<(Key, bytes::Bytes)> =
        (0..pods).map(|number| of(number, true, 2)).map(|o| (o.key, o.bytes)).collect();
    let own: usize = stored.iter().map(|(_, bytes)| bytes.len()).sum();
    let before = resident_bytes()?;
    for (key, bytes) in &stored {
        let object = serde_json::from_slice(bytes).ok().map(Arc::new);
        let change = Observed { key: key.clone(), revision: 2, object, previous: None, bytes: bytes.clone() };
        cluster.apply(&change, now);
    }
    let taken = resident_bytes()?.saturating_sub(before);
    row(
        &format!("view of {pods} pods: memory a pod"),
        &format!("{} bytes beside its own {}", taken / pods, own / pods),
    );

    let controllers = pilothouse_controllers::all();
    let mut costs: BTreeMap<&'static str, (Duration, Duration, usize)> = BTreeMap::new();
    let mut apply = Duration::ZERO;
    let step = (pods / CHANGES).max(1);
    let begun = Instant::now();
    let mut made = Duration::ZERO;
    for at in 0..CHANGES {
        let number = at * step % pods;
        let making = Instant::now();
        let mut change = of(number, at % 2 == 0, 3 + at);
        change.previous = of(number, true, 2).object;
        made += making.elapsed();
        let started = Instant::now();
        cluster.apply(&change, now);
        apply += started.elapsed();
        react(&controllers, &change, &cluster, now, &mut costs);
    }
    let all = (begun.elapsed() - made).as_secs_f64() * 1e6 / CHANGES as f64;
    let micros = |span: Duration| span.as_secs_f64() * 1e6 / CHANGES as f64;
    row(
        &format!("one pod's change at {pods} pods"),
        &format!("{all:.1} µs, {:.1} of them in the view", micros(apply)),
    );
    let mut named: Vec<_> = costs.into_iter().collect();
    named.sort_by_key(|(_, (keys, reconciles, _))| std::cmp::Reverse(*keys + *reconciles));
    for (name, (keys, reconciles, count)) in named.into_iter().take(4) {
        let figure = format!(
            "{:.1} µs for {:.1} keys, found in {:.1} µs",
            micros(reconciles),
            count as f64 / CHANGES as f64,
            micros(keys)
        );
        row(&format!("… {name}"), &figure);
    }
    Ok(all)
}

/// What all controllers do about one change.
fn react(
    controllers: &[Box<dyn Controller>],
    change: &Observed,
    cluster: &Cluster,
    now: Timestamp,
    costs: &mut BTreeMap<&'static str, (Duration, Duration, usize)>,
) {
    for controller in controllers {
        let (keys_took, reconciles_took, count) = costs.entry(controller.name()).or_default();
        let started = Instant::now();
        let keys = controller.keys(change, cluster);
        *keys_took += started.elapsed();
        let started = Instant::now();
        for key in &keys {
            std::hint::black_box(controller.reconcile(key, cluster, now));
        }
        *reconciles_took += started.elapsed();
        *count += keys.len();
    }
}

fn resident_bytes() -> Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok(pages * 4096)
}
