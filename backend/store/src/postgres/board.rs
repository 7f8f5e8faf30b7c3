//! What servers of one database tell each other that has no past and need not outlive them: notes in unlogged tables,
//! beside the log and without a revision. A server that is alone writes one small row now and then.
use super::TIMEOUT;
use super::link::Link;
use crate::ReadError;
use sqlx::postgres::PgConnectOptions;

/// A server that was not heard of for so long is gone, in seconds.
const GONE_AFTER: f64 = 60.0;

/// The newest that is known about something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub about: String,
    pub body: Vec<u8>,
}

/// One server's place at the board.
pub struct NoteBoard {
    database: Option<Database>,
}

struct Database {
    link: Link,
    server: String,
    /// The number of the newest note that was read.
    read: i64,
}

impl NoteBoard {
    pub(crate) fn alone() -> Self {
        Self { database: None }
    }

    pub(crate) fn of(options: PgConnectOptions, server: String) -> Self {
        Self { database: Some(Database { link: Link::new(options), server, read: 0 }) }
    }

    /// Puts up this server's notes if there is another to read them, and gives what others have put up since the last
    /// time. Nothing is asked of `mine` by a server that is alone.
    pub async fn exchange(&mut self, mine: impl FnOnce() -> Vec<Note>) -> Result<Vec<Note>, ReadError> {
        let Some(database) = &mut self.database else { return Ok(Vec::new()) };
        match tokio::time::timeout(TIMEOUT, database.exchange(mine)).await {
            Ok(Ok(notes)) => Ok(notes),
            Ok(Err(error)) => Err(ReadError::Unavailable(error.to_string())),
            Err(_) => Err(ReadError::Unavailable("no answer in time".into())),
        }
    }
}

impl Database {
    async fn exchange(&mut self, mine: impl FnOnce() -> Vec<Note>) -> Result<Vec<Note>, sqlx::Error> {
        let mut connection = self.link.take().await?;
        let others = sqlx::query!(
            r#"WITH here AS (
                 INSERT INTO servers (id, seen_at) VALUES ($1, now())
                 ON CONFLICT (id) DO UPDATE SET seen_at = now()
             ), gone AS (
                 DELETE FROM servers WHERE id <> $1 AND seen_at < now() - make_interval(secs => $2)
             )
             SELECT count(*) AS "others!" FROM servers
             WHERE id <> $1 AND seen_at >= now() - make_interval(secs => $2)"#,
            self.server,
            GONE_AFTER
        )
        .fetch_one(&mut connection)
        .await?
        .others;
        if others == 0 {
            self.link.put_back(connection);
            return Ok(Vec::new());
        }
        let (about, bodies): (Vec<String>, Vec<Vec<u8>>) =
            mine().into_iter().map(|note| (note.about, note.body)).unzip();
        sqlx::query!(
            "WITH old AS (DELETE FROM notes WHERE written_at < now() - make_interval(secs => $4))
             INSERT INTO notes (about, server, body)
             SELECT about, $3, body FROM unnest($1::text[], $2::bytea[]) AS t(about, body)
             ON CONFLICT (about) DO UPDATE
             SET server = excluded.server, body = excluded.body, written_at = now(), number = excluded.number",
            &about,
            &bodies,
            self.server,
            GONE_AFTER
        )
        .execute(&mut connection)
        .await?;
        // A number that is committed late may be passed over: its node puts up the next one soon.
        let rows = sqlx::query!(
            "SELECT about, body, number FROM notes WHERE number > $1 AND server <> $2",
            self.read,
            self.server
        )
        .fetch_all(&mut connection)
        .await?;
        self.link.put_back(connection);
        self.read = rows.iter().map(|row| row.number).fold(self.read, i64::max);
        Ok(rows.into_iter().map(|row| Note { about: row.about, body: row.body }).collect())
    }
}
