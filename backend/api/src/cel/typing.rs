//! What can be said of an expression before it runs: names that nobody declared, fields that there are not, operators
//! that do not take what they are given. Types are followed where they are known; elsewhere anything goes.
use super::functions;
use super::overloads;
use super::types::Type;
use super::value::property_name;
use ::cel::IdedExpr;
use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, StructExpr, operators};
use std::rc::Rc;

/// The names an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Scope<'s>(Vec<(String, Type<'s>)>);

impl<'s> Scope<'s> {
    pub fn declare(&mut self, name: &str, of: Type<'s>) {
        self.0.push((name.to_owned(), of));
    }

    fn get(&self, name: &str) -> Option<&Type<'s>> {
        self.0.iter().rev().find(|(own, _)| own == name).map(|(_, of)| of)
    }

    /// What `variables` holds: those declared so far.
    pub fn compose(&mut self, fields: Vec<(String, Type<'s>)>) {
        self.0.retain(|(name, _)| name != "variables");
        self.declare("variables", Type::Fields(Rc::new(fields)));
    }
}

/// What is wrong, and at which part.
#[derive(Debug)]
pub struct Issue {
    pub at: u64,
    pub text: String,
}

type Found<'s> = Result<Type<'s>, Issue>;

pub fn check<'s>(expression: &IdedExpr, scope: &Scope<'s>) -> Found<'s> {
    Walk { scope: scope.clone() }.visit(expression)
}

fn failed<'s>(at: u64, text: impl Into<String>) -> Found<'s> {
    Err(Issue { at, text: text.into() })
}

fn undeclared<'s>(at: u64, name: &str) -> Found<'s> {
    failed(at, format!("undeclared reference to '{name}' (in container '')"))
}

struct Walk<'s> {
    scope: Scope<'s>,
}

