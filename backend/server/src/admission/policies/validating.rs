//! Judging a request by the ValidatingAdmissionPolicies that are for it.
use super::super::{Outcome, Rights, Rule, done};
use super::index::{Program, Sort};
use super::{Match, Misconfigured, Policies, Request, asked, refused, shown};
use futures::future::FutureExt;
use pilothouse_api::policy::{Denial, Inputs, Verdict};
use pilothouse_api::{Reason, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Longer annotations are cut, as in Kubernetes.
const MAX_ANNOTATION_BYTES: usize = 10 * 1024;
const FAILURE_KEY: &str = "validation.policy.admission.k8s.io/validation_failure";

pub struct Validating(pub Policies);

impl Rule for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        let matches = self.0.matches(Sort::Validating, request, shown(request, object));
        if matches.is_empty() {
            return done(Ok(()));
        }
        async move { self.0.judge(&matches, request, shown(request, object)).await }.boxed()
    }
}

/// What all policies together have against a request.
#[derive(Default)]
struct Findings {
    /// Policy and binding, message and reason: the first is told.
    refusals: Vec<(String, Reason)>,
    /// By policy and key: the distinct values of its bindings.
    annotations: BTreeMap<String, Vec<String>>,
}

impl Policies {
    async fn judge(
        &self,
        matches: &[Match],
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<(), Status> {
        let namespace = self.namespace(request);
        let mut findings = Findings::default();
        for found in matches {
            let bound = &found.bound;
            let params = match self.parameters(bound, request.namespace).await {
                Ok(params) => params,
                Err(_) if bound.policy.program.ignores_failure() => continue,
                Err(wrong) => {
                    findings.refusals.push((misconfigured(&wrong), Reason::Invalid));
                    continue;
                }
            };
            let conversions = &self.0.context.conversions;
            let (object, old) = conversions.both(request.entry, &found.entry, object, request.old).await?;
            let asked = asked(request, &found.entry, object.as_ref());
            let Program::Validating(policy) = &bound.policy.program else { continue };
            let rights = Rights { auth: &self.0.auth, actor: request.actor };
            for params in &params {
                let verdict = policy.judge(&Inputs {
                    object: object.as_ref().unwrap_or(&Value::Null),
                    old: old.as_ref().unwrap_or(&Value::Null),
                    request: &asked,
                    params: policy.has_params.then_some(params),
                    namespace: &namespace,
                    authorizer: &rights,
                });
                findings.add(found, verdict, request);
            }
        }
        for (key, values) in findings.annotations {
            request.audit(key, values.join(", "));
        }
        match findings.refusals.into_iter().next() {
            None => Ok(()),
            Some((message, reason)) => {
                let mut status = refused(request, object, &message);
                status.reason = reason;
                Err(status)
            }
        }
    }
}

fn misconfigured(wrong: &Misconfigured) -> String {
    let Misconfigured { policy, binding, why } = wrong;
    match binding {
        Some(binding) => denied(policy, binding, &format!("failed to configure binding: {why}")),
        None => {
            format!("ValidatingAdmissionPolicy '{policy}' denied request: failed to configure policy: {why}")
        }
    }
}

fn denied(policy: &str, binding: &str, why: &str) -> String {
    format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {why}")
}

impl Findings {
    fn add(&mut self, found: &Match, verdict: Verdict, request: &Request<'_>) {
        let (policy, binding) = (&found.bound.policy.name, &found.bound.binding);
        for denial in verdict.denials {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => {
                        let message = denied(policy, &binding.name, &denial.message);
                        self.refusals.push((message, denial.reason));
                    }
                    "Warn" => request.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{}': {}",
                        binding.name, denial.message
                    )),
                    _ => request.audit(FAILURE_KEY, failure(found, &denial).to_string()),
                }
            }
        }
        for why in verdict.failures {
            self.refusals.push((denied(policy, &binding.name, &why), Reason::Invalid));
        }
        for (key, mut value) in verdict.annotations {
            let end =
                (0..=MAX_ANNOTATION_BYTES.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
            value.truncate(end.unwrap_or(0));
            let values = self.annotations.entry(format!("{policy}/{key}")).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
}

/// For the audit log.
fn failure(found: &Match, denial: &Denial) -> Value {
    let binding = &found.bound.binding;
    json!([{
        "message": denial.message, "policy": found.bound.policy.name, "binding": binding.name,
        "expressionIndex": denial.index, "validationActions": binding.actions,
    }])
}
