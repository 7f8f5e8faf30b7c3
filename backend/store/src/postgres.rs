//! The log in PostgreSQL: one pipeline that commits waiting writes in groups, and follows what other servers commit.
//!
//! A sequence cannot order revisions, since commits overtake each other. So each group takes the counter row's lock,
//! assigns the next revisions, writes everything and commits once: revisions follow commit order without gaps.
use crate::seal::Seal;
use crate::store::{Memory, decide};
use crate::{ChangeKind, Object, OpenError, ReadError, Write, WriteError};
use pilothouse_api::{Key, Revision};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait; more wait at their callers.
const QUEUE: usize = 4096;
/// The most writes of one commit: large enough to share the cost of a flush, small enough for a short lock.
const GROUP: usize = 512;
/// Revisions of one partition of `changes`.
const PARTITION: i64 = 100_000;
/// The log is kept this long at least, for watches that resume after a restart.
const KEEP: Duration = Duration::from_secs(600);
/// Changes read at start.
const RECENT: i64 = 5_000;
/// Behind the notifications: a lost one costs at most this.
const TICK: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);
const CHANNEL: &str = "pilothouse_changes";

/// Where the database is and which keys seal secrets in it.
pub struct PostgresOptions {
    pub url: String,
    /// Ids and keys, the current one first.
    pub key_encryption_keys: Vec<(String, [u8; 32])>,
    pub max_connections: u32,
}

type Answer = oneshot::Sender<Result<Arc<Object>, WriteError>>;
type Committed = oneshot::Sender<Result<Revision, ReadError>>;

/// Cheap to clone; the pipeline ends with the last clone.
#[derive(Clone)]
pub struct Pipeline {
    writes: mpsc::Sender<(Write, Answer)>,
    reads: mpsc::Sender<Committed>,
    connect: PgConnectOptions,
}

impl Pipeline {
    pub async fn open(options: PostgresOptions, memory: Arc<Memory>) -> Result<Self, OpenError> {
        let connect: PgConnectOptions = options.url.parse()?;
        let connect = connect.application_name("pilothouse").options([("statement_timeout", "10s")]);
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(TIMEOUT)
            .connect_with(connect.clone())
            .await?;
        migrate(&pool).await?;
        let seal = Seal::open(&pool, &options.key_encryption_keys).await?;
        let mut log = Log { pool: pool.clone(), seal, memory, partition: -1, marks: VecDeque::new() };
        log.load().await?;

        let (writes, write_queue) = mpsc::channel(QUEUE);
        let (reads, read_queue) = mpsc::channel(QUEUE);
        let (nudge, nudges) = mpsc::channel(1);
        tokio::spawn(log.run(write_queue, nudges));
        tokio::spawn(answer_committed(pool.clone(), read_queue, nudge.clone()));
        tokio::spawn(listen(pool, nudge));
        Ok(Self { writes, reads, connect })
    }

