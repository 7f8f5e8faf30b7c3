//! Secrets in the database: nobody who reads its files learns one, and keys can be changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
mod support;

use pilothouse_api::Key;
use pilothouse_store::{OpenError, PostgresOptions, Store};
use serde_json::json;
use std::fs;
use std::path::Path;
use support::{Database, create, eventually, index, key, keys, update, value_of, within};

const MARK: &str = "hunter2-in-plain-sight";
const CONTROL: &str = "nothing-to-hide-here";

fn holds(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => holds(&path, text),
            false => {
                fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
            }
        }
    })
}

async fn open(database: &Database, ids: &[&str]) -> Result<Store, OpenError> {
    Store::postgres(PostgresOptions::new(database.url(), keys(ids)), index()).await
}

fn secret(name: &str) -> Key {
    key("secrets", name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_of_the_database_holds_a_secret() {
    let mut database = Database::start();
    let store = database.store().await;
    let made = store.write(create(&secret("a"), MARK)).await.unwrap();
    store.write(update(&secret("a"), made.revision, format!("{MARK}, changed"))).await.unwrap();
    store.write(create(&secret("b"), MARK)).await.unwrap();
    store.write(support::delete(&secret("b"))).await.unwrap();
    store.write(create(&key("configmaps", "open"), CONTROL)).await.unwrap();
    drop(store);
    // Turning a key over reads and writes every secret once more.
    drop(open(&database, &["two", "one"]).await.unwrap());
    database.stop();
    assert!(holds(&database.data(), CONTROL), "the search finds what is there");
    assert!(!holds(&database.data(), MARK));
    // Nor do the wrapping keys lie there.
    let key = String::from_utf8(keys(&["two"])[0].1.to_vec()).unwrap();
    assert!(!holds(&database.data(), &key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_seals_everything_and_the_old_one_can_go() {
    let database = Database::start();
    let store = open(&database, &["one"]).await.unwrap();
    for i in 0..1200 {
        let writes = vec![create(&secret(&format!("s{i}")), format!("{MARK}{i}"))];
        assert!(store.write_all(writes).await.iter().all(Result::is_ok));
    }
    let before = database.sql("SELECT wrapped FROM data_keys");
    let revision = store.revision();
    drop(store);

    let store = open(&database, &["two", "one"]).await.unwrap();
    assert_eq!(database.count("SELECT count(DISTINCT data_key) FROM objects"), 1);
    assert_eq!(
        database.count("SELECT count(*) FROM objects WHERE data_key = (SELECT max(id) FROM data_keys)"),
        1200,
        "every secret is under the new data key"
    );
    assert_eq!(database.count("SELECT count(*) FROM data_keys WHERE wrapped_by <> 'two'"), 0);
    assert!(!database.sql("SELECT wrapped FROM data_keys").contains(&before));
    assert_eq!(store.revision(), revision, "nobody who can read them sees a change");
    drop(store);

    // The old wrapping key is gone for good; history that it sealed is still there for watches that resume.
    let store = open(&database, &["two"]).await.unwrap();
    assert_eq!(value_of(&store.get(&secret("s77")).unwrap()), json!(format!("{MARK}77")));
    assert!(store.watch(Some("secrets"), None, revision - 100).is_ok());
    drop(store);
    for wrong in [&["one"][..], &["three"], &[]] {
        let refused = open(&database, wrong).await.map(drop);
        assert!(matches!(refused, Err(OpenError::Keys(_))), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_server_takes_up_the_key_that_another_began_and_an_unused_one_is_removed() {
    let database = Database::start();
    // The new key is given to every server before any of them uses it.
    let running = open(&database, &["one", "two"]).await.unwrap();
    running.write(create(&secret("a"), MARK)).await.unwrap();
    let restarted = open(&database, &["two", "one"]).await.unwrap();
    restarted.write(create(&secret("b"), MARK)).await.unwrap();
    running.fresh().await.unwrap();
    assert_eq!(value_of(&running.get(&secret("b")).unwrap()), MARK);
    running.write(create(&secret("c"), MARK)).await.unwrap();
    let newest = "SELECT count(*) FROM objects WHERE data_key = (SELECT max(id) FROM data_keys)";
    assert_eq!(database.count(newest), 3);
    assert_eq!(database.count("SELECT count(*) FROM data_keys"), 2, "the log still needs the first one");

    drop((running, restarted));
    database.sql("TRUNCATE changes");
    database.sql("TRUNCATE marks");
    let store = open(&database, &["two"]).await.unwrap();
    let keys = || (database.count("SELECT count(*) FROM data_keys") == 1).then_some(());
    eventually("the unused key's end", keys).await;
    let written = within("a write", store.write(create(&secret("d"), MARK))).await.unwrap();
    assert_eq!(value_of(&written), MARK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_moved_or_changed_does_not_open() {
    let database = Database::start();
    let store = database.store().await;
    store.write(create(&secret("a"), "of a")).await.unwrap();
    store.write(create(&secret("b"), "of b")).await.unwrap();
    drop(store);
    database.sql(
        "UPDATE objects SET body = (SELECT body FROM objects WHERE name = 'a') WHERE name = 'b'; TRUNCATE changes",
    );
    let refused = open(&database, &["one"]).await.map(drop);
    assert!(
        matches!(&refused, Err(OpenError::Keys(why)) if why.contains("secrets/default/b")),
        "{refused:?}"
    );
}
