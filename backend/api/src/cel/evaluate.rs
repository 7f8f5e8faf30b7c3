//! Evaluating an expression, step by step, for as long as the budget lasts.
use super::authorizer::{Authorizer, Question};
use super::value::{V, property_name};
use super::{Program, functions};
use ::cel::IdedExpr;
use ::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, SelectExpr, StructExpr, operators,
};
use std::rc::Rc;

#[derive(Clone, Debug)]
pub enum Failure {
    /// As CEL words it: `no such key: x`.
    Error(String),
    /// The budget is spent.
    Spent,
}

impl Failure {
    pub fn error<T>(text: impl Into<String>) -> Result<T, Self> {
        Err(Self::Error(text.into()))
    }

    pub fn no_overload<T>() -> Result<T, Self> {
        Self::error("no such overload")
    }
}

pub type Outcome<'a> = Result<V<'a>, Failure>;

/// One evaluation with its variables.
pub struct Evaluation<'a> {
    variables: Vec<(String, V<'a>)>,
    /// How many of them stand for the whole evaluation; the others are those of loops.
    globals: usize,
    /// What `variables.` leads to: evaluated when it is first asked for.
    composed: Vec<Composed<'a>>,
    authorizer: Option<&'a dyn Authorizer>,
    /// What `authorizer.requestResource` asks about.
    request_resource: Question,
    budget: u64,
    left: u64,
}

struct Composed<'a> {
    name: &'a str,
    program: &'a Program,
    outcome: Option<Outcome<'a>>,
}

impl<'a> Evaluation<'a> {
    pub fn new(budget: u64) -> Self {
        Self {
            variables: Vec::new(),
            globals: 0,
            composed: Vec::new(),
            authorizer: None,
            request_resource: Question::default(),
            budget,
            left: budget,
        }
    }

    /// Gives a name for all expressions to come.
    pub fn bind(&mut self, name: &str, value: V<'a>) {
        self.variables.push((name.to_owned(), value));
        self.globals = self.variables.len();
    }

    /// Gives `variables.name`.
    pub fn compose(&mut self, name: &'a str, program: &'a Program) {
        self.composed.push(Composed { name, program, outcome: None });
    }

    /// Gives `authorizer`; `resource` is what the request is about.
    pub fn ask(&mut self, authorizer: &'a dyn Authorizer, resource: Question) {
        self.authorizer = Some(authorizer);
        self.request_resource = resource;
        self.bind("authorizer", V::Question(Rc::default()));
    }

