//! One connection to the database, opened when it is needed and given up when it failed.
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a database that takes no connections is waited for before callers are refused: one that is started anew, or
/// recovers from a crash, is back by then. Those who come while it stays away are refused at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to connect, whoever asks.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Link {
    options: PgConnectOptions,
    idle: Option<PgConnection>,
    away: Option<Away>,
}

/// The database takes no connections.
struct Away {
    since: Instant,
    tried: Instant,
}

impl Link {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, idle: None, away: None }
    }

    /// The connection, to be put back after success. One that is not was dropped with its transaction, whatever went
    /// wrong and wherever: the next caller gets a new one.
    pub async fn take(&mut self) -> Result<PgConnection, sqlx::Error> {
        if let Some(connection) = self.idle.take() {
            return Ok(connection);
        }
        loop {
            if let Some(away) = &self.away {
                sleep_until(away.tried + PAUSE).await;
            }
            let begun = Instant::now();
            match self.options.connect().await {
                Ok(connection) => {
                    self.away = None;
                    return Ok(connection);
                }
                // Nothing was sent that could be done twice.
                Err(error) => {
                    let away = self.away.get_or_insert(Away { since: begun, tried: begun });
                    away.tried = Instant::now();
                    if away.tried - away.since > PATIENCE {
                        return Err(error);
                    }
                }
            }
        }
    }

    pub fn put_back(&mut self, connection: PgConnection) {
        self.idle = Some(connection);
    }
}
