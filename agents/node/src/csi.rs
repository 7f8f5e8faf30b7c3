//! Storage drivers on this node: who registered, what each can do, and whose turn it is at a volume.
//!
//! Drivers run as pods and find the node as they find kubelet: by sockets in directories below its root directory
//! ("kubelet plugin registration", "Container Storage Interface").
pub mod messages;
mod registration;

pub use registration::follow;

use crate::connection::Outbox;
use crate::grpc::{self, Call, Fault};
use anyhow::{Context, Result};
use messages::Ability;
use parking_lot::Mutex;
use pilothouse_protocol::NodeMessage;
use prost::Message;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// What a driver may take for one call (kubelet's `csiTimeout`).
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const USER_AGENT: &str = concat!("pilothouse/", env!("CARGO_PKG_VERSION"));

/// Who holds a volume: its name in the node's status, and the pods that have it.
type Holders = BTreeMap<String, BTreeSet<String>>;

/// Who is at a volume, by its driver and what that calls it.
type Turns = HashMap<(String, String), Weak<tokio::sync::Mutex<()>>>;

/// A driver as it told of itself.
#[derive(Clone, Debug)]
pub struct Driver {
    pub name: String,
    pub endpoint: PathBuf,
    pub node_id: String,
    /// How many volumes it takes on this node; None: any number.
    pub most_volumes: Option<u32>,
    pub topology: BTreeMap<String, String>,
    pub abilities: HashSet<Ability>,
}

impl Driver {
    pub fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&ability)
    }

    /// A call of its service `csi.v1.Node`.
    pub async fn node<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> std::result::Result<A, Fault> {
        call(&self.endpoint, &format!("/csi.v1.Node/{method}"), CALL_TIMEOUT, request).await
    }

    /// Its entry in the CSINode.
    fn entry(&self) -> Value {
        let keys: Vec<&String> = self.topology.keys().collect();
        let mut entry = json!({"name": self.name, "nodeID": self.node_id, "topologyKeys": keys});
        if let Some(count) = self.most_volumes {
            entry["allocatable"] = json!({"count": count});
        }
        entry
    }
}

/// One call over a socket of this machine.
async fn call<A: Message + Default>(
    socket: &Path,
    method: &str,
    timeout: Duration,
    request: &impl Message,
) -> std::result::Result<A, Fault> {
    let unreachable = |why: String| Fault {
        code: 14,
        message: format!("connection error: desc = \"transport: {}: {why}\"", socket.display()),
    };
    let connected = tokio::time::timeout(timeout, UnixStream::connect(socket)).await;
    let stream = connected
        .map_err(|_| unreachable("no answer".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let what = Call { authority: "localhost", method, user_agent: USER_AGENT, timeout };
    grpc::call(stream, &what, request).await
}

/// All that the node knows of its drivers.
pub struct Drivers {
    /// Kubelet's root directory: drivers' manifests name it.
    pub root: PathBuf,
    /// This node's name.
    pub node: String,
    pub outbox: Outbox,
    /// Something was assigned, or a driver came: who waits for it looks again.
    pub news: Notify,
    /// The volumes in use are others now.
    pub uses_changed: Notify,
    known: Mutex<BTreeMap<String, Arc<Driver>>>,
    holders: Mutex<Holders>,
    turns: Mutex<Turns>,
    /// When a volume was published last, by the path where.
    published: Mutex<HashMap<PathBuf, Instant>>,
    /// The size that a volume was last grown to, by the same path.
    grown: Mutex<HashMap<PathBuf, String>>,
}

impl Drivers {
    pub fn new(root: PathBuf, node: String, outbox: Outbox) -> Self {
        Self {
            root,
            node,
            outbox,
            news: Notify::new(),
            uses_changed: Notify::new(),
            known: Mutex::default(),
            holders: Mutex::default(),
            turns: Mutex::default(),
            published: Mutex::default(),
            grown: Mutex::default(),
        }
    }

    /// Manifests of drivers take these for granted (`hostPath` of type `Directory`).
    pub fn make_directories(&self) -> Result<()> {
        for name in ["plugins", registration::DIRECTORY, "pods"] {
            let dir = self.root.join(name);
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<Arc<Driver>> {
        self.known.lock().get(name).cloned()
    }

    fn add(&self, driver: Driver) {
        let driver = Arc::new(driver);
        self.known.lock().insert(driver.name.clone(), driver.clone());
        self.tell(&driver);
        self.news.notify_waiters();
    }

    fn remove(&self, name: &str) {
        if self.known.lock().remove(name).is_some() {
            let message =
                NodeMessage::StorageDriver { name: name.into(), driver: None, topology: BTreeMap::new() };
            self.outbox.tell(&format!("driver/{name}"), message);
        }
    }

    fn tell(&self, driver: &Driver) {
        let message = NodeMessage::StorageDriver {
            name: driver.name.as_str().into(),
            driver: Some(driver.entry()),
            topology: driver.topology.clone(),
        };
        self.outbox.tell(&format!("driver/{}", driver.name), message);
    }

    /// The server may have lost what it was told.
    pub fn tell_everything(&self) {
        self.known.lock().values().for_each(|driver| self.tell(driver));
    }

    /// A pod is to have an attached volume.
    pub fn hold(&self, volume: &str, pod_uid: &str) {
        let is_new = self.holders.lock().entry(volume.to_owned()).or_default().insert(pod_uid.to_owned());
        if is_new {
            self.uses_changed.notify_one();
        }
    }

    pub fn let_go(&self, volume: &str, pod_uid: &str) {
        let mut holders = self.holders.lock();
        let Some(pods) = holders.get_mut(volume) else { return };
        pods.remove(pod_uid);
        if pods.is_empty() {
            holders.remove(volume);
            self.uses_changed.notify_one();
        }
    }

    /// `status.volumesInUse` of the Node.
    pub fn in_use(&self) -> Vec<String> {
        self.holders.lock().keys().cloned().collect()
    }

    /// The turn at a volume: of its pods one at a time stages or unstages it.
    pub async fn turn(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            let key = (driver.to_owned(), handle.to_owned());
            let there = turns.get(&key).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(key, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }

    pub fn note_published(&self, target: &Path) {
        self.published.lock().insert(target.to_owned(), Instant::now());
    }

    /// How long ago a volume was published, if this agent did it.
    pub fn published_ago(&self, target: &Path) -> Option<Duration> {
        self.published.lock().get(target).map(Instant::elapsed)
    }

    pub fn note_grown(&self, target: &Path, size: &str) {
        self.grown.lock().insert(target.to_owned(), size.to_owned());
    }

    pub fn has_grown(&self, target: &Path, size: &str) -> bool {
        self.grown.lock().get(target).is_some_and(|grown| grown == size)
    }

    pub fn forget(&self, target: &Path) {
        self.published.lock().remove(target);
        self.grown.lock().remove(target);
    }
}
