//! What is forgotten, and when. Time is the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
mod support;

use jiff::{SignedDuration, Timestamp};
use pilothouse_store::{ChangeKind, PostgresOptions, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use support::{Database, changes_until, create, eventually, key, keys, update, within};

const EVENTS: &str = "events";
const THINGS: &str = "things.example";

/// A clock that stands until it is moved.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    fn options(&self, database: &Database) -> PostgresOptions {
        let seconds = self.0.clone();
        let now = move || Timestamp::from_second(2_000_000_000 + seconds.load(Ordering::Relaxed)).unwrap();
        PostgresOptions { clock: Arc::new(now), ..PostgresOptions::new(database.url(), keys(&["one"])) }
    }

    /// Moves time, and waits until the store has noticed.
    async fn pass(&self, database: &Database, time: SignedDuration) {
        let now = self.0.fetch_add(time.as_secs(), Ordering::Relaxed) + time.as_secs() + 2_000_000_000;
        let query = format!("SELECT count(*) FROM marks WHERE at = to_timestamp({now})");
        eventually("the store to look at the clock", || (database.count(&query) == 1).then_some(())).await;
    }
}

async fn fill(store: &Store, prefix: &str, count: usize) {
    for start in (0..count).step_by(500) {
        let group = (start..count.min(start + 500)).map(|i| create(&key(THINGS, &format!("{prefix}{i}")), 0));
        assert!(within("a group", store.write_all(group.collect())).await.iter().all(Result::is_ok));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_expire_an_hour_after_they_were_written_last() {
    let (database, clock) = (Database::start(), Clock::default());
    let store = database.open(clock.options(&database)).await;
    clock.pass(&database, SignedDuration::from_mins(1)).await;
    let [old, repeated, lasting] = [key(EVENTS, "old"), key(EVENTS, "repeated"), key(THINGS, "lasting")];
    for key in [&old, &repeated, &lasting] {
        store.write(create(key, 0)).await.unwrap();
    }
    clock.pass(&database, SignedDuration::from_mins(1)).await;
    let mut watch = store.watch(Some(EVENTS), None, store.revision()).unwrap();
    clock.pass(&database, SignedDuration::from_mins(28)).await;
    let again = store.write(update(&repeated, 2, 1)).await.unwrap().revision;
    clock.pass(&database, SignedDuration::from_mins(1)).await;
    clock.pass(&database, SignedDuration::from_mins(29)).await;
    assert_eq!(changes_until(&mut watch, again).await.len(), 1);
    // A restart makes nothing young again.
    drop(store);
    let store = database.open(clock.options(&database)).await;
    let mut watch = store.watch(Some(EVENTS), None, again).unwrap();
    assert!(store.get(&old).is_some());

    clock.pass(&database, SignedDuration::from_mins(2)).await;
    within("the first event's end", store.wait_for(again + 1)).await.unwrap();
    let changes = changes_until(&mut watch, again + 1).await;
    assert_eq!((changes[0].kind, &changes[0].object.key), (ChangeKind::Deleted, &old), "watchers are told");
    clock.pass(&database, SignedDuration::from_mins(27)).await;
    assert!(store.get(&repeated).is_some());
    clock.pass(&database, SignedDuration::from_mins(2)).await;
    within("the second event's end", store.wait_for(again + 2)).await.unwrap();
    assert!(store.get(&repeated).is_none());
    clock.pass(&database, SignedDuration::from_hours(100)).await;
    assert!(store.get(&lasting).is_some(), "nothing else expires");
    assert!(database.count("SELECT count(*) FROM marks") < 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_dropped_in_whole_parts_ten_minutes_after_it_was_written() {
    let (database, clock) = (Database::start(), Clock::default());
    let store = database.open(clock.options(&database)).await;
    let logged = || database.count("SELECT count(*) FROM changes");
    let parts = || database.count("SELECT count(*) FROM pg_inherits WHERE inhparent = 'changes'::regclass");
    fill(&store, "a", 45_000).await;
    assert_eq!(logged(), 45_000);
    clock.pass(&database, SignedDuration::from_mins(1)).await;
    clock.pass(&database, SignedDuration::from_mins(9)).await;
    assert_eq!(logged(), 45_000, "young enough to resume from");
    fill(&store, "b", 1000).await;
    clock.pass(&database, SignedDuration::from_mins(2)).await;
    eventually("the old parts' end", || (logged() == 6_001).then_some(())).await;
    assert_eq!(database.count("SELECT min(revision) FROM changes"), 40_000);
    assert!(parts() <= 2);

    // However long it runs, the log is what ten minutes and two parts hold; the state is whole.
    for round in 0..4 {
        fill(&store, &format!("c{round}-"), 20_000).await;
        clock.pass(&database, SignedDuration::from_mins(11)).await;
    }
    eventually("the old parts' end", || (logged() < 40_000).then_some(())).await;
    assert!(parts() <= 3, "{}", parts());
    drop(store);
    let store = database.open(clock.options(&database)).await;
    assert_eq!(store.list(THINGS, None).objects.len(), 126_000);
    assert!(store.watch(None, None, store.revision() - 100).is_ok());
}
