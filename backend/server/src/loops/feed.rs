//! The store's feed as the pure crates take it: the whole state first, then what changes, in revision order.
use pilothouse_api::{Key, Observed, Revision};
use pilothouse_store::{Change, ChangeKind, Follow, Followed, Object, Store};
use std::sync::Arc;

/// What a loop is told next.
pub enum Step {
    /// The state at a revision; whatever was known before is void.
    Snapshot(Snapshot),
    /// All of it before the next decision: only then is the view that of a revision.
    Changes(Changes),
    /// Nothing happened for a while.
    Quiet(Revision),
}

/// Everything there is, parsed object by object: all of a large cluster at once would take gigabytes.
pub struct Snapshot(Vec<Arc<Object>>);

impl Snapshot {
    pub fn changes(&self) -> impl Iterator<Item = Observed> {
        self.0.iter().map(|object| observed(ChangeKind::Added, object, None))
    }
}

/// What changed since the last step, parsed one by one. Of an object that changed again and again only how it is now.
pub struct Changes {
    changes: Vec<Change>,
    /// What the view has reached with them.
    pub revision: Revision,
}

impl Changes {
    pub fn iter(&self) -> impl Iterator<Item = Observed> {
        self.changes.iter().map(|change| observed(change.kind, &change.object, change.previous.as_deref()))
    }

    /// The same for who does not ask how things were: each is parsed once, not twice.
    pub fn newest(&self) -> impl Iterator<Item = Observed> {
        self.changes.iter().map(|change| observed(change.kind, &change.object, None))
    }
}

/// A feed that starts over by itself when the store lost continuity.
pub struct Feed {
    store: Store,
    resources: Option<&'static [&'static str]>,
    follow: Option<Follow>,
}

impl Feed {
    /// `resources: None`: all of them.
    pub fn new(store: Store, resources: Option<&'static [&'static str]>) -> Self {
        Self { store, resources, follow: None }
    }

    /// Cancel safe.
    pub async fn next(&mut self) -> Step {
        loop {
            let Some(follow) = &mut self.follow else {
                let (_, objects, follow) = self.store.follow(self.resources);
                self.follow = Some(follow);
                return Step::Snapshot(Snapshot(objects));
            };
            match follow.next().await {
                Followed::Changes(changes, revision) => return Step::Changes(Changes { changes, revision }),
                Followed::Quiet(revision) => return Step::Quiet(revision),
                Followed::Lost => {
                    tracing::info!("the store lost continuity: a loop starts over");
                    self.follow = None;
                }
            }
        }
    }
}

fn observed(kind: ChangeKind, object: &Object, previous: Option<&Object>) -> Observed {
    let value = Arc::new(object.value());
    let before = previous.map(|p| Arc::new(p.value()));
    let key: Key = object.key.clone();
    match kind {
        ChangeKind::Deleted => Observed {
            key,
            revision: object.revision,
            object: None,
            previous: before.or(Some(value)),
            bytes: Default::default(),
        },
        _ => Observed {
            key,
            revision: object.revision,
            object: Some(value),
            previous: before,
            bytes: object.bytes.clone(),
        },
    }
}
