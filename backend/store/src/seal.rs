//! Secrets are sealed before they reach the database: AES-256-GCM under a data key, which is itself wrapped by a key
//! that the database never sees (envelope encryption).
use crate::OpenError;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use pilothouse_api::Key;
use rand::RngExt;
use sqlx::{Connection, PgConnection};
use std::collections::HashMap;

const NONCE_BYTES: usize = 12;
/// Rows sealed anew by one statement.
const BATCH: i64 = 500;

/// Whether bodies of this resource are sealed.
pub fn is_sealed(resource: &str) -> bool {
    resource == "secrets"
}

/// The data keys of one database, unwrapped.
pub struct Seal {
    /// The wrapping keys with their ids, the current one first.
    ring: Vec<(String, [u8; 32])>,
    keys: HashMap<i64, Aes256Gcm>,
    /// The newest data key: the one that seals.
    current: i64,
}

fn wrong_keys(detail: &str) -> OpenError {
    OpenError::Keys(format!("{detail}: is pki/encryption-keys the file that belongs to this database?"))
}

impl Seal {
    /// Loads the data keys. Where the wrapping key is a new one, a new data key is made, everything is sealed with it,
    /// and the older data keys are wrapped with it: the old wrapping key opens nothing from then on and can go.
    pub async fn open(
        connection: &mut PgConnection,
        ring: Vec<(String, [u8; 32])>,
    ) -> Result<Self, OpenError> {
        let mut seal = Self { ring, keys: HashMap::new(), current: 0 };
        let mut transaction = connection.begin().await?;
        // Two servers that start at once make one key.
        sqlx::query!("LOCK TABLE data_keys IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
        seal.rotate(&mut transaction).await?;
        transaction.commit().await?;
        while seal.reseal(connection).await? > 0 {}
        Ok(seal)
    }

    async fn rotate(&mut self, connection: &mut PgConnection) -> Result<(), OpenError> {
        let (current, wrapping) = self
            .ring
            .first()
            .cloned()
            .ok_or_else(|| OpenError::Keys("no encryption key was given".into()))?;
        let mut newest_is_ours = false;
        for row in data_keys(connection).await? {
            let plain = self.unwrap(&row)?;
            self.keys.insert(row.id, cipher(&plain));
            self.current = row.id;
            newest_is_ours = row.wrapped_by == current;
            if !newest_is_ours {
                let wrapped = wrap(&wrapping, &plain)?;
                let wrap_anew = sqlx::query!(
                    "UPDATE data_keys SET wrapped_by = $2, wrapped = $3 WHERE id = $1",
                    row.id,
                    current,
                    wrapped
                );
                wrap_anew.execute(&mut *connection).await?;
            }
        }
        if !newest_is_ours {
            let plain: [u8; 32] = rand::rng().random();
            let made = sqlx::query!(
                "INSERT INTO data_keys (wrapped_by, wrapped) VALUES ($1, $2) RETURNING id",
                current,
                wrap(&wrapping, &plain)?
            );
            self.current = made.fetch_one(connection).await?.id;
            self.keys.insert(self.current, cipher(&plain));
        }
        Ok(())
    }

    /// Seals some of what an older data key sealed, at the revision it has: nothing changes for anybody who can read
    /// it. Gives how many rows there were.
    async fn reseal(&self, connection: &mut PgConnection) -> Result<usize, OpenError> {
        let rows = sqlx::query!(
            r#"SELECT resource, namespace, name, revision, body, data_key AS "data_key!" FROM objects
               WHERE data_key <> $1 LIMIT $2"#,
            self.current,
            BATCH
        );
        let rows = rows.fetch_all(&mut *connection).await?;
        for row in &rows {
            let key = Key::new(&*row.resource, &*row.namespace, &*row.name);
            let body = self.open_body(&key, row.body.clone(), Some(row.data_key));
            let sealed = body.and_then(|body| self.seal(&key, &body));
            let (sealed, data_key) =
                sealed.ok_or_else(|| OpenError::Keys(format!("{key} cannot be unsealed")))?;
            let replace = sqlx::query!(
                "UPDATE objects SET body = $5, data_key = $6
                 WHERE resource = $1 AND namespace = $2 AND name = $3 AND revision = $4",
                row.resource,
                row.namespace,
                row.name,
                row.revision,
                sealed,
                data_key
            );
            replace.execute(&mut *connection).await?;
        }
        Ok(rows.len())
    }

    /// Loads the data keys anew where another server has made one.
    pub async fn refresh(&mut self, connection: &mut PgConnection) -> Result<(), OpenError> {
        let newest =
            sqlx::query!("SELECT max(id) AS id FROM data_keys").fetch_one(&mut *connection).await?.id;
        if newest == Some(self.current) {
            return Ok(());
        }
        for row in data_keys(connection).await? {
            let plain = self.unwrap(&row)?;
            self.keys.insert(row.id, cipher(&plain));
            self.current = row.id;
        }
        Ok(())
    }

    /// Removes the data keys that seal nothing any more, neither the state nor the log. Under the counter's lock, so
    /// that nobody is about to seal with one.
    pub async fn retire(&mut self, connection: &mut PgConnection) -> Result<(), OpenError> {
        if self.keys.len() < 2 {
            return Ok(());
        }
        let retired = sqlx::query!(
            "DELETE FROM data_keys k WHERE k.id <> (SELECT max(id) FROM data_keys)
                 AND NOT EXISTS (SELECT FROM objects WHERE data_key = k.id)
                 AND NOT EXISTS (SELECT FROM changes WHERE data_key = k.id) RETURNING id"
        );
        for row in retired.fetch_all(connection).await? {
            self.keys.remove(&row.id);
        }
        Ok(())
    }

    fn unwrap(&self, row: &DataKey) -> Result<[u8; 32], OpenError> {
        let wrapping = self.ring.iter().find(|(id, _)| *id == row.wrapped_by);
        let (_, wrapping) =
            wrapping.ok_or_else(|| wrong_keys(&format!("key {:?} is missing", row.wrapped_by)))?;
        decrypt(&cipher(wrapping), DATA_KEY, &row.wrapped)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| wrong_keys(&format!("key {:?} does not fit", row.wrapped_by)))
    }

