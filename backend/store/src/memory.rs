//! What all parts of a store share: the watch cache, who is told of its changes, and the revision it has reached.
use crate::body::{self, Draft};
use crate::cache::Cache;
use crate::feed::{self, Subscribers, Watch};
use crate::follow::{self, Follow};
use crate::{ChangeKind, Object, ReadError, Term, Write, WriteError};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use pilothouse_api::{Key, Revision};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// Gives the selectable fields of an object.
pub type Index = Arc<dyn Fn(&Key, &Value) -> Vec<(String, String)> + Send + Sync>;

/// A consistent list.
#[derive(Debug)]
pub struct Listing {
    pub revision: Revision,
    /// In the order of namespace and name.
    pub objects: Vec<Arc<Object>>,
}

pub struct Memory {
    pub cache: RwLock<Cache>,
    /// Taken before the cache's lock, and held while changes are told: a thousand watchers hold up no reader.
    subscribers: Mutex<Subscribers>,
    pub revision: watch::Sender<Revision>,
    pub index: Index,
}

/// An entry of the log as it is read back.
pub enum Logged {
    Change(ChangeKind, Arc<Object>),
    /// A deletion whose last state the log does not hold: it is what the cache holds.
    Gone(Key, Revision),
}

impl Memory {
    pub fn new(index: Index) -> Arc<Self> {
        Arc::new(Self {
            cache: RwLock::default(),
            subscribers: Mutex::default(),
            revision: watch::Sender::new(0),
            index,
        })
    }

    pub fn reached(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Replaces everything by the state that was loaded. Watches start over: what lies between is not known.
    pub fn load(
        &self,
        revision: Revision,
        objects: Vec<Arc<Object>>,
        oldest: Revision,
        recent: Vec<(ChangeKind, Arc<Object>)>,
    ) {
        let mut subscribers = self.subscribers.lock();
        self.cache.write().load(revision, objects, oldest, recent);
        subscribers.lose_all();
        drop(subscribers);
        self.revision.send_replace(revision);
    }

    /// Takes the next entries of the log, in order, up to `revision`, and publishes it.
    pub fn apply(&self, entries: Vec<Logged>, revision: Revision) {
        let mut subscribers = self.subscribers.lock();
        let mut changes = Vec::with_capacity(entries.len());
        let mut cache = self.cache.write();
        for entry in entries {
            let (kind, object) = match entry {
                Logged::Change(kind, object) => (kind, object),
                Logged::Gone(key, revision) => match cache.get(&key) {
                    Some(last) => (ChangeKind::Deleted, Arc::new(body::at_revision(last, revision).0)),
                    None => continue,
                },
            };
            changes.extend(cache.apply(kind, object));
        }
        cache.revision = revision;
        drop(cache);
        for change in &changes {
            subscribers.tell(change);
        }
        drop(subscribers);
        self.revision.send_replace(revision);
    }

    /// The state of some resources, or of all, and how it goes on.
    pub fn follow(&self, resources: Option<&'static [&'static str]>) -> (Revision, Vec<Arc<Object>>, Follow) {
        let (follower, follow) = follow::pair(resources, self.revision.subscribe());
        // Nothing is told while this is held: each change is in the state or comes after it.
        let mut subscribers = self.subscribers.lock();
        let cache = self.cache.read();
        let objects = match resources {
            Some(resources) => resources.iter().flat_map(|resource| cache.list(resource, None)).collect(),
            None => cache.all().cloned().collect(),
        };
        subscribers.add_follower(follower);
        (cache.revision, objects, follow)
    }

    pub fn watch(
        &self,
        resource: Option<&str>,
        namespace: Option<&str>,
        from: Revision,
    ) -> Result<Watch, ReadError> {
        let (subscriber, watch) = feed::pair(resource, namespace, self.revision.subscribe());
        let mut subscribers = self.subscribers.lock();
        let mut missed = self.cache.read().changes_after(resource, from)?;
        missed.retain(|change| subscriber.wants(change));
        subscribers.add(subscriber);
        Ok(watch.with_missed(VecDeque::from(missed)))
    }
}

/// A [`Write`] on its way, encoded and indexed.
pub struct Prepared {
    pub key: Key,
    action: Action,
}

