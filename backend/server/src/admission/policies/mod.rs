//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules in CEL, with their bindings and parameters. What a policy
//! says is the api crate's; here is which policies a request meets, with what, and what follows.
mod index;
mod mutating;
mod parameters;
#[cfg(test)]
mod tests;
mod validating;

pub use index::RESOURCES;
pub use mutating::Mutation;
pub use validating::Validating;

use super::matching::{is_exempt, namespace_labels};
use super::webhooks::review;
use super::{Context, Operation, Request};
use crate::auth::Auth;
use crate::feed::Observation;
use index::{Active, Bound, Index, Sort};
use parking_lot::Mutex;
use pilothouse_api::policy::namespace_object;
use pilothouse_api::{Key, KindEntry, Status};
use serde_json::Value;
use std::sync::Arc;

/// The policies with their bindings. Cheap to clone.
#[derive(Clone)]
pub struct Policies(Arc<Inner>);

struct Inner {
    context: Context,
    auth: Auth,
    index: Mutex<Index>,
    active: Active,
}

/// A policy with one of its bindings, for a request that both are for.
struct Match {
    bound: Arc<Bound>,
    /// In whose shape the policy sees the objects.
    entry: Arc<KindEntry>,
}

/// Why a policy cannot be asked: it, or its binding, is not set up right.
struct Misconfigured {
    policy: String,
    binding: Option<String>,
    why: String,
}

impl Policies {
    pub fn new(context: Context, auth: Auth) -> Self {
        Self(Arc::new(Inner { context, auth, index: Mutex::default(), active: Active::default() }))
    }

    pub fn observe(&self, observation: &Observation) {
        let mut index = self.0.index.lock();
        index.observe(observation);
        self.0.active.store(&index);
    }

    pub fn have_mutations(&self) -> bool {
        !self.0.active.of(Sort::Mutating).is_empty()
    }

    /// How many bound policies there are, for tests.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.active.of(Sort::Mutating).len() + self.0.active.of(Sort::Validating).len()
    }

    /// The bound policies that are for a request.
    fn matches(&self, sort: Sort, request: &Request<'_>, object: Option<&Value>) -> Vec<Match> {
        let all = self.0.active.of(sort);
        if all.is_empty() || is_exempt(request) {
            return Vec::new();
        }
        let labels = namespace_labels(&self.0.context.store, request, object);
        let registry = self.0.context.registry.load();
        let meant = all.iter().filter_map(|bound| {
            let entry = bound.policy.matcher.wants(request, object, labels.as_ref(), &registry)?;
            if let Some(narrower) = &bound.binding.matcher {
                narrower.wants(request, object, labels.as_ref(), &registry)?;
            }
            Some(Match { bound: bound.clone(), entry })
        });
        meant.collect()
    }

    /// `namespaceObject`: Null for what is in no namespace.
    fn namespace(&self, request: &Request<'_>) -> Value {
        if !request.entry.is_namespaced() {
            return Value::Null;
        }
        let namespace = self.0.context.store.get(&Key::new("namespaces", "", request.namespace));
        namespace.map_or(Value::Null, |namespace| namespace_object(&namespace.value()))
    }
}

/// The status that tells of a policy's refusal, with Kubernetes' words around them.
fn refused(request: &Request<'_>, object: Option<&Value>, message: &str) -> Status {
    let name = match (request.name, object.or(request.old)) {
        ("", Some(object)) => match pilothouse_api::meta::name(object) {
            "" => object["metadata"]["generateName"]
                .as_str()
                .filter(|name| !name.is_empty())
                .unwrap_or("Unknown"),
            name => name,
        },
        ("", None) => "Unknown",
        (name, _) => name,
    };
    let mut status = Status::forbidden(&request.entry.resource, name, message);
    status.details.causes.push(pilothouse_api::status::Cause {
        reason: String::new(),
        message: message.to_owned(),
        field: String::new(),
    });
    status
}

/// The object of a request as expressions see it: none for a deletion.
fn shown<'a>(request: &Request<'_>, object: &'a Value) -> Option<&'a Value> {
    Some(object).filter(|_| request.operation != Operation::Delete)
}

fn asked(request: &Request<'_>, entry: &KindEntry, object: Option<&Value>) -> Value {
    review::asked(request, entry, object)
}
