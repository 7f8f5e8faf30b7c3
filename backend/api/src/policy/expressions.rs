//! What the expressions of policies must be like: the checks when a policy is created or changed.
use super::{Names, list, text};
use crate::cel::{Program, RESERVED, Scope, Type};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use serde_json::Value;

const MAX_CONDITIONS: usize = 64;
const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_BYTES: usize = 5 * 1024;

/// The expressions of a ValidatingAdmissionPolicy's spec. `name` is the policy's.
pub fn validate_validating(name: &str, spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let names = Names::untyped(spec["paramKind"].is_object());
    let (mut full, mut messages) = (names.scope_with_authorizer(), names.scope());
    validate_conditions(
        &spec["matchConditions"],
        spec["paramKind"].is_object(),
        &path.child("matchConditions"),
        errors,
    );
    validate_variables(spec, path, &mut [&mut full, &mut messages], errors);
    for (i, validation) in list(&spec["validations"]).enumerate() {
        validate_validation(validation, &full, &messages, &path.child("validations").index(i), errors);
    }
    let annotations = path.child("auditAnnotations");
    let count = list(&spec["auditAnnotations"]).count();
    if count > MAX_ANNOTATIONS {
        let why = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.invalid(&annotations, spec["auditAnnotations"].clone(), why);
    }
    let mut keys = Vec::new();
    for (i, annotation) in list(&spec["auditAnnotations"]).enumerate() {
        let path = annotations.index(i);
        let key = text(annotation, "key");
        if name.is_empty() {
            errors.invalid(&path.child("key"), key, "requires metadata.name be non-empty");
        } else if let Err(why) = meta::qualified_name(&format!("{name}/{key}")) {
            errors.invalid(&path.child("key"), format!("{name}/{key}"), why);
        }
        if keys.contains(&key) {
            errors.duplicate(&path.child("key"), key);
        }
        keys.push(key);
        let (source, path) = (text(annotation, "valueExpression").trim(), path.child("valueExpression"));
        if source.is_empty() {
            errors.required(&path, "valueExpression is not specified");
        } else if source.len() > MAX_ANNOTATION_BYTES {
            errors.required(&path, format!("must not exceed {MAX_ANNOTATION_BYTES} bytes in length"));
        } else {
            compile(source, &full, &[Type::String, Type::Null], &path, errors);
        }
    }
}

/// The expressions of a MutatingAdmissionPolicy's spec.
pub fn validate_mutating(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let has_params = spec["paramKind"].is_object();
    let mut scope = Names::untyped(has_params).scope_with_authorizer();
    validate_conditions(&spec["matchConditions"], has_params, &path.child("matchConditions"), errors);
    validate_variables(spec, path, &mut [&mut scope], errors);
    scope.declare("Object{}", Type::Dyn);
    scope.declare("JSONPatch{}", Type::Dyn);
    for (i, mutation) in list(&spec["mutations"]).enumerate() {
        let path = path.child("mutations").index(i);
        let (wanted, other, returns) = match text(mutation, "patchType") {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Type::named("Object")),
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Type::list(Type::named("JSONPatch"))),
            "" => {
                errors.required(&path.child("patchType"), "");
                continue;
            }
            kind => {
                errors.not_supported(&path.child("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        if mutation[other].is_object() {
            let kind = text(mutation, "patchType");
            errors.invalid(&path.child(other), "{}", format!("must not be set when patchType is {kind}"));
        }
        let source = text(&mutation[wanted], "expression");
        let path = path.child(wanted);
        match (mutation[wanted].is_object(), source.trim().is_empty()) {
            (false, _) => {
                let kind = text(mutation, "patchType");
                errors.required(&path, format!("must be specified when patchType is {kind}"));
            }
            (true, true) => errors.required(&path.child("expression"), "expression is not specified"),
            (true, false) => compile(source, &scope, &[returns], &path.child("expression"), errors),
        }
    }
}

/// `matchConditions`, of policies and of webhooks.
pub fn validate_conditions(conditions: &Value, has_params: bool, path: &Path, errors: &mut FieldErrors) {
    let scope = Names::untyped(has_params).scope_with_authorizer();
    let count = list(conditions).count();
    if count > MAX_CONDITIONS {
        errors.too_many(path, count, MAX_CONDITIONS);
    }
    let mut names = Vec::new();
    for (i, condition) in list(conditions).enumerate() {
        let path = path.index(i);
        match text(condition, "expression").trim() {
            "" => errors.required(&path.child("expression"), ""),
            source => compile(source, &scope, &[Type::Bool], &path.child("expression"), errors),
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Err(why) = meta::qualified_name(name) {
            errors.invalid(&path.child("name"), name, why);
        } else if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        names.push(name);
    }
}

/// Each sees those before it.
fn validate_variables<'s>(
    spec: &Value,
    path: &Path,
    scopes: &mut [&mut Scope<'s>],
    errors: &mut FieldErrors,
) {
    let mut fields: Vec<(String, Type<'s>)> = Vec::new();
    for (i, variable) in list(&spec["variables"]).enumerate() {
        scopes.iter_mut().for_each(|scope| scope.compose(fields.clone()));
        let path = path.child("variables").index(i);
        let name = text(variable, "name");
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !RESERVED.contains(&name);
        if name.trim().is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !is_name {
            errors.invalid(&path.child("name"), name, "name is not a valid CEL identifier");
        }
        let source = text(variable, "expression");
        let mut of = Type::Dyn;
        if source.trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        } else {
            match compiled(source, scopes[0], &[]) {
                Ok(found) => of = found,
                Err(why) => errors.invalid(&path.child("expression"), source, why),
            }
        }
        fields.push((name.to_owned(), of));
    }
    if !fields.is_empty() {
        scopes.iter_mut().for_each(|scope| scope.compose(fields.clone()));
    }
}

fn validate_validation(
    validation: &Value,
    full: &Scope<'_>,
    messages: &Scope<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match text(validation, "expression") {
        source if source.trim().is_empty() => {
            errors.required(&path.child("expression"), "expression is not specified");
        }
        source => compile(source, full, &[Type::Bool], &path.child("expression"), errors),
    }
    if let Some(source) = validation["messageExpression"].as_str().filter(|source| !source.is_empty()) {
        let path = path.child("messageExpression");
        match source.trim() {
            "" => errors.invalid(&path, source, "must be non-empty if specified"),
            _ => compile(source, messages, &[Type::String], &path, errors),
        }
    }
    let message = text(validation, "message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&path.child("message"), message, "message must not contain line breaks");
    }
    const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    if let Some(reason) = validation["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
        errors.not_supported(&path.child("reason"), reason, &REASONS);
    }
}

fn compile<'s>(source: &str, scope: &Scope<'s>, returns: &[Type<'s>], path: &Path, errors: &mut FieldErrors) {
    if let Err(why) = compiled(source, scope, returns) {
        errors.invalid(path, source, why);
    }
}

fn compiled<'s>(source: &str, scope: &Scope<'s>, returns: &[Type<'s>]) -> Result<Type<'s>, String> {
    Program::parse(source)?.check(scope, returns).map_err(|why| match why.starts_with("must evaluate") {
        true => why,
        false => format!("compilation failed: {why}"),
    })
}
