//! The API under load: a real server with its private PostgreSQL, real TLS connections. `./dev bench api` runs it and
//! `docs/benchmarks.md` keeps what it printed. Names of scenarios as arguments run those alone.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]
mod client;
mod measure;

use anyhow::{Context, Result};
use client::Api;
use measure::{Latencies, Processes};
use pilothouse_e2e::cluster::binary;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const CONNECTIONS: usize = 64;
const LOAD: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(20);
const PODS: usize = 10_000;
const LISTS: usize = 20;
/// Events a second while a fan-out is measured, and for how long.
const EVENTS_PER_SECOND: u32 = 20;
const FAN_OUT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    println!("{}\n", measure::machine());
    let dir = std::env::temp_dir().join(format!("pilothouse-bench-{}", std::process::id()));
    // What starts the server must outlive it: children end with the thread that started them.
    let (mut server, cold) = Server::start(&dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if is_wanted("start") {
        server.stop()?;
        let (again, warm) = Server::start(&dir)?;
        server = again;
        row("first start, database made", &format!("{:.2} s", cold.as_secs_f64()));
        row("warm start", &format!("{:.2} s", warm.as_secs_f64()));
    }
    let api = Api::of(&dir)?;
    let outcome = runtime.block_on(async {
        if is_wanted("idle") {
            idle(&server, "idle").await?;
        }
        if is_wanted("create") {
            creates(&api).await?;
        }
        if is_wanted("get") {
            gets(&api).await?;
        }
        if is_wanted("list") {
            lists(&api).await?;
        }
        if is_wanted("watch") {
            for watchers in [1, 100, 1000] {
                fan_out(&api, watchers).await?;
            }
        }
        if is_wanted("loaded") {
            idle(&server, "after the load").await?;
        }
        Ok(())
    });
    if is_wanted("start") && outcome.is_ok() {
        server.stop()?;
        let (again, warm) = Server::start(&dir)?;
        server = again;
        row("warm start with what was written", &format!("{:.2} s", warm.as_secs_f64()));
    }
    server.stop()?;
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

struct Server {
    child: Child,
}

impl Server {
    /// Starts `pilothouse up --no-agent`; how long its ready line took.
    fn start(dir: &Path) -> Result<(Self, Duration)> {
        let begun = Instant::now();
        let mut child = Command::new(binary())
            .args([
                "up",
                "--no-agent",
                "--listen",
                "127.0.0.1:0",
                "--dashboard-listen",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}: run ./dev build first", binary().display()))?;
        let output = child.stdout.take().context("no output")?;
        let ready = BufReader::new(output)
            .lines()
            .any(|line| line.is_ok_and(|l| l.starts_with("pilothouse is ready")));
        anyhow::ensure!(ready, "the server ended before it was ready");
        Ok((Self { child }, begun.elapsed()))
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        self.child.wait()?;
        Ok(())
    }

    fn processes(&self) -> Result<Processes> {
        Processes::below(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

async fn idle(server: &Server, when: &str) -> Result<()> {
    // What the start or the load left to do gets done first.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let processes = server.processes()?;
    let before = processes.cpu().1;
    tokio::time::sleep(IDLE).await;
    let used = processes.cpu().1 - before;
    let (own, all) = processes.memory_mb()?;
    let memory = format!(
        "{all:.0} MB (server {own:.0} MB, PostgreSQL {:.0} MB, {} processes)",
        all - own,
        processes.count()
    );
    row(&format!("memory, {when}"), &memory);
    row(
        &format!("processor, {when}"),
        &format!("{:.2} % of a core", used.as_secs_f64() / IDLE.as_secs_f64() * 100.0),
    );
    Ok(())
}

/// All connections call as fast as answers come; `request` gives method, path and body of the nth call.
async fn load(
    api: &Api,
    span: Duration,
    limit: u64,
    request: impl Fn(u64) -> (&'static str, String, String) + Send + Sync + 'static,
) -> Result<(Latencies, Duration)> {
    let (count, request) = (Arc::new(AtomicU64::new(0)), Arc::new(request));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(api.connect().await?);
    }
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for mut connection in connections {
        let (count, request) = (count.clone(), request.clone());
        clients.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < span {
                let n = count.fetch_add(1, Ordering::Relaxed);
                if n >= limit {
                    break;
                }
                let (method, path, body) = request(n);
                let sent = Instant::now();
                connection.call(method, &path, &body).await?;
                took.push(sent.elapsed());
            }
            Ok::<_, anyhow::Error>(took)
        });
    }
    let took = clients.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok((Latencies::new(took.into_iter().flatten().collect()), begun.elapsed()))
}

fn rate(latencies: &Latencies, span: Duration) -> String {
    format!("{:.0}/s, {latencies}", latencies.len() as f64 / span.as_secs_f64())
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
        .to_string()
}

async fn creates(api: &Api) -> Result<()> {
    let value = "x".repeat(700); // about 1 KiB with its metadata
    let create = move |n| ("POST", MAPS.to_owned(), config_map(&format!("map-{n}"), &value));
    let (latencies, span) = load(api, LOAD, u64::MAX, create).await?;
    row(&format!("create, 1 KiB, {CONNECTIONS} connections"), &rate(&latencies, span));
    Ok(())
}

async fn gets(api: &Api) -> Result<()> {
    let mut connection = api.connect().await?;
    let value = "x".repeat(700);
    for i in 0..100 {
        connection.call("POST", MAPS, &config_map(&format!("read-{i}"), &value)).await?;
    }
    let get = |n| ("GET", format!("{MAPS}/read-{}", n % 100), String::new());
    let (latencies, span) = load(api, LOAD, u64::MAX, get).await?;
    row(&format!("get, 1 KiB, {CONNECTIONS} connections"), &rate(&latencies, span));
    Ok(())
}

async fn lists(api: &Api) -> Result<()> {
    let pods = "/api/v1/namespaces/pods/pods";
    let mut connection = api.connect().await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pods"}});
    connection.call("POST", "/api/v1/namespaces", &namespace.to_string()).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench"}});
    connection.call("POST", "/api/v1/namespaces/pods/serviceaccounts", &account.to_string()).await?;
    // Another scheduler's pods: nothing happens to them while they are listed.
    let pod = |n: u64| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("web-{n}"), "labels": {"app": "web", "group": (n % 10).to_string()}},
            "spec": {"schedulerName": "nobody", "serviceAccountName": "bench", "containers": [{
                "name": "web", "image": "registry.example/web:1", "ports": [{"containerPort": 8080}],
                "env": [{"name": "MODE", "value": "fast"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            }]},
        })
    };
    let create = move |n| ("POST", pods.to_owned(), pod(n).to_string());
    let (latencies, span) = load(api, Duration::MAX, PODS as u64, create).await?;
    row("create, pods", &rate(&latencies, span));
    let selected = format!("{pods}?labelSelector=group%3D3");
    for (what, path) in [("list of 10,000 pods", pods), ("list of 1,000 of 10,000 pods by label", &selected)]
    {
        let mut took = Vec::new();
        let mut size = 0;
        for _ in 0..LISTS {
            let sent = Instant::now();
            size = connection.call("GET", path, "").await?;
            took.push(sent.elapsed());
        }
        row(what, &format!("{}, {:.1} MB", Latencies::new(took), size as f64 / 1e6));
    }
    Ok(())
}

/// Every event carries the moment it was sent; each watcher tells how long it took to come.
async fn fan_out(api: &Api, watchers: usize) -> Result<()> {
    let begun = Instant::now();
    let (namespace, path) = ("default", format!("{MAPS}/fan-{watchers}"));
    let mut connection = api.connect().await?;
    connection.call("POST", MAPS, &config_map(&format!("fan-{watchers}"), "start")).await?;
    let events = EVENTS_PER_SECOND * FAN_OUT.as_secs() as u32;
    let (ready, all_ready) = tokio::sync::oneshot::channel();
    let watching = {
        let api = api.clone();
        let query = format!("watch=true&fieldSelector=metadata.name%3Dfan-{watchers}");
        let path = format!("/api/v1/namespaces/{namespace}/configmaps?{query}");
        // All in one thread, so that it wakes for a batch of events. Threads that wake each other for every event take
        // more of the machine than what is measured.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for _ in 0..watchers {
                    let mut watch = api.connect().await?;
                    watch.watch(&path).await?;
                    watch.next_line().await?; // the state
                    clients.spawn(async move {
                        let mut took = Vec::with_capacity(events as usize);
                        while took.len() < events as usize {
                            let line = watch.next_line().await?;
                            let now = begun.elapsed();
                            took.push(now - sent_at(line)?);
                        }
                        Ok::<_, anyhow::Error>(took)
                    });
                }
                ready.send(()).ok();
                let took = tokio::time::timeout(LOAD + FAN_OUT, clients.join_all()).await;
                took.context("not all events came")?.into_iter().collect::<Result<Vec<_>>>()
            })
        })
    };
    all_ready.await?;
    let mut written = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    let padding = "x".repeat(700);
    for _ in 0..events {
        pace.tick().await;
        let sent = begun.elapsed();
        let map = config_map(&format!("fan-{watchers}"), &format!("@{}@{padding}", sent.as_nanos()));
        connection.call("PUT", &path, &map).await?;
        written.push(begun.elapsed() - sent);
    }
    let took = watching.await??.into_iter().flatten().collect();
    row(
        &format!("watch event at {watchers} watchers, since the write was sent"),
        &Latencies::new(took).to_string(),
    );
    row("…of that the write, until it was answered", &Latencies::new(written).to_string());
    Ok(())
}

fn sent_at(line: &[u8]) -> Result<Duration> {
    let nanos = line.split(|byte| *byte == b'@').nth(1).context("an event without its time")?;
    Ok(Duration::from_nanos(std::str::from_utf8(nanos)?.parse()?))
}
