//! A large cluster of simulated nodes: what a node costs the server and its own process, how fast pods are placed and run.
//! `./dev bench hollow [NODES [PODS]]` runs it and `docs/benchmarks.md` keeps what it printed.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]
#[path = "../api/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../api/measure.rs"]
mod measure;

use anyhow::{Context, Result, ensure};
use client::{Api, Connection};
use measure::Processes;
use pilothouse_e2e::cluster::{Cluster as Server, binary};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What stands still is measured after so long.
const REST: Duration = Duration::from_secs(15);
/// Nodes and pods that take longer than this to come will not come.
const PATIENCE: Duration = Duration::from_secs(1200);
/// A Deployment's pods: a thousand would be one selector's group, as nobody has them.
const OF_A_DEPLOYMENT: usize = 500;
/// Ranges of 256 for 16,384 nodes.
const POD_ADDRESSES: &str = "10.128.0.0/10";
const TOKEN: &str = "hollow.0123456789abcdef";

fn main() -> Result<()> {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let nodes = given.first().copied().unwrap_or(1000);
    let pods = given.get(1).copied().unwrap_or(nodes * 5);
    println!("{}\n", measure::machine());
    let mut server = Server::start("bench-hollow", &["--no-agent", "--cluster-cidr", POD_ADDRESSES])?;
    let api = Api::of(&server.dir().join("data"))?;
    let pid = server.pid().context("the server has ended")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut hollow = None;
    let outcome = runtime.block_on(async {
        let before = Processes::below(pid)?.memory_mb()?.0;
        join_token(&api).await?;
        let begun = Instant::now();
        let process = start(&server, nodes)?;
        let hollow_pid = process.id();
        hollow = Some(process);
        let mut watch = api.connect().await?;
        watch.watch("/api/v1/nodes?watch=true&allowWatchBookmarks=false").await?;
        count(&mut watch, nodes, is_ready).await.context("nodes")?;
        let took = begun.elapsed().as_secs_f64();
        row(
            &format!("{nodes} nodes joined, each with a certificate of its own"),
            &format!("{took:.1} s, {:.0}/s", nodes as f64 / took),
        );
        tokio::time::sleep(REST).await;
        let (own, server_now) =
            (Processes::below(hollow_pid)?.memory_mb()?.0, Processes::below(pid)?.memory_mb()?.0);
        let each = |mb: f64| format!("{mb:.0} MB, {:.1} KB a node", mb * 1024.0 / nodes as f64);
        row("memory of the nodes' process", &each(own));
        row("memory of the server, grown by", &each(server_now - before));
        let processes = Processes::below(pid)?;
        let (cpu, own_cpu) = (processes.cpu(), Processes::below(hollow_pid)?.cpu().1);
        tokio::time::sleep(REST).await;
        let own_cpu = Processes::below(hollow_pid)?.cpu().1 - own_cpu;
        let now = processes.cpu();
        let share = |used: Duration| used.as_secs_f64() / REST.as_secs_f64() * 100.0;
        let (of_server, of_both) = (share(now.0 - cpu.0), share(now.1 - cpu.1));
        row(
            "processor with heartbeats alone, in % of a core",
            &format!(
                "server {of_server:.1}, PostgreSQL {:.1}, the nodes' process {:.1}",
                of_both - of_server,
                share(own_cpu)
            ),
        );
        run_pods(&api, pods).await?;
        let loaded = Processes::below(pid)?.memory_mb()?.0;
        row(
            &format!("memory of the server with {pods} pods, grown by"),
            &format!(
                "{:.0} MB, {:.1} KB a pod",
                loaded - server_now,
                (loaded - server_now) * 1024.0 / pods as f64
            ),
        );
        let own_now = Processes::below(hollow_pid)?.memory_mb()?.0;
        row(
            "memory of the nodes' process, grown by",
            &format!("{:.0} MB, {:.1} KB a pod", own_now - own, (own_now - own) * 1024.0 / pods as f64),
        );
        Ok::<_, anyhow::Error>(())
    });
    drop(hollow);
    server.stop()?;
    outcome
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

/// The nodes' process, which ends with the bench.
struct Hollow(Child);

impl Hollow {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(server: &Server, nodes: usize) -> Result<Hollow> {
    let token = server.dir().join("join-token");
    std::fs::write(&token, TOKEN)?;
    let child = Command::new(binary())
        .args(["hollow", "--nodes", &nodes.to_string(), "--server", &server.api()?, "--ca-file"])
        .arg(server.dir().join("data/ca.crt"))
        .arg("--join-token-file")
        .arg(token)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Hollow(child))
}

async fn join_token(api: &Api) -> Result<()> {
    let mut caller = api.connect().await?;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let group = "system:bootstrappers:hollow";
    let roles =
        ["system:node-bootstrapper", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"];
    for (number, role) in roles.into_iter().enumerate() {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": format!("hollow-{number}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        caller.call("POST", bindings, &binding.to_string()).await?;
    }
    let (id, secret) = TOKEN.split_once('.').context("a token has two parts")?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "metadata": {"name": format!("bootstrap-token-{id}")},
        "stringData": {"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true", "auth-extra-groups": group},
    });
    caller.call("POST", "/api/v1/namespaces/kube-system/secrets", &secret.to_string()).await?;
    Ok(())
}

