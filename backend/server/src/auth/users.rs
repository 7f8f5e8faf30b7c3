//! People who sign in with a password: Secrets of type `pilothouse.io/user` in kube-system.
use crate::feed::Observation;
use crate::objects::{Actor, Objects, Part, WriteOptions};
use anyhow::{Context, Result};
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;
use pilothouse_api::Reason;
use pilothouse_store::Object;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

pub const NAMESPACE: &str = "kube-system";
pub const SECRET_TYPE: &str = "pilothouse.io/user";
const NAME_PREFIX: &str = "user-";

/// Argon2id with the crate's default cost (19 MiB, two passes: OWASP's first choice). Takes tens of milliseconds: call
/// it off the async threads.
pub fn hash_password(password: &str) -> Result<String> {
    let hash = Argon2::default().hash_password(password.as_bytes()).context("cannot hash a password")?;
    Ok(hash.to_string())
}

/// Compared against when there is no such user, so that the answer takes as long. Nobody knows its password.
fn nobody() -> &'static str {
    static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HASH.get_or_init(|| hash_password(&uuid::Uuid::new_v4().to_string()).unwrap_or_default())
}

/// One person.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    hash: String,
    /// Changes with the password: sessions from before end.
    pub epoch: String,
}

impl User {
    fn of(object: &Object) -> Option<Self> {
        let secret = object.value();
        if secret["type"] != SECRET_TYPE {
            return None;
        }
        let text = |field: &str| {
            let bytes = STANDARD.decode(secret["data"][field].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let hash = text("password-hash")?;
        Some(Self {
            name: text("username")?,
            groups: text("groups")
                .unwrap_or_default()
                .split(',')
                .filter(|g| !g.is_empty())
                .map(Into::into)
                .collect(),
            epoch: epoch(&object.uid, &hash),
            hash,
        })
    }
}

/// A short digest: the session cookie carries it, and must not carry the hash.
fn epoch(uid: &str, hash: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{uid}/{hash}"));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// All people, kept in step with the store. Cheap to clone.
#[derive(Clone, Default)]
pub struct Users {
    /// By the Secret's name.
    by_secret: Arc<RwLock<HashMap<Arc<str>, User>>>,
}

impl Users {
    pub fn observe(&self, observation: &Observation) {
        match observation {
            Observation::Reset => self.by_secret.write().clear(),
            Observation::Put(object) if &*object.key.namespace == NAMESPACE => {
                match User::of(object) {
                    Some(user) => self.by_secret.write().insert(object.key.name.clone(), user),
                    None => self.by_secret.write().remove(&object.key.name),
                };
            }
            Observation::Gone(object) if &*object.key.namespace == NAMESPACE => {
                self.by_secret.write().remove(&object.key.name);
            }
            Observation::Put(_) | Observation::Gone(_) => {}
        }
    }

    pub fn get(&self, name: &str) -> Option<User> {
        self.by_secret.read().values().find(|user| user.name == name).cloned()
    }

    /// The user, if the password is right. An unknown user costs as much time as a wrong password.
    pub fn check(&self, name: &str, password: &str) -> Option<User> {
        let user = self.get(name);
        let hash = user.as_ref().map_or_else(|| nobody().to_owned(), |user| user.hash.clone());
        let right = PasswordHash::new(&hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        user.filter(|_| right)
    }
}

/// The Secret's name: a hash where the user's name is no part of a DNS name.
fn secret_name(user: &str) -> String {
    let name = format!("{NAME_PREFIX}{user}");
    match pilothouse_api::meta::dns_subdomain(&name) {
        Ok(()) => name,
        Err(_) => format!("{NAME_PREFIX}{}", epoch("", user)),
    }
}

fn secret(user: &str, groups: &[&str], hash: &str) -> Value {
    let encode = |text: &str| STANDARD.encode(text);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
        "metadata": {"name": secret_name(user), "namespace": NAMESPACE},
        "data": {
            "username": encode(user), "password-hash": encode(hash), "groups": encode(&groups.join(",")),
        },
    })
}

/// Makes a user, or gives a user another password and groups.
pub async fn set(objects: &Objects, user: &str, password: &str, groups: &[&str]) -> Result<()> {
    let password = password.to_owned();
    let hash = tokio::task::spawn_blocking(move || hash_password(&password)).await??;
    let secret = secret(user, groups, &hash);
    let entry = objects.registry().by_resource("secrets").cloned().context("Secret is not a known kind")?;
    let (actor, options) = (Actor::system("users"), WriteOptions::default());
    let created = objects.create(&actor, &entry, NAMESPACE, secret.clone(), &options).await;
    match created {
        Err(status) if status.reason == Reason::AlreadyExists => {
            let change = |old: &Value| {
                let mut new = old.clone();
                new["data"] = secret["data"].clone();
                Ok(new)
            };
            objects
                .update(&actor, &entry, NAMESPACE, &secret_name(user), Part::Spec, &options, change)
                .await?;
        }
        outcome => drop(outcome?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(name: &str, password: &str) -> Users {
        let users = Users::default();
        let secret = secret(name, &["a", "b"], &hash_password(password).unwrap());
        let object = Object {
            key: pilothouse_api::Key::new("secrets", NAMESPACE, secret_name(name)),
            uid: "1".into(),
            revision: 1,
            bytes: secret.to_string().into(),
            labels: Default::default(),
            fields: Vec::new(),
        };
        users.observe(&Observation::Put(Arc::new(object)));
        users
    }

    #[test]
    fn the_right_password_gives_the_user_with_groups() {
        let user = users("ann", "secret").check("ann", "secret").unwrap();
        assert_eq!(user.groups, ["a", "b"]);
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_are_refused() {
        let users = users("ann", "secret");
        assert!(users.check("ann", "Secret").is_none());
        assert!(users.check("bob", "secret").is_none());
    }

    #[test]
    fn any_user_name_makes_a_valid_secret_name() {
        for name in ["ann", "Ann", "ann@example.com", "ä/ö", ""] {
            assert_eq!(pilothouse_api::meta::dns_subdomain(&secret_name(name)), Ok(()), "{name}");
        }
    }
}
