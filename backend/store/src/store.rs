//! The store as the rest of the server sees it, whatever lies behind.
use crate::feed::Watch;
use crate::memory::{Index, Listing, Logged, Memory, Prepared};
use crate::postgres::{Pipeline, PostgresOptions};
use crate::{Object, OpenError, ReadError, Write, WriteError};
use parking_lot::Mutex;
use pilothouse_api::{Key, Revision};
use std::sync::Arc;
use std::time::Duration;

/// How long a reader waits for memory to catch up with the database.
const FRESH_TIMEOUT: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    memory: Arc<Memory>,
    log: Log,
}

#[derive(Clone)]
enum Log {
    /// For tests and simulations: the cache is all there is.
    Memory(Arc<Mutex<()>>),
    Postgres(Pipeline),
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
        let gone = || Err(WriteError::Unavailable("the store is shutting down".into()));
        self.write_all(vec![write]).await.pop().unwrap_or_else(gone)
    }

    /// Commits several writes at once, in order, each seeing those before it. Each has its own outcome; those that are
    /// not refused get consecutive revisions, and all of them are committed or none is.
    pub async fn write_all(&self, writes: Vec<Write>) -> Vec<Result<Arc<Object>, WriteError>> {
        let prepared = writes.into_iter().map(|write| Prepared::new(write, &self.memory.index)).collect();
        match &self.log {
            Log::Memory(order) => self.write_memory(order, prepared),
            Log::Postgres(pipeline) => pipeline.write(prepared).await,
        }
    }

    fn write_memory(&self, order: &Mutex<()>, writes: Vec<Prepared>) -> Vec<Result<Arc<Object>, WriteError>> {
        let _order = order.lock();
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            let (current, next) = {
                let cache = self.memory.cache.read();
                (cache.get(&write.key).cloned(), cache.revision + 1)
            };
            outcomes.push(write.decide(current.as_ref(), next).map(|decided| {
                let entry = Logged::Change(decided.kind, decided.object.clone());
                self.memory.apply(vec![entry], next);
                decided.object
            }));
        }
        outcomes
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
        if self.revision() >= revision {
            return Ok(());
        }
        let mut reached = self.memory.revision.subscribe();
        let waiting = reached.wait_for(|&now| now >= revision);
        match tokio::time::timeout(FRESH_TIMEOUT, waiting).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Unavailable(format!("revision {revision} was not reached in time"))),
        }
    }

    /// The revision memory has reached.
    pub fn revision(&self) -> Revision {
        self.memory.reached()
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

    /// The list as it was at a revision that has passed, as long as the log reaches back to it.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        revision: Revision,
    ) -> Result<Listing, ReadError> {
        let objects = self.memory.cache.read().list_at(resource, namespace, revision)?;
        Ok(Listing { revision, objects })
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
        self.memory.watch(resource, namespace, from)
    }

    /// The lock that leader-only loops run under; without a database this process always leads.
    pub fn leader_lock(&self) -> crate::LeaderLock {
        match &self.log {
            Log::Memory(_) => crate::LeaderLock::alone(),
            Log::Postgres(pipeline) => crate::LeaderLock::of(pipeline.connect_options()),
        }
    }
}
