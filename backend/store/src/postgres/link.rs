//! One connection to the database, opened when it is needed and given up when it failed.
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

pub struct Link {
    options: PgConnectOptions,
    idle: Option<PgConnection>,
}

impl Link {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, idle: None }
    }

    /// The connection, to be put back after success. One that is not was dropped with its transaction, whatever went
    /// wrong and wherever: the next caller gets a new one.
    pub async fn take(&mut self) -> Result<PgConnection, sqlx::Error> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => self.options.connect().await,
        }
    }

    pub fn put_back(&mut self, connection: PgConnection) {
        self.idle = Some(connection);
    }
}
