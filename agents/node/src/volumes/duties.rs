//! What this node makes and removes for PersistentVolumes: directories, buckets. The server says which by assigning the volume;
//! the outcome goes back over the line.
use super::{Content, kind_of};
use crate::agent::Agent;
use pilothouse_api::storage::{VOLUMES, duty_of};
use pilothouse_protocol::NodeMessage;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// At the same time: a server that hangs must not keep the others.
const CONCURRENCY: usize = 8;
/// A large bucket takes its time to empty.
const TIMEOUT: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The volume's UID, and whether it is removed.
type Duty = (String, bool);

#[derive(Default)]
pub struct Duties {
    pub changed: Notify,
    done: parking_lot::Mutex<HashSet<Duty>>,
}

impl Duties {
    /// The server begins anew: it may not have heard what was done.
    pub fn start_over(&self) {
        self.done.lock().clear();
        self.changed.notify_one();
    }
}

struct Failure {
    tries: u32,
    again_at: Instant,
}

/// Runs for ever.
pub async fn follow(agent: Arc<Agent>) {
    let mut running: JoinSet<(Duty, bool)> = JoinSet::new();
    let mut at_it: HashSet<String> = HashSet::new();
    let mut failures: HashMap<Duty, Failure> = HashMap::new();
    loop {
        let volumes: Vec<(Duty, Arc<Value>)> = assigned(&agent);
        let wanted: HashSet<&Duty> = volumes.iter().map(|(duty, _)| duty).collect();
        agent.duties.done.lock().retain(|duty| wanted.contains(duty));
        failures.retain(|duty, _| wanted.contains(duty));
        let now = Instant::now();
        for (duty, volume) in &volumes {
            let rests = failures.get(duty).is_some_and(|failure| failure.again_at > now);
            let is_taken = at_it.contains(&duty.0) || agent.duties.done.lock().contains(duty);
            if rests || is_taken || running.len() >= CONCURRENCY {
                continue;
            }
            at_it.insert(duty.0.clone());
            running.spawn(fulfil(agent.clone(), duty.clone(), volume.clone()));
        }
        let again_at = failures.values().map(|failure| failure.again_at).filter(|at| *at > now).min();
        let timer = async {
            match again_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = agent.duties.changed.notified() => {}
            Some(ended) = running.join_next(), if !running.is_empty() => match ended {
                Ok((duty, is_done)) => {
                    at_it.remove(&duty.0);
                    if is_done {
                        failures.remove(&duty);
                        agent.duties.done.lock().insert(duty);
                    } else {
                        let tries = failures.get(&duty).map_or(0, |failure| failure.tries);
                        let pause = (FIRST_PAUSE * 2_u32.pow(tries.min(6))).min(LONGEST_PAUSE);
                        failures.insert(duty, Failure { tries: tries + 1, again_at: Instant::now() + pause });
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a volume's duty came to no end");
                    at_it.clear();
                }
            },
            () = timer => {}
        }
    }
}

fn assigned(agent: &Agent) -> Vec<(Duty, Arc<Value>)> {
    let volumes = agent.assigned.lock().all(VOLUMES);
    let own = volumes.into_iter().filter(|volume| duty_of(volume) == Some(agent.node.as_str()));
    own.map(|volume| {
        let meta = &volume["metadata"];
        let uid = meta["uid"].as_str().unwrap_or_default().to_owned();
        ((uid, !meta["deletionTimestamp"].is_null()), volume.clone())
    })
    .collect()
}

/// Whether it was done.
async fn fulfil(agent: Arc<Agent>, duty: Duty, volume: Arc<Value>) -> (Duty, bool) {
    let name: Arc<str> = volume["metadata"]["name"].as_str().unwrap_or_default().into();
    let find =
        |resource: &str, namespace: &str, name: &str| agent.assigned.lock().get(resource, namespace, name);
    let work = async {
        let (kind, _, source) = kind_of(&volume["spec"])?;
        let content = Content { volume: &volume, source, data_dir: &agent.data_dir, find: &find };
        match duty.1 {
            false => kind.create(&content).await,
            true => kind.remove(&content).await,
        }
    };
    let outcome = match tokio::time::timeout(TIMEOUT, work).await {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("it took longer than {} s", TIMEOUT.as_secs())),
    };
    if let Err(error) = &outcome {
        tracing::warn!(volume = %name, removing = duty.1, error, "a volume's duty failed");
    }
    let is_done = outcome.is_ok();
    let uid: Arc<str> = duty.0.as_str().into();
    agent.outbox.tell(&uid, NodeMessage::VolumeDone { name, uid: uid.clone(), is_removed: duty.1, outcome });
    (duty, is_done)
}