    pub async fn write(&self, write: Write) -> Result<Arc<Object>, WriteError> {
        let (answer, outcome) = oneshot::channel();
        let gone = || WriteError::Unavailable("the store is shutting down".into());
        self.writes.send((write, answer)).await.map_err(|_| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The newest committed revision, by any server.
    pub async fn committed(&self) -> Result<Revision, ReadError> {
        let (answer, outcome) = oneshot::channel();
        let gone = || ReadError::Unavailable("the store is shutting down".into());
        self.reads.send(answer).await.map_err(|_| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    pub fn connect_options(&self) -> PgConnectOptions {
        self.connect.clone()
    }
}

async fn migrate(pool: &PgPool) -> Result<(), OpenError> {
    // sqlx takes an advisory lock, so that two servers that start at once migrate one after the other.
    match sqlx::migrate!("../../migrations").run(pool).await {
        Ok(()) => Ok(()),
        Err(sqlx::migrate::MigrateError::VersionMissing(version)) => {
            Err(OpenError::Newer(format!("it has migration {version}, which this version does not know")))
        }
        Err(error) => Err(OpenError::Migration(error.to_string())),
    }
}

/// Answers all waiting readers with one round trip to the counter.
async fn answer_committed(pool: PgPool, mut queue: mpsc::Receiver<Committed>, nudge: mpsc::Sender<()>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        let asked =
            tokio::time::timeout(TIMEOUT, sqlx::query!("SELECT revision FROM counter").fetch_one(&pool))
                .await;
        let outcome = match asked {
            Ok(Ok(row)) => Ok(row.revision.cast_unsigned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".into()),
        };
        let _ = nudge.try_send(()); // memory may be behind that revision
        for answer in waiting.drain(..) {
            let _ = answer.send(outcome.clone().map_err(ReadError::Unavailable));
        }
    }
}

/// Nudges the pipeline whenever another server committed.
async fn listen(pool: PgPool, nudge: mpsc::Sender<()>) {
    let mut pause = Duration::from_millis(100);
    while !nudge.is_closed() {
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            loop {
                listener.recv().await?;
                let _ = nudge.try_send(());
            }
        };
        let ended: Result<std::convert::Infallible, sqlx::Error> = listening.await;
        let Err(error) = ended;
        tracing::debug!(%error, "not listening for other servers' changes");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// The one writer of the log, and of memory.
struct Log {
    pool: PgPool,
    seal: Seal,
    memory: Arc<Memory>,
    /// The newest partition known to exist, as a multiple of [`PARTITION`].
    partition: i64,
    /// Which revision was reached when, to know what is older than [`KEEP`].
    marks: VecDeque<(Instant, Revision)>,
}

/// A row of `objects` or `changes`, its body sealed where it has to be.
struct Row {
    revision: i64,
    kind: ChangeKind,
    key: Key,
    body: Vec<u8>,
    data_key: Option<i64>,
}

impl Log {
    async fn load(&mut self) -> Result<(), OpenError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *transaction).await?;
        let revision =
            sqlx::query!("SELECT revision FROM counter").fetch_one(&mut *transaction).await?.revision;
        let rows = sqlx::query!("SELECT resource, namespace, name, revision, body, data_key FROM objects")
            .fetch_all(&mut *transaction)
            .await?;
        let mut objects = Vec::with_capacity(rows.len());
        for row in rows {
            let key = Key::new(row.resource, row.namespace, row.name);
            objects.push(self.open_row(key, row.revision, row.body, row.data_key).map_err(OpenError::Keys)?);
        }
        let recent = sqlx::query!(
            "SELECT revision, kind, resource, namespace, name, body, data_key FROM changes
             WHERE revision > $1 ORDER BY revision",
            (revision - RECENT).max(0)
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut changes = Vec::with_capacity(recent.len());
        for row in recent {
            let key = Key::new(row.resource, row.namespace, row.name);
            let object = self.open_row(key, row.revision, row.body, row.data_key).map_err(OpenError::Keys)?;
            changes.push((kind_of(row.kind), object));
        }
        transaction.commit().await?;
        self.memory.cache.write().load(revision.cast_unsigned(), objects, changes);
        self.memory.revision.send_replace(revision.cast_unsigned());
        Ok(())
    }

    fn open_row(
        &self,
        key: Key,
        revision: i64,
        body: Vec<u8>,
        data_key: Option<i64>,
    ) -> Result<Arc<Object>, String> {
        let body =
            self.seal.open_body(&key, body, data_key).ok_or_else(|| format!("{key} cannot be unsealed"))?;
        Ok(self.memory.object(key, revision.cast_unsigned(), &body))
    }

    async fn run(mut self, mut writes: mpsc::Receiver<(Write, Answer)>, mut nudges: mpsc::Receiver<()>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                count = writes.recv_many(&mut group, GROUP) => {
                    if count == 0 {
                        return;
                    }
                    self.commit_group(&mut group).await;
                }
                _ = nudges.recv() => self.follow().await,
                _ = tick.tick() => {
                    self.follow().await;
                    self.compact().await;
                }
            }
        }
    }

    /// Catches up with what other servers committed, or with a commit of our own whose answer was lost.
    async fn follow(&mut self) {
        let outcome = tokio::time::timeout(TIMEOUT, async {
            let mut connection = self.pool.acquire().await?;
            self.catch_up(&mut connection).await
        });
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot read the log"),
            Err(_) => tracing::warn!("the database does not answer"),
        }
    }

    async fn catch_up(&self, connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
        let reached = self.memory.cache.read().revision.cast_signed();
        let rows = sqlx::query!(
            "SELECT revision, kind, resource, namespace, name, body, data_key FROM changes
             WHERE revision > $1 ORDER BY revision",
            reached
        )
        .fetch_all(connection)
        .await?;
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            let key = Key::new(row.resource, row.namespace, row.name);
            let object = self
                .open_row(key, row.revision, row.body, row.data_key)
                .map_err(|why| sqlx::Error::Decode(why.into()))?;
            changes.push((kind_of(row.kind), object));
        }
        self.memory.apply(changes);
        Ok(())
    }

