//! MutatingAdmissionPolicy and MutatingAdmissionWebhook: what may change an object on its way in, one after another; then
//! once more those who want to see what came after them.
use super::policies::{Mutation, Policies};
use super::webhooks::{Call, Kind, Webhooks, judge};
use super::{Operation, Outcome, Request, Rule, done};
use futures::future::FutureExt;
use pilothouse_api::{Status, lifecycle};
use serde_json::Value;
use std::sync::Arc;

pub struct Mutating {
    policies: Policies,
    webhooks: Webhooks,
    /// The rules that look again at what was changed.
    before: Arc<Vec<Box<dyn Rule>>>,
}

/// Who had a turn.
enum Step {
    Policy(Mutation),
    Webhook(Call),
}

impl Mutating {
    pub fn new(policies: Policies, webhooks: Webhooks, before: Arc<Vec<Box<dyn Rule>>>) -> Self {
        Self { policies, webhooks, before }
    }

    async fn run(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let policies = self.policies.mutations(request, object).await?;
        if policies.is_empty() && self.webhooks.calls(Kind::Mutating, request, Some(object)).is_empty() {
            return Ok(());
        }
        lifecycle::complete(request.entry, object)?;
        if request.entry.is_namespaced() && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = request.namespace.into();
        }
        let mut had = Turns::default();
        for policy in policies {
            self.turn(Step::Policy(policy), request, object, &mut had).await?;
        }
        // Each sees what those before it changed, and is chosen by it.
        for hook in self.webhooks.mutating() {
            let calls = self.webhooks.calls(Kind::Mutating, request, Some(object));
            if let Some(call) = calls.into_iter().find(|call| Arc::ptr_eq(&call.hook, &hook)) {
                self.turn(Step::Webhook(call), request, object, &mut had).await?;
            }
        }
        if !had.changed {
            return Ok(());
        }
        let before = object.clone();
        for rule in self.before.iter() {
            rule.mutate(request, object).await?;
        }
        let mut again = *object != before;
        for (step, since) in had.steps {
            if step.is_reinvoked() && (since || again) {
                again |= self.change(&step, request, object).await?;
            }
        }
        Ok(())
    }

    async fn turn(
        &self,
        step: Step,
        request: &Request<'_>,
        object: &mut Value,
        had: &mut Turns,
    ) -> Result<(), Status> {
        if self.change(&step, request, object).await? {
            had.changed = true;
            had.steps.iter_mut().for_each(|(_, since)| *since = true);
        }
        had.steps.push((step, false));
        Ok(())
    }

    async fn change(&self, step: &Step, request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
        match step {
            Step::Policy(policy) => self.policies.change(policy, request, object).await,
            Step::Webhook(call) => self.webhooks.change(call, request, object).await,
        }
    }
}

/// Those who had a turn, and whether the object changed since.
#[derive(Default)]
struct Turns {
    steps: Vec<(Step, bool)>,
    changed: bool,
}

impl Step {
    fn is_reinvoked(&self) -> bool {
        match self {
            Self::Policy(policy) => policy.is_reinvoked(),
            Self::Webhook(call) => call.hook.is_reinvoked,
        }
    }
}

impl Rule for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmission"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        match self.policies.have_mutations() || !self.webhooks.mutating().is_empty() {
            true => self.run(request, object).boxed(),
            false => done(Ok(())),
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
