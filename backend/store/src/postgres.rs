//! The log in PostgreSQL: one pipeline that commits waiting writes in groups, and follows what other servers commit.
//!
//! A sequence cannot order revisions, since commits overtake each other. So each group takes the counter row's lock,
//! assigns the next revisions, writes everything and commits once: revisions follow commit order without gaps.
pub mod board;
mod link;
mod tables;
mod writer;

use crate::memory::{Batch, Memory};
use crate::retention::Clock;
use crate::seal::Seal;
use crate::{Object, OpenError, ReadError, WriteError};
use jiff::Timestamp;
use link::Link;
use pilothouse_api::Revision;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use writer::Writer;

/// Jobs that may wait; more wait at their callers.
const QUEUE: usize = 4096;
/// What one exchange with the database may take before its connection is given up.
const TIMEOUT: Duration = Duration::from_secs(10);
const CHANNEL: &str = "pilothouse_changes";

/// Where the database is and which keys seal secrets in it.
pub struct PostgresOptions {
    pub url: String,
    /// Ids and keys, the current one first.
    pub key_encryption_keys: Vec<(String, [u8; 32])>,
    pub clock: Clock,
}

impl PostgresOptions {
    /// With the system's clock.
    pub fn new(url: impl Into<String>, key_encryption_keys: Vec<(String, [u8; 32])>) -> Self {
        Self { url: url.into(), key_encryption_keys, clock: Arc::new(Timestamp::now) }
    }
}

type Outcome = Result<Arc<Object>, WriteError>;
type Committed = oneshot::Sender<Result<Revision, ReadError>>;

/// Writes that are committed together, and who waits for them.
struct Job {
    batch: Batch,
    answer: oneshot::Sender<Vec<Outcome>>,
}

/// Cheap to clone; the pipeline ends with the last clone.
#[derive(Clone)]
pub struct Pipeline {
    jobs: mpsc::Sender<Job>,
    reads: mpsc::Sender<Committed>,
    connect: Arc<PgConnectOptions>,
}

impl Pipeline {
    pub async fn open(options: PostgresOptions, memory: Arc<Memory>) -> Result<Self, OpenError> {
        let connect: PgConnectOptions = options.url.parse()?;
        let connect = connect.application_name("pilothouse");
        // Without the time limit of statements: a migration and the first load take as long as they take.
        let mut setup = connect.connect().await?;
        migrate(&mut setup).await?;
        let seal = Seal::open(&mut setup, options.key_encryption_keys).await?;
        let marks = tables::marks(&mut setup).await?;
        // One plan a statement is enough: none depends on its parameters.
        let settings = [("statement_timeout", "10s"), ("plan_cache_mode", "force_generic_plan")];
        let connect = connect.options(settings);
        let mut writer = Writer::new(Link::new(connect.clone()), seal, memory.clone(), marks, options.clock);
        writer.load_snapshot(&mut setup).await?;
        setup.close().await?;

        let (jobs, job_queue) = mpsc::channel(QUEUE);
        let (reads, read_queue) = mpsc::channel(QUEUE);
        let (nudge, nudges) = watch::channel(memory.reached());
        let nudge = Nudge { memory, committed: Arc::new(nudge) };
        tokio::spawn(writer.run(job_queue, nudges));
        tokio::spawn(answer_committed(Link::new(connect.clone()), read_queue, nudge.clone()));
        tokio::spawn(listen(connect.clone(), nudge));
        Ok(Self { jobs, reads, connect: Arc::new(connect) })
    }

    pub async fn write(&self, batch: Batch) -> Vec<Outcome> {
        let count = batch.writes.len();
        let gone = || {
            let why = || Err(WriteError::Unavailable("the store is shutting down".into()));
            (0..count).map(|_| why()).collect()
        };
        let (answer, outcomes) = oneshot::channel();
        if self.jobs.send(Job { batch, answer }).await.is_err() {
            return gone();
        }
        outcomes.await.unwrap_or_else(|_| gone())
    }

    /// The newest committed revision, by any server.
    pub async fn committed(&self) -> Result<Revision, ReadError> {
        let (answer, outcome) = oneshot::channel();
        let gone = || ReadError::Unavailable("the store is shutting down".into());
        self.reads.send(answer).await.map_err(|_| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.connect)
    }
}

pub async fn migrate(connection: &mut PgConnection) -> Result<(), OpenError> {
    // sqlx takes an advisory lock, so that two servers that start at once migrate one after the other.
    match sqlx::migrate!("../../migrations").run(connection).await {
        Ok(()) => Ok(()),
        Err(sqlx::migrate::MigrateError::VersionMissing(version)) => {
            Err(OpenError::Newer(format!("it has migration {version}, which this version does not know")))
        }
        Err(error) => Err(OpenError::Migration(error.to_string())),
    }
}

/// Wakes the writer where the database is ahead of memory.
#[derive(Clone)]
struct Nudge {
    memory: Arc<Memory>,
    /// The newest revision that is known to be in the database.
    committed: Arc<watch::Sender<Revision>>,
}

impl Nudge {
    fn committed(&self, revision: Revision) {
        if revision > self.memory.reached() {
            self.committed.send_modify(|known| *known = revision.max(*known));
        }
    }
}

/// Answers all waiting readers with one round trip to the counter.
async fn answer_committed(mut link: Link, mut queue: mpsc::Receiver<Committed>, nudge: Nudge) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        let asked = tokio::time::timeout(TIMEOUT, async {
            let mut connection = link.take().await?;
            let revision = tables::revision(&mut connection).await?;
            link.put_back(connection);
            Ok::<_, sqlx::Error>(revision)
        });
        let outcome = match asked.await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".into()),
        };
        if let Ok(revision) = outcome {
            nudge.committed(revision);
        }
        for answer in waiting.drain(..) {
            let _ = answer.send(outcome.clone().map_err(ReadError::Unavailable));
        }
    }
}

/// Nudges the writer whenever another server committed.
async fn listen(connect: PgConnectOptions, nudge: Nudge) {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(connect);
    let listening = async {
        let mut pause = Duration::from_millis(100);
        loop {
            let outcome: Result<std::convert::Infallible, sqlx::Error> = async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen(CHANNEL).await?;
                loop {
                    let committed = listener.recv().await?;
                    pause = Duration::from_millis(100);
                    // What cannot be read may be anything new.
                    let revision = committed.payload().parse();
                    nudge.committed(revision.unwrap_or_else(|_| nudge.memory.reached() + 1));
                }
            }
            .await;
            let Err(error) = outcome;
            tracing::debug!(%error, "not listening for other servers' changes");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    };
    tokio::select! {
        () = listening => {}
        () = nudge.committed.closed() => {}
    }
}
