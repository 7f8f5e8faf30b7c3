//! OpenID Connect: tokens that others signed for people, by the issuers of the authentication configuration.
pub mod config;
mod expression;
mod keys;
mod mapping;
pub mod sign_in;
#[cfg(test)]
mod tests;

pub use config::Configuration;
pub use keys::Issuer;

use crate::objects::Actor;
use anyhow::{Context, Result};
use config::Anonymous;
use futures::future::join_all;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens whose user is remembered; with more, all are checked anew once.
const REMEMBERED: usize = 2048;
/// How long a token's user is remembered, as in Kubernetes: a key that was taken back counts no longer.
const MEMORY: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Issuers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    all: Vec<Issuer>,
    anonymous: Anonymous,
    /// Checking a signature costs more than all else that a read takes, and clients send the same token each time.
    known: RwLock<HashMap<String, Known>>,
}

struct Known {
    actor: Actor,
    until: Instant,
}

impl Issuers {
    pub fn new(configuration: Configuration) -> Result<Self> {
        let mut all = Vec::new();
        for config in configuration.issuers {
            let url = config.url.clone();
            all.push(
                Issuer::new(config).map_err(anyhow::Error::msg).with_context(|| format!("issuer {url}"))?,
            );
        }
        Ok(Self(Arc::new(Inner { all, anonymous: configuration.anonymous, known: RwLock::default() })))
    }

    /// Whether a request without a credential may ask for a path.
    pub fn admits_anonymous(&self, path: &str) -> bool {
        self.0.anonymous.admits(path)
    }

    /// Keeps the keys of all up to date.
    pub async fn run(self) {
        join_all(self.0.all.iter().map(Issuer::run)).await;
    }

    pub fn by_url(&self, url: &str) -> Option<&Issuer> {
        self.0.all.iter().find(|issuer| issuer.config.url == url)
    }

    /// The user of a token of theirs.
    pub fn authenticate(&self, token: &str) -> Option<Actor> {
        if self.0.all.is_empty() {
            return None;
        }
        let now = Instant::now();
        if let Some(known) = self.0.known.read().get(token).filter(|known| now < known.until) {
            return Some(known.actor.clone());
        }
        let (issuer, _) = self.of(token)?;
        let checked = issuer.verify(token).and_then(|claims| {
            let left = claims["exp"]
                .as_u64()
                .unwrap_or(0)
                .saturating_sub(super::tokens::now_seconds().unsigned_abs());
            Ok((issuer.config.mapping.user(&claims)?, Duration::from_secs(left).min(MEMORY)))
        });
        match checked {
            Ok((actor, lasts)) => {
                let mut known = self.0.known.write();
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(token.to_owned(), Known { actor: actor.clone(), until: now + lasts });
                Some(actor)
            }
            Err(why) => {
                tracing::debug!(issuer = issuer.config.url, why, "a token is refused");
                None
            }
        }
    }

    /// Looks for the key that a token names, if it is not known. False: nothing new was found.
    pub async fn learn(&self, token: &str) -> bool {
        match self.of(token) {
            Some((issuer, key)) => issuer.look_for(key.as_deref()).await,
            None => false,
        }
    }

    /// Whose token it says it is, and with which key signed. Nothing of it is proved.
    fn of(&self, token: &str) -> Option<(&Issuer, Option<String>)> {
        if self.0.all.is_empty() {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Value>(token).ok()?;
        Some((self.by_url(claims["iss"].as_str()?)?, header.kid))
    }
}
