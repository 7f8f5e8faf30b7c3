//! The store as the rest of the server sees it, whatever lies behind.
use crate::cache::Cache;
use crate::feed::{self, Watch};
use crate::postgres::{Pipeline, PostgresOptions};
use crate::{ChangeKind, Object, OpenError, ReadError, Write, WriteError, body};
use parking_lot::{Mutex, RwLock};
use pilothouse_api::{Key, Revision};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Gives the selectable fields of an object.
pub type Index = Arc<dyn Fn(&Key, &Value) -> Vec<(String, String)> + Send + Sync>;

/// How long a reader waits for memory to catch up with the database.
const FRESH_TIMEOUT: Duration = Duration::from_secs(10);

/// A consistent list.
pub struct Listing {
    pub revision: Revision,
    /// In the order of namespace and name.
    pub objects: Vec<Arc<Object>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) memory: Arc<Memory>,
    log: Log,
}

#[derive(Clone)]
enum Log {
    /// For tests and simulations: the cache is all there is.
    Memory(Arc<Mutex<()>>),
    Postgres(Pipeline),
}

/// What all parts of a store share.
pub struct Memory {
    pub cache: RwLock<Cache>,
    pub revision: watch::Sender<Revision>,
    pub index: Index,
}

impl Memory {
    fn new(index: Index) -> Arc<Self> {
        Arc::new(Self { cache: RwLock::default(), revision: watch::Sender::new(0), index })
    }

    /// An object's version as it stands in the log.
    pub fn object(&self, key: Key, revision: Revision, stored: &[u8]) -> Arc<Object> {
        let value = serde_json::from_slice(stored).unwrap_or_default();
        let fields = (self.index)(&key, &value);
        Arc::new(body::decode(key, revision, stored, fields))
    }

    /// Takes the next changes of the log, in order, and publishes the revision reached.
    pub fn apply(&self, changes: Vec<(ChangeKind, Arc<Object>)>) {
        if changes.is_empty() {
            return;
        }
        let mut cache = self.cache.write();
        for (kind, object) in changes {
            cache.apply(kind, object);
        }
        let revision = cache.revision;
        drop(cache);
        self.revision.send_replace(revision);
    }
}

impl Store {
    /// A store without a database.
    pub fn memory(index: Index) -> Self {
        Self { memory: Memory::new(index), log: Log::Memory(Arc::default()) }
    }

    /// Opens the database, brings its tables up to date and loads its state.
    pub async fn postgres(options: PostgresOptions, index: Index) -> Result<Self, OpenError> {
        let memory = Memory::new(index);
        let pipeline = Pipeline::open(options, memory.clone()).await?;
        Ok(Self { memory, log: Log::Postgres(pipeline) })
    }

    /// Commits one write. The answer is the object as it now stands; for a deletion its last state, at the revision of
    /// the deletion. Memory has reached that revision.
    pub async fn write(&self, write: Write) -> Result<Arc<Object>, WriteError> {
        match &self.log {
            Log::Memory(order) => self.write_memory(order, write),
            Log::Postgres(pipeline) => pipeline.write(write).await,
        }
    }

    /// Commits independent writes as one group; each has its own outcome.
    pub async fn write_all(&self, writes: Vec<Write>) -> Vec<Result<Arc<Object>, WriteError>> {
        futures::future::join_all(writes.into_iter().map(|write| self.write(write))).await
    }

    fn write_memory(&self, order: &Mutex<()>, write: Write) -> Result<Arc<Object>, WriteError> {
        let _order = order.lock();
        let key = write.key().clone();
        let (current, next) = {
            let cache = self.memory.cache.read();
            (cache.get(&key).cloned(), cache.revision + 1)
        };
        let (kind, stored) = decide(&key, current.as_ref(), write)?;
        let object = self.memory.object(key, next, &stored);
        self.memory.apply(vec![(kind, object.clone())]);
        Ok(object)
    }

    /// Proves that memory holds every write acknowledged before this call, by this server or another; gives the
    /// revision it has reached.
    pub async fn fresh(&self) -> Result<Revision, ReadError> {
        let Log::Postgres(pipeline) = &self.log else {
            return Ok(self.revision());
        };
        let revision = pipeline.committed().await?;
        self.wait_for(revision).await?;
        Ok(self.revision())
    }

    /// Waits until memory has reached `revision`.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), ReadError> {
        let mut reached = self.memory.revision.subscribe();
        let waiting = reached.wait_for(|&now| now >= revision);
        match tokio::time::timeout(FRESH_TIMEOUT, waiting).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Unavailable(format!("revision {revision} was not reached in time"))),
        }
    }

    /// The revision memory has reached.
    pub fn revision(&self) -> Revision {
        *self.memory.revision.borrow()
    }

    /// From memory; call [`Store::fresh`] before where the newest state matters.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.memory.cache.read().get(key).cloned()
    }

    /// From memory. `namespace: None` lists all.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Listing {
        let cache = self.memory.cache.read();
        Listing { revision: cache.revision, objects: cache.list(resource, namespace) }
    }

    /// All objects of all resources, at one revision.
    pub fn everything(&self) -> (Revision, Vec<Arc<Object>>) {
        let cache = self.memory.cache.read();
        (cache.revision, cache.all().cloned().collect())
    }

    /// Every change after `from`, of one resource or of all, in one namespace or all.
    pub fn watch(
        &self,
        resource: Option<&str>,
        namespace: Option<&str>,
        from: Revision,
    ) -> Result<Watch, ReadError> {
        let (subscriber, watch) = feed::pair(resource, namespace, self.memory.revision.subscribe());
        let missed = self.memory.cache.write().subscribe(subscriber, from)?;
        Ok(watch.with_missed(missed))
    }

    /// The lock that leader-only loops run under; without a database this process always leads.
    pub fn leader_lock(&self) -> crate::LeaderLock {
        match &self.log {
            Log::Memory(_) => crate::LeaderLock::alone(),
            Log::Postgres(pipeline) => crate::LeaderLock::of(pipeline.connect_options()),
        }
    }
}

/// What a write does to the object as it stands: the rules of optimistic concurrency, for both logs.
pub fn decide(
    key: &Key,
    current: Option<&Arc<Object>>,
    write: Write,
) -> Result<(ChangeKind, bytes::Bytes), WriteError> {
    match (write, current) {
        (Write::Create { object, .. }, None) => Ok((ChangeKind::Added, body::encode(object))),
        (Write::Create { .. }, Some(_)) => Err(WriteError::AlreadyExists(key.clone())),
        (Write::Update { .. } | Write::Delete { .. }, None) => Err(WriteError::NotFound(key.clone())),
        (Write::Update { object, expected, .. }, Some(current)) => match current.revision == expected {
            true => Ok((ChangeKind::Modified, body::encode(object))),
            false => Err(WriteError::Conflict(current.clone())),
        },
        (Write::Delete { expected, .. }, Some(current)) => {
            match expected.is_none_or(|e| e == current.revision) {
                true => Ok((ChangeKind::Deleted, body::encode(current.value()))),
                false => Err(WriteError::Conflict(current.clone())),
            }
        }
    }
}
