//! The one writer of the log, and of memory.
use super::link::Link;
use super::tables::{self, LogRow, Row, State};
use super::{Job, Outcome, TIMEOUT};
use crate::memory::{Batch, Decided, Decider, Logged, Memory, Prepared};
use crate::retention::{self, Clock, Marks};
use crate::seal::{self, Seal};
use crate::{ChangeKind, Object, OpenError, Term, Write, WriteError, body};
use pilothouse_api::{Key, Revision};
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The most jobs of one commit: large enough to share the cost of a flush, small enough for a short lock.
const GROUP: usize = 512;
/// Behind the notifications: a lost one costs at most this.
const TICK: Duration = Duration::from_secs(2);
const EVENTS: &str = "events";
const NO_ANSWER: &str = "no answer in time";

pub struct Writer {
    link: Link,
    seal: Seal,
    memory: Arc<Memory>,
    /// The first revision for which no partition is known to exist.
    partitions_end: i64,
    marks: Marks,
    clock: Clock,
    /// Whether the database failed last time, and that was said.
    failing: bool,
}

impl Writer {
    pub fn new(link: Link, seal: Seal, memory: Arc<Memory>, marks: Marks, clock: Clock) -> Self {
        Self { link, seal, memory, partitions_end: 0, marks, clock, failing: false }
    }

    /// An exchange with the database failed: told once, until one succeeds again.
    fn failed(&mut self, what: &str, why: impl std::fmt::Display) {
        match std::mem::replace(&mut self.failing, true) {
            false => tracing::warn!(error = %why, "{what}; further failures are told at level debug"),
            true => tracing::debug!(error = %why, "{what}"),
        }
    }

