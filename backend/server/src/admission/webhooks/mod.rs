//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: services outside have their say. After
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.
mod hook;
pub mod review;
#[cfg(test)]
mod tests;

use super::matching::{is_exempt, namespace_labels};
use super::{Context, Operation, Outcome, Request, Rights, Rule, done};
use crate::auth::Auth;
use crate::conversion::Conversions;
use crate::feed::Observation;
use crate::remote::Client;
use crate::state::SharedRegistry;
use arc_swap::ArcSwap;
use futures::future::FutureExt;
pub use hook::{Hook, Kind};
use parking_lot::Mutex;
use pilothouse_api::policy::Inputs;
use pilothouse_api::{KindEntry, Status, lifecycle};
use pilothouse_store::Store;
use review::Answer;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
pub const RESOURCES: &[&str] = &[MUTATING, VALIDATING];

/// The configured webhooks, and the way to them. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

/// Resource and name.
type ConfigurationName = (Arc<str>, Arc<str>);

struct Inner {
    store: Store,
    registry: SharedRegistry,
    auth: Auth,
    client: Client,
    conversions: Conversions,
    /// In the order they are asked in.
    configurations: Mutex<BTreeMap<ConfigurationName, Vec<Arc<Hook>>>>,
    hooks: ArcSwap<Vec<Arc<Hook>>>,
}

/// One webhook with what it sees.
pub struct Call {
    pub hook: Arc<Hook>,
    entry: Arc<KindEntry>,
}

impl Webhooks {
    pub fn new(context: Context, auth: Auth, client: Client) -> Self {
        let Context { store, registry, conversions } = context;
        let configurations = Mutex::default();
        let hooks = ArcSwap::default();
        Self(Arc::new(Inner { store, registry, auth, client, conversions, configurations, hooks }))
    }

    pub fn observe(&self, observation: &Observation) {
        let mut configurations = self.0.configurations.lock();
        match observation {
            Observation::Reset => configurations.clear(),
            Observation::Put(object) => {
                let key = &object.key;
                let kind = if &*key.resource == MUTATING { Kind::Mutating } else { Kind::Validating };
                let hooks = Hook::all_of(kind, &object.value()).into_iter().map(Arc::new).collect();
                configurations.insert((key.resource.clone(), key.name.clone()), hooks);
            }
            Observation::Gone(object) => {
                configurations.remove(&(object.key.resource.clone(), object.key.name.clone()));
            }
        }
        self.0.hooks.store(Arc::new(configurations.values().flatten().cloned().collect()));
    }

    /// The mutating webhooks, in the order they are asked in.
    pub(super) fn mutating(&self) -> Vec<Arc<Hook>> {
        let hooks = self.0.hooks.load();
        hooks.iter().filter(|hook| hook.kind == Kind::Mutating).cloned().collect()
    }

    /// The webhooks of a kind that want to see a request.
    pub(super) fn calls(&self, kind: Kind, request: &Request<'_>, object: Option<&Value>) -> Vec<Call> {
        let hooks = self.0.hooks.load();
        if hooks.is_empty() || is_exempt(request) {
            return Vec::new();
        }
        let labels = namespace_labels(&self.0.store, request, object);
        let registry = self.0.registry.load();
        let wanted = hooks.iter().filter(|hook| hook.kind == kind).filter_map(|hook| {
            let entry = hook.wants(request, object, labels.as_ref(), &registry)?;
            Some(Call { hook: hook.clone(), entry })
        });
        wanted.collect()
    }

    /// What the webhook says; None where it cannot be asked and that does not matter.
    async fn ask(
        &self,
        call: &Call,
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Answer>, Status> {
        let Call { hook, entry } = call;
        let uid = uuid::Uuid::new_v4().to_string();
        let (object, old) = self.0.conversions.both(request.entry, entry, object, request.old).await?;
        let question = review::question(&uid, hook, request, entry, object.as_ref(), old.as_ref());
        let wanted = self.conditions_hold(hook, request, &question["request"]);
        let answer = match wanted {
            Ok(true) => {
                let answer = self.0.client.ask(&hook.endpoint, hook.timeout, &question).await;
                answer.map_err(|why| format!("failed to call webhook: {why}"))
            }
            Ok(false) => return Ok(None),
            Err(why) => Err(why),
        };
        let answer = answer.and_then(|body| Answer::read(hook, &uid, &body));
        match answer {
            Ok(answer) => {
                answer.warnings.iter().for_each(|warning| request.warn(warning));
                answer.annotations.iter().for_each(|(key, value)| request.audit(key, value));
                Ok(Some(answer))
            }
            Err(why) if hook.ignores_failure => {
                tracing::warn!(
                    webhook = hook.name,
                    error = why,
                    "a webhook cannot be asked and is passed over"
                );
                request.audit(format!("failed-open.{}", hook.name), &hook.name);
                Ok(None)
            }
            Err(why) => {
                tracing::warn!(webhook = hook.name, error = why, "a webhook cannot be asked");
                Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
            }
        }
    }

    fn conditions_hold(&self, hook: &Hook, request: &Request<'_>, asked: &Value) -> Result<bool, String> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        hook.conditions.hold(&Inputs {
            object: &asked["object"],
            old: &asked["oldObject"],
            request: asked,
            params: None,
            namespace: &Value::Null,
            authorizer: &Rights { auth: &self.0.auth, actor: request.actor },
        })
    }

    /// Asks one mutating webhook. True: it changed the object.
    pub(super) async fn change(
        &self,
        call: &Call,
        request: &Request<'_>,
        object: &mut Value,
    ) -> Result<bool, Status> {
        let Some(answer) = self.ask(call, request, Some(object)).await? else { return Ok(false) };
        if let Some(refusal) = answer.refusal {
            return Err(refusal);
        }
        let Some(patch) = answer.patch else { return Ok(false) };
        let conversions = &self.0.conversions;
        let shown = conversions.between(request.entry, &call.entry, object).await?;
        let changed = review::patched(&call.entry, &shown, &patch).map_err(|status| {
            Status::internal(format!("webhook {:?}: {}", call.hook.name, status.message))
        })?;
        let mut changed = conversions.between(&call.entry, request.entry, &changed).await?;
        lifecycle::complete(request.entry, &mut changed)?;
        let differs = changed != *object;
        *object = changed;
        Ok(differs)
    }
}

/// Asks the webhooks that may only refuse.
pub struct Validating(pub Webhooks);

impl Rule for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        judge(&self.0, Kind::Validating, request, object)
    }
}

/// Asks all at once; the first refusal in their order counts.
pub(super) fn judge<'a>(
    webhooks: &'a Webhooks,
    kind: Kind,
    request: &'a Request<'_>,
    object: &'a Value,
) -> Outcome<'a> {
    let object = Some(object).filter(|_| request.operation != Operation::Delete);
    let calls = webhooks.calls(kind, request, object);
    if calls.is_empty() {
        return done(Ok(()));
    }
    async move {
        let asked = calls.iter().map(|call| webhooks.ask(call, request, object));
        for answer in futures::future::join_all(asked).await {
            if let Some(refusal) = answer?.and_then(|answer| answer.refusal) {
                return Err(refusal);
            }
        }
        Ok(())
    }
    .boxed()
}
