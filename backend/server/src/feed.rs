//! Following the store: the state of some resources, then what changes, for the indexes of this crate.
use pilothouse_store::{ChangeKind, Follow, Followed, Object, ReadError, Store};
use std::sync::Arc;

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
    let mut following = start(&store, resources, &mut observe);
    Ok(async move {
        loop {
            match following.next().await {
                Followed::Quiet(_) => {}
                Followed::Changes(changes, _) => {
                    for change in changes {
                        observe(match change.kind {
                            ChangeKind::Deleted => Observation::Gone(change.object),
                            ChangeKind::Added | ChangeKind::Modified => Observation::Put(change.object),
                        });
                    }
                }
                Followed::Lost => following = start(&store, resources, &mut observe),
            }
        }
    })
}

fn start(store: &Store, resources: &'static [&'static str], observe: &mut impl FnMut(Observation)) -> Follow {
    let (_, objects, following) = store.follow(Some(resources));
    observe(Observation::Reset);
    objects.into_iter().for_each(|object| observe(Observation::Put(object)));
    following
}
