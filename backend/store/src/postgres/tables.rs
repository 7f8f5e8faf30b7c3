//! The statements: what is read from and written to the tables of `migrations/`.
use crate::cache::is_transient;
use crate::retention::{Mark, Marks};
use crate::{ChangeKind, OpenError, Term};
use futures::TryStreamExt;
use jiff::Timestamp;
use pilothouse_api::{Key, Revision};
use sqlx::PgConnection;

/// Revisions of one partition of `changes`: few enough that the log of a small cluster stays small, since only whole
/// partitions are dropped.
pub const PARTITION: i64 = 20_000;
/// Changes read at start, for watches that resume: at most so many, of at most so many bytes.
const RECENT: i64 = 5_000;
const RECENT_BYTES: i64 = 16 * 1024 * 1024;
/// Changes read at once while following another server.
pub const BATCH: i64 = 2_000;

/// A row to write to `changes`, its body sealed where it has to be.
pub struct Row {
    pub revision: i64,
    pub kind: ChangeKind,
    pub key: Key,
    pub body: Vec<u8>,
    pub data_key: Option<i64>,
    /// What becomes of the object's row in `objects`. None: a later row of the same group says so, or there never was
    /// one.
    pub state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Insert,
    Update,
    Delete,
}

/// A row of `objects`.
pub struct StateRow {
    pub revision: i64,
    pub key: Key,
    pub body: Vec<u8>,
    pub data_key: Option<i64>,
}

/// A row of `changes` as it is read back. Without a body where that is not kept: then the entry is a deletion, or has
/// been superseded.
pub struct LogRow {
    pub revision: i64,
    pub kind: ChangeKind,
    pub key: Key,
    pub body: Option<Vec<u8>>,
    pub data_key: Option<i64>,
}

fn kind_of(stored: i16) -> ChangeKind {
    match stored {
        0 => ChangeKind::Added,
        1 => ChangeKind::Modified,
        _ => ChangeKind::Deleted,
    }
}

/// The newest committed revision.
pub async fn revision(connection: &mut PgConnection) -> Result<Revision, sqlx::Error> {
    let row = sqlx::query!("SELECT revision FROM counter").fetch_one(connection).await?;
    Ok(row.revision.cast_unsigned())
}

/// The same with the leader's term; and no other server commits, and no other leads, until this transaction ends.
pub async fn lock_revision(connection: &mut PgConnection) -> Result<(Revision, Term), sqlx::Error> {
    let row = sqlx::query!("SELECT revision, term FROM counter FOR UPDATE").fetch_one(connection).await?;
    Ok((row.revision.cast_unsigned(), Term(row.term)))
}

/// Every object as it is.
pub async fn objects(
    connection: &mut PgConnection,
    mut take: impl FnMut(StateRow) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let mut rows = sqlx::query!("SELECT resource, namespace, name, revision, body, data_key FROM objects")
        .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        take(StateRow {
            revision: row.revision,
            key: Key::new(row.resource, row.namespace, row.name),
            body: row.body,
            data_key: row.data_key,
        })?;
    }
    Ok(())
}

/// The last entries of the log, oldest first.
pub async fn recent(connection: &mut PgConnection, revision: Revision) -> Result<Vec<LogRow>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT revision, kind, resource, namespace, name, body, data_key FROM (
             SELECT *, sum(coalesce(octet_length(body), 0)) OVER (ORDER BY revision DESC) AS total
             FROM changes WHERE revision > $1
         ) newest WHERE total <= $2 ORDER BY revision",
        (revision.cast_signed() - RECENT).max(0),
        RECENT_BYTES
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| LogRow {
        revision: row.revision,
        kind: kind_of(row.kind),
        key: Key::new(row.resource, row.namespace, row.name),
        body: row.body,
        data_key: row.data_key,
    });
    Ok(rows.collect())
}

/// The next entries of the log after a revision, at most [`BATCH`].
pub async fn changes_after(
    connection: &mut PgConnection,
    revision: Revision,
) -> Result<Vec<LogRow>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT c.revision, c.kind, c.resource, c.namespace, c.name,
                coalesce(c.body, o.body) AS body, coalesce(c.data_key, o.data_key) AS data_key
         FROM changes c
         LEFT JOIN objects o ON c.body IS NULL AND o.revision = c.revision
             AND o.resource = c.resource AND o.namespace = c.namespace AND o.name = c.name
         WHERE c.revision > $1 ORDER BY c.revision LIMIT $2",
        revision.cast_signed(),
        BATCH
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| LogRow {
        revision: row.revision,
        kind: kind_of(row.kind),
        key: Key::new(row.resource, row.namespace, row.name),
        body: row.body,
        data_key: row.data_key,
    });
    Ok(rows.collect())
}

