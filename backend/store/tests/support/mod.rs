//! What the store's tests stand on: a private PostgreSQL that ends with the test, and short words for writes.
#![allow(dead_code)] // each test file uses its part
use pilothouse_api::{Key, Revision};
use pilothouse_store::{Change, ChangeKind, Object, PostgresOptions, Store, Watch, WatchItem, Write};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// No wait in these tests is longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A PostgreSQL in a directory of its own.
pub struct Database {
    dir: PathBuf,
    bin: PathBuf,
    child: Option<Child>,
}

impl Database {
    pub fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ph-store-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut database = Self { dir, bin: binaries(), child: None };
        let output = as_user(&database.bin.join("initdb"))
            .arg("-D")
            .arg(database.data())
            .args(["-U", "pilothouse", "-E", "UTF8", "--locale=C", "--auth=trust", "--no-sync"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        database.resume();
        database
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn url(&self) -> String {
        format!("postgres://pilothouse@localhost/postgres?host={}", self.dir.display())
    }

    /// Starts the server on the files that are there.
    pub fn resume(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let log = fs::File::create(self.dir.join("log")).unwrap();
            let settings =
                ["listen_addresses=", "max_connections=40", "shared_buffers=16MB", "wal_compression=off"];
            let child = as_user(&self.bin.join("postgres"))
                .arg("-D")
                .arg(self.data())
                .arg("-k")
                .arg(&self.dir)
                .args(settings.iter().flat_map(|setting| ["-c", setting]))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let child = self.child.insert(child);
            // Processes of a killed server may hold its memory a moment longer: then the new one ends at once.
            while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                let ready =
                    Command::new(self.bin.join("pg_isready")).arg("-q").arg("-h").arg(&self.dir).status();
                if ready.unwrap().success() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("PostgreSQL did not start: {}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Everything is written, nothing runs any more.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let deadline = Instant::now() + LIMIT;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a query says, unaligned, without headers.
    pub fn sql(&self, query: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "pilothouse",
                "-d",
                "postgres",
                "-h",
            ])
            .arg(&self.dir)
            .args(["-c", query])
            .output()
            .unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn count(&self, query: &str) -> u64 {
        self.sql(query).parse().unwrap()
    }

    pub async fn store(&self) -> Store {
        self.open(PostgresOptions::new(self.url(), keys(&["one"]))).await
    }

    pub async fn open(&self, options: PostgresOptions) -> Store {
        Store::postgres(options, index()).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows what its database wrote")]
            {
                eprintln!("--- PostgreSQL\n{}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// PostgreSQL refuses root: there, in a user namespace or as another account. It ends with the thread that started it.
fn as_user(program: &Path) -> Command {
    let own = ["setpriv", "--pdeathsig", "KILL"];
    let namespace = ["unshare", "--user", "--map-user=1000", "--map-group=1000"];
    let works = |words: &[&str]| {
        Command::new(words[0]).args(&words[1..]).arg("true").status().is_ok_and(|s| s.success())
    };
    let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let words: Vec<&str> = match root && works(&namespace) {
        true => [&namespace[..], &own[..]].concat(),
        false if root => panic!("these tests run PostgreSQL in a user namespace, or must not run as root"),
        false => own.to_vec(),
    };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(program).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Where `initdb` lies: on PATH, else the newest of Debian's directories.
fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut packaged: Vec<PathBuf> = packaged.map(|entry| entry.path().join("bin")).collect();
    packaged.sort_by_key(|dir| dir.parent().and_then(|d| d.file_name()?.to_str()?.parse::<u32>().ok()));
    let on_path = std::env::split_paths(&path).filter_map(|dir| fs::canonicalize(dir.join("initdb")).ok());
    let on_path = on_path.filter_map(|file| file.parent().map(Path::to_path_buf));
    let mut all = on_path.chain(packaged.into_iter().rev());
    all.find(|dir| dir.join("postgres").exists()).expect("PostgreSQL's server is not installed")
}

/// Keys that wrap data keys, the current one first.
pub fn keys(ids: &[&str]) -> Vec<(String, [u8; 32])> {
    ids.iter().map(|id| ((*id).to_owned(), [id.as_bytes()[0]; 32])).collect()
}

pub fn index() -> pilothouse_store::Index {
    Arc::new(|_, object| {
        vec![("spec.colour".to_owned(), object["spec"]["colour"].as_str().unwrap_or("").to_owned())]
    })
}

pub fn memory() -> Store {
    Store::memory(index())
}

/// Polls until `observe` gives something.
pub async fn eventually<T>(what: &str, mut observe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = observe() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The future's outcome, or a panic that says what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

pub fn key(resource: &str, name: &str) -> Key {
    Key::new(resource, "default", name)
}

pub fn object(key: &Key, value: impl Into<Value>) -> Value {
    json!({"kind": "Thing", "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": "u"}, "spec": {"value": value.into()}})
}

pub fn create(key: &Key, value: impl Into<Value>) -> Write {
    Write::Create { key: key.clone(), object: object(key, value) }
}

pub fn update(key: &Key, expected: Revision, value: impl Into<Value>) -> Write {
    Write::Update { key: key.clone(), object: object(key, value), expected }
}

pub fn delete(key: &Key) -> Write {
    Write::Delete { key: key.clone(), expected: None }
}

pub fn value_of(object: &Object) -> Value {
    object.value()["spec"]["value"].clone()
}

/// The next change; everything else a watch can say is a failure here.
pub async fn next(watch: &mut Watch) -> Change {
    match within("a change", watch.next()).await {
        WatchItem::Change(change) => change,
        other => panic!("not a change: {other:?}"),
    }
}

/// All changes up to `revision`.
pub async fn changes_until(watch: &mut Watch, revision: Revision) -> Vec<Change> {
    let mut changes = Vec::new();
    loop {
        match watch.try_next() {
            WatchItem::Change(change) => {
                assert!(change.object.revision <= revision, "{:?} is after {revision}", change.object);
                changes.push(change);
            }
            WatchItem::Progress(reached) if reached >= revision => return changes,
            WatchItem::Progress(_) => {
                let change = next(watch).await;
                changes.push(change);
            }
            WatchItem::Lagged => panic!("the watch fell behind"),
        }
    }
}

/// What a client keeps that lists and then watches.
pub type State = std::collections::BTreeMap<Key, (Revision, Value)>;

pub fn state_of(objects: &[Arc<Object>]) -> State {
    objects.iter().map(|object| (object.key.clone(), (object.revision, value_of(object)))).collect()
}

/// Takes a change as a client does, and checks that it fits what the client has seen before.
pub fn take(state: &mut State, change: &Change) {
    let object = &change.object;
    let before = state.get(&object.key).map(|(revision, _)| *revision);
    assert_eq!(change.previous.as_ref().map(|previous| previous.revision), before, "{change:?}");
    assert_eq!(change.kind == ChangeKind::Added, before.is_none(), "{change:?}");
    assert_eq!(object.value()["metadata"]["resourceVersion"], object.revision.to_string());
    match change.kind {
        ChangeKind::Deleted => drop(state.remove(&object.key)),
        _ => drop(state.insert(object.key.clone(), (object.revision, value_of(object)))),
    }
}

pub fn revisions(changes: &[Change]) -> Vec<Revision> {
    changes.iter().map(|change| change.object.revision).collect()
}
