//! The state of the cluster: a PostgreSQL log in front of which stands a watch cache in memory.
//!
//! Writes pass one pipeline that commits them in groups and gives revisions in commit order, without gaps. Reads and
//! watches are answered from memory at a revision that is proved fresh.
pub mod archive;
mod body;
mod cache;
mod feed;
mod follow;
mod history;
mod leader;
mod memory;
mod postgres;
mod retention;
mod seal;
mod store;

pub use feed::{Watch, WatchItem};
pub use follow::{Follow, Followed};
pub use leader::{LeaderLock, Term};
pub use memory::{Index, Listing};
pub use postgres::PostgresOptions;
pub use postgres::board::{Note, NoteBoard};
pub use retention::Clock;
pub use store::Store;

use bytes::Bytes;
use pilothouse_api::{Key, Revision};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One version of one object.
#[derive(Debug)]
pub struct Object {
    pub key: Key,
    pub uid: Arc<str>,
    /// Printed in `metadata.resourceVersion`.
    pub revision: Revision,
    /// The whole object as JSON, `metadata.resourceVersion` included: what a client is sent.
    pub bytes: Bytes,
    /// `metadata.labels`, for selectors.
    pub labels: BTreeMap<String, String>,
    /// What field selectors can ask for, `metadata.name` and `metadata.namespace` included.
    pub fields: Vec<(String, String)>,
}

impl Object {
    /// The object as a JSON tree. Stored bytes always parse.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Whether a text stands anywhere in the JSON: much cheaper than to read it.
    pub fn mentions(&self, text: &str) -> bool {
        std::str::from_utf8(&self.bytes).is_ok_and(|json| json.contains(text))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    /// For a deletion the last state, at the revision of the deletion.
    pub object: Arc<Object>,
    /// The state before, so that a watch with a selector sees objects enter and leave it. None for an addition, and
    /// where the state before is older than the log.
    pub previous: Option<Arc<Object>>,
}

/// One write. `Value`s are whole objects; the store sets `metadata.resourceVersion`.
#[derive(Clone, Debug)]
pub enum Write {
    Create {
        key: Key,
        object: Value,
    },
    /// Fails with [`WriteError::Conflict`] unless the object is still at `expected`.
    Update {
        key: Key,
        object: Value,
        expected: Revision,
    },
    /// `expected: None` deletes whatever is there.
    Delete {
        key: Key,
        expected: Option<Revision>,
    },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Write::Create { key, .. } | Write::Update { key, .. } | Write::Delete { key, .. } => key,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} already exists")]
    AlreadyExists(Key),
    #[error("{0} does not exist")]
    NotFound(Key),
    /// The object was changed since; what it is now.
    #[error("{} has been modified", .0.key)]
    Conflict(Arc<Object>),
    /// The writer led once, and another server leads by now.
    #[error("another server leads by now")]
    Superseded,
    /// The database is away. Whether the write was committed is not known.
    #[error("the database is not available: {0}")]
    Unavailable(String),
}

/// A read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision is older than the log, or in the future.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired { asked: Revision, oldest: Revision },
    /// No write has been given the revision yet.
    #[error("too large resource version: {asked}, current: {reached}")]
    Ahead { asked: Revision, reached: Revision },
    #[error("the database is not available: {0}")]
    Unavailable(String),
}

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    #[error("the database was written by a newer pilothouse: {0}")]
    Newer(String),
    #[error("migration failed: {0}")]
    Migration(String),
    #[error("{0}")]
    Keys(String),
}
