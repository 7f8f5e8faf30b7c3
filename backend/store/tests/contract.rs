//! What every store promises, on memory and on PostgreSQL alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
mod support;

use pilothouse_api::Key;
use pilothouse_store::{ChangeKind, Followed, ReadError, Store, WatchItem, Write, WriteError};
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use support::{
    Database, State, changes_until, create, delete, key, memory, next, object, revisions, state_of, take,
    update, value_of, within,
};

const THINGS: &str = "things.example";

/// Each test twice: on memory, and on a PostgreSQL of its own.
macro_rules! contract {
    ($($(#[$meta:meta])* async fn $name:ident($store:ident: Store) $body:block)*) => {
        $($(#[$meta])* async fn $name($store: Store) $body)*

        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::memory()).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let database = super::Database::start();
                super::$name(database.store().await).await;
            })*
        }
    };
}

contract! {
    async fn what_was_written_is_read_back_with_its_revision(store: Store) {
        let a = key(THINGS, "a");
        let mut value = object(&a, 1);
        value["metadata"]["labels"] = json!({"app": "web"});
        value["metadata"]["resourceVersion"] = json!("999");
        value["spec"]["colour"] = json!("red");
        let written = store.write(Write::Create { key: a.clone(), object: value.clone() }).await.unwrap();
        assert_eq!(written.revision, 1);
        assert_eq!(store.fresh().await.unwrap(), 1);
        let read = store.get(&a).unwrap();
        value["metadata"]["resourceVersion"] = json!("1");
        assert_eq!(read.value(), value);
        assert_eq!(&*read.uid, "u");
        assert_eq!(read.labels.get("app").unwrap(), "web");
        let field = |name: &str| read.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(field("metadata.name"), Some("a"));
        assert_eq!(field("metadata.namespace"), Some("default"));
        assert_eq!(field("spec.colour"), Some("red"));
    }

    async fn a_write_that_does_not_fit_the_state_is_refused_and_takes_no_revision(store: Store) {
        let a = key(THINGS, "a");
        assert!(matches!(store.write(update(&a, 1, 0)).await, Err(WriteError::NotFound(_))));
        assert!(matches!(store.write(delete(&a)).await, Err(WriteError::NotFound(_))));
        store.write(create(&a, 1)).await.unwrap();
        assert!(matches!(store.write(create(&a, 2)).await, Err(WriteError::AlreadyExists(_))));
        assert_eq!(store.write(update(&a, 1, 2)).await.unwrap().revision, 2);
        match store.write(update(&a, 1, 3)).await {
            Err(WriteError::Conflict(now)) => assert_eq!((now.revision, value_of(&now)), (2, json!(2))),
            other => panic!("{other:?}"),
        }
        let stale = Write::Delete { key: a.clone(), expected: Some(1) };
        assert!(matches!(store.write(stale).await, Err(WriteError::Conflict(_))));
        let deleted = store.write(Write::Delete { key: a.clone(), expected: Some(2) }).await.unwrap();
        assert_eq!((deleted.revision, value_of(&deleted)), (3, json!(2)), "the last state, at the deletion's revision");
        assert_eq!(deleted.value()["metadata"]["resourceVersion"], "3");
        assert!(store.get(&a).is_none());
        assert_eq!(store.revision(), 3);
    }

    async fn lists_are_in_order_and_keep_to_their_namespace(store: Store) {
        for (namespace, name) in [("b", "x"), ("a", "z"), ("a", "a-b"), ("a", "a"), ("ab", "c"), ("", "whole")] {
            let key = Key::new(THINGS, namespace, name);
            store.write(create(&key, 0)).await.unwrap();
        }
        store.write(create(&Key::new("others", "a", "other"), 0)).await.unwrap();
        let names = |namespace: Option<&str>| {
            let objects = store.list(THINGS, namespace).objects;
            objects.iter().map(|o| format!("{}/{}", o.key.namespace, o.key.name)).collect::<Vec<_>>()
        };
        assert_eq!(names(Some("a")), ["a/a", "a/a-b", "a/z"]);
        assert_eq!(names(None), ["/whole", "a/a", "a/a-b", "a/z", "ab/c", "b/x"]);
        assert_eq!(store.list("nothing", None).objects.len(), 0);
        assert_eq!(store.list(THINGS, None).revision, 7);
        assert_eq!(store.everything().1.len(), 7);
    }

    async fn concurrent_writers_lose_no_update_and_revisions_have_no_gap(store: Store) {
        const WRITERS: usize = 12;
        const WRITES: usize = 25;
        let mut watch = store.watch(None, None, 0).unwrap();
        let counter = key(THINGS, "counter");
        store.write(create(&counter, 0)).await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (store, counter) = (store.clone(), counter.clone());
            writers.spawn(async move {
                for i in 0..WRITES {
                    let mut now = store.get(&counter).unwrap();
                    loop {
                        let next = value_of(&now).as_u64().unwrap() + 1;
                        match store.write(update(&counter, now.revision, next)).await {
                            Ok(_) => break,
                            Err(WriteError::Conflict(newer)) => now = newer,
                            Err(other) => panic!("{other}"),
                        }
                    }
                    let own = key(THINGS, &format!("{writer}-{i}"));
                    let made = store.write(create(&own, i)).await.unwrap();
                    // Read your writes: memory has reached what was acknowledged.
                    assert_eq!(store.get(&own).unwrap().revision, made.revision);
                }
            });
        }
        within("the writers", writers.join_all()).await;
        let last = 1 + 2 * (WRITERS * WRITES) as u64;
        assert_eq!(store.fresh().await.unwrap(), last);
        assert_eq!(value_of(&store.get(&counter).unwrap()), json!(WRITERS * WRITES));
        let changes = changes_until(&mut watch, last).await;
        assert_eq!(revisions(&changes), (1..=last).collect::<Vec<_>>(), "every revision once, in order");
        let mut state = State::new();
        for change in &changes {
            take(&mut state, change);
        }
        assert_eq!(state, state_of(&store.list(THINGS, None).objects));
    }

    async fn a_group_of_writes_gets_consecutive_revisions_and_each_its_own_outcome(store: Store) {
        let noise = {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..200 {
                    store.write(create(&key("noise", &i.to_string()), i)).await.unwrap();
                }
            })
        };
        for round in 0..20 {
            let [a, b] = ["a", "b"].map(|name| key(THINGS, &format!("{name}{round}")));
            let group = vec![create(&a, 1), create(&a, 2), create(&b, 3), delete(&a), create(&a, 4), update(&b, 1, 5)];
            let outcomes = within("the group", store.write_all(group)).await;
            let first = outcomes[0].as_ref().unwrap().revision;
            assert!(matches!(outcomes[1], Err(WriteError::AlreadyExists(_))), "later writes see earlier ones");
            let rest: Vec<u64> = outcomes[2..5].iter().map(|o| o.as_ref().unwrap().revision).collect();
            assert_eq!(rest, [first + 1, first + 2, first + 3]);
            assert!(matches!(&outcomes[5], Err(WriteError::Conflict(now)) if now.revision == first + 1));
            assert_eq!(value_of(&store.get(&a).unwrap()), json!(4));
        }
        within("the other writer", noise).await.unwrap();
        assert_eq!(store.write_all(Vec::new()).await.len(), 0);
    }

    async fn writes_that_stay_together_are_all_committed_or_none(store: Store) {
        let [a, b] = ["a", "b"].map(|name| key(THINGS, name));
        let made = within("the pair", store.write_together(vec![create(&a, 1), create(&b, 1)])).await.unwrap();
        assert_eq!(made.iter().map(|o| o.revision).collect::<Vec<_>>(), [1, 2]);
        let refused = within("the pair", store.write_together(vec![update(&a, 1, 2), create(&b, 2)])).await;
        assert!(matches!(refused, Err(WriteError::AlreadyExists(key)) if key == b));
        assert_eq!((value_of(&store.get(&a).unwrap()), store.revision()), (json!(1), 2));
        // What a refused group would have written is not seen by those that come after it.
        let (one, other) = tokio::join!(
            store.write_together(vec![delete(&a), create(&b, 3)]),
            store.write_together(vec![update(&a, 1, 4), update(&b, 2, 4)]),
        );
        assert!(one.is_err());
        assert_eq!(other.unwrap().iter().map(|o| o.revision).collect::<Vec<_>>(), [3, 4]);
    }

    async fn a_watch_of_a_namespace_is_told_of_that_one_alone_and_how_far_it_has_come(store: Store) {
        let mut watch = store.watch(Some(THINGS), Some("a"), 0).unwrap();
        let [inside, outside] = ["a", "b"].map(|namespace| Key::new(THINGS, namespace, "x"));
        store.write(create(&outside, 1)).await.unwrap();
        store.write(create(&Key::new("others", "a", "x"), 1)).await.unwrap();
        assert!(matches!(watch.try_next(), WatchItem::Progress(2)), "a bookmark, though nothing was to be told");
        store.write(create(&inside, 1)).await.unwrap();
        store.write(delete(&outside)).await.unwrap();
        store.write(delete(&inside)).await.unwrap();
        let changes = changes_until(&mut watch, 5).await;
        let seen: Vec<_> = changes.iter().map(|c| (c.kind, c.object.revision)).collect();
        assert_eq!(seen, [(ChangeKind::Added, 3), (ChangeKind::Deleted, 5)]);
        assert_eq!(changes[1].previous.as_ref().unwrap().revision, 3);
    }

    async fn a_watcher_that_falls_far_behind_is_told_so_and_holds_up_nobody(store: Store) {
        let mut slow = store.watch(Some(THINGS), None, 0).unwrap();
        for batch in 0..18 {
            let group = (0..500).map(|i| create(&key(THINGS, &format!("{batch}-{i}")), 0)).collect();
            assert!(within("the group", store.write_all(group)).await.iter().all(Result::is_ok));
        }
        let mut told = 0;
        loop {
            match within("the queue", slow.next()).await {
                WatchItem::Change(change) => {
                    told += 1;
                    assert_eq!(change.object.revision, told, "what is told comes in order and whole");
                }
                WatchItem::Lagged => break,
                WatchItem::Progress(_) => panic!("9000 changes do not fit the queue"),
            }
        }
    }

    async fn who_follows_is_told_of_each_object_as_it_is_now(store: Store) {
        let [a, b, c] = ["a", "b", "c"].map(|name| key(THINGS, name));
        store.write(create(&a, 0)).await.unwrap();
        let (revision, state, mut follow) = store.follow(Some(&[THINGS]));
        assert_eq!((revision, state.len()), (1, 1));
        store.write(create(&key("others", "x"), 0)).await.unwrap();
        store.write(create(&b, 0)).await.unwrap();
        store.write(update(&a, 1, 1)).await.unwrap();
        store.write(update(&a, 4, 2)).await.unwrap();
        store.write(update(&b, 3, 1)).await.unwrap();
        store.write(create(&c, 0)).await.unwrap();
        store.write(delete(&c)).await.unwrap();
        store.write(delete(&a)).await.unwrap();
        store.write(create(&a, 3)).await.unwrap();
        let Followed::Changes(changes, 10) = within("the changes", follow.next()).await else {
            panic!("not all of them at once");
        };
        let seen: Vec<_> = changes
            .iter()
            .map(|change| {
                let name = change.object.key.name.to_string();
                (name, change.kind, change.object.revision, change.previous.as_ref().map(|p| p.revision))
            })
            .collect();
        // What came and went between is not told as if it were there, and an end is told before a new beginning.
        let expected = [
            ("b", ChangeKind::Added, 6, None),
            ("c", ChangeKind::Deleted, 8, None),
            ("a", ChangeKind::Deleted, 9, Some(1)),
            ("a", ChangeKind::Added, 10, None),
        ];
        assert_eq!(seen, expected.map(|(name, kind, at, before)| (name.to_owned(), kind, at, before)));
        let waiting = tokio::spawn(async move { follow.next().await });
        store.write(update(&a, 10, 4)).await.unwrap();
        let told = within("the next change", waiting).await.unwrap();
        assert!(matches!(&told, Followed::Changes(changes, 11) if changes.len() == 1), "{told:?}");
    }

    async fn what_the_log_has_forgotten_is_expired_and_what_is_to_come_too(store: Store) {
        let quiet = key("quiet.example", "a");
        store.write(create(&quiet, 0)).await.unwrap();
        store.write(create(&key(THINGS, "first"), 0)).await.unwrap();
        for batch in 0..21 {
            let group = (0..500).map(|i| create(&key(THINGS, &format!("{batch}-{i}")), 0)).collect();
            assert!(within("the group", store.write_all(group)).await.iter().all(Result::is_ok));
        }
        let expired = |outcome: Result<(), ReadError>| matches!(outcome, Err(ReadError::Expired { .. }));
        assert!(expired(store.watch(Some(THINGS), None, 1).map(drop)));
        assert!(expired(store.watch(None, None, 1).map(drop)));
        assert!(expired(store.list_at(THINGS, None, 1).map(drop)));
        assert!(expired(store.watch(Some(THINGS), None, store.revision() + 1).map(drop)));
        assert!(store.list_at(THINGS, None, store.revision() - 5000).is_ok());
        // Another resource's changes cost this one no history.
        assert!(store.watch(Some("quiet.example"), None, 1).is_ok());
        assert_eq!(store.list_at("quiet.example", None, 1).unwrap().objects.len(), 1);
    }

    async fn a_list_of_before_stays_what_it_was(store: Store) {
        for i in 0..10 {
            store.write(create(&key(THINGS, &i.to_string()), i)).await.unwrap();
        }
        let first = store.list(THINGS, Some("default"));
        store.write(delete(&key(THINGS, "3"))).await.unwrap();
        store.write(create(&key(THINGS, "3"), 33)).await.unwrap();
        store.write(update(&key(THINGS, "5"), 6, 55)).await.unwrap();
        store.write(create(&key(THINGS, "99"), 99)).await.unwrap();
        store.write(create(&Key::new(THINGS, "elsewhere", "x"), 0)).await.unwrap();
        store.write(delete(&Key::new(THINGS, "elsewhere", "x"))).await.unwrap();
        let again = store.list_at(THINGS, Some("default"), first.revision).unwrap();
        assert_eq!(again.revision, first.revision);
        assert_eq!(state_of(&again.objects), state_of(&first.objects));
        let order = |listing: &pilothouse_store::Listing| listing.objects.iter().map(|o| o.key.clone()).collect::<Vec<_>>();
        assert_eq!(order(&again), order(&first));
    }

    async fn a_list_and_the_watch_from_it_give_the_state_from_any_revision(store: Store) {
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let operations = proptest::collection::vec((0..3u8, 0..2u8, 0..4u8), 1..40);
        let cases = std::cell::Cell::new(0);
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            let outcome = runner.run(&operations, |case| {
                cases.set(cases.get() + 1);
                handle.block_on(lists_and_watches_agree(&store, &format!("case{}", cases.get()), &case));
                Ok(())
            });
            outcome.unwrap();
        });
    }
}

