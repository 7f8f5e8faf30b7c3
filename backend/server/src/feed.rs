//! Following the store: the state of some resources, then every change, for the indexes of this crate.
use pilothouse_store::{ChangeKind, Object, ReadError, Store, WatchItem};
use std::sync::Arc;
use std::time::Duration;

const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What an index is told.
pub enum Observation {
    /// All that was told is void: the whole state follows.
    Reset,
    Put(Arc<Object>),
    Gone(Arc<Object>),
}

/// Tells `observe` the state of `resources` and returns a task that goes on with the changes. The first state has been
/// told when this returns.
pub fn follow(
    store: &Store,
    resources: &'static [&'static str],
    mut observe: impl FnMut(Observation) + Send + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, ReadError> {
    let store = store.clone();
    let mut watch = start(&store, resources, &mut observe)?;
    Ok(async move {
        loop {
            match watch.next().await {
                WatchItem::Progress(_) => {}
                WatchItem::Change(change) if !resources.contains(&&*change.object.key.resource) => {}
                WatchItem::Change(change) if change.kind == ChangeKind::Deleted => {
                    observe(Observation::Gone(change.object));
                }
                WatchItem::Change(change) => observe(Observation::Put(change.object)),
                WatchItem::Lagged => match start(&store, resources, &mut observe) {
                    Ok(new) => watch = new,
                    Err(error) => {
                        tracing::warn!(%error, "an index cannot follow the store yet");
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                },
            }
        }
    })
}

fn start(
    store: &Store,
    resources: &[&str],
    observe: &mut impl FnMut(Observation),
) -> Result<pilothouse_store::Watch, ReadError> {
    // The watch first: what changes while the lists are read comes again, which is harmless.
    let resource = match resources {
        [one] => Some(*one),
        _ => None,
    };
    let watch = store.watch(resource, None, store.revision())?;
    observe(Observation::Reset);
    for resource in resources {
        for object in store.list(resource, None).objects {
            observe(Observation::Put(object));
        }
    }
    Ok(watch)
}
