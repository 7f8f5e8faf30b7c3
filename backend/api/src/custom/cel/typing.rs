//! What can be said of an expression before it runs: names that nobody declared, fields that the schema does not have,
//! results of the wrong kind. Types are followed where the schema tells them; elsewhere anything goes.
use super::functions;
use super::value::property_name;
use crate::custom::schema::Schema;
use ::cel::IdedExpr;
use ::cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

/// What is known of a value.
#[derive(Clone, Copy)]
enum Known<'s> {
    Schema(&'s Schema),
    Bool,
    String,
    Number,
    Nothing,
}

/// Errors say what is wrong, as CEL's compiler does. `returns` is `bool` or `string`.
pub fn check(expression: &IdedExpr, schema: &Schema, returns: &str) -> Result<(), String> {
    let mut scope = vec![("self".to_owned(), Known::Schema(schema)), ("oldSelf".to_owned(), Known::Nothing)];
    let result = visit(expression, &mut scope)?;
    let found = match result {
        Known::Bool => "bool",
        Known::String => "string",
        Known::Number => "number",
        Known::Schema(schema) if !schema.is_int_or_string => match schema.of.as_str() {
            "boolean" => "bool",
            "string" if schema.checks.format.is_empty() => "string",
            "object" => "map",
            "array" => "list",
            _ => "",
        },
        _ => "",
    };
    match found {
        "" => Ok(()),
        found if found == returns => Ok(()),
        _ => Err(format!("must evaluate to {returns}")),
    }
}

type Scope<'s> = Vec<(String, Known<'s>)>;

fn failed<T>(what: String) -> Result<T, String> {
    Err(format!("compilation failed: ERROR: {what}"))
}

fn visit<'s>(expression: &IdedExpr, scope: &mut Scope<'s>) -> Result<Known<'s>, String> {
    match &expression.expr {
        Expr::Literal(literal) => Ok(match literal {
            LiteralValue::Boolean(_) => Known::Bool,
            LiteralValue::String(_) => Known::String,
            LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_) => Known::Number,
            _ => Known::Nothing,
        }),
        Expr::Ident(name) => match scope.iter().rev().find(|(own, _)| own == name) {
            Some((_, known)) => Ok(*known),
            None if functions::type_named(name).is_some() => Ok(Known::Nothing),
            None => failed(format!("undeclared reference to '{name}' (in container '')")),
        },
        Expr::Select(select) => {
            let operand = visit(&select.operand, scope)?;
            let found = field(operand, &select.field)?;
            Ok(if select.test { Known::Bool } else { found })
        }
        Expr::Call(call) => visit_call(call, scope),
        Expr::Comprehension(all) => {
            let range = visit(&all.iter_range, scope)?;
            let start = visit(&all.accu_init, scope)?;
            let depth = scope.len();
            scope.push((all.accu_var.clone(), start));
            scope.push((all.iter_var.clone(), item_of(range)));
            if let Some(second) = &all.iter_var2 {
                scope.push((second.clone(), Known::Nothing));
            }
            visit(&all.loop_cond, scope)?;
            visit(&all.loop_step, scope)?;
            let result = visit(&all.result, scope);
            scope.truncate(depth);
            // What a step adds to a list is not followed.
            Ok(match result? {
                Known::Bool => Known::Bool,
                _ => Known::Nothing,
            })
        }
        _ => {
            for child in super::children(expression) {
                visit(child, scope)?;
            }
            Ok(Known::Nothing)
        }
    }
}

fn field<'s>(of: Known<'s>, name: &str) -> Result<Known<'s>, String> {
    let Known::Schema(schema) = of else { return Ok(Known::Nothing) };
    let property = property_name(name);
    if let Some(found) = schema.property(&property).or_else(|| schema.property(name)) {
        return Ok(Known::Schema(found));
    }
    let is_identity = schema.is_embedded && matches!(name, "apiVersion" | "kind" | "metadata");
    let is_open = schema.preserves_unknown_fields || schema.additional.is_some();
    match schema.of.as_str() {
        "object" if !is_identity && !is_open => failed(format!("undefined field '{name}'")),
        "object" | "" => Ok(Known::Nothing),
        "string" if !schema.checks.format.is_empty() => Ok(Known::Nothing),
        of => failed(format!("type '{of}' does not support field selection")),
    }
}

