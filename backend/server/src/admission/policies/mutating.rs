//! Changing an object by the MutatingAdmissionPolicies that are for it.
use super::super::Rights;
use super::index::{Program, Sort};
use super::{Match, Misconfigured, Policies, Request, asked, refused};
use pilothouse_api::policy::Inputs;
use pilothouse_api::{KindEntry, Reason, Status, lifecycle};
use serde_json::Value;

/// One policy with one binding and one of its parameters, for a request.
pub struct Mutation {
    found: Match,
    params: Value,
}

impl Mutation {
    pub fn is_reinvoked(&self) -> bool {
        matches!(&self.found.bound.policy.program, Program::Mutating(policy) if policy.is_reinvoked)
    }
}

impl Policies {
    /// All that are for the object as it comes. Errors: one is not set up right, and must not be passed over.
    pub async fn mutations(&self, request: &Request<'_>, object: &Value) -> Result<Vec<Mutation>, Status> {
        let mut mutations = Vec::new();
        for found in self.matches(Sort::Mutating, request, Some(object)) {
            match self.parameters(&found.bound, request.namespace).await {
                Ok(all) => mutations.extend(all.into_iter().map(|params| {
                    let found = Match { bound: found.bound.clone(), entry: found.entry.clone() };
                    Mutation { found, params }
                })),
                Err(_) if found.bound.policy.program.ignores_failure() => {}
                Err(wrong) => return Err(told(request, object, misconfigured(&wrong))),
            }
        }
        Ok(mutations)
    }

    /// True: the object changed.
    pub async fn change(
        &self,
        mutation: &Mutation,
        request: &Request<'_>,
        object: &mut Value,
    ) -> Result<bool, Status> {
        let entry = &mutation.found.entry;
        let conversions = &self.0.context.conversions;
        let (seen, old) = conversions.both(request.entry, entry, Some(object), request.old).await?;
        let (mut seen, old) = (seen.unwrap_or_default(), old.unwrap_or_default());
        let before = seen.clone();
        self.apply(mutation, request, entry, &old, &mut seen)?;
        if seen == before {
            return Ok(false);
        }
        let mut changed = conversions.between(entry, request.entry, &seen).await?;
        lifecycle::complete(request.entry, &mut changed)?;
        let differs = changed != *object;
        *object = changed;
        Ok(differs)
    }

    fn apply(
        &self,
        mutation: &Mutation,
        request: &Request<'_>,
        entry: &KindEntry,
        old: &Value,
        object: &mut Value,
    ) -> Result<(), Status> {
        let Match { bound, .. } = &mutation.found;
        let Program::Mutating(policy) = &bound.policy.program else { return Ok(()) };
        let (asked, namespace) = (asked(request, entry, Some(object)), self.namespace(request));
        let inputs = Inputs {
            object: &Value::Null,
            old,
            request: &asked,
            params: policy.has_params.then_some(&mutation.params),
            namespace: &namespace,
            authorizer: &Rights { auth: &self.0.auth, actor: request.actor },
        };
        let failures = policy.mutate(entry, &inputs, object);
        match failures.first() {
            Some(why) if !policy.ignores_failure() => {
                let (policy, binding) = (&bound.policy.name, &bound.binding.name);
                let why = format!("policy '{policy}' with binding '{binding}' denied request: {why}");
                Err(Status { reason: Reason::Invalid, ..told(request, object, why) })
            }
            _ => Ok(()),
        }
    }
}

/// Unlike that of a validating policy it stands without the words around it.
fn told(request: &Request<'_>, object: &Value, why: String) -> Status {
    Status { message: why.clone(), ..refused(request, Some(object), &why) }
}

fn misconfigured(wrong: &Misconfigured) -> String {
    let Misconfigured { policy, binding, why } = wrong;
    match binding {
        Some(binding) => {
            format!(
                "policy '{policy}' with binding '{binding}' denied request: failed to configure binding: {why}"
            )
        }
        None => format!("policy {policy:?} denied request: failed to configure policy: {why}"),
    }
}