    async fn commit_group(&mut self, group: &mut Vec<(Write, Answer)>) {
        let (writes, answers): (Vec<Write>, Vec<Answer>) = group.drain(..).unzip();
        let committed = tokio::time::timeout(TIMEOUT, self.commit(writes)).await;
        let outcomes = match committed {
            Ok(Ok(outcomes)) => outcomes,
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                tracing::warn!(error = %why, "a group of writes failed");
                answers.iter().map(|_| Err(WriteError::Unavailable(why.clone()))).collect()
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            let _ = answer.send(outcome); // the caller may have gone
        }
    }

    async fn commit(
        &mut self,
        writes: Vec<Write>,
    ) -> Result<Vec<Result<Arc<Object>, WriteError>>, sqlx::Error> {
        self.ensure_partition().await?;
        let mut transaction = self.pool.begin().await?;
        let locked =
            sqlx::query!("SELECT revision FROM counter FOR UPDATE").fetch_one(&mut *transaction).await?;
        let mut reached = self.memory.cache.read().revision.cast_signed();
        if locked.revision != reached {
            // Under the lock nothing more can be committed: after this, memory is the database's state.
            self.catch_up(&mut transaction).await?;
            reached = locked.revision;
        }
        let (outcomes, rows) = self.decide_group(writes, reached);
        if rows.is_empty() {
            transaction.rollback().await?;
            return Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect());
        }
        let last = reached + i64::try_from(rows.len()).unwrap_or(0);
        write_rows(&mut transaction, &rows, last).await?;
        transaction.commit().await?;
        let applied =
            outcomes.iter().filter_map(|(kind, outcome)| Some(((*kind)?, outcome.as_ref().ok()?.clone())));
        self.memory.apply(applied.collect());
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Decides every write of a group in order, each seeing those before it.
    #[allow(clippy::type_complexity)]
    fn decide_group(
        &self,
        writes: Vec<Write>,
        mut revision: i64,
    ) -> (Vec<(Option<ChangeKind>, Result<Arc<Object>, WriteError>)>, Vec<Row>) {
        let mut overlay: HashMap<Key, Option<Arc<Object>>> = HashMap::new();
        let mut outcomes = Vec::with_capacity(writes.len());
        let mut rows = Vec::with_capacity(writes.len());
        for write in writes {
            let key = write.key().clone();
            let current = match overlay.get(&key) {
                Some(changed) => changed.clone(),
                None => self.memory.cache.read().get(&key).cloned(),
            };
            let (kind, body) = match decide(&key, current.as_ref(), write) {
                Ok(decided) => decided,
                Err(refused) => {
                    outcomes.push((None, Err(refused)));
                    continue;
                }
            };
            let Some((sealed, data_key)) = self.seal.seal(&key, &body) else {
                outcomes.push((None, Err(WriteError::Unavailable(format!("{key} cannot be sealed")))));
                continue;
            };
            revision += 1;
            let object = self.memory.object(key.clone(), revision.cast_unsigned(), &body);
            overlay.insert(key.clone(), (kind != ChangeKind::Deleted).then(|| object.clone()));
            rows.push(Row { revision, kind, key, body: sealed, data_key });
            outcomes.push((Some(kind), Ok(object)));
        }
        (outcomes, rows)
    }

