//! Secrets are sealed before they reach the database: AES-256-GCM under a data key, which is itself wrapped by a key
//! that the database never sees (envelope encryption).
use crate::OpenError;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use pilothouse_api::Key;
use rand::RngExt;
use sqlx::PgPool;
use std::collections::HashMap;

const NONCE_BYTES: usize = 12;
/// Resources whose bodies are sealed.
const SEALED: &[&str] = &["secrets"];

/// The data keys of one database, unwrapped.
pub struct Seal {
    keys: HashMap<i64, Aes256Gcm>,
    current: i64,
}

fn wrong_keys(detail: &str) -> OpenError {
    OpenError::Keys(format!("{detail}: is pki/encryption-keys the file that belongs to this database?"))
}

impl Seal {
    /// Loads the data keys. `ring` holds the wrapping keys with their ids, the current one first; data keys that an
    /// older one wrapped are wrapped anew, so that it can then be retired.
    pub async fn open(pool: &PgPool, ring: &[(String, [u8; 32])]) -> Result<Self, OpenError> {
        let Some((current_id, current_key)) = ring.first() else {
            return Err(OpenError::Keys("no encryption key was given".into()));
        };
        let mut keys = HashMap::new();
        let mut current = None;
        for row in
            sqlx::query!("SELECT id, wrapped_by, wrapped FROM data_keys ORDER BY id").fetch_all(pool).await?
        {
            let wrapping = ring.iter().find(|(id, _)| *id == row.wrapped_by);
            let (_, wrapping) =
                wrapping.ok_or_else(|| wrong_keys(&format!("key {:?} is missing", row.wrapped_by)))?;
            let plain = decrypt(&cipher(wrapping), b"data-key", &row.wrapped)
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .ok_or_else(|| wrong_keys(&format!("key {:?} does not fit", row.wrapped_by)))?;
            if row.wrapped_by != *current_id {
                let wrapped = encrypt(&cipher(current_key), b"data-key", &plain).unwrap_or_default();
                sqlx::query!(
                    "UPDATE data_keys SET wrapped_by = $2, wrapped = $3 WHERE id = $1",
                    row.id,
                    current_id,
                    wrapped
                )
                .execute(pool)
                .await?;
            }
            keys.insert(row.id, cipher(&plain));
            current = Some(row.id);
        }
        let current = match current {
            Some(id) => id,
            None => {
                let plain: [u8; 32] = rand::rng().random();
                let wrapped = encrypt(&cipher(current_key), b"data-key", &plain).unwrap_or_default();
                let made = sqlx::query!(
                    "INSERT INTO data_keys (wrapped_by, wrapped) VALUES ($1, $2) RETURNING id",
                    current_id,
                    wrapped
                );
                let id = made.fetch_one(pool).await?.id;
                keys.insert(id, cipher(&plain));
                id
            }
        };
        Ok(Self { keys, current })
    }

    /// What the database stores for a body, and under which data key.
    pub fn seal(&self, key: &Key, body: &[u8]) -> Option<(Vec<u8>, Option<i64>)> {
        if !SEALED.contains(&&*key.resource) {
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
        let seal = Seal { keys: HashMap::from([(1, cipher(&[7; 32]))]), current: 1 };
        let key = Key::new("secrets", "a", "b");
        let (stored, data_key) = seal.seal(&key, b"hush").unwrap();
        assert!(!stored.windows(4).any(|w| w == b"hush"));
        assert_eq!(seal.open_body(&key, stored.clone(), data_key).unwrap(), b"hush");
        assert_eq!(seal.open_body(&Key::new("secrets", "a", "c"), stored, data_key), None);
        assert_eq!(seal.seal(&Key::new("pods", "a", "b"), b"plain").unwrap(), (b"plain".to_vec(), None));
    }
}
