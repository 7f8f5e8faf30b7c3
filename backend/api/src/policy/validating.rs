//! A ValidatingAdmissionPolicy: what it says of one request.
use super::{Compiled, Conditions, Inputs, POLICY_BUDGET, Stop, Variable, evaluate, list, text, variables};
use crate::cel::{Program, V};
use crate::status::Reason;
use serde_json::Value;

/// Longer messages of expressions are not told.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

pub struct ValidatingPolicy {
    pub has_params: bool,
    ignores_failure: bool,
    variables: Vec<Variable>,
    conditions: Conditions,
    validations: Vec<Validation>,
    annotations: Vec<Annotation>,
}

struct Validation {
    program: Compiled,
    source: String,
    message: String,
    message_program: Option<Compiled>,
    reason: Reason,
}

struct Annotation {
    key: String,
    source: String,
    program: Compiled,
}

/// What the policy has against a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub message: String,
    pub reason: Reason,
    /// Which of the validations.
    pub index: usize,
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub denials: Vec<Denial>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
    /// Annotations that could not be computed: they refuse the request whatever the binding's actions are.
    pub failures: Vec<String>,
}

impl ValidatingPolicy {
    pub fn new(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let validations = list(&spec["validations"]).map(|of| Validation {
            program: Program::parse(text(of, "expression")),
            source: text(of, "expression").trim().to_owned(),
            message: text(of, "message").trim().to_owned(),
            message_program: of["messageExpression"].as_str().map(Program::parse),
            reason: match of["reason"].as_str() {
                Some("Unauthorized") => Reason::Unauthorized,
                Some("Forbidden") => Reason::Forbidden,
                Some("RequestEntityTooLarge") => Reason::RequestEntityTooLarge,
                _ => Reason::Invalid,
            },
        });
        let annotations = list(&spec["auditAnnotations"]).map(|of| Annotation {
            key: text(of, "key").to_owned(),
            source: text(of, "valueExpression").to_owned(),
            program: Program::parse(text(of, "valueExpression").trim()),
        });
        Self {
            has_params: spec["paramKind"].is_object(),
            ignores_failure: spec["failurePolicy"] == "Ignore",
            variables: variables(spec),
            conditions: Conditions::new(&spec["matchConditions"]),
            validations: validations.collect(),
            annotations: annotations.collect(),
        }
    }

    pub fn ignores_failure(&self) -> bool {
        self.ignores_failure
    }

    pub fn judge(&self, inputs: &Inputs<'_>) -> Verdict {
        match self.conditions.hold(inputs) {
            Ok(true) => {}
            Ok(false) => return Verdict::default(),
            Err(why) => return self.failed(why),
        }
        let mut evaluation = inputs.evaluation(POLICY_BUDGET, &self.variables);
        let mut verdict = Verdict::default();
        for (index, validation) in self.validations.iter().enumerate() {
            let denial = match evaluate(&mut evaluation, &validation.program) {
                Ok(V::Bool(true)) => continue,
                Ok(_) => {
                    let computed = validation.message_program.as_ref();
                    let computed = computed.map(|message| evaluate(&mut evaluation, message));
                    match computed {
                        Some(Err(stop @ Stop::Budget)) => {
                            let why = format!("failed messageExpression: {}", stop.message());
                            return self.failed(why);
                        }
                        Some(Ok(V::String(text))) => (validation.told(&text), validation.reason),
                        _ => (validation.told(""), validation.reason),
                    }
                }
                Err(stop @ Stop::Budget) => return self.failed(stop.message()),
                Err(_) if self.ignores_failure => continue,
                Err(stop) => (stop.message(), Reason::Invalid),
            };
            verdict.denials.push(Denial { message: denial.0, reason: denial.1, index });
        }
        self.annotate(inputs, &mut verdict);
        verdict
    }

    /// Annotations have a budget of their own.
    fn annotate(&self, inputs: &Inputs<'_>, verdict: &mut Verdict) {
        let mut evaluation = inputs.evaluation(POLICY_BUDGET, &self.variables);
        for annotation in &self.annotations {
            let failure = match evaluate(&mut evaluation, &annotation.program) {
                Ok(V::Null) => continue,
                Ok(V::String(text)) => {
                    if !text.trim().is_empty() {
                        verdict.annotations.push((annotation.key.clone(), text.trim().to_owned()));
                    }
                    continue;
                }
                Ok(other) => format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string \
                     or null.",
                    annotation.source,
                    other.type_name()
                ),
                Err(stop) => stop.message(),
            };
            if !self.ignores_failure {
                verdict.failures.push(failure);
            }
        }
    }

    fn failed(&self, message: String) -> Verdict {
        let denial = Denial { message, reason: Reason::Invalid, index: 0 };
        Verdict {
            denials: if self.ignores_failure { Vec::new() } else { vec![denial] },
            ..Verdict::default()
        }
    }
}

impl Validation {
    fn told(&self, computed: &str) -> String {
        let computed = computed.trim();
        let fits = !computed.is_empty() && computed.len() <= MAX_MESSAGE_BYTES && !computed.contains('\n');
        match (fits, self.message.is_empty()) {
            (true, _) => computed.to_owned(),
            (false, false) => self.message.clone(),
            (false, true) => format!("failed expression: {}", self.source),
        }
    }
}
