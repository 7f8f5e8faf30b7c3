//! ResourceQuota: what all of a namespace may use together. After
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.
//!
//! What an object uses is charged to its quotas in the very write that makes it: two writers, on two servers even, never
//! overrun a quota between them. What goes is counted back by the quota controller.
use super::{Context, Operation, Outcome, Request, Reservation, Rule, done};
use futures::future::FutureExt;
use parking_lot::Mutex;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::usage::{self, Amounts, Inventory};
use pilothouse_api::{Status, meta};
use pilothouse_store::{Object, Store, Write};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

const QUOTAS: &str = "resourcequotas";
/// How long a write waits for those before it in its namespace.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Resources of pods that every container must name where a quota counts them.
const COMPUTE: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

pub struct ResourceQuotas {
    context: Context,
    /// One write at a time in a namespace with quotas: each would make the others' charge stale.
    turns: Mutex<HashMap<String, Weak<Turn<()>>>>,
}

/// Held until the write is done.
struct Held(#[allow(dead_code)] OwnedMutexGuard<()>);

impl Reservation for Held {
    fn keep(self: Box<Self>, _store: &Store, _written: &Object) {}
}

impl ResourceQuotas {
    pub fn new(context: Context) -> Self {
        Self { context, turns: Mutex::default() }
    }

    fn turn(&self, namespace: &str) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(namespace).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
        turn
    }

    fn counts(&self, request: &Request<'_>) -> bool {
        request.entry.is_namespaced()
            && matches!(
                (request.operation, &*request.entry.resource, request.subresource),
                (Operation::Create, _, "")
                    | (Operation::Update, "pods", "resize")
                    | (Operation::Update, "services" | "persistentvolumeclaims", "")
            )
    }

    /// The quotas that count objects like this one.
    fn quotas(&self, request: &Request<'_>, object: &Value) -> Vec<(Arc<Object>, Value)> {
        let resource = &*request.entry.resource;
        let all = self.context.store.list(QUOTAS, Some(request.namespace)).objects;
        let all = all.into_iter().map(|quota| {
            let value = quota.value();
            (quota, value)
        });
        let counts = |(_, quota): &(Arc<Object>, Value)| {
            let spec = &quota["spec"];
            let mut names = spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            names.any(|name| usage::counted_in(name) == Some(resource))
                && usage::in_scope(spec, resource, object)
        };
        all.filter(counts).collect()
    }

    async fn charge(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        if self.quotas(request, object).is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        let resource = &*request.entry.resource;
        let mut usage = usage::of_object(resource, object, now);
        if let Some(old) = request.old {
            for (name, before) in usage::of_object(resource, old, now) {
                usage.entry(name).and_modify(|amount| *amount = amount.minus(before));
            }
        }
        usage.retain(|_, amount| !amount.is_zero());
        if usage.is_empty() {
            return Ok(());
        }
        let turn = self.turn(request.namespace);
        let late = || Status::internal("resource quota evaluation timed out");
        let held = tokio::time::timeout(TURN_TIMEOUT, turn.lock_owned()).await.map_err(|_| late())?;
        for (stored, quota) in self.quotas(request, object) {
            let Some(charged) = self.charged(request, object, quota, &usage, now)? else { continue };
            if !request.dry_run {
                let key = stored.key.clone();
                request.write_too(Write::Update { key, object: charged, expected: stored.revision });
            }
        }
        request.hold(Box::new(Held(held)));
        Ok(())
    }

    /// The quota with the object's usage in it; None where the object takes nothing of it. Errors: Forbidden for an object
    /// that does not fit.
    fn charged(
        &self,
        request: &Request<'_>,
        object: &Value,
        mut quota: Value,
        usage: &Amounts,
        now: Timestamp,
    ) -> Result<Option<Value>, Status> {
        let resource = &*request.entry.resource;
        let spec = &quota["spec"];
        let forbidden = |why: String| Status::forbidden(resource, meta::name(object), why);
        let name = meta::name(&quota).to_owned();
        if resource == "pods" {
            let missing = missing_compute(&spec["hard"], &object["spec"]);
            if !missing.is_empty() {
                return Err(forbidden(format!("failed quota: {name}: must specify {missing}")));
            }
        }
        let asked = usage::within(&spec["hard"], usage);
        if asked.is_empty() {
            return Ok(None);
        }
        let hard = usage::amounts(&spec["hard"]);
        let mut used = usage::amounts(&quota["status"]["used"]);
        if !hard.keys().all(|name| used.contains_key(name)) {
            // The quota is new, or has other names than before: it is counted here.
            used = usage::of_quota(spec, &self.inventory(request.namespace), now);
        }
        let mut exceeded = BTreeSet::new();
        for (name, amount) in &asked {
            let total = used.get(name).copied().unwrap_or(Quantity::ZERO).plus(*amount);
            if !amount.is_negative() && hard.get(name).is_some_and(|limit| total > *limit) {
                exceeded.insert(name.as_str());
            }
        }
        if !exceeded.is_empty() {
            let told = |amounts: &Amounts| {
                let zero = Quantity::ZERO;
                let each =
                    exceeded.iter().map(|name| format!("{name}={}", amounts.get(*name).unwrap_or(&zero)));
                each.collect::<Vec<_>>().join(",")
            };
            return Err(forbidden(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                told(&asked),
                told(&used),
                told(&hard)
            )));
        }
        for (name, amount) in &asked {
            let slot = used.entry(name.clone()).or_insert(Quantity::ZERO);
            let total = slot.plus(*amount);
            *slot = if total.is_negative() { Quantity::ZERO } else { total };
        }
        used.retain(|name, _| hard.contains_key(name));
        let hard = spec["hard"].clone();
        quota["status"] = serde_json::json!({"hard": hard, "used": usage::printed(&used)});
        Ok(Some(quota))
    }

    fn inventory(&self, namespace: &str) -> InStore<'_> {
        InStore { store: &self.context.store, namespace: namespace.to_owned() }
    }
}

