//! The whole state as rows of text, out of one database and into a new one: what a backup holds.
use crate::OpenError;
use crate::postgres::migrate;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use pilothouse_api::Revision;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::io;

/// What is kept of the database, in the order in which it is put back. The log is not: watches start over with a list.
const TABLES: &[(&str, &str)] = &[
    ("data_keys", "id, wrapped_by, wrapped"),
    ("objects", "resource, namespace, name, revision, body, data_key"),
];
/// Revisions that were given out after a backup mean something else afterwards. A client that still holds one must not
/// meet it again, so counting goes on far above them.
const REVISIONS_SKIPPED: Revision = 1_000_000_000;
const CHUNK: usize = 1024 * 1024;

/// A part of a table, in PostgreSQL's `COPY` text format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub table: String,
    pub rows: Bytes,
}

/// What an export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The revision at which everything was read.
    pub revision: Revision,
    pub objects: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("the database is in use already: {0} revisions were written to it")]
    NotEmpty(Revision),
    #[error("a table {0:?} is not known to this version")]
    UnknownTable(String),
}

/// Reads everything at one moment, beside a server that goes on writing. Secrets stay sealed.
pub async fn export(
    url: &str,
    mut take: impl FnMut(Chunk) -> io::Result<()>,
) -> Result<Exported, ArchiveError> {
    let mut connection = connect(url).await?;
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let revision = sqlx::query!("SELECT revision FROM counter").fetch_one(&mut *transaction).await?.revision;
    let objects = sqlx::query!(r#"SELECT count(*) AS "count!" FROM objects"#).fetch_one(&mut *transaction);
    let objects = objects.await?.count.cast_unsigned();
    for (table, columns) in TABLES {
        let mut take =
            |rows: &mut BytesMut| take(Chunk { table: (*table).to_owned(), rows: rows.split().freeze() });
        let mut rows = transaction.copy_out_raw(&format!("COPY {table} ({columns}) TO STDOUT")).await?;
        let mut gathered = BytesMut::with_capacity(CHUNK);
        while let Some(row) = rows.try_next().await? {
            gathered.extend_from_slice(&row);
            if gathered.len() >= CHUNK {
                take(&mut gathered)?;
            }
        }
        if !gathered.is_empty() {
            take(&mut gathered)?;
        }
    }
    transaction.rollback().await?;
    Ok(Exported { revision: revision.cast_unsigned(), objects })
}

/// Fills a new database with what was exported at `revision`: whole or not at all. Chunks come in the order in which
/// [`export`] gave them.
pub async fn import(
    url: &str,
    revision: Revision,
    chunks: impl IntoIterator<Item = io::Result<Chunk>>,
) -> Result<(), ArchiveError> {
    let mut connection = connect(url).await?;
    migrate(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    let counter =
        sqlx::query!("SELECT revision FROM counter FOR UPDATE").fetch_one(&mut *transaction).await?;
    if counter.revision > 0 {
        return Err(ArchiveError::NotEmpty(counter.revision.cast_unsigned()));
    }
    let mut chunks = chunks.into_iter().peekable();
    while let Some(first) = chunks.next().transpose()? {
        let known = TABLES.iter().find(|(table, _)| *table == first.table);
        let (table, columns) = known.ok_or_else(|| ArchiveError::UnknownTable(first.table.clone()))?;
        let mut copy = transaction.copy_in_raw(&format!("COPY {table} ({columns}) FROM STDIN")).await?;
        copy.send(first.rows).await?;
        let same = |next: &io::Result<Chunk>| next.as_ref().is_ok_and(|chunk| chunk.table == *table);
        while let Some(Ok(chunk)) = chunks.next_if(same) {
            copy.send(chunk.rows).await?;
        }
        copy.finish().await?;
    }
    let next = (revision + REVISIONS_SKIPPED).cast_signed();
    sqlx::query!("UPDATE counter SET revision = $1", next).execute(&mut *transaction).await?;
    let numbering =
        "SELECT setval(pg_get_serial_sequence('data_keys', 'id'), coalesce(max(id), 1)) FROM data_keys";
    sqlx::raw_sql(numbering).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    options.application_name("pilothouse").connect().await
}
