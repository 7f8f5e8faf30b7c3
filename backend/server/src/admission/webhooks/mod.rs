//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: services outside have their say. After
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.
mod client;
mod conditions;
mod hook;
mod review;
#[cfg(test)]
mod tests;

use super::{Operation, Outcome, Request, Rule, done};
use crate::feed::Observation;
use crate::node_hub::Hub;
use crate::state::SharedRegistry;
use arc_swap::ArcSwap;
use client::Client;
use futures::future::FutureExt;
use hook::{Hook, Kind};
use parking_lot::Mutex;
use pilothouse_api::{Key, KindEntry, Status, lifecycle};
use pilothouse_store::Store;
use review::Answer;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
pub const RESOURCES: &[&str] = &[MUTATING, VALIDATING];
/// No webhook judges what admission itself stands on: nobody could remove a broken one.
const OWN_GROUP: &str = "admissionregistration.k8s.io";
/// Questions that are answered on the spot, and stored nowhere.
const REVIEWS: &[&str] = &["authorization.k8s.io", "authentication.k8s.io"];

/// The configured webhooks, and the way to them. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

/// Resource and name.
type ConfigurationName = (Arc<str>, Arc<str>);

struct Inner {
    store: Store,
    registry: SharedRegistry,
    client: Client,
    /// In the order they are asked in.
    configurations: Mutex<BTreeMap<ConfigurationName, Vec<Arc<Hook>>>>,
    hooks: ArcSwap<Vec<Arc<Hook>>>,
}

/// One webhook with what it sees.
struct Call {
    hook: Arc<Hook>,
    entry: Arc<KindEntry>,
}

impl Webhooks {
    pub fn new(store: Store, registry: SharedRegistry) -> Self {
        let client = Client::new(store.clone());
        let configurations = Mutex::default();
        Self(Arc::new(Inner { store, registry, client, configurations, hooks: ArcSwap::default() }))
    }

    pub fn connect_through(&self, hub: Hub) {
        self.0.client.connect_through(hub);
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

    /// The webhooks of a kind that want to see a request.
    fn calls(&self, kind: Kind, request: &Request<'_>, object: Option<&Value>) -> Vec<Call> {
        let hooks = self.0.hooks.load();
        let group = request.entry.group.as_str();
        if hooks.is_empty() || group == OWN_GROUP || REVIEWS.contains(&group) {
            return Vec::new();
        }
        let labels = self.namespace_labels(request, object);
        let registry = self.0.registry.load();
        let wanted = hooks.iter().filter(|hook| hook.kind == kind).filter_map(|hook| {
            let entry = hook.wants(request, object, labels.as_ref(), &registry)?;
            Some(Call { hook: hook.clone(), entry })
        });
        wanted.collect()
    }

    /// Of the namespace a request is about; None where it is about none.
    fn namespace_labels(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Option<BTreeMap<String, String>> {
        if &*request.entry.resource == "namespaces" {
            let labels = object.or(request.old)?["metadata"]["labels"].as_object();
            let labels = labels.into_iter().flatten();
            return Some(
                labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            );
        }
        if !request.entry.is_namespaced() {
            return None;
        }
        let namespace = self.0.store.get(&Key::new("namespaces", "", request.namespace));
        Some(namespace.map(|namespace| namespace.labels.clone()).unwrap_or_default())
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
        let shape = |object: &Value| converted(request.entry, entry, object);
        let (object, old) = (object.map(shape), request.old.map(shape));
        let question = review::question(&uid, hook, request, entry, object.as_ref(), old.as_ref());
        let wanted =
            if hook.conditions.is_empty() { Ok(true) } else { hook.conditions.hold(&question["request"]) };
        let answer = match wanted {
            Ok(true) => self.0.client.ask(hook, &question).await,
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

    /// Asks one mutating webhook. True: it changed the object.
    async fn change(&self, call: &Call, request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
        let Some(answer) = self.ask(call, request, Some(object)).await? else { return Ok(false) };
        if let Some(refusal) = answer.refusal {
            return Err(refusal);
        }
        let Some(patch) = answer.patch else { return Ok(false) };
        let shown = converted(request.entry, &call.entry, object);
        let changed = review::patched(&call.entry, &shown, &patch).map_err(|status| {
            Status::internal(format!("webhook {:?}: {}", call.hook.name, status.message))
        })?;
        let mut changed = converted(&call.entry, request.entry, &changed);
        lifecycle::complete(request.entry, &mut changed)?;
        let differs = changed != *object;
        *object = changed;
        Ok(differs)
    }
}

/// An object in the shape of another version of its kind.
fn converted(from: &KindEntry, to: &KindEntry, object: &Value) -> Value {
    let mut object = object.clone();
    if from.version != to.version || from.group != to.group {
        from.rules.to_stored(&mut object);
        to.rules.from_stored(&mut object);
        object["apiVersion"] = to.api_version().into();
        object["kind"] = to.kind.as_str().into();
    }
    object
}

/// Asks the webhooks that may change what comes in.
pub struct Mutating {
    webhooks: Webhooks,
    /// The rules that look again at what a webhook changed.
    before: Arc<Vec<Box<dyn Rule>>>,
}

impl Mutating {
    pub fn new(webhooks: Webhooks, before: Arc<Vec<Box<dyn Rule>>>) -> Self {
        Self { webhooks, before }
    }

    async fn run(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        if self.webhooks.calls(Kind::Mutating, request, Some(object)).is_empty() {
            return Ok(());
        }
        lifecycle::complete(request.entry, object)?;
        if request.entry.is_namespaced() && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = request.namespace.into();
        }
        let mut changed_after: Vec<(Call, bool)> = Vec::new();
        // Each sees what those before it changed, and is chosen by it.
        let hooks = self.webhooks.0.hooks.load_full();
        let mut any = false;
        for hook in hooks.iter().filter(|hook| hook.kind == Kind::Mutating) {
            let calls = self.webhooks.calls(Kind::Mutating, request, Some(object));
            let Some(call) = calls.into_iter().find(|call| Arc::ptr_eq(&call.hook, hook)) else { continue };
            let changed = self.webhooks.change(&call, request, object).await?;
            if changed {
                any = true;
                changed_after.iter_mut().for_each(|(_, since)| *since = true);
            }
            changed_after.push((call, false));
        }
        if !any {
            return Ok(());
        }
        let before = object.clone();
        for rule in self.before.iter() {
            rule.mutate(request, object).await?;
        }
        let rules_changed = *object != before;
        let mut again = rules_changed;
        for (call, since) in changed_after {
            if call.hook.is_reinvoked && (since || again) {
                again |= self.webhooks.change(&call, request, object).await?;
            }
        }
        Ok(())
    }
}

impl Rule for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        match self.webhooks.0.hooks.load().is_empty() {
            true => done(Ok(())),
            false => self.run(request, object).boxed(),
        }
    }

    /// A deletion changes nothing, but these webhooks may refuse it too.
    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        if !matches!(request.operation, Operation::Delete | Operation::Connect) {
            return done(Ok(()));
        }
        judge(&self.webhooks, Kind::Mutating, request, object)
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
fn judge<'a>(webhooks: &'a Webhooks, kind: Kind, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
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
