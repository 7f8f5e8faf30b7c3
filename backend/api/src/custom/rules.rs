//! `x-kubernetes-validations`: what a schema's rules say of an object, and what a definition's rules must be.
mod costs;

pub use costs::validate_costs;

use super::schema::{Additional, List, Schema};
use super::validate::old_item;
use crate::cel::{Evaluation, Failure, Program, Scope, Type, V};
use crate::json_path::JsonPath;
use crate::validation::{FieldError, FieldErrorKind, FieldErrors, Path};
use serde_json::Value;

/// Kubernetes' limits of runtime cost: of one rule, and of all rules of one object. A unit is about one step.
const RULE_BUDGET: u64 = 1_000_000;
const OBJECT_BUDGET: u64 = 10_000_000;

/// One rule of a schema.
#[derive(Debug)]
pub struct Rule {
    source: String,
    program: Option<Program>,
    message: String,
    message_expression: Option<Program>,
    reason: FieldErrorKind,
    field_path: Option<JsonPath>,
    /// A rule about a change: it says nothing of a new object, unless `optionalOldSelf`.
    uses_old_self: bool,
    optional_old_self: bool,
}

impl Rule {
    pub fn new(json: &Value) -> Self {
        let text = |field: &str| json[field].as_str().unwrap_or_default().trim().to_owned();
        let program = Program::parse(&text("rule")).ok();
        Self {
            uses_old_self: program.as_ref().is_some_and(|rule| rule.mentions("oldSelf")),
            program,
            message: text("message"),
            message_expression: json["messageExpression"].as_str().and_then(|text| Program::parse(text).ok()),
            reason: match json["reason"].as_str() {
                Some("FieldValueForbidden") => FieldErrorKind::Forbidden,
                Some("FieldValueRequired") => FieldErrorKind::Required,
                Some("FieldValueDuplicate") => FieldErrorKind::Duplicate,
                _ => FieldErrorKind::Invalid,
            },
            field_path: json["fieldPath"].as_str().and_then(|path| JsonPath::parse(path).ok()),
            optional_old_self: json["optionalOldSelf"] == true,
            source: text("rule"),
        }
    }

    /// What Kubernetes calls a rule in messages.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }
}

/// What the rules of the schema say of an object. What did not change is let pass, unless a rule is about changes.
pub fn check(schema: &Schema, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let mut walk = Walk { errors, budget: OBJECT_BUDGET };
    // Out of budget there is an error already.
    let _ = walk.visit(schema, object, old, &Path::default());
}

struct Walk<'a> {
    errors: &'a mut FieldErrors,
    budget: u64,
}

/// The budget is spent.
struct Spent;

