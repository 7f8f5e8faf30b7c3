//! Expressions of the configuration: CEL over `claims` or `user`.
use anyhow::{Context, Result, ensure};
use pilothouse_api::cel::{Evaluation, Failure, Program, V};
use serde_json::Value;

/// Steps that one expression may take: what Kubernetes lets a rule of a custom kind take.
const BUDGET: u64 = 1_000_000;

#[derive(Debug)]
pub struct Expression(Program);

impl Expression {
    /// Errors: where and why it cannot be read.
    pub fn on_claims(text: &str) -> Result<Self> {
        Self::about("claims", text)
    }

    /// As [`Expression::on_claims`].
    pub fn on_user(text: &str) -> Result<Self> {
        Self::about("user", text)
    }

    fn about(variable: &str, text: &str) -> Result<Self> {
        ensure!(!text.trim().is_empty(), "Required value");
        let program = Program::parse(text).map_err(anyhow::Error::msg);
        let program = program.with_context(|| format!("Invalid value: {text:?}"))?;
        ensure!(program.mentions(variable), "Invalid value: {text:?}: it must be about {variable:?}");
        Ok(Self(program))
    }

    pub fn source(&self) -> &str {
        self.0.source()
    }

    /// Errors: why it has no value for these.
    pub fn evaluate(&self, variable: &str, about: &Value) -> Result<Value, String> {
        let mut evaluation = Evaluation::new(BUDGET);
        evaluation.bind(variable, V::of(about, None));
        match evaluation.run(&self.0) {
            Ok(value) => value.to_json().ok_or_else(|| format!("{:?} gives no JSON", self.source())),
            Err(Failure::Error(why)) => Err(format!("{:?}: {why}", self.source())),
            Err(Failure::Spent) => Err(format!("{:?} takes too long", self.source())),
        }
    }
}
