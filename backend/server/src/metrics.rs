//! What nodes use now: the newest look of each, in memory only. A server that shares its database tells the others what
//! its nodes said, and hears what theirs say.
use parking_lot::RwLock;
use pilothouse_api::metrics::{Measured, NodeUsage};
use pilothouse_store::{Note, NoteBoard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// An older look says nothing of now: six of an agent's rounds.
const FRESH: Duration = Duration::from_secs(60);
/// Containers of one node that are remembered; ten times what a node runs.
const MOST_PODS: usize = 2048;
const MOST_CONTAINERS: usize = 64;
/// How often servers look at what others have put up.
const EXCHANGE_EVERY: Duration = Duration::from_secs(5);

struct Kept {
    usage: Arc<NodeUsage>,
    at: Instant,
    /// Whether its agent is connected here: what others said is theirs to tell.
    is_own: bool,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<RwLock<HashMap<Arc<str>, Kept>>>);

impl Metrics {
    /// Takes what a node says of itself. It can say what it likes of pods: they are asked for by the node they are bound to.
    pub fn observe(&self, node: &str, mut usage: NodeUsage) {
        usage.pods.truncate(MOST_PODS);
        usage.pods.iter_mut().for_each(|pod| pod.containers.truncate(MOST_CONTAINERS));
        self.keep(node, usage, true);
    }

    fn keep(&self, node: &str, usage: NodeUsage, is_own: bool) {
        let usage = Arc::new(usage.sorted());
        let mut nodes = self.0.write();
        let newer = nodes.get(node).is_none_or(|kept| is_own || kept.usage.taken_at < usage.taken_at);
        if newer {
            nodes.insert(node.into(), Kept { usage, at: Instant::now(), is_own });
        }
    }

    pub fn node(&self, name: &str) -> Option<Arc<NodeUsage>> {
        let nodes = self.0.read();
        nodes.get(name).filter(|kept| kept.at.elapsed() < FRESH).map(|kept| kept.usage.clone())
    }

    /// The newest looks of all nodes.
    pub fn all(&self) -> Measured {
        let nodes = self.0.read();
        let fresh = nodes.iter().filter(|(_, kept)| kept.at.elapsed() < FRESH);
        fresh.map(|(name, kept)| (name.clone(), kept.usage.clone())).collect()
    }

    /// Forgets nodes that are gone or silent.
    fn forget(&self) {
        self.0.write().retain(|_, kept| kept.at.elapsed() < FRESH);
    }

    fn own_since(&self, since: Instant) -> Vec<Note> {
        let nodes = self.0.read();
        let own = nodes.iter().filter(|(_, kept)| kept.is_own && kept.at >= since);
        own.filter_map(|(name, kept)| {
            Some(Note { about: name.to_string(), body: serde_json::to_vec(&*kept.usage).ok()? })
        })
        .collect()
    }

    /// Exchanges looks with the other servers, until `shutdown`.
    pub async fn run(self, mut board: NoteBoard, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(EXCHANGE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told_until = Instant::now();
        loop {
            tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => {} }
            self.forget();
            let now = Instant::now();
            match board.exchange(|| self.own_since(told_until)).await {
                Ok(notes) => {
                    told_until = now;
                    for note in notes {
                        match serde_json::from_slice(&note.body) {
                            Ok(usage) => self.keep(&note.about, usage, false),
                            Err(error) => {
                                tracing::debug!(node = note.about, %error, "another server's look is unreadable")
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "looks were not exchanged with other servers"),
            }
        }
    }
}