/// Applies the operations to one resource, then reads it back from every revision on the way.
async fn lists_and_watches_agree(store: &Store, resource: &str, operations: &[(u8, u8, u8)]) {
    let start = store.revision();
    let mut states = vec![(start, State::new())];
    for (i, (what, namespace, name)) in operations.iter().enumerate() {
        let key = Key::new(resource, format!("ns{namespace}"), format!("n{name}"));
        let current = store.get(&key).map(|object| object.revision);
        let write = match (what, current) {
            (0, _) => delete(&key),
            (_, None) => create(&key, i),
            (_, Some(revision)) => update(&key, revision, i),
        };
        let Ok(written) = store.write(write).await else { continue };
        let mut state = states.last().unwrap().1.clone();
        match what {
            0 => drop(state.remove(&key)),
            _ => drop(state.insert(key, (written.revision, json!(i)))),
        }
        states.push((written.revision, state));
    }
    let (last, end) = states.last().unwrap().clone();
    for (revision, expected) in &states {
        let list = store.list_at(resource, None, *revision).unwrap();
        assert_eq!(&state_of(&list.objects), expected, "the list at {revision} of {operations:?}");
        let mut watch = store.watch(Some(resource), None, *revision).unwrap();
        let mut state = expected.clone();
        let changes = changes_until(&mut watch, last).await;
        assert_eq!(revisions(&changes), (revision + 1..=last).collect::<Vec<_>>());
        changes.iter().for_each(|change| take(&mut state, change));
        assert_eq!(state, end, "the watch from {revision} of {operations:?}");

        let part = store.list_at(resource, Some("ns1"), *revision).unwrap();
        let mut state = state_of(&part.objects);
        let mut watch = store.watch(Some(resource), Some("ns1"), *revision).unwrap();
        changes_until(&mut watch, last).await.iter().for_each(|change| take(&mut state, change));
        assert_eq!(state, state_of(&store.list(resource, Some("ns1")).objects));
    }
}

#[tokio::test]
async fn a_watch_waits_for_what_comes() {
    let store = memory();
    let mut watch = store.watch(Some(THINGS), None, 0).unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move { store.write(create(&key(THINGS, "a"), 1)).await.unwrap() }
    });
    assert_eq!(next(&mut watch).await.object.revision, 1);
    writer.await.unwrap();
}
