//! The Common Expression Language, with Kubernetes' functions: what rules of custom kinds, admission policies and match
//! conditions are written in.
//!
//! The parser is the `cel` crate's. Expressions are checked and evaluated here, within a budget: none can hold up the
//! server, whatever it loops over. Follows Kubernetes' "Common Expression Language in Kubernetes".
mod authorizer;
mod cost;
mod evaluate;
mod functions;
mod overloads;
mod types;
mod typing;
mod value;

pub use authorizer::{Authorizer, Decision, Question};
pub use cost::{MAX_REQUEST, min_bytes};
pub use evaluate::{Evaluation, Failure, Outcome};
pub use types::Type;
pub use typing::Scope;
pub use value::{RESERVED, V};

use crate::custom::schema::Schema;
use ::cel::IdedExpr;
use ::cel::common::ast::{EntryExpr, Expr, SourceInfo};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longer or deeper expressions would exhaust the stack of whoever walks them.
const MAX_BYTES: usize = 5_000;
const MAX_DEPTH: usize = 100;
/// Parsing descends through some twenty grammar rules a level.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

/// An expression that can be read.
#[derive(Debug)]
pub struct Program {
    expression: IdedExpr,
    /// The text, and where in it each part stands.
    info: SourceInfo,
}

impl Program {
    /// Errors say where and why, as the compiler of CEL does.
    pub fn parse(source: &str) -> Result<Self, String> {
        if source.len() > MAX_BYTES {
            return Err(format!("must be no more than {MAX_BYTES} bytes"));
        }
        let unreadable = || Err("compilation failed: the expression cannot be read".to_owned());
        let on_its_own_stack = || {
            let parsed = catch_unwind(AssertUnwindSafe(|| {
                let parser = ::cel::parser::Parser::new().enable_optional_syntax(true);
                parser.enable_ident_escape_syntax(true).parse_with_source_info(source)
            }));
            let (expression, info) = match parsed {
                Ok(Ok(parsed)) => parsed,
                Ok(Err(errors)) => return Err(format!("compilation failed: {errors}")),
                Err(_) => return unreadable(),
            };
            match depth(&expression) > MAX_DEPTH {
                true => Err(format!("compilation failed: expression recursion limit exceeded: {MAX_DEPTH}")),
                false => Ok(Self { expression, info }),
            }
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
            let spawned = thread.spawn_scoped(scope, on_its_own_stack).map_err(|error| error.to_string())?;
            spawned.join().unwrap_or_else(|_| unreadable())
        })
    }

    pub fn source(&self) -> &str {
        &self.info.source
    }

    /// Whether a name stands anywhere in it.
    pub fn mentions(&self, name: &str) -> bool {
        let mut open = vec![&self.expression];
        while let Some(expression) = open.pop() {
            if matches!(&expression.expr, Expr::Ident(ident) if ident == name) {
                return true;
            }
            open.extend(children(expression));
        }
        false
    }

    /// What it costs at most where `self` and `oldSelf` have this schema, in Kubernetes' units.
    pub fn max_cost(&self, schema: &Schema) -> u64 {
        cost::max_cost(&self.expression, schema)
    }

    /// What can be said of it before it runs: the type of its result. Errors are worded as CEL's compiler words them, or
    /// say that the result is none of `returns`; those may be empty for any.
    pub fn check<'s>(&self, scope: &Scope<'s>, returns: &[Type<'s>]) -> Result<Type<'s>, String> {
        let found = typing::check(&self.expression, scope).map_err(|issue| self.told(&issue))?;
        if returns.is_empty() || returns.iter().any(|of| of.takes(&found)) {
            return Ok(found);
        }
        let names: Vec<String> = returns.iter().map(Type::to_string).collect();
        Err(match names.as_slice() {
            [one] => format!("must evaluate to {one}"),
            many => format!("must evaluate to one of [{}]", many.join(" ")),
        })
    }

    /// `ERROR: <input>:1:2: why`, with the line and a mark under the place.
    fn told(&self, issue: &typing::Issue) -> String {
        let text = &issue.text;
        let Some((start, _)) = self.info.offset_for(issue.at) else {
            return format!("ERROR: <input>:1:1: {text}");
        };
        let before: String = self.source().chars().take(start as usize).collect();
        let row = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count();
        let line = self.source().lines().nth(row).unwrap_or_default();
        let dots = ".".repeat(column);
        format!("ERROR: <input>:{}:{}: {text}\n | {line}\n | {dots}^", row + 1, column + 1)
    }
}

/// The expressions right below one.
fn children(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::Comprehension(all) => {
            vec![&all.iter_range, &all.accu_init, &all.loop_cond, &all.loop_step, &all.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Struct(of) => of.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

fn depth(expression: &IdedExpr) -> usize {
    let (mut level, mut depth) = (vec![expression], 0);
    while !level.is_empty() {
        level = level.into_iter().flat_map(children).collect();
        depth += 1;
    }
    depth
}

#[cfg(test)]
mod tests;
