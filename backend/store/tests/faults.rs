//! The database dies under load: nothing acknowledged is lost, and every watch goes on as if nothing had happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
mod support;

use pilothouse_api::Revision;
use pilothouse_store::{Change, Store, WriteError};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{
    Database, State, changes_until, create, eventually, key, revisions, state_of, take, update, value_of,
    within,
};

const THINGS: &str = "things.example";
const WRITERS: usize = 8;

/// What all writers have seen.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

/// Counts one object up until told to stop; gives what was acknowledged: revision and value.
async fn count_up(store: Store, writer: usize, tally: Arc<Tally>) -> Vec<(Revision, u64)> {
    let own = key(THINGS, &format!("writer{writer}"));
    let mut acknowledged = Vec::new();
    let mut current: Option<Revision> = None;
    let mut value = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        let write = match current {
            None => create(&own, value),
            Some(revision) => update(&own, revision, value),
        };
        match store.write(write).await {
            Ok(written) => {
                tally.acknowledged.fetch_add(1, Ordering::Relaxed);
                acknowledged.push((written.revision, value));
                current = Some(written.revision);
                value += 1;
            }
            // Not known whether it was committed: the next try tells.
            Err(WriteError::Unavailable(_)) => {
                tally.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // It was: nobody else writes this object.
            Err(WriteError::Conflict(now)) => {
                assert_eq!(value_of(&now), value, "the only one who writes it");
                current = Some(now.revision);
                value += 1;
            }
            Err(WriteError::AlreadyExists(_)) => {
                let now = store.get(&own).unwrap();
                assert_eq!(value_of(&now), value);
                current = Some(now.revision);
                value += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// All that a client of `store` would see of the log, checked as it goes.
fn checked(changes: &[Change], last: Revision) -> State {
    assert_eq!(revisions(changes), (1..=last).collect::<Vec<_>>(), "lost, doubled or out of order");
    let mut state = State::new();
    changes.iter().for_each(|change| take(&mut state, change));
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_loses_nothing_acknowledged_and_no_watch_event() {
    let mut database = Database::start();
    let (one, two) = (database.store().await, database.store().await);
    let mut watches = [one.watch(None, None, 0).unwrap(), two.watch(None, None, 0).unwrap()];
    let tally = Arc::new(Tally::default());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = if writer % 2 == 0 { one.clone() } else { two.clone() };
        writers.spawn(count_up(store, writer, tally.clone()));
    }
    for round in 1..=3 {
        let (acknowledged, refused) =
            (tally.acknowledged.load(Ordering::Relaxed), tally.refused.load(Ordering::Relaxed));
        let more = |count: &AtomicU64, than: u64| (count.load(Ordering::Relaxed) > than).then_some(());
        eventually("acknowledged writes", || more(&tally.acknowledged, acknowledged + 300)).await;
        match round {
            2 => database.stop(),
            _ => database.kill(),
        }
        eventually("refused writes", || more(&tally.refused, refused)).await;
        database.resume();
        let acknowledged = tally.acknowledged.load(Ordering::Relaxed);
        eventually("writes after the restart", || more(&tally.acknowledged, acknowledged + 100)).await;
    }
    tally.stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<_> =
        within("the writers", writers.join_all()).await.into_iter().flatten().collect();

    // A write in doubt may still be committed: nothing is after the lock was had once more.
    let last = within("a last write", one.write(create(&key(THINGS, "last"), 0))).await.unwrap().revision;
    within("the other server", two.wait_for(last)).await.unwrap();
    let fresh = database.store().await;
    assert_eq!(fresh.revision(), last);
    let end = state_of(&fresh.list(THINGS, None).objects);
    for (store, watch) in [&one, &two].into_iter().zip(&mut watches) {
        let changes = changes_until(watch, last).await;
        assert_eq!(checked(&changes, last), end);
        assert_eq!(state_of(&store.list(THINGS, None).objects), end);
        let logged: HashMap<Revision, u64> =
            changes.iter().map(|c| (c.object.revision, value_of(&c.object).as_u64().unwrap())).collect();
        for (revision, value) in &acknowledged {
            assert_eq!(logged.get(revision), Some(value), "an acknowledged write was lost");
        }
    }
}