enum Action {
    Create(Draft),
    Update(Draft, Revision),
    Delete(Option<Revision>),
}

/// What a write came to.
pub struct Decided {
    pub kind: ChangeKind,
    pub object: Arc<Object>,
    /// What is stored.
    pub body: Bytes,
}

impl Prepared {
    pub fn new(write: Write, index: &Index) -> Self {
        let (key, action) = match write {
            Write::Create { key, object } => {
                let draft = Draft::new(&key, object, index);
                (key, Action::Create(draft))
            }
            Write::Update { key, object, expected } => {
                let draft = Draft::new(&key, object, index);
                (key, Action::Update(draft, expected))
            }
            Write::Delete { key, expected } => (key, Action::Delete(expected)),
        };
        Self { key, action }
    }

    /// The rules of optimistic concurrency: what the write does to the object as it stands, at `revision`.
    pub fn decide(&self, current: Option<&Arc<Object>>, revision: Revision) -> Result<Decided, WriteError> {
        let changed = |current: &Arc<Object>, expected: Revision| match current.revision == expected {
            true => Ok(()),
            false => Err(WriteError::Conflict(current.clone())),
        };
        let key = self.key.clone();
        let (kind, (object, body)) = match (&self.action, current) {
            (Action::Create(draft), None) => (ChangeKind::Added, draft.finish(key, revision)),
            (Action::Create(_), Some(_)) => return Err(WriteError::AlreadyExists(key)),
            (Action::Update(..) | Action::Delete(_), None) => return Err(WriteError::NotFound(key)),
            (Action::Update(draft, expected), Some(current)) => {
                changed(current, *expected)?;
                (ChangeKind::Modified, draft.finish(key, revision))
            }
            (Action::Delete(expected), Some(current)) => {
                expected.map_or(Ok(()), |expected| changed(current, expected))?;
                (ChangeKind::Deleted, body::at_revision(current, revision))
            }
        };
        Ok(Decided { kind, object: Arc::new(object), body })
    }
}

/// Writes that were asked for at once.
pub struct Batch {
    pub writes: Vec<Prepared>,
    /// One that is refused takes the others along.
    pub together: bool,
    /// The leader that writes: refused once another leads. None: whoever may write at any time.
    pub term: Option<Term>,
}

/// Decides writes in order, each seeing those before it.
pub struct Decider<'a> {
    cache: &'a Cache,
    /// What became of the objects that were written to.
    pub overlay: HashMap<Key, Option<Arc<Object>>>,
    pub revision: Revision,
}

impl<'a> Decider<'a> {
    pub fn new(cache: &'a Cache, revision: Revision) -> Self {
        Self { cache, overlay: HashMap::new(), revision }
    }

    /// One outcome a write, or for writes that stay together and were refused just the refusal. `keep` gets what is to
    /// be written.
    pub fn decide(
        &mut self,
        batch: &Batch,
        mut keep: impl FnMut(&Decided) -> Result<(), WriteError>,
    ) -> Vec<Result<Decided, WriteError>> {
        if !batch.together {
            return batch.writes.iter().map(|write| self.decide_one(write, &mut keep)).collect();
        }
        let before = (self.overlay.clone(), self.revision);
        let decided: Result<Vec<_>, _> =
            batch.writes.iter().map(|write| self.decide_one(write, &mut keep)).collect();
        match decided {
            Ok(decided) => decided.into_iter().map(Ok).collect(),
            Err(refusal) => {
                (self.overlay, self.revision) = before;
                vec![Err(refusal)]
            }
        }
    }

    fn decide_one(
        &mut self,
        write: &Prepared,
        keep: &mut impl FnMut(&Decided) -> Result<(), WriteError>,
    ) -> Result<Decided, WriteError> {
        let current = match self.overlay.get(&write.key) {
            Some(changed) => changed.as_ref(),
            None => self.cache.get(&write.key),
        };
        let decided = write.decide(current, self.revision + 1)?;
        keep(&decided)?;
        self.revision += 1;
        let exists = decided.kind != ChangeKind::Deleted;
        self.overlay.insert(decided.object.key.clone(), exists.then(|| decided.object.clone()));
        Ok(decided)
    }
}
