//! What a write must pass before it is stored, besides its kind's own rules: THE LIST of admission rules.
//!
//! A rule is one file and one line. Rules that fill in run in the order of the list, before defaults and validation;
//! rules that only judge run after validation. Both are futures, so that webhooks and quota can join.
mod default_tolerations;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod service_account;
mod service_addresses;

pub use service_addresses::ServiceAddresses;

use crate::objects::Actor;
use crate::state::{ClusterNetwork, SharedRegistry};
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use pilothouse_api::{KindEntry, Status};
use pilothouse_store::{Object, Store};
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
    pending: Pending,
}

/// What a rule took for the object, given back unless the write is committed.
pub trait Reservation: Send + Sync {
    fn keep(self: Box<Self>, store: &Store, written: &Object);
}

/// All reservations of one write; dropping them gives them back.
#[derive(Default)]
pub struct Pending(Mutex<Vec<Box<dyn Reservation>>>);

impl Pending {
    pub fn commit(self, store: &Store, written: &Object) {
        for reservation in self.0.into_inner() {
            reservation.keep(store, written);
        }
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

    /// Whether this creates an object of `resource`, and not something under it.
    pub fn creates(&self, resource: &str) -> bool {
        self.operation == Operation::Create
            && self.subresource.is_empty()
            && *self.entry.resource == *resource
    }

    pub fn hold(&self, reservation: Box<dyn Reservation>) {
        self.pending.0.lock().push(reservation);
    }

    pub fn committed(self, store: &Store, written: &Object) {
        self.pending.commit(store, written);
    }

    pub fn into_pending(self) -> Pending {
        self.pending
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    rules: Arc<Vec<Box<dyn Rule>>>,
}

impl Admission {
    pub fn new(context: &Context, network: &ClusterNetwork, addresses: Arc<ServiceAddresses>) -> Self {
        let rules: Vec<Box<dyn Rule>> = vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle::new(context.clone())),
            Box::new(service_account::ServiceAccount::new(context.clone())),
            Box::new(default_tolerations::DefaultTolerations),
            Box::new(node_restriction::NodeRestriction),
            Box::new(priority::Priority::new(context.clone())),
            Box::new(service_addresses::Allocate::new(addresses, network)),
        ];
        Self { rules: Arc::new(rules) }
    }

    pub async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        for rule in self.rules.iter() {
            rule.mutate(request, object).await?;
        }
        Ok(())
    }

    pub async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        for rule in self.rules.iter() {
            rule.validate(request, object).await?;
        }
        Ok(())
    }
}
