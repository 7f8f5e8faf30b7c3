//! The recent changes of one resource: for watches that resume, and for lists at a revision that has passed.
use crate::{Change, ChangeKind, Object};
use pilothouse_api::{Key, Revision};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What a change costs beside the object's bytes: labels, fields, addresses.
const OVERHEAD_BYTES: usize = 512;

pub struct History {
    changes: VecDeque<Change>,
    /// Everything after this revision is here.
    pub oldest: Revision,
    /// What the changes take, about.
    pub bytes: usize,
}

impl History {
    pub fn starting_at(oldest: Revision) -> Self {
        Self { changes: VecDeque::new(), oldest, bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn push(&mut self, change: Change) {
        self.bytes += cost(&change);
        self.changes.push_back(change);
    }

    pub fn drop_oldest(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.bytes -= cost(&change);
            self.oldest = change.object.revision;
        }
    }

    pub fn after(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        let start = self.changes.partition_point(|change| change.object.revision <= revision);
        self.changes.range(start..)
    }

    /// Every object that changed after `revision` as it was then, None for one that did not exist. None as a whole:
    /// the log does not reach back far enough to know.
    pub fn undo(&self, revision: Revision) -> Option<HashMap<Key, Option<Arc<Object>>>> {
        if revision < self.oldest {
            return None;
        }
        let mut before = HashMap::new();
        for change in self.after(revision) {
            if before.contains_key(&change.object.key) {
                continue;
            }
            if change.previous.is_none() && change.kind != ChangeKind::Added {
                return None;
            }
            before.insert(change.object.key.clone(), change.previous.clone());
        }
        Some(before)
    }
}

fn cost(change: &Change) -> usize {
    change.object.bytes.len() + OVERHEAD_BYTES
}