    /// The log's partition for the next groups, made ahead of its first row.
    async fn ensure_partition(&mut self) -> Result<(), sqlx::Error> {
        let ahead = self.memory.cache.read().revision.cast_signed() + PARTITION / 2;
        while self.partition < ahead / PARTITION {
            let next = if self.partition < 0 { (ahead / PARTITION - 1).max(0) } else { self.partition + 1 };
            let (from, to) = (next * PARTITION, (next + 1) * PARTITION);
            // Names cannot be parameters; these are numbers of our own.
            let statement = format!(
                "CREATE TABLE IF NOT EXISTS changes_{next} PARTITION OF changes (PRIMARY KEY (revision))
                 FOR VALUES FROM ({from}) TO ({to})"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&self.pool).await?;
            self.partition = next;
        }
        Ok(())
    }

    /// Drops the partitions all of whose changes are older than [`KEEP`].
    async fn compact(&mut self) {
        let now = Instant::now();
        let reached = self.memory.cache.read().revision;
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) > KEEP / 10) {
            self.marks.push_back((now, reached));
        }
        while self.marks.len() > 1 && self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) > KEEP)
        {
            self.marks.pop_front();
        }
        let Some((at, old)) = self.marks.front().copied() else {
            return;
        };
        let first_kept = old.cast_signed() / PARTITION;
        if now.duration_since(at) < KEEP || first_kept == 0 {
            return;
        }
        let names = sqlx::query_scalar!(
            "SELECT c.relname::text AS \"name!\" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'changes'::regclass"
        )
        .fetch_all(&self.pool)
        .await
        .unwrap_or_default();
        for name in names {
            let Some(number) = name.strip_prefix("changes_").and_then(|n| n.parse::<i64>().ok()) else {
                continue;
            };
            if number >= first_kept {
                continue;
            }
            let statement = format!("DROP TABLE IF EXISTS changes_{number}");
            if let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&self.pool).await {
                tracing::warn!(%error, partition = %name, "cannot drop an old part of the log");
            }
        }
    }
}

fn kind_of(stored: i16) -> ChangeKind {
    match stored {
        0 => ChangeKind::Added,
        1 => ChangeKind::Modified,
        _ => ChangeKind::Deleted,
    }
}

/// One statement for a whole group, whatever its size: log, state, counter, nudge.
async fn write_rows(connection: &mut sqlx::PgConnection, rows: &[Row], last: i64) -> Result<(), sqlx::Error> {
    let column =
        |pick: fn(&Row) -> &str| -> Vec<String> { rows.iter().map(|row| pick(row).to_owned()).collect() };
    let revisions: Vec<i64> = rows.iter().map(|row| row.revision).collect();
    let kinds: Vec<i16> = rows.iter().map(|row| row.kind as i16).collect();
    let bodies: Vec<Vec<u8>> = rows.iter().map(|row| row.body.clone()).collect();
    let data_keys: Vec<Option<i64>> = rows.iter().map(|row| row.data_key).collect();
    sqlx::query!(
        "WITH written AS (
             SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[])
                 AS t(revision, kind, resource, namespace, name, body, data_key)
         ), logged AS (
             INSERT INTO changes (revision, kind, resource, namespace, name, body, data_key) SELECT * FROM written
         ), newest AS (
             SELECT DISTINCT ON (resource, namespace, name) * FROM written
             ORDER BY resource, namespace, name, revision DESC
         ), removed AS (
             DELETE FROM objects o USING newest n WHERE n.kind = 2
                 AND o.resource = n.resource AND o.namespace = n.namespace AND o.name = n.name
         ), stored AS (
             INSERT INTO objects (resource, namespace, name, revision, body, data_key)
             SELECT resource, namespace, name, revision, body, data_key FROM newest WHERE kind <> 2
             ON CONFLICT (resource, namespace, name)
             DO UPDATE SET revision = excluded.revision, body = excluded.body, data_key = excluded.data_key
         ), nudged AS (
             SELECT pg_notify('pilothouse_changes', '')
         )
         UPDATE counter SET revision = $8 FROM nudged",
        &revisions,
        &kinds,
        &column(|row| &row.key.resource),
        &column(|row| &row.key.namespace),
        &column(|row| &row.key.name),
        &bodies,
        &data_keys as &[Option<i64>],
        last
    )
    .execute(connection)
    .await?;
    Ok(())
}
