//! The store as the rest of the server sees it, whatever lies behind.
use crate::feed::Watch;
use crate::follow::Follow;
use crate::memory::{Batch, Decider, Index, Listing, Logged, Memory, Prepared};
use crate::postgres::{Pipeline, PostgresOptions};
use crate::{NoteBoard, Object, OpenError, ReadError, Term, Write, WriteError};
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
    term: Option<Term>,
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
        Self { memory: Memory::new(index), log: Log::Memory(Arc::default()), term: None }
    }

    /// Opens the database, brings its tables up to date and loads its state.
    pub async fn postgres(options: PostgresOptions, index: Index) -> Result<Self, OpenError> {
        let memory = Memory::new(index);
        let pipeline = Pipeline::open(options, memory.clone()).await?;
        Ok(Self { memory, log: Log::Postgres(pipeline), term: None })
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
        self.write_batch(writes, false).await
    }

    /// As [`Store::write_all`], but a write that is refused takes the others along. The error names its object.
    pub async fn write_together(&self, writes: Vec<Write>) -> Result<Vec<Arc<Object>>, WriteError> {
        self.write_batch(writes, true).await.into_iter().collect()
    }

    async fn write_batch(&self, writes: Vec<Write>, together: bool) -> Vec<Result<Arc<Object>, WriteError>> {
        let writes = writes.into_iter().map(|write| Prepared::new(write, &self.memory.index)).collect();
        let batch = Batch { writes, together, term: self.term };
        match &self.log {
            Log::Memory(order) => self.write_memory(order, batch),
            Log::Postgres(pipeline) => pipeline.write(batch).await,
        }
    }

    fn write_memory(&self, order: &Mutex<()>, batch: Batch) -> Vec<Result<Arc<Object>, WriteError>> {
        let _order = order.lock();
        let (outcomes, last) = {
            let cache = self.memory.cache.read();
            let mut decider = Decider::new(&cache, cache.revision);
            (decider.decide(&batch, |_| Ok(())), decider.revision)
        };
        let decided = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
        let entries = decided.map(|decided| Logged::Change(decided.kind, decided.object.clone())).collect();
        self.memory.apply(entries, last);
        outcomes.into_iter().map(|outcome| outcome.map(|decided| decided.object)).collect()
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

    /// As [`Store::wait_for`], for a revision that a client names: there may never have been one.
    pub async fn reach(&self, revision: Revision) -> Result<(), ReadError> {
        if self.revision() >= revision {
            return Ok(());
        }
        // Another server may have told the client; then it is in the database.
        let reached = self.fresh().await?;
        match reached >= revision {
            true => Ok(()),
            false => Err(ReadError::Ahead { asked: revision, reached }),
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

    /// How many objects of a resource there are. From memory.
    pub fn count(&self, resource: &str) -> usize {
        self.memory.cache.read().count(resource)
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

    /// The objects of some resources, or of all, at one revision, and how their state goes on from there.
    pub fn follow(&self, resources: Option<&'static [&'static str]>) -> (Revision, Vec<Arc<Object>>, Follow) {
        self.memory.follow(resources)
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

    /// The same store for one who leads: what it writes does not land once another server's term has begun, however late
    /// the writer learns of that.
    #[must_use]
    pub fn under(&self, term: Option<Term>) -> Self {
        Self { term, ..self.clone() }
    }

    /// Where servers of one database leave notes for each other; `server` tells them apart.
    pub fn note_board(&self, server: String) -> NoteBoard {
        match &self.log {
            Log::Memory(_) => NoteBoard::alone(),
            Log::Postgres(pipeline) => NoteBoard::of(pipeline.connect_options(), server),
        }
    }

    /// The lock that leader-only loops run under; without a database this process always leads.
    pub fn leader_lock(&self) -> crate::LeaderLock {
        match &self.log {
            Log::Memory(_) => crate::LeaderLock::alone(),
            Log::Postgres(pipeline) => crate::LeaderLock::of(pipeline.connect_options()),
        }
    }
}
