//! The store's feed as the pure crates take it: the whole state first, then every change, in revision order.
use pilothouse_api::{Key, Observed, Revision};
use pilothouse_store::{ChangeKind, Object, Store, Watch, WatchItem};
use std::sync::Arc;
use std::time::Duration;

/// What a loop is told next.
pub enum Step {
    /// The state at a revision; whatever was known before is void.
    Snapshot(Snapshot),
    Change(Observed),
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

/// A feed that starts over by itself when it fell behind.
pub struct Feed {
    store: Store,
    resources: Option<&'static [&'static str]>,
    watch: Option<Watch>,
}

const RETRY_AFTER: Duration = Duration::from_millis(200);

impl Feed {
    /// `resources: None`: all of them.
    pub fn new(store: Store, resources: Option<&'static [&'static str]>) -> Self {
        Self { store, resources, watch: None }
    }

    /// Cancel safe.
    pub async fn next(&mut self) -> Step {
        loop {
            let Some(watch) = &mut self.watch else {
                match self.start() {
                    Some(snapshot) => return Step::Snapshot(snapshot),
                    None => tokio::time::sleep(RETRY_AFTER).await,
                }
                continue;
            };
            match watch.next().await {
                WatchItem::Change(change) => {
                    let wanted = self.resources.is_none_or(|r| r.contains(&&*change.object.key.resource));
                    if wanted {
                        return Step::Change(observed(
                            change.kind,
                            &change.object,
                            change.previous.as_deref(),
                        ));
                    }
                }
                WatchItem::Progress(revision) => return Step::Quiet(revision),
                WatchItem::Lagged => {
                    tracing::info!("a loop fell behind the store and starts over");
                    self.watch = None;
                }
            }
        }
    }

    fn start(&mut self) -> Option<Snapshot> {
        let (revision, mut objects) = self.store.everything();
        self.watch = self.store.watch(None, None, revision).ok();
        self.watch.as_ref()?;
        objects.retain(|object| self.resources.is_none_or(|r| r.contains(&&*object.key.resource)));
        Some(Snapshot(objects))
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