impl Walk<'_> {
    fn visit(
        &mut self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
    ) -> Result<(), Spent> {
        if value.is_null() || !schema.has_rules() {
            return Ok(());
        }
        for rule in &schema.rules {
            self.judge(schema, rule, value, old, path)?;
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let (schema, path) = match (schema.properties.get(name), &schema.additional) {
                        (Some(schema), _) => (schema, path.child(name)),
                        (None, Some(Additional::Of(schema))) => (&**schema, path.key(name)),
                        _ => continue,
                    };
                    self.visit(schema, value, old.and_then(|old| old.get(name)), &path)?;
                }
            }
            Value::Array(items) => {
                let Some(of) = schema.items.as_deref() else { return Ok(()) };
                for (index, item) in items.iter().enumerate() {
                    let old = match schema.list {
                        List::Map(_) => old_item(&schema.list, item, index, old),
                        // An item of such a list has no past.
                        List::Set | List::Atomic => None,
                    };
                    self.visit(of, item, old, &path.index(index))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn judge(
        &mut self,
        schema: &Schema,
        rule: &Rule,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
    ) -> Result<(), Spent> {
        let Some(program) = &rule.program else { return Ok(()) };
        if rule.uses_old_self && old.is_none() && !rule.optional_old_self {
            return Ok(());
        }
        let allowed = self.budget.min(RULE_BUDGET);
        let mut evaluation = Evaluation::new(allowed);
        evaluation.bind("self", V::of(value, Some(schema)));
        match (old, rule.optional_old_self) {
            (old, true) => {
                let old = old.map(|old| Box::new(V::of(old, Some(schema))));
                evaluation.bind("oldSelf", V::Optional(old));
            }
            (Some(old), false) => evaluation.bind("oldSelf", V::of(old, Some(schema))),
            (None, false) => {}
        }
        let outcome = evaluation.run(program);
        let detail = match outcome {
            Ok(V::Bool(true)) => None,
            // What was so before may stay.
            _ if !rule.uses_old_self && old == Some(value) => None,
            Ok(_) => Some(self.message(rule, &mut evaluation)),
            Err(Failure::Error(ref why)) => Some(format!("{why} evaluating rule: {}", rule.name())),
            Err(Failure::Spent) => Some(match allowed < RULE_BUDGET {
                true => "validation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
                false => format!(
                    "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to \
                     call cost exceeds limit for rule: {}",
                    rule.name()
                ),
            }),
        };
        let spent = matches!(outcome, Err(Failure::Spent));
        self.budget = self.budget.saturating_sub(evaluation.cost());
        if let Some(detail) = detail {
            self.tell(rule, value, path, detail);
        }
        if spent { Err(Spent) } else { Ok(()) }
    }

    fn message(&self, rule: &Rule, evaluation: &mut Evaluation<'_>) -> String {
        let computed = rule.message_expression.as_ref().map(|message| evaluation.run(message));
        match computed {
            Some(Ok(V::String(text))) if !text.trim().is_empty() && !text.contains('\n') => {
                text.trim().to_owned()
            }
            _ if !rule.message.is_empty() => rule.message.clone(),
            _ => format!("failed rule: {}", rule.source),
        }
    }

    fn tell(&mut self, rule: &Rule, value: &Value, path: &Path, detail: String) {
        let names = rule.field_path.as_ref().and_then(JsonPath::fields).unwrap_or_default();
        let path = names.iter().fold(path.clone(), |path, name| path.child(name));
        let shown = match rule.reason {
            FieldErrorKind::Required | FieldErrorKind::Forbidden => None,
            FieldErrorKind::Duplicate => Some(value.clone()),
            _ => Some(super::validate::type_of(value).into()),
        };
        let detail = if rule.reason == FieldErrorKind::Duplicate { String::new() } else { detail };
        let field = if path.is_empty() { "<nil>".to_owned() } else { path.to_string() };
        self.errors.add(FieldError { kind: rule.reason, field, value: shown, detail });
    }
}

/// Checks the rules of a definition's schema.
pub fn validate_rules(schema: &Schema, json: &Value, path: &Path, errors: &mut FieldErrors) {
    validate_rules_at(schema, json, path, true, errors);
}

fn validate_rules_at(schema: &Schema, json: &Value, path: &Path, has_past: bool, errors: &mut FieldErrors) {
    for (index, rule) in json["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        let path = path.child("x-kubernetes-validations").index(index);
        validate_rule(schema, rule, &path, has_past, errors);
    }
    for (name, property) in &schema.properties {
        let path = path.child("properties").key(name);
        validate_rules_at(property, &json["properties"][name], &path, has_past, errors);
    }
    if let Some(Additional::Of(schema)) = &schema.additional {
        let path = path.child("additionalProperties");
        validate_rules_at(schema, &json["additionalProperties"], &path, has_past, errors);
    }
    if let Some(items) = &schema.items {
        let has_past = has_past && matches!(schema.list, List::Map(_));
        validate_rules_at(items, &json["items"], &path.child("items"), has_past, errors);
    }
}

fn validate_rule(schema: &Schema, json: &Value, path: &Path, has_past: bool, errors: &mut FieldErrors) {
    let text = |field: &str| json[field].as_str().unwrap_or_default().trim();
    if text("rule").is_empty() {
        return errors.required(&path.child("rule"), "rule is not specified");
    }
    if json["message"].is_string() && text("message").is_empty() {
        let why = "must be non-empty if specified";
        errors.invalid(&path.child("message"), text("message"), why);
    }
    if text("message").contains('\n') {
        errors.invalid(&path.child("message"), text("message"), "must not contain line breaks");
    }
    if text("rule").contains('\n') && text("message").is_empty() {
        let why = "message must be specified if rule contains line breaks";
        errors.required(&path.child("message"), why);
    }
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    if let Some(reason) = json["reason"].as_str()
        && !REASONS.contains(&reason)
    {
        errors.not_supported(&path.child("reason"), reason, &REASONS);
    }
    if let Some(field_path) = json["fieldPath"].as_str() {
        let parsed = JsonPath::parse(field_path).ok();
        let names = parsed.as_ref().and_then(JsonPath::fields).unwrap_or_default();
        let leads = names.iter().try_fold(schema, |schema, name| schema.property(name)).is_some();
        if names.is_empty() || !leads {
            let why = "must be a valid path";
            errors.invalid(&path.child("fieldPath"), field_path, why);
        }
    }
    for field in ["rule", "messageExpression"] {
        let source = text(field);
        if source.is_empty() {
            continue;
        }
        let checked = Program::parse(source).and_then(|program| {
            let returns = if field == "rule" { Type::Bool } else { Type::String };
            let own = Type::of(schema);
            let old = if json["optionalOldSelf"] == true { Type::optional(own.clone()) } else { own.clone() };
            let mut scope = Scope::default();
            scope.declare("self", own);
            scope.declare("oldSelf", old);
            program.check(&scope, &[returns]).map_err(|why| match why.starts_with("must evaluate") {
                true => why,
                false => format!("compilation failed: {why}"),
            })?;
            let uncorrelatable = !has_past && field == "rule" && program.mentions("oldSelf");
            match uncorrelatable && json["optionalOldSelf"] != true {
                true => Err("oldSelf cannot be used on the uncorrelatable portion of the schema".into()),
                false => Ok(()),
            }
        });
        if let Err(why) = checked {
            errors.invalid(&path.child(field), source, why);
        }
    }
}

#[cfg(test)]
mod tests;