    /// Whether a body under this data key can be opened.
    pub fn has(&self, data_key: i64) -> bool {
        self.keys.contains_key(&data_key)
    }

    /// What the database stores for a body, and under which data key.
    pub fn seal(&self, key: &Key, body: &[u8]) -> Option<(Vec<u8>, Option<i64>)> {
        if !is_sealed(&key.resource) {
            return Some((body.to_vec(), None));
        }
        let sealed = encrypt(self.keys.get(&self.current)?, key.to_string().as_bytes(), body)?;
        Some((sealed, Some(self.current)))
    }

    /// The body again; None where the row was moved or changed, or its key is missing.
    pub fn open_body(&self, key: &Key, stored: Vec<u8>, data_key: Option<i64>) -> Option<Vec<u8>> {
        match data_key {
            None => Some(stored),
            Some(id) => decrypt(self.keys.get(&id)?, key.to_string().as_bytes(), &stored),
        }
    }
}

struct DataKey {
    id: i64,
    wrapped_by: String,
    wrapped: Vec<u8>,
}

async fn data_keys(connection: &mut PgConnection) -> Result<Vec<DataKey>, sqlx::Error> {
    sqlx::query_as!(DataKey, "SELECT id, wrapped_by, wrapped FROM data_keys ORDER BY id")
        .fetch_all(connection)
        .await
}

/// What a wrapped data key is bound to: no sealed body passes for one.
const DATA_KEY: &[u8] = b"data-key";

fn wrap(wrapping: &[u8; 32], plain: &[u8; 32]) -> Result<Vec<u8>, OpenError> {
    encrypt(&cipher(wrapping), DATA_KEY, plain)
        .ok_or_else(|| OpenError::Keys("a data key cannot be wrapped".into()))
}

fn cipher(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(&(*key).into())
}

/// `bound_to` is authenticated along: a row copied over another one does not open.
fn encrypt(cipher: &Aes256Gcm, bound_to: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let nonce: [u8; NONCE_BYTES] = rand::rng().random();
    let sealed = cipher.encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: bound_to }).ok()?;
    Some([&nonce[..], &sealed].concat())
}

fn decrypt(cipher: &Aes256Gcm, bound_to: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = stored.split_first_chunk::<NONCE_BYTES>()?;
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: bound_to }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_body_opens_only_under_its_own_key() {
        let seal = Seal { ring: Vec::new(), keys: HashMap::from([(1, cipher(&[7; 32]))]), current: 1 };
        let key = Key::new("secrets", "a", "b");
        let (stored, data_key) = seal.seal(&key, b"hush").unwrap();
        assert!(!stored.windows(4).any(|w| w == b"hush"));
        assert_eq!(seal.open_body(&key, stored.clone(), data_key).unwrap(), b"hush");
        assert_eq!(seal.open_body(&Key::new("secrets", "a", "c"), stored, data_key), None);
        assert_eq!(seal.seal(&Key::new("pods", "a", "b"), b"plain").unwrap(), (b"plain".to_vec(), None));
    }
}