struct InStore<'a> {
    store: &'a Store,
    namespace: String,
}

impl Inventory for InStore<'_> {
    fn count(&self, resource: &str) -> usize {
        self.store.list(resource, Some(&self.namespace)).objects.len()
    }

    fn objects(&self, resource: &str) -> Vec<Arc<Value>> {
        let objects = self.store.list(resource, Some(&self.namespace)).objects;
        objects.iter().map(|object| Arc::new(object.value())).collect()
    }
}

/// `limits.cpu for: a,b; requests.memory for: a`: what containers must say because it is counted.
fn missing_compute(hard: &Value, spec: &Value) -> String {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in COMPUTE.iter().filter(|name| hard.get(**name).is_some()) {
        let (field, resource) = match name.split_once('.') {
            Some((field, resource)) => (field, resource),
            None => ("requests", *name),
        };
        if spec["resources"][field].get(resource).is_some() {
            continue;
        }
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                if container["resources"][field].get(resource).is_none() {
                    missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
                }
            }
        }
    }
    let told = missing.into_iter().map(|(name, containers)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    told.collect::<Vec<_>>().join("; ")
}

impl Rule for ResourceQuotas {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        match self.counts(request) {
            true => self.charge(request, object).boxed(),
            false => done(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_counted_must_be_said() {
        let spec =
            json!({"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]});
        let hard = json!({"limits.cpu": "1", "cpu": "1", "pods": "3"});
        assert_eq!(missing_compute(&hard, &spec), "cpu for: a,b; limits.cpu for: b");
        assert_eq!(missing_compute(&json!({"pods": "3"}), &spec), "");
        let whole = json!({"resources": {"limits": {"cpu": "1"}}, "containers": [{"name": "b"}]});
        assert_eq!(missing_compute(&json!({"limits.cpu": "1"}), &whole), "");
    }
}
