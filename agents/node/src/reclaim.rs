//! Keeps the node from running short: frees what nobody needs, then evicts pods, one at a time; disposes of images when the
//! disk fills; holds pods to their limits of local storage. What to do is decided in [`crate::eviction`].
use crate::agent::Agent;
use crate::eviction::thresholds::Signal;
use crate::eviction::{self, Shortage, Used, storage_limits};
use crate::pod_worker::Worker;
use crate::runtime::docker::Left;
use crate::{usage, volumes};
use anyhow::Result;
use pilothouse_api::jiff::Timestamp;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_secs(10);
const IMAGES_EVERY: Duration = Duration::from_secs(300);
/// How long the end of an evicted pod is waited for, before another is looked for.
const END_PATIENCE: Duration = Duration::from_secs(30);
const END_LOOK: Duration = Duration::from_millis(250);
const CONDITIONS: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

/// Runs for ever.
pub async fn follow(agent: Arc<Agent>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut images_at = Instant::now();
    loop {
        look.tick().await;
        if let Err(error) = relieve(&agent).await {
            tracing::warn!(error = format!("{error:#}"), "the node could not be kept from running short");
        }
        hold_to_limits(&agent).await;
        if images_at <= Instant::now() {
            images_at = Instant::now() + IMAGES_EVERY;
            let full = agent.readings().await.get(&Signal::ImagefsAvailable).copied();
            let excess = full.and_then(|r| agent.settings.images.excess(r.capacity, r.available));
            if let Err(error) = dispose_of_images(&agent, excess.unwrap_or(0)).await {
                tracing::warn!(error = format!("{error:#}"), "images could not be looked after");
            }
        }
    }
}

/// One look at what is left, and one step against a shortage.
async fn relieve(agent: &Arc<Agent>) -> Result<()> {
    let rules = &agent.settings.eviction;
    let found = agent.readings().await;
    let now = Timestamp::now();
    let (short, changed) = {
        let mut pressure = agent.pressure.lock();
        let before = CONDITIONS.map(|condition| pressure.holds(rules, condition, now));
        let short = pressure.observe(rules, &found, now);
        (short, before != CONDITIONS.map(|condition| pressure.holds(rules, condition, now)))
    };
    if changed {
        agent.node_changed.notify_one();
    }
    let Some(shortage) = short.first() else { return Ok(()) };
    let signal = shortage.signal();
    agent.node_event(
        "Warning",
        "EvictionThresholdMet",
        format!("Attempting to reclaim {}", signal.resource()),
    );
    if signal.is_disk() {
        let freed = remove_dead_containers(agent).await? + dispose_of_images(agent, u64::MAX).await?;
        let left = agent.readings().await.get(&signal).map_or(0, |r| r.available);
        tracing::info!(
            signal = signal.name(),
            freed,
            left,
            "containers and images that nobody needs were removed"
        );
        let wanted = shortage.reading.available + shortage.missing(rules);
        if left >= wanted {
            return Ok(());
        }
    }
    evict(agent, shortage).await;
    Ok(())
}

async fn evict(agent: &Arc<Agent>, shortage: &Shortage) {
    let mut workers: HashMap<String, Arc<Worker>> = HashMap::new();
    let mut pods = Vec::new();
    for worker in agent.workers() {
        let Some(pod) = worker.pod.borrow().clone().filter(|_| !worker.is_over()) else { continue };
        let used = used(agent, &worker, &pod, shortage.signal()).await;
        workers.insert(worker.uid.clone(), worker);
        pods.push((pod, used));
    }
    let signal = shortage.signal().name();
    let Some((pod, used)) = eviction::choose(shortage.signal(), &pods) else {
        tracing::warn!(signal, "the node is short, and there is no pod to evict");
        return;
    };
    let Some(worker) = pod["metadata"]["uid"].as_str().and_then(|uid| workers.get(uid)) else { return };
    let verdict = eviction::verdict(shortage, &agent.settings.eviction, pod, used);
    tracing::warn!(signal, pod = worker.uid, why = verdict.message, "a pod is evicted");
    worker.condemn(agent, pod, verdict);
    let deadline = Instant::now() + END_PATIENCE;
    while !worker.is_over() && Instant::now() < deadline {
        tokio::time::sleep(END_LOOK).await;
    }
}

