//! Several servers on one database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
mod support;

use pilothouse_store::{Followed, Note, OpenError, PostgresOptions, Store, WatchItem, WriteError};
use serde_json::json;
use std::time::Duration;
use support::{
    Database, State, changes_until, create, eventually, index, key, keys, memory, next, revisions, state_of,
    take, update, value_of, within,
};

const THINGS: &str = "things.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_write_one_log() {
    const WRITES: u64 = 60;
    let database = Database::start();
    let (one, two) = tokio::join!(database.store(), database.store());
    let counter = key(THINGS, "counter");
    one.write(create(&counter, 0)).await.unwrap();
    two.fresh().await.unwrap();
    assert!(two.get(&counter).is_some(), "a fresh read sees what another server acknowledged");
    let mut watches = [one.watch(None, None, 1).unwrap(), two.watch(None, None, 1).unwrap()];

    let count = async |store: Store| {
        for _ in 0..WRITES {
            let mut now = store.get(&counter).unwrap();
            loop {
                let next = value_of(&now).as_u64().unwrap() + 1;
                match store.write(update(&counter, now.revision, next)).await {
                    Ok(_) => break,
                    // What a conflict tells is as new as the lock: both servers get on.
                    Err(WriteError::Conflict(newer)) => now = newer,
                    Err(other) => panic!("{other}"),
                }
            }
        }
    };
    within("the writers", async { tokio::join!(count(one.clone()), count(two.clone())) }).await;
    let last = 1 + 2 * WRITES;
    for (store, watch) in [&one, &two].into_iter().zip(&mut watches) {
        assert_eq!(store.fresh().await.unwrap(), last);
        assert_eq!(value_of(&store.get(&counter).unwrap()), json!(2 * WRITES));
        assert_eq!(revisions(&changes_until(watch, last).await), (2..=last).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_slept_through_a_compaction_loads_anew_and_its_watchers_start_over() {
    let database = Database::start();
    database.sql("CREATE ROLE sleeper SUPERUSER LOGIN");
    let awake = database.store().await;
    let asleep = PostgresOptions::new(database.url().replace("pilothouse@", "sleeper@"), keys(&["one"]));
    let asleep = database.open(asleep).await;
    awake.write(create(&key(THINGS, "a"), 1)).await.unwrap();
    within("the other server", asleep.wait_for(1)).await.unwrap();
    let mut watch = asleep.watch(Some(THINGS), None, 1).unwrap();
    let (_, _, mut follow) = asleep.follow(None);

    database.sql("ALTER ROLE sleeper NOLOGIN");
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sleeper'");
    awake.write(update(&key(THINGS, "a"), 1, 2)).await.unwrap();
    database.sql("TRUNCATE changes");
    awake.write(create(&key(THINGS, "b"), 3)).await.unwrap();
    assert!(asleep.fresh().await.is_err(), "what cannot be proved fresh is not given out");
    let refused = asleep.write(create(&key(THINGS, "c"), 4)).await;
    assert!(matches!(refused, Err(WriteError::Unavailable(_))));

    database.sql("ALTER ROLE sleeper LOGIN");
    within("the other server", asleep.wait_for(3)).await.unwrap();
    assert_eq!(state_of(&asleep.list(THINGS, None).objects), state_of(&awake.list(THINGS, None).objects));
    assert!(matches!(within("the watch's end", watch.next()).await, WatchItem::Lagged));
    assert!(matches!(within("the follower's end", follow.next()).await, Followed::Lost));
    assert!(asleep.watch(Some(THINGS), None, 1).is_err());
    assert_eq!(asleep.write(create(&key(THINGS, "c"), 4)).await.unwrap().revision, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_goes_on_where_it_stopped_and_watches_resume() {
    let database = Database::start();
    let store = database.store().await;
    for i in 0..50 {
        store.write(create(&key(THINGS, &format!("n{i}")), i)).await.unwrap();
    }
    let middle = store.write(update(&key(THINGS, "n7"), 8, 77)).await.unwrap().revision;
    let mut client = state_of(&store.list(THINGS, None).objects);
    store.write(support::delete(&key(THINGS, "n7"))).await.unwrap();
    store.write(create(&key(THINGS, "n7"), 78)).await.unwrap();
    let before = state_of(&store.list(THINGS, None).objects);
    drop(store);

    let store = database.store().await;
    assert_eq!(store.revision(), middle + 2);
    assert_eq!(state_of(&store.list(THINGS, None).objects), before);
    let mut watch = store.watch(Some(THINGS), None, middle).unwrap();
    let after = store.write(update(&key(THINGS, "n9"), 10, 99)).await.unwrap();
    changes_until(&mut watch, after.revision).await.iter().for_each(|change| take(&mut client, change));
    assert_eq!(client, state_of(&store.list(THINGS, None).objects));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_at_once_migrate_one_after_the_other() {
    let database = Database::start();
    let stores = futures::future::join_all((0..4).map(|_| database.store())).await;
    for (i, store) in stores.iter().enumerate() {
        store.write(create(&key(THINGS, &i.to_string()), i)).await.unwrap();
    }
    for store in &stores {
        assert_eq!(store.fresh().await.unwrap(), 4);
    }
    assert_eq!(database.count("SELECT count(*) FROM data_keys"), 1, "they agree on one key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_version_is_left_alone() {
    let database = Database::start();
    drop(database.store().await);
    database.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', true, '', 0)",
    );
    let refused = Store::postgres(PostgresOptions::new(database.url(), keys(&["one"])), index()).await;
    match refused.map(drop) {
        Err(OpenError::Newer(why)) => assert!(why.contains("9999"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_leads_and_another_follows_when_it_is_gone() {
    let database = Database::start();
    let (one, two) = (database.store().await, database.store().await);
    let (mut first, mut second) = (one.leader_lock(), two.leader_lock());
    within("the first leader", first.acquire()).await;
    let waiting = tokio::time::timeout(Duration::from_millis(1500), second.acquire()).await;
    assert!(waiting.is_err(), "two servers lead");

    database.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted");
    within("the loss", first.lost()).await;
    within("the second leader", second.acquire()).await;
    let waiting = tokio::time::timeout(Duration::from_millis(1500), first.acquire()).await;
    assert!(waiting.is_err(), "two servers lead");
    drop(second);
    within("the first leader again", first.acquire()).await;

    let mut alone = memory().leader_lock();
    within("a store without a database", alone.acquire()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_loses_its_place_and_what_it_still_writes_does_not_land() {
    let database = Database::start();
    let (one, two) = (database.store().await, database.store().await);
    let (mut first, mut second) = (one.leader_lock(), two.leader_lock());
    let old = one.under(within("the first leader", first.acquire()).await);
    old.write(create(&key(THINGS, "before"), 1)).await.unwrap();

    // As if its process were stopped: it asks nothing, and its connection stays open.
    let new = two.under(within("the second leader", second.acquire()).await);
    let (late, clients) = tokio::join!(
        old.write(create(&key(THINGS, "late"), 1)),
        one.write(create(&key(THINGS, "client's"), 1))
    );
    assert!(matches!(late, Err(WriteError::Superseded)), "{late:?}");
    clients.unwrap();
    new.write(create(&key(THINGS, "new"), 1)).await.unwrap();
    let late = old.write_together(vec![create(&key(THINGS, "a"), 1), create(&key(THINGS, "b"), 1)]).await;
    assert!(matches!(late, Err(WriteError::Superseded)), "{late:?}");
    one.fresh().await.unwrap();
    let names: Vec<_> = one.list(THINGS, None).objects.iter().map(|o| o.key.name.to_string()).collect();
    assert_eq!(names, ["before", "client's", "new"]);
    within("the loss", first.lost()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_hear_what_others_put_up_and_one_that_is_alone_says_nothing() {
    let database = Database::start();
    let store = database.store().await;
    let note = |about: &str, text: &str| Note { about: about.into(), body: text.into() };
    let mut one = store.note_board("one".into());
    assert_eq!(one.exchange(|| panic!("nobody reads it")).await.unwrap(), []);
    let mut two = store.note_board("two".into());
    assert_eq!(two.exchange(|| vec![note("n2", "a")]).await.unwrap(), []);
    assert_eq!(one.exchange(|| vec![note("n1", "b")]).await.unwrap(), [note("n2", "a")]);
    assert_eq!(one.exchange(Vec::new).await.unwrap(), [], "each note is read once");
    assert_eq!(two.exchange(|| vec![note("n2", "c")]).await.unwrap(), [note("n1", "b")]);
    assert_eq!(one.exchange(Vec::new).await.unwrap(), [note("n2", "c")]);
    assert_eq!(one.exchange(|| vec![note("n2", "d")]).await.unwrap(), [], "its own are no news");
    assert_eq!(two.exchange(Vec::new).await.unwrap(), [note("n2", "d")], "a node that moved");
    database.sql("UPDATE servers SET seen_at = now() - interval '5 min' WHERE id = 'two'");
    assert_eq!(one.exchange(|| panic!("nobody reads it")).await.unwrap(), []);
    assert_eq!(memory().note_board("x".into()).exchange(|| panic!("nobody reads it")).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_leaves_no_connection_behind() {
    let database = Database::start();
    let store = database.store().await;
    store.write(create(&key(THINGS, "a"), 1)).await.unwrap();
    store.fresh().await.unwrap();
    drop(store);
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pilothouse'";
    eventually("the end of all connections", || (database.count(query) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_reach_other_servers_though_the_log_holds_only_their_latest_version() {
    const LEASES: &str = "leases.coordination.k8s.io";
    let database = Database::start();
    let (one, two) = (database.store().await, database.store().await);
    let lease = key(LEASES, "node");
    let mut revision = one.write(create(&lease, 0)).await.unwrap().revision;
    within("the other server", two.wait_for(revision)).await.unwrap();
    let mut state = state_of(&two.list(LEASES, None).objects);
    let mut watch = two.watch(Some(LEASES), None, revision).unwrap();
    for i in 1..100 {
        revision = one.write(update(&lease, revision, i)).await.unwrap().revision;
    }
    let gone = key(LEASES, "gone");
    one.write_all(vec![create(&gone, 1), create(&key(LEASES, "new"), 1)]).await;
    within("the other server", two.wait_for(revision + 2)).await.unwrap();
    let last = one.write(support::delete(&gone)).await.unwrap().revision;

    // Versions in between may be missing there, never the last one, and what is told always fits.
    let mut told: State = state.clone();
    within("the watch", async {
        while told != state_of(&one.list(LEASES, None).objects) {
            take(&mut told, &next(&mut watch).await);
        }
    })
    .await;
    within("the other server", two.wait_for(last)).await.unwrap();
    state = state_of(&two.list(LEASES, None).objects);
    assert_eq!(state, state_of(&one.list(LEASES, None).objects));
    assert_eq!(database.count("SELECT count(*) FROM changes WHERE body IS NOT NULL"), 0);
    assert_eq!(database.count("SELECT count(*) FROM changes"), 103);

    // A third one that starts now knows them, but not their past.
    let three = database.store().await;
    assert_eq!(state_of(&three.list(LEASES, None).objects), state);
    assert!(three.watch(Some(LEASES), None, last - 1).is_err());
    assert!(three.watch(Some(LEASES), None, last).is_ok());
}