/// What a loop gives: an item of a list; the key of a map is a text.
fn item_of(range: Known<'_>) -> Known<'_> {
    match range {
        Known::Schema(schema) => match (&schema.items, schema.of.as_str()) {
            (Some(items), _) => Known::Schema(items),
            (None, "object") => Known::String,
            _ => Known::Nothing,
        },
        _ => Known::Nothing,
    }
}

fn visit_call<'s>(call: &CallExpr, scope: &mut Scope<'s>) -> Result<Known<'s>, String> {
    let name = call.func_name.as_str();
    if !functions::is_known(name) {
        return failed(format!("undeclared reference to '{name}' (in container '')"));
    }
    let namespace = call.target.as_deref().is_some_and(|target| match &target.expr {
        Expr::Ident(name) => {
            (functions::is_namespace(name) || name == "cel") && !scope.iter().any(|(n, _)| n == name)
        }
        _ => false,
    });
    let target = match &call.target {
        Some(target) if !namespace => visit(target, scope)?,
        _ => Known::Nothing,
    };
    if introduces_names(call, namespace) {
        return visit_names(call, target, scope);
    }
    let mut arguments = Vec::with_capacity(call.args.len());
    for argument in &call.args {
        arguments.push(visit(argument, scope)?);
    }
    Ok(match (name, arguments.as_slice()) {
        (operators::INDEX, [range, _]) => match range {
            Known::Schema(schema) => match (&schema.items, schema.property("")) {
                (Some(items), _) => Known::Schema(items),
                (None, Some(additional)) => Known::Schema(additional),
                _ => Known::Nothing,
            },
            _ => Known::Nothing,
        },
        (operators::CONDITIONAL, [_, yes, _]) => match yes {
            Known::Schema(_) => Known::Nothing,
            known => *known,
        },
        (
            operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::IN
            | "startsWith"
            | "endsWith"
            | "matches"
            | "isQuantity"
            | "isURL"
            | "isIP"
            | "isCIDR"
            | "hasValue"
            | "isSorted",
            _,
        ) => Known::Bool,
        ("size", _) => Known::Number,
        ("string" | "lowerAscii" | "upperAscii" | "trim" | "join" | "format", _) => Known::String,
        (operators::ADD, [Known::String, _] | [_, Known::String]) => Known::String,
        (operators::ADD, [Known::Number, Known::Number]) => Known::Number,
        _ => Known::Nothing,
    })
}

fn introduces_names(call: &CallExpr, namespace: bool) -> bool {
    let count = call.args.len();
    match call.func_name.as_str() {
        "bind" => namespace,
        "optMap" | "optFlatMap" | "sortBy" => count == 2,
        "existsOne" => count >= 2,
        "all" | "exists" | "exists_one" | "transformList" | "transformMap" | "transformMapEntry" => {
            count >= 3
        }
        _ => false,
    }
}

/// Calls whose first arguments are names for the others.
fn visit_names<'s>(call: &CallExpr, target: Known<'s>, scope: &mut Scope<'s>) -> Result<Known<'s>, String> {
    let depth = scope.len();
    let is_name = |argument: &IdedExpr| matches!(&argument.expr, Expr::Ident(_));
    let count = match call.func_name.as_str() {
        "bind" | "optMap" | "optFlatMap" | "sortBy" => 1,
        "existsOne" if call.args.len() == 2 => 1,
        _ => 2,
    };
    if !call.args.iter().take(count).all(is_name) {
        return failed("argument must be a simple name".into());
    }
    let (names, rest) = call.args.split_at(count);
    let known = if count == 1 && call.func_name != "bind" { item_of(target) } else { Known::Nothing };
    for name in names {
        if let Expr::Ident(name) = &name.expr {
            scope.push((name.clone(), known));
        }
    }
    let mut outcome = Ok(Known::Nothing);
    for argument in rest {
        outcome = outcome.and_then(|_| visit(argument, scope).map(|_| Known::Nothing));
    }
    scope.truncate(depth);
    match (outcome?, call.func_name.as_str()) {
        (_, "all" | "exists" | "exists_one" | "existsOne") => Ok(Known::Bool),
        (known, _) => Ok(known),
    }
}
