//! What a write must pass before it is stored, besides its kind's own rules: THE LIST of admission rules.
//!
//! A rule is one file and one line. Rules that fill in run in the order of the list, before defaults and validation;
//! rules that only judge run after validation. Both are futures, so that webhooks and quota can join.
mod certificates;
mod default_ingress_class;
mod default_storage_class;
mod default_tolerations;
mod limit_ranges;
mod matching;
mod mutating;
mod namespace_lifecycle;
mod node_restriction;
mod notes;
mod pod_security;
pub mod policies;
mod priority;
mod rbac_escalation;
mod resource_quotas;
mod rights;
mod runtime_class;
mod service_account;
pub mod service_addresses;
mod storage_protection;
#[cfg(test)]
mod tests;
mod time_zones;
mod volume_resize;
pub mod webhooks;

pub use notes::Notes;
pub use policies::Policies;
pub use priority::SYSTEM_CLASSES;
pub use rights::Rights;
pub use service_addresses::ServiceAddresses;
pub use webhooks::Webhooks;

use crate::auth::Auth;
use crate::conversion::Conversions;
use crate::objects::Actor;
use crate::state::{ClusterNetwork, SharedRegistry};
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use pilothouse_api::{KindEntry, Status};
use pilothouse_store::{Object, Store, Write};
use serde_json::Value;
use std::sync::Arc;

pub type Outcome<'a> = BoxFuture<'a, Result<(), Status>>;

/// What a rule decides at once.
pub fn done<'a>(result: Result<(), Status>) -> Outcome<'a> {
    ready(result).boxed()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`: nothing is written.
    Connect,
}

/// One admission rule.
pub trait Rule: Send + Sync {
    fn name(&self) -> &'static str;

    /// Fills in what the object lacks. The object has not been checked: it may have any shape.
    fn mutate<'a>(&'a self, _request: &'a Request<'_>, _object: &'a mut Value) -> Outcome<'a> {
        done(Ok(()))
    }

    /// Judges the finished object; for a deletion the object that would go.
    fn validate<'a>(&'a self, _request: &'a Request<'_>, _object: &'a Value) -> Outcome<'a> {
        done(Ok(()))
    }
}

/// What rules may look at.
#[derive(Clone)]
pub struct Context {
    pub store: Store,
    pub registry: SharedRegistry,
    pub conversions: Conversions,
}

/// The write that is judged.
pub struct Request<'a> {
    pub operation: Operation,
    pub entry: &'a KindEntry,
    pub actor: &'a Actor,
    pub namespace: &'a str,
    /// Empty while the name is still to be generated.
    pub name: &'a str,
    pub uid: &'a str,
    pub subresource: &'a str,
    pub dry_run: bool,
    pub old: Option<&'a Value>,
    notes: Notes,
    pending: Pending,
}

/// What a rule took for the object, given back unless the write is committed.
pub trait Reservation: Send + Sync {
    fn keep(self: Box<Self>, store: &Store, written: &Object);
}

/// What comes with one write: reservations, which dropping gives back, and writes that are committed with it or not at
/// all.
#[derive(Default)]
pub struct Pending {
    reservations: Mutex<Vec<Box<dyn Reservation>>>,
    writes: Mutex<Vec<Write>>,
}

impl Pending {
    pub fn commit(self, store: &Store, written: &Object) {
        for reservation in self.reservations.into_inner() {
            reservation.keep(store, written);
        }
    }

    /// They come after the object's own write, so that no view holds them without it.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.writes.lock())
    }
}

impl<'a> Request<'a> {
    pub fn new(operation: Operation, entry: &'a KindEntry, actor: &'a Actor) -> Self {
        Self {
            operation,
            entry,
            actor,
            namespace: "",
            name: "",
            uid: "",
            subresource: "",
            dry_run: false,
            old: None,
            notes: Notes::default(),
            pending: Pending::default(),
        }
    }

    #[must_use]
    pub fn of(mut self, namespace: &'a str, name: &'a str, uid: &'a str) -> Self {
        (self.namespace, self.name, self.uid) = (namespace, name, uid);
        self
    }

    #[must_use]
    pub fn subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }

    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    #[must_use]
    pub fn changing(mut self, old: &'a Value) -> Self {
        self.old = Some(old);
        self
    }

    #[must_use]
    pub fn noting(mut self, notes: &Notes) -> Self {
        self.notes = notes.clone();
        self
    }

    /// Tells the client.
    pub fn warn(&self, warning: impl Into<String>) {
        self.notes.warn(warning);
    }

    /// Tells the audit log.
    pub fn audit(&self, key: impl Into<String>, value: impl Into<String>) {
        self.notes.annotate(key, value);
    }

    /// Whether this creates an object of `resource`, and not something under it.
    pub fn creates(&self, resource: &str) -> bool {
        self.operation == Operation::Create
            && self.subresource.is_empty()
            && *self.entry.resource == *resource
    }

    pub fn hold(&self, reservation: Box<dyn Reservation>) {
        self.pending.reservations.lock().push(reservation);
    }

    /// Writes `write` together with the object.
    pub fn write_too(&self, write: Write) {
        self.pending.writes.lock().push(write);
    }

    pub fn into_pending(self) -> Pending {
        self.pending
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    /// Those that run again on what a webhook changed.
    first: Arc<Vec<Box<dyn Rule>>>,
    then: Arc<Vec<Box<dyn Rule>>>,
}

impl Admission {
    pub fn new(
        context: &Context,
        network: &ClusterNetwork,
        addresses: Arc<ServiceAddresses>,
        webhooks: Webhooks,
        policies: Policies,
        auth: &Auth,
    ) -> Self {
        let first: Vec<Box<dyn Rule>> = vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle::new(context.clone())),
            Box::new(limit_ranges::LimitRanges::new(context.clone())),
            Box::new(service_account::ServiceAccount::new(context.clone())),
            Box::new(default_tolerations::DefaultTolerations),
            Box::new(default_ingress_class::DefaultIngressClass::new(context.clone())),
            Box::new(default_storage_class::DefaultStorageClass::new(context.clone())),
            Box::new(storage_protection::StorageProtection),
            Box::new(volume_resize::VolumeResize::new(context.clone())),
            Box::new(node_restriction::NodeRestriction),
            Box::new(time_zones::TimeZones),
            Box::new(priority::Priority::new(context.clone())),
            Box::new(runtime_class::RuntimeClass::new(context.clone())),
            Box::new(pod_security::PodSecurity::new(context.clone())),
            Box::new(certificates::Certificates::new(auth.clone())),
            Box::new(rbac_escalation::RbacEscalation::new(context.clone(), auth.clone())),
        ];
        let first = Arc::new(first);
        let then: Vec<Box<dyn Rule>> = vec![
            Box::new(mutating::Mutating::new(policies.clone(), webhooks.clone(), first.clone())),
            Box::new(service_addresses::Allocate::new(addresses, network)),
            Box::new(policies::Validating(policies)),
            Box::new(webhooks::Validating(webhooks)),
            // Last: what it counts must not be refused by anybody after it.
            Box::new(resource_quotas::ResourceQuotas::new(context.clone())),
        ];
        Self { first, then: Arc::new(then) }
    }

    fn rules(&self) -> impl Iterator<Item = &dyn Rule> {
        self.first.iter().chain(self.then.iter()).map(Box::as_ref)
    }

    pub async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        for rule in self.rules() {
            rule.mutate(request, object).await?;
        }
        Ok(())
    }

    pub async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        for rule in self.rules() {
            rule.validate(request, object).await?;
        }
        Ok(())
    }
}
