//! PostgreSQL is stopped, killed and frozen under a write load over HTTP: no acknowledged write is lost, no watch event is
//! lost, doubled or out of order, and clients see nothing worse than "try again", for a while.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
mod database;
mod history;
mod watcher;
mod writer;

use anyhow::{Context, Result, ensure};
use database::{Database, Frozen};
use history::{Attempt, Outcome};
use kube::core::Request;
use kube::core::params::{ListParams, PostParams};
use pilothouse_e2e::{Cluster, eventually, rust_client};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use watcher::{Scope, Watcher};
use writer::Writer;

const NAMESPACES: [&str; 3] = ["faults-a", "faults-b", "faults-c"];
const WRITERS: usize = 6;
/// Acknowledged writes between two faults: each meets a load in full swing.
const LOAD: u64 = 120;
/// From the end of a fault until every writer writes again, on a machine that does other things too.
const RECOVERY: Duration = Duration::from_secs(20);
/// A hang that everybody sits out, and one that is longer than the store waits for an answer.
const SHORT_HANG: Duration = Duration::from_secs(3);
const LONG_HANG: Duration = Duration::from_secs(11);

/// What the writers tell while they run.
pub struct Run {
    pub stop: AtomicBool,
    /// By writer.
    pub acknowledged: [AtomicU64; WRITERS],
    pub refused: AtomicU64,
}

impl Run {
    fn count(&self) -> [u64; WRITERS] {
        std::array::from_fn(|writer| self.acknowledged[writer].load(Ordering::Relaxed))
    }

    fn total(&self) -> u64 {
        self.count().iter().sum()
    }
}

#[test]
fn a_failing_database_loses_no_write_and_no_event_and_clients_go_on() -> Result<()> {
    // Children end with the thread that started them, so this one starts the cluster.
    let cluster = Cluster::start("database-faults", &["--no-agent"])?;
    let kubectl = cluster.kubectl();
    for namespace in NAMESPACES {
        kubectl.ok(&["create", "namespace", namespace])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = runtime.block_on(rust_client::client_without_retries(&cluster))?;

    let (end, ended) = tokio::sync::watch::channel(false);
    let mut watchers: Vec<JoinHandle<Result<Watcher>>> = Vec::new();
    for scope in Scope::all() {
        let watcher = runtime.block_on(Watcher::start(client.clone(), scope))?;
        watchers.push(runtime.spawn(watcher.run(ended.clone())));
    }
    let acknowledged = std::array::from_fn(|_| AtomicU64::new(0));
    let run = Arc::new(Run { stop: AtomicBool::new(false), acknowledged, refused: AtomicU64::new(0) });
    let writers: Vec<JoinHandle<Result<Vec<Attempt>>>> =
        (0..WRITERS).map(|id| runtime.spawn(Writer::new(id, client.clone(), run.clone()).run())).collect();

    let faults = harm(&Database::of(&cluster), &run);
    run.stop.store(true, Ordering::Relaxed);
    // Why a writer ended says more than that it did not go on.
    let mut attempts = Vec::new();
    for writer in writers {
        attempts.extend(runtime.block_on(writer)??);
    }
    faults?;
    let watchers = runtime.block_on(async {
        mark_the_end(&client).await?;
        end.send(true)?;
        let mut done = Vec::new();
        for watcher in watchers {
            done.push(tokio::time::timeout(RECOVERY, watcher).await.context("a watcher never ended")???);
        }
        Ok::<_, anyhow::Error>(done)
    })?;

    let list = runtime.block_on(everything(&client))?;
    history::nothing_acknowledged_is_missing(&attempts, &list)?;
    for watcher in &watchers {
        watcher.has_arrived_at(&list)?;
        if watcher.saw_everything() {
            history::follows(&attempts, &watcher.seen).with_context(|| format!("{:?}", watcher.scope))?;
        }
    }
    let of = |outcome: fn(&Outcome) -> bool| attempts.iter().filter(|a| outcome(&a.outcome)).count();
    println!(
        "{} attempts: {} acknowledged, {} in doubt, {} refused; {} requests told to come again",
        attempts.len(),
        of(|outcome| matches!(outcome, Outcome::Acknowledged(_))),
        of(|outcome| *outcome == Outcome::InDoubt),
        of(|outcome| *outcome == Outcome::Refused),
        run.refused.load(Ordering::Relaxed),
    );
    for watcher in &watchers {
        println!("{watcher}");
    }
    Ok(())
}

/// All faults, one after the other, each under load.
fn harm(database: &Database<'_>, run: &Run) -> Result<()> {
    let fault = |what: &str, fault: &dyn Fn() -> Result<()>| {
        under_load(run).with_context(|| format!("before: {what}"))?;
        fault().context(what.to_owned())?;
        let begun = Instant::now();
        everybody_writes(run).with_context(|| format!("after: {what}"))?;
        println!("{what}: all write again after {:.1} s", begun.elapsed().as_secs_f64());
        Ok::<_, anyhow::Error>(())
    };
    fault("stopped", &|| database.end("INT", database.postmaster()?))?;
    for _ in 0..3 {
        fault("a connection killed", &|| database.end("KILL", database.busiest()?))?;
    }
    fault("killed", &|| database.end("KILL", database.postmaster()?))?;
    let freeze = |pids: Vec<u32>, time: Duration| {
        let frozen = Frozen::new(database, pids)?;
        std::thread::sleep(time);
        frozen.thaw()
    };
    fault("a connection frozen", &|| freeze(vec![database.busiest()?], SHORT_HANG))?;
    // New connections can be made, and wait for what the old ones hold.
    fault("all connections frozen", &|| freeze(database.connections()?, LONG_HANG))?;
    fault("frozen", &|| freeze(database.all()?, LONG_HANG))
}

fn under_load(run: &Run) -> Result<()> {
    let before = run.total();
    eventually("a load of writes", RECOVERY, || Ok((run.total() >= before + LOAD).then_some(())))
}

fn everybody_writes(run: &Run) -> Result<()> {
    let before = run.count();
    eventually("a write of every writer", RECOVERY, || {
        let now = run.count();
        ensure!(now.iter().zip(before).all(|(now, before)| *now > before), "{before:?}, then {now:?}");
        Ok(Some(()))
    })
}

/// Nothing that is in doubt can happen after these were written.
async fn mark_the_end(client: &kube::Client) -> Result<()> {
    for namespace in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": watcher::END, "labels": {writer::PARITY: "even"}}});
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let request = Request::new(path).create(&PostParams::default(), object.to_string().into())?;
        client.request::<Value>(request).await?;
    }
    Ok(())
}

/// All ConfigMaps.
async fn everything(client: &kube::Client) -> Result<Vec<Value>> {
    let request = Request::new("/api/v1/configmaps").list(&ListParams::default())?;
    let list: Value = client.request(request).await?;
    list["items"].as_array().cloned().context("a list without items")
}
