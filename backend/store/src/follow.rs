//! Following the store's state: of each object the newest, for those who want to know how things are and not how they came
//! to be so. Who follows is never told to start over for being slow: what waits is never more than there are objects.
use crate::{Change, ChangeKind};
use parking_lot::Mutex;
use pilothouse_api::{Key, Revision};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// With nothing to tell for so long, who follows is told how far it has come.
const QUIET: Duration = Duration::from_secs(50);

/// What [`Follow::next`] yields.
#[derive(Debug)]
pub enum Followed {
    /// What changed since, and the revision at which the state is now so. Not every state in between was one.
    Changes(Vec<Change>, Revision),
    /// Nothing changed up to this revision.
    Quiet(Revision),
    /// The store lost continuity: read everything again.
    Lost,
}

#[derive(Default)]
struct Pending {
    /// By revision.
    changes: BTreeMap<Revision, Change>,
    /// The last of each object.
    last: HashMap<Key, Revision>,
    is_lost: bool,
}

impl Pending {
    fn put(&mut self, change: &Change) {
        let revision = change.object.revision;
        let mut change = change.clone();
        let before = self.last.insert(change.object.key.clone(), revision);
        // An end and what came after it under the same name are two.
        let earlier = before.and_then(|at| match self.changes.entry(at) {
            Entry::Occupied(earlier) if earlier.get().kind != ChangeKind::Deleted => Some(earlier.remove()),
            _ => None,
        });
        if let Some(earlier) = earlier {
            if (earlier.kind, change.kind) == (ChangeKind::Added, ChangeKind::Modified) {
                change.kind = ChangeKind::Added;
            }
            change.previous = earlier.previous;
        }
        self.changes.insert(revision, change);
    }
}

struct Shared {
    /// None: everything.
    resources: Option<&'static [&'static str]>,
    pending: Mutex<Pending>,
    changed: Notify,
}

/// The telling half.
pub struct Follower(std::sync::Weak<Shared>);

impl Follower {
    /// Whether the follower is still to be kept.
    pub fn tell(&self, change: &Change) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        if shared.resources.is_none_or(|wanted| wanted.contains(&&*change.object.key.resource)) {
            shared.pending.lock().put(change);
            shared.changed.notify_one();
        }
        true
    }

    pub fn lose(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.pending.lock().is_lost = true;
            shared.changed.notify_one();
        }
    }
}

/// How the state goes on after a revision. Dropping it ends it.
pub struct Follow {
    shared: Arc<Shared>,
    revision: watch::Receiver<Revision>,
}

pub fn pair(
    resources: Option<&'static [&'static str]>,
    revision: watch::Receiver<Revision>,
) -> (Follower, Follow) {
    let shared = Arc::new(Shared { resources, pending: Mutex::default(), changed: Notify::new() });
    (Follower(Arc::downgrade(&shared)), Follow { shared, revision })
}

impl Follow {
    /// Waits for what changes next. Cancel safe.
    pub async fn next(&mut self) -> Followed {
        loop {
            // It is published after its changes are told: all up to it are among these, or were before.
            let reached = *self.revision.borrow();
            if let Some(told) = self.take(reached) {
                return told;
            }
            if tokio::time::timeout(QUIET, self.shared.changed.notified()).await.is_err() {
                let reached = *self.revision.borrow();
                return self.take(reached).unwrap_or(Followed::Quiet(reached));
            }
        }
    }

    fn take(&self, reached: Revision) -> Option<Followed> {
        let mut pending = self.shared.pending.lock();
        if pending.is_lost {
            return Some(Followed::Lost);
        }
        let (last, _) = pending.changes.last_key_value()?;
        let reached = reached.max(*last);
        let changes = std::mem::take(&mut *pending).changes;
        Some(Followed::Changes(changes.into_values().collect(), reached))
    }
}
