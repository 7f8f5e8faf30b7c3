//! Service account tokens for pods: asked of the server, kept in memory, renewed long before they end.
use crate::connection::Outbox;
use parking_lot::Mutex;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_protocol::{IssuedToken, NodeMessage, PodRef};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::oneshot;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What a volume asks for that says nothing.
pub const DEFAULT_SECONDS: i64 = 3600;
/// A token is renewed when this much of its life is over, or after a day.
const RENEW_PERCENT: i64 = 80;
const RENEW_AFTER_SECONDS: i64 = 24 * 3600;
/// Before a failed renewal is tried again; the old token still holds.
const RETRY_SECONDS: i64 = 30;

/// A pod's UID, the audience (empty: the API itself) and the seconds asked for.
type Wanted = (String, String, i64);

struct Held {
    token: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Default)]
pub struct Tokens {
    held: Mutex<HashMap<Wanted, Held>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Result<IssuedToken, String>>>>,
}

/// Audience and seconds of each token that the pod's volumes hold.
fn wanted(pod: &Value) -> Vec<(String, i64)> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    sources.map(|source| &source["serviceAccountToken"]).filter(|t| t.is_object()).map(asked).collect()
}

/// What a `serviceAccountToken` source asks for.
pub fn asked(source: &Value) -> (String, i64) {
    let audience = source["audience"].as_str().unwrap_or_default().to_owned();
    (audience, source["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS))
}

impl Tokens {
    /// The token a volume holds, if it still holds, and until when.
    pub fn get(&self, uid: &str, audience: &str, seconds: i64) -> Option<(String, Timestamp)> {
        let held = self.held.lock();
        let found = held.get(&(uid.to_owned(), audience.to_owned(), seconds))?;
        (found.expires_at > Timestamp::now()).then(|| (found.token.clone(), found.expires_at))
    }

    /// Sees to it that every token of the pod is there and fresh, those that its storage drivers ask for among them; when to come again. Fails only where a token is
    /// missing: one that still holds serves on when the server is away.
    pub async fn ensure(
        &self,
        outbox: &Outbox,
        pod: &Value,
        of_drivers: Vec<(String, i64)>,
    ) -> Result<Option<Timestamp>, String> {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let mut again: Option<Timestamp> = None;
        for (audience, seconds) in wanted(pod).into_iter().chain(of_drivers) {
            let key = (text("uid").to_owned(), audience.clone(), seconds);
            let now = Timestamp::now();
            let renew_at =
                self.held.lock().get(&key).filter(|held| held.expires_at > now).map(|h| h.renew_at);
            let next = match renew_at.filter(|at| *at > now) {
                Some(at) => at,
                None => {
                    let pod = PodRef {
                        namespace: text("namespace").into(),
                        name: text("name").into(),
                        uid: text("uid").into(),
                    };
                    match self
                        .request(outbox, pod, audience, seconds)
                        .await
                        .and_then(|issued| held(&issued, now))
                    {
                        Ok(held) => {
                            let at = held.renew_at;
                            self.held.lock().insert(key, held);
                            at
                        }
                        Err(why) if renew_at.is_none() => {
                            return Err(format!("failed to fetch token: {why}"));
                        }
                        Err(_) => now.checked_add(RETRY_SECONDS.seconds()).unwrap_or(now),
                    }
                }
            };
            again = Some(again.map_or(next, |earlier| earlier.min(next)));
        }
        Ok(again)
    }

    async fn request(
        &self,
        outbox: &Outbox,
        pod: PodRef,
        audience: String,
        seconds: i64,
    ) -> Result<IssuedToken, String> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id.clone(), sender);
        let audiences = if audience.is_empty() { Vec::new() } else { vec![audience] };
        outbox.send(NodeMessage::TokenRequest {
            id: id.clone(),
            pod,
            audiences,
            expiration_seconds: seconds,
        });
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, receiver).await;
        self.waiting.lock().remove(&id);
        match answer {
            Ok(Ok(outcome)) => outcome,
            _ => Err("the server did not answer in time".into()),
        }
    }

    /// The server's answer to a request; one that nobody waits for any more is dropped.
    pub fn answered(&self, id: &str, outcome: Result<IssuedToken, String>) {
        if let Some(waiting) = self.waiting.lock().remove(id) {
            let _ = waiting.send(outcome);
        }
    }

    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|(holder, _, _), _| holder != uid);
    }
}

fn held(issued: &IssuedToken, now: Timestamp) -> Result<Held, String> {
    let expires_at: Timestamp = issued.expires_at.parse().map_err(|_| "its end is not a time".to_owned())?;
    let life = expires_at.as_second() - now.as_second();
    let renew = (life * RENEW_PERCENT / 100).clamp(1, RENEW_AFTER_SECONDS);
    let renew_at = now.checked_add(renew.seconds()).unwrap_or(now);
    Ok(Held { token: issued.token.clone(), renew_at, expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life_or_after_a_day() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let renew = |until: &str| {
            let issued = IssuedToken { token: "t".into(), expires_at: until.into() };
            held(&issued, now).unwrap().renew_at.to_string()
        };
        assert_eq!(renew("2026-01-01T01:40:00Z"), "2026-01-01T01:20:00Z");
        assert_eq!(renew("2027-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
    }

    #[test]
    fn only_projected_volumes_ask_for_tokens() {
        let pod = json!({"spec": {"volumes": [{"emptyDir": {}}, {"projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"configMap": {"name": "c"}},
            {"serviceAccountToken": {"path": "vault", "audience": "vault"}}]}}]}});
        assert_eq!(wanted(&pod), [(String::new(), 3607), ("vault".into(), DEFAULT_SECONDS)]);
    }
}
