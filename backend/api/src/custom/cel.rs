//! `x-kubernetes-validations`: rules in the Common Expression Language.
use super::schema::Schema;
use crate::validation::{FieldErrors, Path};
use serde_json::Value;

#[derive(Debug)]
pub struct Rule {
    pub rule: String,
}

impl Rule {
    pub fn new(json: &Value) -> Self {
        Self { rule: json["rule"].as_str().unwrap_or_default().to_owned() }
    }
}

pub fn check(_schema: &Schema, _object: &Value, _old: Option<&Value>, _errors: &mut FieldErrors) {}

pub fn validate_rules(_schema: &Schema, _json: &Value, _path: &Path, _errors: &mut FieldErrors) {}
