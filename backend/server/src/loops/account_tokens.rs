//! Secrets of type `kubernetes.io/service-account-token`: the token of the account they name is put into them, and they
//! go when it goes. After
//! <https://kubernetes.io/docs/concepts/security/service-accounts/#manual-secret-management-for-serviceaccounts>.
use super::certificates::Signing;
use crate::auth::{Claims, tokens};
use crate::feed::{self, Observation};
use crate::objects::{Actor, Objects, Part, WriteOptions};
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Reason, Status};
use pilothouse_store::Object;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const SECRETS: &str = "secrets";
const ACCOUNTS: &str = "serviceaccounts";
const KIND: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// Such tokens do not expire in Kubernetes; they end with their Secret.
const SECONDS: i64 = 86_400 * 365 * 20;
/// After a failure.
const RETRY: Duration = Duration::from_secs(10);

/// What is to be looked at, and which Secrets an account has.
#[derive(Default)]
struct Wanted {
    due: BTreeSet<Key>,
    by_account: HashMap<Key, BTreeSet<Key>>,
}

impl Wanted {
    fn observe(&mut self, observation: &Observation) {
        let object = match observation {
            Observation::Reset => return *self = Self::default(),
            Observation::Put(object) | Observation::Gone(object) => object,
        };
        if &*object.key.resource == ACCOUNTS {
            self.due.extend(self.by_account.get(&object.key).into_iter().flatten().cloned());
            return;
        }
        let Some(account) = account_of(object) else { return };
        let secrets = self.by_account.entry(account).or_default();
        match observation {
            Observation::Put(_) => {
                secrets.insert(object.key.clone());
                self.due.insert(object.key.clone());
            }
            _ => drop(secrets.remove(&object.key)),
        }
        self.by_account.retain(|_, secrets| !secrets.is_empty());
    }
}

/// The account that a Secret is for.
fn account_of(object: &Object) -> Option<Key> {
    // Most Secrets are something else, and need not be read.
    let secret = object.mentions(KIND).then(|| object.value()).filter(|secret| secret["type"] == KIND)?;
    let name = secret["metadata"]["annotations"][NAME].as_str()?;
    Some(Key::new(ACCOUNTS, object.key.namespace.clone(), name))
}

pub async fn run(objects: Objects, signing: Signing, shutdown: CancellationToken) {
    let (wanted, changed) = (Arc::new(Mutex::new(Wanted::default())), Arc::new(Notify::new()));
    let (told, notify) = (wanted.clone(), changed.clone());
    let observe = move |observation: Observation| {
        told.lock().observe(&observation);
        notify.notify_one();
    };
    let following = match feed::follow(objects.store(), &[SECRETS, ACCOUNTS], observe) {
        Ok(following) => following,
        Err(error) => return tracing::error!(%error, "Secrets of service accounts cannot be followed"),
    };
    let working = async {
        loop {
            let due = std::mem::take(&mut wanted.lock().due);
            let mut failed = BTreeSet::new();
            for key in due {
                match step(&objects, &signing, &key).await {
                    Err(error) if !matches!(error.reason, Reason::Conflict | Reason::NotFound) => {
                        tracing::warn!(%error, %key, "a service account's Secret has no token yet");
                        failed.insert(key);
                    }
                    _ => {}
                }
            }
            if failed.is_empty() {
                changed.notified().await;
            } else {
                wanted.lock().due.extend(failed);
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    tokio::select! { () = shutdown.cancelled() => {}, () = following => {}, () = working => {} }
}

async fn step(objects: &Objects, signing: &Signing, key: &Key) -> Result<(), Status> {
    let Some(secret) = objects.store().get(key) else { return Ok(()) };
    let Some(name) = account_of(&secret) else { return Ok(()) };
    let value = secret.value();
    let entry = objects.registry().by_resource(SECRETS).cloned().context("Secret is not a known kind");
    let entry = entry.map_err(Status::internal)?;
    let (actor, options) = (Actor::system("controller:tokens-controller"), WriteOptions::default());
    let known = value["metadata"]["annotations"][UID].as_str().unwrap_or_default();
    let account = objects.store().get(&name).filter(|account| known.is_empty() || *known == *account.uid);
    let Some(account) = account else {
        let delete = DeleteOptions { uid: Some(secret.uid.to_string()), ..DeleteOptions::default() };
        objects.delete(&actor, &entry, &key.namespace, &key.name, &delete, &options).await?;
        return Ok(());
    };
    let has = |field: &str| value["data"][field].as_str().is_some_and(|text| !text.is_empty());
    if has("token") && has("ca.crt") && has("namespace") && !known.is_empty() {
        return Ok(());
    }
    let token = signing.auth.issue(&claims(&account, &secret)).map_err(Status::internal)?;
    let change = |old: &Value| {
        let mut new = old.clone();
        for (field, text) in
            [("token", &*token), ("ca.crt", &*signing.ca_pem), ("namespace", &*key.namespace)]
        {
            if new["data"][field].as_str().is_none_or(str::is_empty) {
                new["data"][field] = json!(STANDARD.encode(text));
            }
        }
        new["metadata"]["annotations"][UID] = json!(account.uid);
        Ok(new)
    };
    objects.update(&actor, &entry, &key.namespace, &key.name, Part::Spec, &options, change).await?;
    Ok(())
}

fn claims(account: &Object, secret: &Object) -> Claims {
    let named = |object: &Object| tokens::ObjectName {
        name: object.key.name.to_string(),
        uid: object.uid.to_string(),
    };
    let user = format!("system:serviceaccount:{}:{}", account.key.namespace, account.key.name);
    let mut claims = Claims::new(&user, &[], SECONDS);
    claims.bound = Some(tokens::Bound {
        namespace: account.key.namespace.to_string(),
        serviceaccount: named(account),
        secret: Some(named(secret)),
        ..tokens::Bound::default()
    });
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Api, eventually};

    const SECRET: &str = "/api/v1/namespaces/default/secrets/robot";

    #[tokio::test]
    async fn a_secret_for_an_account_is_given_its_token_and_goes_with_it() {
        let api = Api::start().await;
        api.run_loops();
        api.make("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
        let secret = json!({"metadata": {"name": "robot", "annotations": {NAME: "robot"}}, "type": KIND});
        api.make("/api/v1/namespaces/default/secrets", secret).await;
        let token = async || {
            let secret = api.call("GET", SECRET, Value::Null).await.body;
            let bytes = STANDARD.decode(secret["data"]["token"].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        eventually("the token", async || token().await.is_some()).await;
        let token = token().await.unwrap();
        let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = api.send(Some(&token), "POST", who, json!({})).await;
        assert_eq!(answer.body["status"]["userInfo"]["username"], "system:serviceaccount:default:robot");
        api.call("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", Value::Null).await;
        eventually("the Secret's end", async || api.call("GET", SECRET, Value::Null).await.code == 404).await;
        assert_eq!(api.send(Some(&token), "POST", who, json!({})).await.code, 401);
    }
}
