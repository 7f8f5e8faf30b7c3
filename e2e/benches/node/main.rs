//! One node with real containers, against Docker itself: how soon a pod runs, how many at once, what the agent takes.
//! `./dev bench node [PODS]` runs it and `docs/benchmarks.md` keeps what it printed.
#![allow(clippy::print_stdout)]
#[allow(dead_code)]
#[path = "../api/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../api/measure.rs"]
mod measure;

use anyhow::{Context, Result, ensure};
use client::{Api, Connection};
use measure::{Latencies, Processes};
use pilothouse_e2e::{Cluster, IMAGE, cluster};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Single starts that are measured, one after the other.
const STARTS: usize = 12;
/// `docker run`s at the same time, where many are run.
const PARALLEL: usize = 10;
const PATIENCE: Duration = Duration::from_secs(300);
/// What stands still is measured after so long, and for so long.
const REST: Duration = Duration::from_secs(20);
const PODS: &str = "/api/v1/namespaces/default/pods";

fn main() -> Result<()> {
    let pods = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100);
    println!("{}\n", measure::machine());
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    let mut cluster = Cluster::start("bench-node", &["--max-pods", "500"])?;
    let api = Api::of(&cluster.dir().join("data"))?;
    let agent = cluster.agent_pid()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let idle = Processes::below(agent)?.memory_mb()?.0;
    row("memory of the agent, without pods", &format!("{idle:.1} MB"));

    let bare =
        (0..STARTS).map(|number| bare_run(&format!("ph-bench-{number}"))).collect::<Result<Vec<_>>>()?;
    let bare = Latencies::new(bare);
    row("`docker run -d`, one at a time", &bare.to_string());
    let ours = Latencies::new(runtime.block_on(one_by_one(&api))?);
    row("from the pod's creation to Running, one at a time", &ours.to_string());
    row("a pod against a `docker run`, at the median", &format!("{:.2} x", ours.at(0.5) / bare.at(0.5)));

    let docker = many_bare_runs(pods)?;
    let rate =
        |took: Duration| format!("{:.1} s, {:.1}/s", took.as_secs_f64(), pods as f64 / took.as_secs_f64());
    row(&format!("{pods} `docker run -d`, {PARALLEL} at a time"), &rate(docker));
    let cpu = Processes::below(agent)?.cpu().0;
    let took = runtime.block_on(many(&api, pods))?;
    let used = Processes::below(agent)?.cpu().0.saturating_sub(cpu);
    row(&format!("{pods} pods Running"), &rate(took));
    row("against Docker", &format!("{:.2} x the time", took.as_secs_f64() / docker.as_secs_f64()));
    row(
        "processor time of the agent, a pod started",
        &format!("{:.0} ms", used.as_secs_f64() * 1e3 / pods as f64),
    );
    let peak = peak_mb(agent)?;
    std::thread::sleep(REST);
    let loaded = Processes::below(agent)?.memory_mb()?.0;
    row(
        &format!("memory of the agent with {pods} pods, and its peak (resident)"),
        &format!("{loaded:.1} MB, {peak:.1} MB"),
    );
    let cpu = Processes::below(agent)?.cpu().0;
    std::thread::sleep(REST);
    let used = Processes::below(agent)?.cpu().0.saturating_sub(cpu).as_secs_f64() / REST.as_secs_f64();
    row(
        &format!("processor of the agent with {pods} pods at rest"),
        &format!("{:.2} % of a core", used * 100.0),
    );
    cluster.stop()
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

/// The most that a process ever had resident.
fn peak_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// As a pod's container runs, as far as Docker alone can: with a network of its own.
fn bare_run(name: &str) -> Result<Duration> {
    let begun = Instant::now();
    let run = ["run", "--detach", "--name", name, IMAGE, "sleep", "3600"];
    let status = Command::new("docker").args(run).stdout(Stdio::null()).status()?;
    let took = begun.elapsed();
    ensure!(status.success(), "docker run failed");
    remove(&[name.to_owned()])?;
    Ok(took)
}

fn remove(names: &[String]) -> Result<()> {
    let status = Command::new("docker").args(["rm", "--force"]).args(names).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "docker rm failed");
    Ok(())
}

fn many_bare_runs(count: usize) -> Result<Duration> {
    let names: Vec<String> = (0..count).map(|number| format!("ph-bench-many-{number}")).collect();
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let runners: Vec<_> = (0..PARALLEL)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = ["run", "--detach", "--name", name, IMAGE, "sleep", "3600"];
                        let status = Command::new("docker").args(run).stdout(Stdio::null()).status()?;
                        ensure!(status.success(), "docker run failed");
                    }
                    Ok(())
                })
            })
            .collect();
        runners
            .into_iter()
            .try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a runner panicked"))?)
    });
    let took = begun.elapsed();
    remove(&names)?;
    outcome.map(|()| took)
}

fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "3600"]}]},
    })
    .to_string()
}

async fn watched(api: &Api) -> Result<Connection> {
    let mut watch = api.connect().await?;
    watch.watch(&format!("{PODS}?watch=true")).await?;
    Ok(watch)
}

/// Reads a watch until `wanted` pods more than before run.
async fn until_running(watch: &mut Connection, seen: &mut HashSet<String>, wanted: usize) -> Result<()> {
    let goal = seen.len() + wanted;
    let reading = async {
        while seen.len() < goal {
            let event: Value = serde_json::from_slice(watch.next_line().await?)?;
            let pod = &event["object"];
            if pod["status"]["phase"] == "Running" {
                seen.insert(pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await.context("the pods do not come")?
}

async fn one_by_one(api: &Api) -> Result<Vec<Duration>> {
    let (mut caller, mut watch) = (api.connect().await?, watched(api).await?);
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for number in 0..STARTS {
        let name = format!("single-{number}");
        let begun = Instant::now();
        caller.call("POST", PODS, &pod(&name)).await?;
        until_running(&mut watch, &mut seen, 1).await?;
        all.push(begun.elapsed());
        caller.call("DELETE", &format!("{PODS}/{name}"), "").await?;
    }
    Ok(all)
}

async fn many(api: &Api, count: usize) -> Result<Duration> {
    let (mut caller, mut watch) = (api.connect().await?, watched(api).await?);
    let mut seen = HashSet::new();
    let begun = Instant::now();
    for number in 0..count {
        caller.call("POST", PODS, &pod(&format!("many-{number}"))).await?;
    }
    until_running(&mut watch, &mut seen, count).await?;
    Ok(begun.elapsed())
}