    pub fn authorizer(&self) -> Option<&'a dyn Authorizer> {
        self.authorizer
    }

    pub fn run(&mut self, program: &Program) -> Outcome<'a> {
        self.evaluate(&program.expression)
    }

    /// What is left to spend.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Runs within a part of the budget.
    pub fn run_within(&mut self, most: u64, program: &Program) -> Outcome<'a> {
        let held_back = self.left.saturating_sub(most);
        self.left -= held_back;
        let outcome = self.run(program);
        self.left += held_back;
        outcome
    }

    fn push(&mut self, name: &str, value: V<'a>) {
        self.variables.push((name.to_owned(), value));
    }

    /// `variables.name`. None: there are no variables of this kind.
    fn composed(&mut self, name: &str) -> Option<Outcome<'a>> {
        let at = self.composed.iter().position(|variable| variable.name == name)?;
        if let Some(outcome) = &self.composed[at].outcome {
            return Some(outcome.clone());
        }
        // It sees nothing of the loops around its use.
        let loops = self.variables.split_off(self.globals);
        let program = self.composed[at].program;
        let outcome = self.run(program).map_err(|failure| match failure {
            Failure::Error(why) => {
                Failure::Error(format!("composited variable {name:?} fails to evaluate: {why}"))
            }
            Failure::Spent => Failure::Spent,
        });
        self.variables.truncate(self.globals);
        self.variables.extend(loops);
        self.composed[at].outcome = Some(outcome.clone());
        Some(outcome)
    }

    /// What was spent so far.
    pub fn cost(&self) -> u64 {
        self.budget - self.left
    }

    pub fn spend(&mut self, cost: u64) -> Result<(), Failure> {
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(Failure::Spent);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, expression: &IdedExpr) -> Outcome<'a> {
        self.spend(1)?;
        match &expression.expr {
            Expr::Literal(literal) => Ok(literal_of(literal)),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => {
                let mut entries: Vec<(V<'a>, V<'a>)> = Vec::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let (key, value) = (self.evaluate(&entry.key)?, self.evaluate(&entry.value)?);
                    let value = match (value, entry.optional) {
                        (V::Optional(Some(value)), true) => *value,
                        (V::Optional(None), true) => continue,
                        (value, _) => value,
                    };
                    self.spend(entries.len() as u64 / 8)?;
                    if entries.iter().any(|(other, _)| other.equals(&key)) {
                        return Failure::error("Failed with repeated key");
                    }
                    entries.push((key, value));
                }
                Ok(V::Map(Rc::new(entries)))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(all) => self.comprehension(all),
            Expr::Struct(of) => self.structure(of),
            Expr::Unspecified => Failure::error("an expression is missing"),
        }
    }

    fn variable(&self, name: &str) -> Outcome<'a> {
        if let Some((_, value)) = self.variables.iter().rev().find(|(own, _)| own == name) {
            return Ok(value.clone());
        }
        match functions::type_named(name) {
            Some(of) => Ok(V::Type(of)),
            None => Failure::error(format!("undeclared reference to '{name}'")),
        }
    }

    /// Runs with one variable more.
    fn with(&mut self, name: &str, value: V<'a>, expression: &IdedExpr) -> Outcome<'a> {
        self.variables.push((name.to_owned(), value));
        let outcome = self.evaluate(expression);
        self.variables.pop();
        outcome
    }

    /// `Object.spec{replicas: 3}`, `JSONPatch{op: "add", …}`: what policies make changes of.
    fn structure(&mut self, of: &StructExpr) -> Outcome<'a> {
        let name = of.type_name.trim_start_matches('.');
        if name != "JSONPatch" && name.split('.').next() != Some("Object") {
            return Failure::error(format!("undeclared reference to '{name}'"));
        }
        let mut fields = Vec::with_capacity(of.entries.len());
        for entry in &of.entries {
            let EntryExpr::StructField(field) = &entry.expr else { continue };
            let value = match (self.evaluate(&field.value)?, field.optional) {
                (V::Optional(Some(value)), true) => *value,
                (V::Optional(None), true) => continue,
                (value, _) => value,
            };
            fields.push((Rc::from(property_name(&field.field)), value));
        }
        Ok(V::Struct(name.into(), Rc::new(fields)))
    }

    fn select(&mut self, select: &SelectExpr) -> Outcome<'a> {
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "variables" && !self.is_bound(name))
            && let Some(outcome) = self.composed(&select.field)
        {
            return if select.test { Ok(V::Bool(true)) } else { outcome };
        }
        let operand = self.evaluate(&select.operand)?;
        if let V::Optional(inner) = operand {
            let found = inner.as_ref().and_then(|inner| inner.field(&select.field));
            return Ok(match select.test {
                true => V::Bool(found.is_some()),
                false => V::Optional(found.map(Box::new)),
            });
        }
        if let V::Question(_) = operand
            && select.field == "requestResource"
        {
            return Ok(V::Question(Rc::new(self.request_resource.clone())));
        }
        if !operand.is_map() {
            return Failure::no_overload();
        }
        let found = operand.field(&select.field);
        match (select.test, found) {
            (true, found) => Ok(V::Bool(found.is_some())),
            (false, Some(value)) => Ok(value),
            (false, None) => Failure::error(format!("no such key: {}", select.field)),
        }
    }

    fn list(&mut self, list: &ListExpr) -> Outcome<'a> {
        let mut items = Vec::with_capacity(list.elements.len());
        for (index, element) in list.elements.iter().enumerate() {
            match (self.evaluate(element)?, list.optional_indices.contains(&index)) {
                (V::Optional(value), true) => items.extend(value.map(|value| *value)),
                (value, _) => items.push(value),
            }
        }
        Ok(V::list(items))
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Outcome<'a> {
        let range = self.evaluate(&all.iter_range)?;
        let pairs = self.pairs(&range)?;
        let mut accumulated = self.evaluate(&all.accu_init)?;
        for (key, value) in pairs {
            self.push(&all.accu_var, accumulated);
            let goes_on = self.evaluate(&all.loop_cond);
            let depth = self.variables.len();
            if !matches!(goes_on, Ok(V::Bool(false))) {
                match &all.iter_var2 {
                    Some(second) => {
                        self.push(&all.iter_var, key);
                        self.push(second, value);
                    }
                    None if range.is_list() => self.push(&all.iter_var, value),
                    None => self.push(&all.iter_var, key),
                }
            }
            let step = match goes_on {
                Ok(V::Bool(false)) => None,
                Err(Failure::Spent) => Some(Err(Failure::Spent)),
                _ => Some(self.step(&all.loop_step, &all.accu_var)),
            };
            self.variables.truncate(depth);
            let before = self.variables.pop();
            accumulated = match step {
                Some(step) => step?,
                None => {
                    accumulated = before.map_or(V::Null, |(_, value)| value);
                    break;
                }
            };
        }
        self.with(&all.accu_var, accumulated, &all.result)
    }

    /// One turn of a loop. A list that only grows is not copied each time.
    fn step(&mut self, step: &IdedExpr, accumulator: &str) -> Outcome<'a> {
        if let Expr::Call(call) = &step.expr
            && call.func_name == operators::ADD
            && call.target.is_none()
            && let [left, right] = call.args.as_slice()
            && matches!(&left.expr, Expr::Ident(name) if name == accumulator)
            && let Expr::List(list) = &right.expr
        {
            let V::List(added) = self.list(list)? else { return Failure::no_overload() };
            self.spend(1)?;
            let slot = self.variables.iter_mut().rev().find(|(name, _)| name == accumulator);
            if let Some((_, slot @ V::List(_))) = slot
                && let V::List(mut items) = std::mem::replace(slot, V::Null)
            {
                Rc::make_mut(&mut items).extend(added.iter().cloned());
                return Ok(V::List(items));
            }
            return Failure::no_overload();
        }
        // The choice of filters: evaluated here, so that what is chosen is a step again.
        if let Expr::Call(call) = &step.expr
            && call.func_name == operators::CONDITIONAL
            && let [condition, yes, no] = call.args.as_slice()
        {
            return match self.evaluate(condition)? {
                V::Bool(true) => self.step(yes, accumulator),
                V::Bool(false) => self.step(no, accumulator),
                _ => Failure::no_overload(),
            };
        }
        self.evaluate(step)
    }

    /// What a loop goes over: indexes and items, keys and values.
    fn pairs(&mut self, range: &V<'a>) -> Result<Vec<(V<'a>, V<'a>)>, Failure> {
        self.spend(range.size().unwrap_or(0) as u64)?;
        if let Some(items) = range.items() {
            return Ok(items.into_iter().enumerate().map(|(i, item)| (V::Int(i as i64), item)).collect());
        }
        match range.entries() {
            Some(entries) => Ok(entries),
            None => Failure::no_overload(),
        }
    }

    fn call(&mut self, call: &CallExpr) -> Outcome<'a> {
        if let Some(outcome) = self.lazy(call) {
            return outcome;
        }
        // `quantity.add` is a method, `optional.of` a function with a dot in its name.
        let target = call.target.as_deref();
        let namespace = target.and_then(|target| match &target.expr {
            Expr::Ident(name) if functions::is_namespace(name) && !self.is_bound(name) => Some(name.as_str()),
            _ => None,
        });
        let mut arguments = Vec::with_capacity(call.args.len() + 1);
        if let (Some(target), None) = (target, namespace) {
            arguments.push(self.evaluate(target)?);
        }
        for argument in &call.args {
            arguments.push(self.evaluate(argument)?);
        }
        let name = match namespace {
            Some(namespace) => format!("{namespace}.{}", call.func_name),
            None => call.func_name.clone(),
        };
        functions::call(self, &name, target.is_some() && namespace.is_none(), &arguments)
    }

    fn is_bound(&self, name: &str) -> bool {
        self.variables.iter().any(|(own, _)| own == name)
    }

    /// Calls that do not evaluate all their arguments first. None: it is none of them.
    fn lazy(&mut self, call: &CallExpr) -> Option<Outcome<'a>> {
        let ident = |expression: &IdedExpr| match &expression.expr {
            Expr::Ident(name) => Some(name.clone()),
            _ => None,
        };
        Some(match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            (operators::LOGICAL_AND, None, args) => self.logic(args, false),
            (operators::LOGICAL_OR, None, args) => self.logic(args, true),
            (operators::CONDITIONAL, None, [condition, yes, no]) => match self.evaluate(condition) {
                Ok(V::Bool(true)) => self.evaluate(yes),
                Ok(V::Bool(false)) => self.evaluate(no),
                Ok(_) => Failure::no_overload(),
                Err(failure) => Err(failure),
            },
            (operators::NOT_STRICTLY_FALSE, None, [argument]) => match self.evaluate(argument) {
                Err(Failure::Spent) => Err(Failure::Spent),
                outcome => Ok(V::Bool(!matches!(outcome, Ok(V::Bool(false))))),
            },
            (operators::OPT_SELECT, None, [operand, field]) => self.optional_select(operand, field),
            ("bind", Some(target), [name, value, body]) if ident(target).as_deref() == Some("cel") => {
                match (ident(name), self.evaluate(value)) {
                    (Some(name), Ok(value)) => self.with(&name, value, body),
                    (None, _) => Failure::error("cel.bind() variable names must be simple identifiers"),
                    (_, failure) => failure,
                }
            }
            ("optMap" | "optFlatMap", Some(target), [name, body]) => {
                match (ident(name), self.evaluate(target)) {
                    (Some(name), Ok(V::Optional(Some(value)))) => {
                        let mapped = self.with(&name, *value, body);
                        match call.func_name.as_str() {
                            "optMap" => mapped.map(|value| V::Optional(Some(Box::new(value)))),
                            _ => mapped,
                        }
                    }
                    (Some(_), Ok(V::Optional(None))) => Ok(V::Optional(None)),
                    (_, Err(failure)) => Err(failure),
                    _ => Failure::no_overload(),
                }
            }
            ("or" | "orValue", Some(target), [other]) => match self.evaluate(target) {
                Ok(V::Optional(Some(value))) if call.func_name == "orValue" => Ok(*value),
                Ok(V::Optional(Some(value))) => Ok(V::Optional(Some(value))),
                Ok(V::Optional(None)) => self.evaluate(other),
                Ok(_) => Failure::no_overload(),
                Err(failure) => Err(failure),
            },
            (name, Some(target), [first, second, rest @ ..])
                if matches!(
                    name,
                    "all"
                        | "exists"
                        | "existsOne"
                        | "exists_one"
                        | "transformList"
                        | "transformMap"
                        | "transformMapEntry"
                ) && rest.len() <= 2 =>
            {
                let (Some(first), Some(second)) = (ident(first), ident(second)) else {
                    return Some(Failure::error("argument must be a simple name"));
                };
                self.two_variables(name, target, [&first, &second], rest)
            }
            ("existsOne", Some(target), [name, predicate]) => {
                let Some(name) = ident(name) else {
                    return Some(Failure::error("argument must be a simple name"));
                };
                self.two_variables("existsOne", target, [&name, ""], std::slice::from_ref(predicate))
            }
            ("sortBy", Some(target), [name, key]) => match (ident(name), self.evaluate(target)) {
                (Some(name), Ok(list)) => self.sort_by(&list, &name, key),
                (None, _) => Failure::error("argument must be a simple name"),
                (_, failure) => failure,
            },
            _ => return None,
        })
    }

    /// `&&` ends with a false, `||` with a true; an error counts only if nothing decides without it.
    fn logic(&mut self, arguments: &[IdedExpr], decisive: bool) -> Outcome<'a> {
        let mut error = None;
        for argument in arguments {
            match self.evaluate(argument) {
                Ok(V::Bool(value)) if value == decisive => return Ok(V::Bool(decisive)),
                Ok(V::Bool(_)) => {}
                Err(Failure::Spent) => return Err(Failure::Spent),
                // The first is the one that is told.
                Err(failure) => error = error.or(Some(failure)),
                Ok(_) => error = error.or(Some(Failure::Error("no such overload".into()))),
            }
        }
        error.map_or(Ok(V::Bool(!decisive)), Err)
    }

    fn optional_select(&mut self, operand: &IdedExpr, field: &IdedExpr) -> Outcome<'a> {
        let operand = match self.evaluate(operand)? {
            V::Optional(None) => return Ok(V::Optional(None)),
            V::Optional(Some(inner)) => *inner,
            operand => operand,
        };
        let Expr::Literal(LiteralValue::String(name)) = &field.expr else { return Failure::no_overload() };
        Ok(V::Optional(operand.field(name.inner()).map(Box::new)))
    }

    fn two_variables(
        &mut self,
        name: &str,
        target: &IdedExpr,
        variables: [&str; 2],
        rest: &[IdedExpr],
    ) -> Outcome<'a> {
        let range = self.evaluate(target)?;
        let (mut list, mut map, mut count, mut error) = (Vec::new(), Vec::new(), 0, None);
        let (filter, body) = match rest {
            [body] => (None, body),
            [filter, body] => (Some(filter), body),
            _ => return Failure::no_overload(),
        };
        for (key, value) in self.pairs(&range)? {
            let depth = self.variables.len();
            match (variables[1], range.is_list()) {
                ("", true) => self.push(variables[0], value.clone()),
                ("", false) => self.push(variables[0], key.clone()),
                (second, _) => {
                    self.push(variables[0], key.clone());
                    self.push(second, value.clone());
                }
            }
            let chosen = filter.map_or(Ok(V::Bool(true)), |filter| self.evaluate(filter));
            let outcome = match chosen {
                Ok(V::Bool(true)) => Some(self.evaluate(body)),
                Ok(V::Bool(false)) => None,
                Ok(_) => Some(Failure::no_overload()),
                Err(failure) => Some(Err(failure)),
            };
            self.variables.truncate(depth);
            match (name, outcome) {
                (_, None) => {}
                (_, Some(Err(Failure::Spent))) => return Err(Failure::Spent),
                ("all", Some(Ok(V::Bool(false)))) => return Ok(V::Bool(false)),
                ("exists", Some(Ok(V::Bool(true)))) => return Ok(V::Bool(true)),
                ("all" | "exists", Some(Err(failure))) => error = Some(failure),
                (_, Some(Err(failure))) => return Err(failure),
                ("existsOne" | "exists_one", Some(Ok(V::Bool(is)))) => count += i32::from(is),
                ("transformList", Some(Ok(value))) => list.push(value),
                ("transformMap", Some(Ok(value))) => map.push((key, value)),
                ("transformMapEntry", Some(Ok(entry))) => match entry.entries() {
                    Some(entries) => map.extend(entries),
                    None => return Failure::no_overload(),
                },
                _ => {}
            }
        }
        Ok(match (name, error) {
            (_, Some(failure)) => return Err(failure),
            ("all", _) => V::Bool(true),
            ("exists", _) => V::Bool(false),
            ("existsOne" | "exists_one", _) => V::Bool(count == 1),
            ("transformList", _) => V::list(list),
            _ => V::Map(Rc::new(map)),
        })
    }

    fn sort_by(&mut self, list: &V<'a>, name: &str, key: &IdedExpr) -> Outcome<'a> {
        let Some(items) = list.items() else { return Failure::no_overload() };
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            keyed.push((self.with(name, item.clone(), key)?, item));
        }
        self.spend(keyed.len() as u64 * 4)?;
        functions::sorted(keyed)
    }
}

fn literal_of<'a>(literal: &LiteralValue) -> V<'a> {
    match literal {
        LiteralValue::Boolean(value) => V::Bool(*value.inner()),
        LiteralValue::Bytes(value) => V::Bytes(value.inner().into()),
        LiteralValue::Double(value) => V::Double(*value.inner()),
        LiteralValue::Int(value) => V::Int(*value.inner()),
        LiteralValue::Null => V::Null,
        LiteralValue::String(value) => V::text(value.inner()),
        LiteralValue::UInt(value) => V::Uint(*value.inner()),
    }
}