impl<'s> Walk<'s> {
    fn visit(&mut self, expression: &IdedExpr) -> Found<'s> {
        let at = expression.id;
        match &expression.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::String(_) => Type::String,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::UInt(_) => Type::Uint,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Null => Type::Null,
            }),
            Expr::Ident(name) => match self.scope.get(name) {
                Some(of) => Ok(of.clone()),
                None if functions::type_named(name).is_some() => Ok(Type::Dyn),
                None => undeclared(at, name),
            },
            Expr::Select(select) => {
                let operand = self.visit(&select.operand)?;
                let found = field(at, &operand, &select.field)?;
                Ok(if select.test { Type::Bool } else { found })
            }
            Expr::Call(call) => self.call(at, call),
            Expr::Comprehension(all) => self.comprehension(all),
            Expr::List(list) => {
                let mut of = None;
                for element in &list.elements {
                    let element = self.visit(element)?;
                    of = Some(match of {
                        None => element,
                        Some(Type::Named(name)) if matches!(&element, Type::Named(other) if *other == name) => {
                            element
                        }
                        Some(of) => Type::join(of, &element),
                    });
                }
                Ok(Type::list(of.unwrap_or(Type::Dyn)))
            }
            Expr::Map(map) => {
                let mut of: Option<(Type<'s>, Type<'s>)> = None;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let (key, value) = (self.visit(&entry.key)?, self.visit(&entry.value)?);
                    of = Some(match of {
                        None => (key, value),
                        Some((k, v)) => (k.join(&key), v.join(&value)),
                    });
                }
                let (key, value) = of.unwrap_or((Type::Dyn, Type::Dyn));
                Ok(Type::Map(Rc::new(key), Rc::new(value)))
            }
            Expr::Struct(of) => self.structure(at, of),
            Expr::Unspecified => failed(at, "an expression is missing"),
        }
    }

    /// Types of changes exist where the scope has the mark for them.
    fn structure(&mut self, at: u64, of: &StructExpr) -> Found<'s> {
        let name = of.type_name.trim_start_matches('.');
        let root = name.split('.').next().unwrap_or_default();
        if self.scope.get(&format!("{root}{{}}")).is_none() {
            return undeclared(at, name);
        }
        for entry in &of.entries {
            let EntryExpr::StructField(field) = &entry.expr else { continue };
            let value = self.visit(&field.value)?;
            let given = match (&value, field.optional) {
                (Type::Optional(of), true) => (**of).clone(),
                (of, _) => of.clone(),
            };
            let known = match (root, field.field.as_str()) {
                ("JSONPatch", "op" | "path" | "from") => Type::String,
                ("JSONPatch", "value") => Type::Dyn,
                ("JSONPatch", other) => return failed(entry.id, format!("undefined field '{other}'")),
                (_, field) => match &given {
                    // A struct stands only where its name says.
                    Type::Named(inner) if inner.starts_with("Object") => {
                        Type::named(&format!("{name}.{field}"))
                    }
                    _ => Type::Dyn,
                },
            };
            if !known.takes(&given) {
                let name = &field.field;
                let why =
                    format!("expected type of field '{name}' is '{known}' but provided type is '{given}'");
                return failed(entry.id, why);
            }
        }
        Ok(Type::named(name))
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Found<'s> {
        let range = self.visit(&all.iter_range)?;
        let (item, second) = match (&range, &all.iter_var2) {
            (Type::Map(..) | Type::List(_) | Type::Object(_) | Type::Dyn | Type::Fields(_), Some(_)) => {
                (Type::Dyn, Type::Dyn)
            }
            (Type::Map(key, _), None) => ((**key).clone(), Type::Dyn),
            (Type::Object(_) | Type::Fields(_), None) => (Type::String, Type::Dyn),
            (Type::List(of), None) => ((**of).clone(), Type::Dyn),
            (Type::Dyn, None) => (Type::Dyn, Type::Dyn),
            (other, _) => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return failed(all.iter_range.id, why);
            }
        };
        // What a loop gathers shows in its steps: here it may be anything.
        let start = match self.visit(&all.accu_init)? {
            Type::List(_) | Type::Map(..) => Type::Dyn,
            start => start,
        };
        let depth = self.scope.0.len();
        self.scope.declare(&all.accu_var, start.clone());
        self.scope.declare(&all.iter_var, item);
        if let Some(name) = &all.iter_var2 {
            self.scope.declare(name, second);
        }
        self.visit(&all.loop_cond)?;
        let step = self.visit(&all.loop_step)?;
        let result = self.visit(&all.result);
        self.scope.0.truncate(depth);
        Ok(match (result?, step) {
            (Type::Dyn, step @ Type::List(_)) => step,
            (result, _) => result,
        })
    }

    fn call(&mut self, at: u64, call: &CallExpr) -> Found<'s> {
        let name = call.func_name.as_str();
        if !functions::is_known(name) {
            return undeclared(at, name);
        }
        let namespace = call.target.as_deref().and_then(|target| match &target.expr {
            Expr::Ident(name) if functions::is_namespace(name) || name == "cel" => {
                self.scope.get(name).is_none().then_some(name.as_str())
            }
            _ => None,
        });
        let target = match &call.target {
            Some(target) if namespace.is_none() => Some(self.visit(target)?),
            _ => None,
        };
        if introduces_names(call, namespace.is_some()) {
            return self.names(at, call, target.unwrap_or(Type::Dyn));
        }
        if name == operators::OPT_SELECT
            && let [operand, field] = call.args.as_slice()
        {
            return self.optional_select(at, operand, field);
        }
        let mut args = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            args.push(self.visit(argument)?);
        }
        let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}.{name}"));
        match overloads::result(&full, target.as_ref(), &args) {
            Some(of) => Ok(of),
            None => failed(at, overloads::missing(&full, target.as_ref(), &args)),
        }
    }

    fn optional_select(&mut self, at: u64, operand: &IdedExpr, name: &IdedExpr) -> Found<'s> {
        let operand = match self.visit(operand)? {
            Type::Optional(of) => (*of).clone(),
            of => of,
        };
        let Expr::Literal(LiteralValue::String(name)) = &name.expr else { return Ok(Type::Dyn) };
        Ok(Type::optional(field(at, &operand, name.inner())?))
    }

    /// Calls whose first arguments are names for the others.
    fn names(&mut self, at: u64, call: &CallExpr, target: Type<'s>) -> Found<'s> {
        let depth = self.scope.0.len();
        let is_name = |argument: &IdedExpr| matches!(&argument.expr, Expr::Ident(_));
        let name = call.func_name.as_str();
        let count = match name {
            "bind" | "optMap" | "optFlatMap" | "sortBy" => 1,
            "existsOne" if call.args.len() == 2 => 1,
            _ => 2,
        };
        if !call.args.iter().take(count).all(is_name) {
            return failed(at, "argument must be a simple name");
        }
        let (names, rest) = call.args.split_at(count);
        let known = match (name, &target) {
            ("bind", _) => rest.first().map_or(Ok(Type::Dyn), |value| self.visit(value))?,
            (_, Type::Optional(of) | Type::List(of)) if count == 1 => (**of).clone(),
            (_, Type::Object(_)) if count == 1 => Type::String,
            _ => Type::Dyn,
        };
        let rest = if name == "bind" { rest.get(1..).unwrap_or_default() } else { rest };
        for name in names {
            if let Expr::Ident(name) = &name.expr {
                self.scope.declare(name, known.clone());
            }
        }
        let mut outcome = Ok(Type::Dyn);
        for argument in rest {
            outcome = outcome.and_then(|_| self.visit(argument));
        }
        self.scope.0.truncate(depth);
        let last = outcome?;
        Ok(match name {
            "all" | "exists" | "exists_one" | "existsOne" => Type::Bool,
            "bind" => last,
            "optMap" => Type::optional(last),
            "sortBy" => target,
            "transformList" => Type::list(last),
            _ => Type::Dyn,
        })
    }
}

fn field<'s>(at: u64, of: &Type<'s>, name: &str) -> Found<'s> {
    match of {
        Type::Dyn => Ok(Type::Dyn),
        Type::Map(_, of) => Ok((**of).clone()),
        Type::Optional(of) => Ok(match field(at, of, name)? {
            of @ Type::Optional(_) => of,
            of => Type::optional(of),
        }),
        Type::Fields(fields) => match fields.iter().find(|(own, _)| own == name) {
            Some((_, of)) => Ok(of.clone()),
            None => failed(at, format!("undefined field '{name}'")),
        },
        Type::Object(schema) => {
            let property = property_name(name);
            if let Some(found) = schema.property(&property).or_else(|| schema.property(name)) {
                return Ok(Type::of(found));
            }
            let is_identity = schema.is_embedded && matches!(name, "apiVersion" | "kind" | "metadata");
            match (is_identity, schema.preserves_unknown_fields || schema.additional.is_some()) {
                (true, _) if name != "metadata" => Ok(Type::String),
                (true, _) | (_, true) => Ok(Type::Dyn),
                _ => failed(at, format!("undefined field '{name}'")),
            }
        }
        Type::Named(of) if &**of == "kubernetes.authorization.Authorizer" && name == "requestResource" => {
            Ok(Type::named("kubernetes.authorization.ResourceCheck"))
        }
        Type::Named(of) if of.starts_with("Object") => Ok(Type::Dyn),
        other => failed(at, format!("type '{other}' does not support field selection")),
    }
}

/// Whether a call is a macro that the parser leaves to be run.
pub fn introduces_names(call: &CallExpr, namespace: bool) -> bool {
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