/// One statement for a whole group, whatever its size: log, state, counter, nudge. It writes nothing unless the counter
/// is at `reached` and the leader's term, if one is given, is the current one; and says whether it was so. Outside a
/// transaction it is one by itself.
pub async fn write(
    connection: &mut PgConnection,
    rows: &[Row],
    reached: Revision,
    term: Option<Term>,
) -> Result<bool, sqlx::Error> {
    let column =
        |pick: fn(&Row) -> &str| -> Vec<String> { rows.iter().map(|row| pick(row).to_owned()).collect() };
    let revisions: Vec<i64> = rows.iter().map(|row| row.revision).collect();
    let kinds: Vec<i16> = rows.iter().map(|row| row.kind as i16).collect();
    let bodies: Vec<&[u8]> = rows.iter().map(|row| &*row.body).collect();
    let data_keys: Vec<Option<i64>> = rows.iter().map(|row| row.data_key).collect();
    let transient: Vec<bool> = rows.iter().map(|row| is_transient(&row.key.resource)).collect();
    let states: Vec<Option<i16>> = rows.iter().map(|row| row.state.map(|state| state as i16)).collect();
    let counted = sqlx::query!(
        "WITH counted AS (
             UPDATE counter SET revision = $11
             WHERE revision = $10 AND ($12::bigint IS NULL OR term = $12) RETURNING revision
         ), written AS MATERIALIZED (
             SELECT t.* FROM counted,
                 unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[],
                        $8::boolean[], $9::smallint[])
                 AS t(revision, kind, resource, namespace, name, body, data_key, transient, state)
         ), logged AS (
             INSERT INTO changes (revision, kind, resource, namespace, name, body, data_key)
             SELECT revision, kind, resource, namespace, name,
                    CASE WHEN NOT transient THEN body END, CASE WHEN NOT transient THEN data_key END FROM written
         ), inserted AS (
             INSERT INTO objects (resource, namespace, name, revision, body, data_key)
             SELECT resource, namespace, name, revision, body, data_key FROM written WHERE state = 0
         ), updated AS (
             UPDATE objects o SET revision = w.revision, body = w.body, data_key = w.data_key
             FROM written w WHERE w.state = 1
                 AND o.resource = w.resource AND o.namespace = w.namespace AND o.name = w.name
         ), removed AS (
             DELETE FROM objects o USING written w WHERE w.state = 2
                 AND o.resource = w.resource AND o.namespace = w.namespace AND o.name = w.name
         )
         SELECT pg_notify('pilothouse_changes', revision::text) FROM counted",
        &revisions,
        &kinds,
        &column(|row| &row.key.resource),
        &column(|row| &row.key.namespace),
        &column(|row| &row.key.name),
        &bodies as &[&[u8]],
        &data_keys as &[Option<i64>],
        &transient,
        &states as &[Option<i16>],
        reached.cast_signed(),
        rows.last().map_or(0, |row| row.revision),
        term.map(|term| term.0) as Option<i64>,
    )
    .fetch_optional(connection)
    .await?;
    Ok(counted.is_some())
}

/// A partition of `changes`, and the first revision after it.
struct Partition {
    name: String,
    end: i64,
}

async fn partitions(connection: &mut PgConnection) -> Result<Vec<Partition>, sqlx::Error> {
    // Bounds are asked for, not computed, so that a release may choose another size.
    let rows = sqlx::query!(
        r#"SELECT c.relname::text AS "name!",
                  substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint AS "end!"
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'changes'::regclass ORDER BY 2"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| Partition { name: row.name, end: row.end }).collect())
}

/// Makes the partitions that entries up to `last` and a while longer need. Under the counter's lock; gives the first
/// revision for which there is none.
pub async fn add_partitions(connection: &mut PgConnection, last: Revision) -> Result<i64, sqlx::Error> {
    let last = last.cast_signed();
    let newest = partitions(connection).await?.last().map(|partition| partition.end);
    let mut end = newest.unwrap_or(last / PARTITION * PARTITION);
    while end <= last + PARTITION / 2 {
        let next = end + PARTITION;
        // Names cannot be parameters; these are numbers of our own.
        let statement = format!(
            "CREATE TABLE changes_{end} PARTITION OF changes (PRIMARY KEY (revision)) FOR VALUES FROM ({end}) TO ({next})"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await?;
        end = next;
    }
    Ok(end)
}

/// Drops the partitions all of whose entries are at most `old`. Under the counter's lock.
pub async fn drop_partitions(connection: &mut PgConnection, old: Revision) -> Result<(), sqlx::Error> {
    for partition in partitions(connection).await? {
        if partition.end > old.cast_signed() {
            return Ok(());
        }
        let statement = format!("DROP TABLE {}", partition.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}

pub async fn marks(connection: &mut PgConnection) -> Result<Marks, sqlx::Error> {
    let rows =
        sqlx::query!(r#"SELECT extract(epoch FROM at)::bigint AS "at!", revision FROM marks ORDER BY at"#)
            .fetch_all(connection)
            .await?;
    Ok(Marks::new(rows.into_iter().filter_map(|row| {
        Some(Mark { at: Timestamp::from_second(row.at).ok()?, revision: row.revision.cast_unsigned() })
    })))
}

pub async fn set_mark(
    connection: &mut PgConnection,
    mark: Mark,
    keep_after: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH old AS (DELETE FROM marks WHERE at < to_timestamp($3::bigint))
         INSERT INTO marks (at, revision) VALUES (to_timestamp($1::bigint), $2) ON CONFLICT DO NOTHING",
        mark.at.as_second(),
        mark.revision.cast_signed(),
        keep_after.as_second()
    )
    .execute(connection)
    .await?;
    Ok(())
}
