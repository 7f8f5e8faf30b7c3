//! Which of several servers runs the controllers: the one whose connection holds an advisory lock. A leader that was
//! held up does not know that another took over; so each leads under a term of its own, and its writes carry that.
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// "pilothou" in ASCII: no other program's lock by accident.
const LOCK: i64 = 0x7069_6c6f_7468_6f75;
const TRY_EVERY: Duration = Duration::from_secs(1);
/// A connection that does not answer in this time is taken for lost. PostgreSQL frees its lock when it notices too.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How long the lock's connection may be silent before PostgreSQL ends it: the system answers for a process that is
/// stopped, so that the connection itself does not break.
const SILENCE: &str = "SET idle_session_timeout = '10s'";

/// Counts the leaders of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term(pub(crate) i64);

/// A place in the queue of servers.
pub struct LeaderLock {
    database: Option<PgConnectOptions>,
    held: Option<PgConnection>,
}

impl LeaderLock {
    pub(crate) fn alone() -> Self {
        Self { database: None, held: None }
    }

    pub(crate) fn of(database: PgConnectOptions) -> Self {
        Self { database: Some(database), held: None }
    }

    /// Waits until this server leads; gives the term its writes belong to. None: there are no others.
    pub async fn acquire(&mut self) -> Option<Term> {
        let database = self.database.as_ref()?;
        loop {
            match timeout(CHECK_EVERY, try_lock(database)).await {
                Ok(Ok(Some((connection, term)))) => {
                    self.held = Some(connection);
                    return Some(term);
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "cannot ask for the leader lock"),
                Err(_) => tracing::debug!("the database does not answer for the leader lock"),
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// Resolves when this server does not lead any more.
    pub async fn lost(&mut self) {
        let Some(connection) = &mut self.held else {
            return std::future::pending().await;
        };
        loop {
            sleep(CHECK_EVERY).await;
            if !matches!(timeout(CHECK_EVERY, connection.ping()).await, Ok(Ok(()))) {
                self.held = None;
                return;
            }
        }
    }
}

async fn try_lock(database: &PgConnectOptions) -> Result<Option<(PgConnection, Term)>, sqlx::Error> {
    let mut connection = database.connect().await?;
    let row =
        sqlx::query!("SELECT pg_try_advisory_lock($1) AS \"held!\"", LOCK).fetch_one(&mut connection).await?;
    if !row.held {
        return Ok(None);
    }
    if let Err(error) = sqlx::raw_sql(SILENCE).execute(&mut connection).await {
        tracing::debug!(%error, "a leader that hangs keeps its lock: PostgreSQL is older than 14");
    }
    // Whatever an earlier leader writes from here on is refused.
    let row =
        sqlx::query!("UPDATE counter SET term = term + 1 RETURNING term").fetch_one(&mut connection).await?;
    Ok(Some((connection, Term(row.term))))
}
