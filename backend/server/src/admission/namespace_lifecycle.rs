//! NamespaceLifecycle: nothing is made in a namespace that is missing or going, and the system's own stay.
use super::{Context, Operation, Outcome, Request, Rule, done};
use pilothouse_api::status::Cause;
use pilothouse_api::{Key, Status};
use serde_json::Value;

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle {
    context: Context,
}

impl NamespaceLifecycle {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Status> {
        let resource = &*request.entry.resource;
        match request.operation {
            Operation::Delete if resource == "namespaces" && IMMORTAL.contains(&request.name) => {
                Err(Status::forbidden(resource, request.name, "this namespace may not be deleted"))
            }
            // Reviews are not stored, so a namespace that is not there does not matter to them.
            Operation::Create
                if request.entry.is_namespaced() && request.entry.group != "authorization.k8s.io" =>
            {
                self.check_namespace(request)
            }
            _ => Ok(()),
        }
    }

    fn check_namespace(&self, request: &Request<'_>) -> Result<(), Status> {
        let name = request.namespace;
        let Some(namespace) = self.context.store.get(&Key::new("namespaces", "", name)) else {
            return Err(Status::not_found("namespaces", name));
        };
        let namespace = namespace.value();
        let going = namespace["metadata"].get("deletionTimestamp").is_some()
            || namespace["status"]["phase"] == "Terminating";
        if !going {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = Status::forbidden(&request.entry.resource, request.name, why);
        status.details.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        });
        Err(status)
    }
}

impl Rule for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    /// Early, so that a missing namespace is told before anything about the object.
    fn mutate<'a>(&'a self, request: &'a Request<'_>, _object: &'a mut Value) -> Outcome<'a> {
        done(self.check(request))
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, _object: &'a Value) -> Outcome<'a> {
        match request.operation {
            Operation::Delete => done(self.check(request)),
            Operation::Create | Operation::Update | Operation::Connect => done(Ok(())),
        }
    }
}