/// Reads a watch until `wanted` objects were seen as `is_so`.
async fn count(watch: &mut Connection, wanted: usize, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    let mut seen = HashSet::new();
    let reading = async {
        while seen.len() < wanted {
            let event: Value = serde_json::from_slice(watch.next_line().await?)?;
            let object = &event["object"];
            ensure!(event["type"] != "ERROR", "the watch ended: {object}");
            if is_so(object) {
                seen.insert(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    match read {
        Ok(outcome) => outcome,
        Err(_) => anyhow::bail!("{} of {wanted} came in {PATIENCE:?}", seen.len()),
    }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn run_pods(api: &Api, pods: usize) -> Result<()> {
    let mut caller = api.connect().await?;
    let mut news = Pods::follow(api).await?;
    let begun = Instant::now();
    for number in 0..pods.div_ceil(OF_A_DEPLOYMENT) {
        let replicas = OF_A_DEPLOYMENT.min(pods - number * OF_A_DEPLOYMENT);
        let name = format!("web-{number}");
        let labels = json!({"app": name});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [{"name": "web", "image": "registry.example/web:1", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
            }}},
        });
        caller.call("POST", "/apis/apps/v1/namespaces/default/deployments", &deployment.to_string()).await?;
    }
    let row_of = |what: &str| {
        let took = begun.elapsed().as_secs_f64();
        row(&format!("{pods} pods {what}"), &format!("{took:.1} s, {:.0}/s", pods as f64 / took));
    };
    let reading = async {
        while news.placed.len() < pods {
            news.read(api).await?;
        }
        row_of("made and placed");
        while news.ready.len() < pods {
            news.read(api).await?;
        }
        row_of("ready");
        Ok(())
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    match read {
        Ok(outcome) => outcome,
        Err(_) => anyhow::bail!(
            "of {pods} pods {} were placed and {} ready in {PATIENCE:?}",
            news.placed.len(),
            news.ready.len()
        ),
    }
}

/// The pods by UID, from one watch. One that falls behind is begun anew, with all pods as they are, as clients do.
struct Pods {
    watch: Connection,
    placed: HashSet<String>,
    ready: HashSet<String>,
}

/// What is read of a pod.
#[derive(serde::Deserialize)]
struct PodEvent {
    r#type: String,
    object: PodObject,
}

#[derive(serde::Deserialize)]
struct PodObject {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Value,
}

#[derive(serde::Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

impl Pods {
    async fn follow(api: &Api) -> Result<Self> {
        Ok(Self { watch: Self::watch(api).await?, placed: HashSet::new(), ready: HashSet::new() })
    }

    async fn watch(api: &Api) -> Result<Connection> {
        let mut watch = api.connect().await?;
        watch.watch("/api/v1/namespaces/default/pods?watch=true").await?;
        Ok(watch)
    }

    async fn read(&mut self, api: &Api) -> Result<()> {
        let event: PodEvent = serde_json::from_slice(self.watch.next_line().await?)?;
        if event.r#type == "ERROR" {
            self.watch = Self::watch(api).await?;
            return Ok(());
        }
        let uid = event.object.metadata.uid;
        if event.object.spec.node_name.is_some() {
            self.placed.insert(uid.clone());
        }
        let conditions = event.object.status["conditions"].as_array().into_iter().flatten();
        if conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
            self.ready.insert(uid);
        }
        Ok(())
    }
}