    fn succeeded(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::warn!("the database answers again");
        }
    }

    pub async fn run(mut self, mut jobs: mpsc::Receiver<Job>, mut nudges: watch::Receiver<Revision>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            // Not biased: under a steady load of writes the log must still be compacted.
            tokio::select! {
                count = jobs.recv_many(&mut group, GROUP) => {
                    if count == 0 {
                        return;
                    }
                    self.commit_group(&mut group).await;
                }
                // Often of a commit of our own, whose answer came meanwhile.
                Ok(()) = nudges.changed() => {
                    if *nudges.borrow_and_update() > self.memory.reached() {
                        self.follow().await;
                    }
                }
                _ = tick.tick() => {
                    self.follow().await;
                    self.forget().await;
                }
            }
        }
    }

    /// The state at one moment, in a transaction of its own.
    pub async fn load_snapshot(&mut self, connection: &mut PgConnection) -> Result<(), OpenError> {
        let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        self.load(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), OpenError> {
        self.seal.refresh(connection).await?;
        let revision = tables::revision(connection).await?;
        let recent = tables::recent(connection, revision).await?;
        let oldest = recent.first().map_or(revision, |row| row.revision.cast_unsigned() - 1);
        let mut names = Names::default();
        let mut changes = Vec::with_capacity(recent.len());
        for row in recent {
            if let Some(body) = row.body {
                let object = self.open(names.share(row.key), row.revision, body, row.data_key)?;
                changes.push((row.kind, object));
            }
        }
        let mut objects = Vec::new();
        tables::objects(connection, |row| {
            objects.push(self.open(names.share(row.key), row.revision, row.body, row.data_key)?);
            Ok(())
        })
        .await?;
        self.memory.load(revision, objects, oldest, changes);
        Ok(())
    }

    fn open(
        &self,
        key: Key,
        revision: i64,
        body: Vec<u8>,
        data_key: Option<i64>,
    ) -> Result<Arc<Object>, OpenError> {
        let body = self.seal.open_body(&key, body, data_key);
        let body = body.ok_or_else(|| OpenError::Keys(format!("{key} cannot be unsealed")))?;
        Ok(Arc::new(body::decode(key, revision.cast_unsigned(), &body, &self.memory.index)))
    }

    /// Catches up with what other servers committed, or with a commit of our own whose answer was lost.
    async fn follow(&mut self) {
        let outcome = tokio::time::timeout(TIMEOUT, async {
            let mut connection = self.link.take().await?;
            let committed = tables::revision(&mut connection).await?;
            if committed > self.memory.reached() && !self.catch_up(&mut connection, committed).await? {
                self.load_snapshot(&mut connection).await?;
            }
            self.link.put_back(connection);
            Ok::<_, OpenError>(())
        });
        match outcome.await {
            Ok(Ok(())) => self.succeeded(),
            Ok(Err(error)) => self.failed("cannot read the log", error),
            Err(_) => self.failed("cannot read the log", NO_ANSWER),
        }
    }

    /// Reads the log up to `committed` at least. False: it does not reach back to where memory is.
    async fn catch_up(
        &mut self,
        connection: &mut PgConnection,
        committed: Revision,
    ) -> Result<bool, OpenError> {
        let mut reached = self.memory.reached();
        while reached < committed {
            let rows = tables::changes_after(connection, reached).await?;
            let contiguous = rows
                .iter()
                .zip(reached + 1..)
                .all(|(row, expected)| row.revision.cast_unsigned() == expected);
            if rows.is_empty() || !contiguous {
                tracing::warn!(
                    reached,
                    committed,
                    "the log was compacted past this server's place: loading anew"
                );
                return Ok(false);
            }
            if rows.iter().any(|row| row.data_key.is_some_and(|id| !self.seal.has(id))) {
                self.seal.refresh(connection).await?;
            }
            reached += rows.len() as Revision;
            let entries = rows.into_iter().filter_map(|row| self.entry(row).transpose());
            let entries = entries.collect::<Result<Vec<_>, _>>()?;
            self.memory.apply(entries, reached);
        }
        Ok(true)
    }

    /// None: superseded by a later entry.
    fn entry(&self, row: LogRow) -> Result<Option<Logged>, OpenError> {
        let gone = Logged::Gone(row.key.clone(), row.revision.cast_unsigned());
        match row.body {
            Some(body) => {
                Ok(Some(Logged::Change(row.kind, self.open(row.key, row.revision, body, row.data_key)?)))
            }
            None => Ok((row.kind == ChangeKind::Deleted).then_some(gone)),
        }
    }

    async fn commit_group(&mut self, group: &mut Vec<Job>) {
        let (batches, waiting): (Vec<Batch>, Vec<_>) =
            group.drain(..).map(|job| (job.batch, job.answer)).unzip();
        let failure = match tokio::time::timeout(TIMEOUT, self.commit(&batches)).await {
            Ok(Ok(outcomes)) => {
                self.succeeded();
                for (answer, outcomes) in waiting.into_iter().zip(outcomes) {
                    let _ = answer.send(outcomes); // the caller may have gone
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => NO_ANSWER.to_owned(),
        };
        self.failed("a group of writes failed", &failure);
        for (answer, batch) in waiting.into_iter().zip(batches) {
            let why = |_| Err(WriteError::Unavailable(failure.clone()));
            let _ = answer.send(batch.writes.iter().map(why).collect());
        }
    }

    /// The outcomes of each batch.
    async fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Vec<Outcome>>, OpenError> {
        let mut connection = self.link.take().await?;
        let outcomes = match self.commit_at_once(&mut connection, batches).await? {
            Some(outcomes) => outcomes,
            None => self.commit_under_lock(&mut connection, batches).await?,
        };
        self.link.put_back(connection);
        Ok(outcomes)
    }

    /// Commits in one round trip, provided that memory is the database's state: the statement checks. None: it is not,
    /// or there is more to do than to write.
    async fn commit_at_once(
        &mut self,
        connection: &mut PgConnection,
        batches: &[Batch],
    ) -> Result<Option<Vec<Vec<Outcome>>>, OpenError> {
        let reached = self.memory.reached();
        let last = reached + count(batches);
        let sealed = has_sealed(batches);
        if sealed || last.cast_signed() >= self.partitions_end {
            return Ok(None);
        }
        let mut terms = batches.iter().filter_map(|batch| batch.term);
        let term = terms.next();
        if terms.any(|other| Some(other) != term) {
            return Ok(None);
        }
        let (decided, rows) = self.decide(batches, reached, term);
        // A refusal is as good as the state it was decided on.
        let counted = match rows.is_empty() {
            true => tables::revision(connection).await? == reached,
            false => tables::write(connection, &rows, reached, term).await?,
        };
        Ok(counted.then(|| self.publish(decided)))
    }

    async fn commit_under_lock(
        &mut self,
        connection: &mut PgConnection,
        batches: &[Batch],
    ) -> Result<Vec<Vec<Outcome>>, OpenError> {
        let mut transaction = connection.begin().await?;
        let (locked, term) = tables::lock_revision(&mut transaction).await?;
        // Nothing more can be committed until we are done: after this, memory is the database's state.
        if locked != self.memory.reached() && !self.catch_up(&mut transaction, locked).await? {
            self.load(&mut transaction).await?;
        }
        if has_sealed(batches) {
            // Another server may have begun a new key and retired ours.
            self.seal.refresh(&mut transaction).await?;
        }
        let last = locked + count(batches);
        if last.cast_signed() >= self.partitions_end {
            self.partitions_end = tables::add_partitions(&mut transaction, last).await?;
        }
        let (decided, rows) = self.decide(batches, locked, Some(term));
        if !rows.is_empty() {
            tables::write(&mut transaction, &rows, locked, None).await?;
        }
        transaction.commit().await?;
        Ok(self.publish(decided))
    }

    /// Takes what was committed into memory.
    fn publish(&self, decided: Vec<Vec<Result<Decided, WriteError>>>) -> Vec<Vec<Outcome>> {
        let written = decided.iter().flatten().filter_map(|outcome| outcome.as_ref().ok());
        let entries: Vec<Logged> =
            written.map(|decided| Logged::Change(decided.kind, decided.object.clone())).collect();
        let last = self.memory.reached() + entries.len() as Revision;
        if !entries.is_empty() {
            self.memory.apply(entries, last);
        }
        let told = |outcome: Result<Decided, WriteError>| outcome.map(|decided| decided.object);
        decided.into_iter().map(|batch| batch.into_iter().map(told).collect()).collect()
    }

    /// Decides every write of a group in order, each seeing those before it. What belongs to another term than `term` is
    /// refused.
    fn decide(
        &self,
        batches: &[Batch],
        revision: Revision,
        term: Option<Term>,
    ) -> (Vec<Vec<Result<Decided, WriteError>>>, Vec<Row>) {
        let mut rows = Vec::with_capacity(batches.len());
        let cache = self.memory.cache.read();
        let mut decider = Decider::new(&cache, revision);
        let mut all = Vec::with_capacity(batches.len());
        for batch in batches {
            if batch.term.is_some() && batch.term != term {
                all.push(batch.writes.iter().map(|_| Err(WriteError::Superseded)).collect());
                continue;
            }
            let before = rows.len();
            let outcomes = decider.decide(batch, |decided| {
                let key = decided.object.key.clone();
                let Some((body, data_key)) = self.seal.seal(&key, &decided.body) else {
                    return Err(WriteError::Unavailable(format!("{key} cannot be sealed")));
                };
                let (revision, kind) = (decided.object.revision.cast_signed(), decided.kind);
                rows.push(Row { revision, kind, key, body, data_key, state: None });
                Ok(())
            });
            if batch.together && outcomes.iter().any(Result::is_err) {
                rows.truncate(before);
            }
            all.push(outcomes);
        }
        let mut overlay = decider.overlay;
        // An object's last row tells what becomes of it.
        for row in rows.iter_mut().rev() {
            if let Some(after) = overlay.remove(&row.key) {
                row.state = match (cache.get(&row.key).is_some(), after.is_some()) {
                    (false, true) => Some(State::Insert),
                    (true, true) => Some(State::Update),
                    (true, false) => Some(State::Delete),
                    (false, false) => None,
                };
            }
        }
        (all, rows)
    }

    /// Once a minute: marks the time, and forgets what is too old.
    async fn forget(&mut self) {
        let now = (self.clock)();
        let Some(mark) = self.marks.set(now, self.memory.reached()) else { return };
        let keep_after = self.marks.forget(now).unwrap_or(mark.at);
        let outcome = tokio::time::timeout(TIMEOUT, async {
            let mut connection = self.link.take().await?;
            tables::set_mark(&mut connection, mark, keep_after).await?;
            let mut transaction = connection.begin().await?;
            tables::lock_revision(&mut transaction).await?;
            if let Some(old) = self.marks.older_than(now, retention::LOG) {
                tables::drop_partitions(&mut transaction, old).await?;
            }
            self.seal.retire(&mut transaction).await?;
            transaction.commit().await?;
            self.link.put_back(connection);
            Ok::<_, OpenError>(())
        });
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.failed("old entries of the log cannot be dropped", error),
            Err(_) => self.failed("old entries of the log cannot be dropped", NO_ANSWER),
        }
        if let Some(old) = self.marks.older_than(now, retention::EVENTS) {
            self.expire_events(old).await;
        }
    }

    /// Deletes the events that were not written since `old`. Another server may do the same: then it was done.
    async fn expire_events(&mut self, old: Revision) {
        let events = self.memory.cache.read().list(EVENTS, None);
        let expired: Vec<Prepared> = events
            .iter()
            .filter(|event| event.revision <= old)
            .map(|event| Write::Delete { key: event.key.clone(), expected: Some(event.revision) })
            .map(|write| Prepared::new(write, &self.memory.index))
            .collect();
        let mut expired = expired.into_iter().peekable();
        while expired.peek().is_some() {
            let writes = expired.by_ref().take(GROUP).collect();
            let group = Batch { writes, together: false, term: None };
            match tokio::time::timeout(TIMEOUT, self.commit(&[group])).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return self.failed("old events cannot be deleted", error),
                Err(_) => return self.failed("old events cannot be deleted", NO_ANSWER),
            }
        }
    }
}

fn count(batches: &[Batch]) -> Revision {
    batches.iter().map(|batch| batch.writes.len() as Revision).sum()
}

fn has_sealed(batches: &[Batch]) -> bool {
    let mut writes = batches.iter().flat_map(|batch| &batch.writes);
    writes.any(|write| seal::is_sealed(&write.key.resource))
}

/// Resource and namespace of the objects that are loaded, each kept once.
#[derive(Default)]
struct Names(std::collections::HashSet<Arc<str>>);

impl Names {
    fn share(&mut self, key: Key) -> Key {
        let mut share = |name: Arc<str>| match self.0.get(&name) {
            Some(known) => known.clone(),
            None => {
                self.0.insert(name.clone());
                name
            }
        };
        Key { resource: share(key.resource), namespace: share(key.namespace), name: key.name }
    }
}