/// What a pod uses of what is short.
async fn used(agent: &Arc<Agent>, worker: &Worker, pod: &Value, signal: Signal) -> Used {
    match signal {
        Signal::MemoryAvailable => of_running(worker, usage::memory_bytes),
        Signal::PidAvailable => of_running(worker, usage::processes),
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => Used {
            volumes: volumes::inodes_on_disk(pod, &agent.pod_dir(&worker.uid)).await,
            ..Used::default()
        },
        Signal::NodefsAvailable | Signal::ImagefsAvailable => stored(agent, worker, pod).await,
    }
}

fn of_running(worker: &Worker, measure: impl Fn(i64) -> Option<u64>) -> Used {
    let running = worker.running.lock().clone();
    let containers = running.into_iter().filter_map(|c| Some((c.name, measure(c.pid)?)));
    Used { containers: containers.collect(), volumes: 0 }
}

/// Bytes on disk: written layers and logs of the containers, and volumes.
async fn stored(agent: &Arc<Agent>, worker: &Worker, pod: &Value) -> Used {
    let volumes = volumes::bytes_on_disk(pod, &agent.pod_dir(&worker.uid)).await;
    let layers = agent.runtime.layers(&worker.uid).await.unwrap_or_default();
    let mut used = Used { containers: layers.into_iter().collect(), volumes };
    for container in worker.running.lock().iter() {
        *used.containers.entry(container.name.clone()).or_default() += log_bytes(&container.log);
    }
    used
}

/// A log and those that were rotated away from it.
fn log_bytes(path: &str) -> u64 {
    let size = |path: &str| std::fs::metadata(path).map(|meta| meta.len()).ok();
    let rotated = (1..).map_while(|n| size(&format!("{path}.{n}"))).sum::<u64>();
    size(path).unwrap_or(0) + rotated
}

/// Pods that store more than they may end.
async fn hold_to_limits(agent: &Arc<Agent>) {
    for worker in agent.workers() {
        let Some(pod) = worker.pod.borrow().clone() else { continue };
        if !storage_limits::has_any(&pod) || worker.is_over() {
            continue;
        }
        if let Some(verdict) = storage_limits::exceeded(&pod, &stored(agent, &worker, &pod).await) {
            worker.condemn(agent, &pod, verdict);
        }
    }
}

/// Containers that have ended and that only their logs are kept of: earlier attempts, and those of pods that have ended.
async fn remove_dead_containers(agent: &Agent) -> Result<u64> {
    let left: Vec<Left> = agent.runtime.left(&agent.node).await?;
    let over: HashSet<String> =
        agent.workers().iter().filter(|worker| worker.is_over()).map(|worker| worker.uid.clone()).collect();
    let mut freed = 0;
    for container in &left {
        let newer = left.iter().any(|other| {
            other.pod == container.pod && other.name == container.name && other.attempt > container.attempt
        });
        if !container.running && (newer || over.contains(&container.pod)) {
            agent.runtime.remove(&container.id).await?;
            freed += container.bytes;
        }
    }
    Ok(freed)
}

/// Removes images that no container has until `bytes` are free, and remembers which are needed; the bytes that were freed.
async fn dispose_of_images(agent: &Agent, bytes: u64) -> Result<u64> {
    let images = agent.runtime.images().await?;
    let in_use = agent.runtime.images_in_use().await?;
    let now = Timestamp::now();
    let victims: Vec<_> = {
        let mut ledger = agent.images.lock();
        ledger.observe(&images, &in_use, now);
        ledger.victims(&images, &in_use, &agent.settings.images, bytes, now).into_iter().cloned().collect()
    };
    let mut freed = 0;
    for image in victims {
        // One that a new container uses meanwhile is refused by the runtime, and stays.
        match agent.runtime.remove_image(&image).await {
            Ok(()) => freed += image.bytes,
            Err(error) => tracing::debug!(image = image.id, %error, "an image could not be removed"),
        }
    }
    if freed < bytes && bytes > 0 && bytes < u64::MAX {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
        );
        agent.node_event("Warning", "FreeDiskSpaceFailed", message);
    }
    Ok(freed)
}
