//! A state that is taken out of one database and put into another.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use pilothouse_store::archive::{ArchiveError, Chunk, export, import};
use support::{Database, create, key, state_of, update, value_of};

const THINGS: &str = "things.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_beside_a_writing_server_is_one_moment_and_comes_back_whole() {
    let database = Database::start();
    let store = database.store().await;
    let awkward = "tab\there, line\nthere, \\back\\slash, \u{1f6a2}";
    store.write(create(&key(THINGS, "awkward"), awkward)).await.unwrap();
    store.write(create(&key("secrets", "sealed"), "hush")).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            // A pair that always agrees: a moment in between would show.
            let [a, b] = ["a", "b"].map(|name| key(THINGS, name));
            store.write_all(vec![create(&a, 0), create(&b, 0)]).await;
            for i in 1..300 {
                let [at_a, at_b] = [&a, &b].map(|key| store.get(key).unwrap().revision);
                store.write_all(vec![update(&a, at_a, i), update(&b, at_b, i)]).await;
            }
        }
    });
    store.wait_for(20).await.unwrap();
    let mut chunks: Vec<Chunk> = Vec::new();
    let url = database.url();
    let exported = export(&url, |chunk| {
        chunks.push(chunk);
        Ok(())
    });
    let exported = exported.await.unwrap();
    writer.await.unwrap();
    assert_eq!(exported.objects, 4);
    assert!(!chunks.iter().any(|chunk| chunk.rows.windows(4).any(|w| w == b"hush")), "secrets stay sealed");

    let other = Database::start();
    import(&other.url(), exported.revision, chunks.iter().cloned().map(Ok)).await.unwrap();
    let restored = other.store().await;
    let mut before = state_of(&store.list_at(THINGS, None, exported.revision).unwrap().objects);
    assert_eq!(state_of(&restored.list(THINGS, None).objects), before);
    assert_eq!(
        value_of(&restored.get(&key(THINGS, "a")).unwrap()),
        value_of(&restored.get(&key(THINGS, "b")).unwrap())
    );
    assert_eq!(value_of(&restored.get(&key(THINGS, "awkward")).unwrap()), awkward);
    assert_eq!(value_of(&restored.get(&key("secrets", "sealed")).unwrap()), "hush");

    // No revision that the first database gave out later is met again.
    assert!(restored.revision() > store.revision());
    assert!(restored.watch(Some(THINGS), None, store.revision()).is_err());
    let made = restored.write(create(&key(THINGS, "new"), 1)).await.unwrap();
    assert_eq!(made.revision, exported.revision + 1_000_000_001);
    drop(restored);
    let restored = other.store().await;
    before.insert(key(THINGS, "new"), (made.revision, 1.into()));
    assert_eq!(state_of(&restored.list(THINGS, None).objects), before);

    let again = import(&other.url(), exported.revision, chunks.into_iter().map(Ok)).await;
    assert!(matches!(again, Err(ArchiveError::NotEmpty(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_breaks_off_leaves_nothing() {
    let database = Database::start();
    let store = database.store().await;
    store.write(create(&key(THINGS, "a"), 1)).await.unwrap();
    let mut chunks: Vec<Chunk> = Vec::new();
    let url = database.url();
    let exported = export(&url, |chunk| {
        chunks.push(chunk);
        Ok(())
    });
    let exported = exported.await.unwrap();

    let other = Database::start();
    let broken = || Err(std::io::Error::other("the file ends here"));
    let outcome =
        import(&other.url(), exported.revision, chunks.iter().cloned().map(Ok).chain([broken()])).await;
    assert!(matches!(outcome, Err(ArchiveError::File(_))));
    assert_eq!(other.count("SELECT count(*) FROM objects"), 0);
    import(&other.url(), exported.revision, chunks.into_iter().map(Ok)).await.unwrap();
    assert_eq!(other.store().await.list(THINGS, None).objects.len(), 1);
}
