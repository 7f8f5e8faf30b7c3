//! What an expression costs at most, told from the bounds of its schema before anything runs.
//!
//! Follows the estimates of cel-go and of Kubernetes' library, unit for unit where sizes are known. Where they know no size
//! they take none for large enough and refuse; here nothing is larger than a request may be.
use super::typing::introduces_names;
use super::value::property_name;
use crate::custom::schema::{Additional, Schema};
use ::cel::IdedExpr;
use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use std::rc::Rc;

/// Of the largest request, in bytes.
pub const MAX_REQUEST: u64 = 3 * 1024 * 1024;
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;
const AUTHORIZATION_CHECK: u64 = 350_000;

/// Characters, items or entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    min: u64,
    max: u64,
}

impl Size {
    const UNKNOWN: Self = Self { min: 0, max: MAX_REQUEST };

    fn exactly(size: u64) -> Self {
        Self { min: size, max: size }
    }

    fn up_to(max: u64) -> Self {
        Self { min: 0, max }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Going through it once, as text.
    fn traversal(self) -> u64 {
        self.max.div_ceil(10)
    }
}

/// What is known of a value.
#[derive(Clone, Debug)]
enum Data<'s> {
    At(&'s Schema),
    Text,
    Scalar,
    /// A list that the expression makes, of items like these.
    List(Rc<Estimate<'s>>),
    Unknown,
}

#[derive(Clone, Debug)]
struct Estimate<'s> {
    cost: u64,
    data: Data<'s>,
    /// Where the expression itself tells.
    size: Option<Size>,
}

impl<'s> Estimate<'s> {
    fn new(cost: u64, data: Data<'s>) -> Self {
        Self { cost, data, size: None }
    }

    fn sized(cost: u64, data: Data<'s>, size: Size) -> Self {
        Self { cost, data, size: Some(size) }
    }

    fn scalar(cost: u64) -> Self {
        Self::new(cost, Data::Scalar)
    }

    fn list_of(cost: u64, items: Self, size: Size) -> Self {
        Self::sized(cost, Data::List(Rc::new(items)), size)
    }

    fn costing(self, cost: u64) -> Self {
        Self { cost, ..self }
    }

    fn size(&self) -> Size {
        self.size.unwrap_or(match self.data {
            Data::At(schema) => Size::up_to(max_elements(schema)),
            Data::Scalar => Size::exactly(1),
            Data::Text | Data::List(_) | Data::Unknown => Size::UNKNOWN,
        })
    }

    fn is_text(&self) -> bool {
        match self.data {
            Data::At(schema) => schema.of == "string",
            Data::Text => true,
            _ => false,
        }
    }

    fn is_list(&self) -> bool {
        match self.data {
            Data::At(schema) => schema.of == "array",
            Data::List(_) => true,
            _ => false,
        }
    }

    /// One of a list's items, or of a map's values.
    fn item(&self) -> Self {
        match &self.data {
            Data::At(schema) => match (&schema.items, &schema.additional) {
                (Some(items), _) => Self::new(0, Data::At(items)),
                (None, Some(Additional::Of(of))) => Self::new(0, Data::At(of)),
                _ => Self::new(0, Data::Unknown),
            },
            Data::List(items) => items.as_ref().clone().costing(0),
            _ => Self::new(0, Data::Unknown),
        }
    }

    /// What a loop over it goes through: the items of a list, the keys of a map.
    fn looped(&self) -> Self {
        match &self.data {
            // Kubernetes takes no account of the length of keys.
            Data::At(schema) if schema.of == "object" => Self::sized(0, Data::Text, Size::exactly(0)),
            _ => self.item(),
        }
    }

    fn or(self, other: &Self) -> Self {
        let size = self.size().or(other.size());
        let is_empty = |of: &Self| of.size == Some(Size::exactly(0)) || matches!(of.data, Data::Unknown);
        let data = if is_empty(&self) { other.data.clone() } else { self.data };
        Self::sized(0, data, size)
    }
}

/// How many characters, items or entries a value with this schema has at most.
fn max_elements(schema: &Schema) -> u64 {
    // Brackets or quotation marks.
    const ROOM: u64 = MAX_REQUEST - 2;
    let checks = &schema.checks;
    // A character takes up to four bytes.
    let length = || checks.max_length.map(|max| max.saturating_mul(4));
    if schema.is_int_or_string {
        return length().unwrap_or(ROOM);
    }
    match (schema.of.as_str(), checks.format.as_str()) {
        ("array", _) => {
            let least = schema.items.as_deref().map_or(1, min_bytes);
            checks.max_items.unwrap_or(ROOM / (least + 1))
        }
        ("object", _) => match &schema.additional {
            Some(Additional::Of(of)) => checks.max_properties.unwrap_or(ROOM / (min_bytes(of) + 6)),
            _ => 0,
        },
        ("string", "byte") => checks.max_length.unwrap_or(ROOM),
        ("string", "duration" | "date-time") => 32,
        ("string", "date") => 12,
        ("string", _) => length().or_else(|| longest(checks.r#enum.as_deref()?)).unwrap_or(ROOM),
        _ => 0,
    }
}

fn longest(values: &[serde_json::Value]) -> Option<u64> {
    values.iter().map(|value| value.as_str().map_or(0, str::len) as u64).max()
}

/// The fewest bytes that JSON takes for a value with this schema.
pub fn min_bytes(schema: &Schema) -> u64 {
    if schema.is_int_or_string {
        return 1;
    }
    match (schema.of.as_str(), schema.checks.format.as_str()) {
        ("object", _) if schema.additional.is_none() => {
            let required = schema.checks.required.iter().filter_map(|name| {
                let property = schema.properties.get(name).filter(|property| property.default.is_none())?;
                Some(name.len() as u64 + min_bytes(property) + 4)
            });
            2 + required.sum::<u64>()
        }
        ("string", "duration") => 3,
        ("string", "date") => 12,
        ("string", "date-time") => 21,
        ("boolean", _) => 4,
        ("number" | "integer", _) => 1,
        _ => 2,
    }
}

/// Of an expression whose `self` and `oldSelf` have this schema.
pub fn max_cost(expression: &IdedExpr, schema: &Schema) -> u64 {
    let own = || Estimate::new(1, Data::At(schema));
    let names = vec![("self".to_owned(), own()), ("oldSelf".to_owned(), own())];
    Walk { names }.visit(expression).cost
}

struct Walk<'s> {
    names: Vec<(String, Estimate<'s>)>,
}

impl<'s> Walk<'s> {
    fn visit(&mut self, expression: &IdedExpr) -> Estimate<'s> {
        match &expression.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::String(text) => {
                    Estimate::sized(0, Data::Text, Size::exactly(text.inner().chars().count() as u64))
                }
                LiteralValue::Bytes(bytes) => {
                    Estimate::sized(0, Data::Text, Size::exactly(bytes.inner().len() as u64))
                }
                _ => Estimate::scalar(0),
            },
            Expr::Ident(name) => {
                let known = self.names.iter().rev().find(|(own, _)| own == name);
                known.map_or(Estimate::new(1, Data::Unknown), |(_, of)| of.clone().costing(1))
            }
            Expr::Select(select) => {
                let operand = self.visit(&select.operand);
                match select.test {
                    true => Estimate::scalar(operand.cost),
                    false => field(&operand, &select.field),
                }
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(all) => self.comprehension(all),
            Expr::List(list) => {
                let mut cost = LIST;
                let mut items = Estimate::sized(0, Data::Unknown, Size::exactly(0));
                for element in &list.elements {
                    let element = self.visit(element);
                    cost = cost.saturating_add(element.cost);
                    items = items.or(&element);
                }
                Estimate::list_of(cost, items, Size::exactly(list.elements.len() as u64))
            }
            Expr::Map(map) => {
                let cost =
                    map.entries.iter().fold(MAP, |sum, entry| self.entry(&entry.expr).saturating_add(sum));
                Estimate::sized(cost, Data::Unknown, Size::exactly(map.entries.len() as u64))
            }
            Expr::Struct(of) => {
                let cost =
                    of.entries.iter().fold(STRUCT, |sum, entry| self.entry(&entry.expr).saturating_add(sum));
                Estimate::new(cost, Data::Unknown)
            }
            Expr::Unspecified => Estimate::scalar(0),
        }
    }

    fn entry(&mut self, entry: &EntryExpr) -> u64 {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value).cost,
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key).cost.saturating_add(self.visit(&entry.value).cost)
            }
        }
    }

    fn within<T>(&mut self, names: Vec<(String, Estimate<'s>)>, run: impl FnOnce(&mut Self) -> T) -> T {
        let depth = self.names.len();
        self.names.extend(names);
        let outcome = run(self);
        self.names.truncate(depth);
        outcome
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Estimate<'s> {
        let (range, start) = (self.visit(&all.iter_range), self.visit(&all.accu_init));
        let names = vec![
            (all.accu_var.clone(), start.clone()),
            match &all.iter_var2 {
                Some(second) => (second.clone(), range.item()),
                None => (all.iter_var.clone(), range.looped()),
            },
        ];
        let (round, step, end) = self.within(names, |walk| {
            let (condition, step) = (walk.visit(&all.loop_cond), walk.visit(&all.loop_step));
            (condition.cost.saturating_add(step.cost), step, walk.visit(&all.result))
        });
        let rounds = range.size();
        let cost = [range.cost, start.cost, end.cost, rounds.max.saturating_mul(round)];
        let cost = cost.into_iter().fold(0, u64::saturating_add);
        match step.data {
            Data::List(items) => Estimate::sized(cost, Data::List(items), Size::up_to(rounds.max)),
            _ => Estimate::scalar(cost),
        }
    }

    /// Macros that the parser leaves to be run: their first arguments are names for the others.
    fn names(&mut self, call: &CallExpr) -> Estimate<'s> {
        // What the loop around the body takes: its condition and what it gathers.
        const ROUND: u64 = 15;
        let name = call.func_name.as_str();
        let ident = |at: usize| match call.args.get(at).map(|argument| &argument.expr) {
            Some(Expr::Ident(name)) => name.clone(),
            _ => String::new(),
        };
        if name == "bind" {
            let value = call.args.get(1).map_or(Estimate::scalar(0), |value| self.visit(value));
            let body = call.args.get(2);
            let (before, names) = (value.cost.saturating_add(LIST), vec![(ident(0), value)]);
            let body = self.within(names, |walk| body.map_or(Estimate::scalar(0), |body| walk.visit(body)));
            let cost = before.saturating_add(body.cost);
            return body.costing(cost);
        }
        let target = call.target.as_deref().map_or(Estimate::scalar(0), |target| self.visit(target));
        let optional = matches!(name, "optMap" | "optFlatMap");
        let (names, rest) = match call.args.len() {
            2 if optional => (vec![(ident(0), target.clone())], 1),
            2 => (vec![(ident(0), target.looped())], 1),
            _ => (vec![(ident(1), target.item())], 2),
        };
        let (body, last) = self.within(names, |walk| {
            let mut sum = ROUND;
            let mut last = Estimate::scalar(0);
            for argument in call.args.iter().skip(rest) {
                last = walk.visit(argument);
                sum = sum.saturating_add(last.cost);
            }
            (sum, last)
        });
        let rounds = target.size();
        let cost = if optional { body } else { rounds.max.saturating_mul(body) }.saturating_add(target.cost);
        match name {
            _ if optional => last.costing(cost),
            "sortBy" => target.costing(cost),
            "transformList" => Estimate::list_of(cost, last, Size::up_to(rounds.max)),
            "all" | "exists" | "exists_one" | "existsOne" => Estimate::scalar(cost),
            _ => Estimate::sized(cost, Data::Unknown, Size::up_to(rounds.max)),
        }
    }

    fn call(&mut self, call: &CallExpr) -> Estimate<'s> {
        let is_bind = call.func_name == "bind" && call.target.is_some();
        if introduces_names(call, is_bind) {
            return self.names(call);
        }
        let target = call.target.as_deref().map(|target| self.visit(target));
        let args: Vec<Estimate<'s>> = call.args.iter().map(|argument| self.visit(argument)).collect();
        let sum = |of: &[Estimate<'s>]| of.iter().fold(0, |sum: u64, of| sum.saturating_add(of.cost));
        let given = target.as_ref().map_or(0, |target| target.cost).saturating_add(match args.as_slice() {
            [condition, yes, no] if call.func_name == operators::CONDITIONAL => {
                condition.cost.saturating_add(yes.cost.max(no.cost))
            }
            args => sum(args),
        });
        let own = match &target {
            Some(target) => method(&call.func_name, target, &args, call),
            None => operator(&call.func_name, &args),
        };
        let cost = own.cost.saturating_add(given);
        own.costing(cost)
    }
}

fn field<'s>(operand: &Estimate<'s>, name: &str) -> Estimate<'s> {
    let Data::At(schema) = operand.data else {
        return Estimate::new(operand.cost, Data::Unknown);
    };
    let found = schema.property(&property_name(name)).or_else(|| schema.property(name));
    Estimate::new(operand.cost.saturating_add(1), found.map_or(Data::Unknown, Data::At))
}

/// An operator or function by itself, without what its arguments cost.
fn operator<'s>(name: &str, args: &[Estimate<'s>]) -> Estimate<'s> {
    match (name, args) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, _) => Estimate::scalar(0),
        (operators::CONDITIONAL, [_, yes, no]) => yes.clone().or(no),
        (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => compared(a, b),
        (
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
            [a, b],
        ) if a.is_text() || b.is_text() => compared(a, b),
        (operators::IN, [_, range]) if range.is_list() => Estimate::scalar(range.size().max),
        (operators::INDEX | operators::OPT_INDEX, [range, _]) => range.item().costing(1),
        (operators::OPT_SELECT, [operand, _]) => Estimate::new(1, operand.data.clone()),
        (operators::ADD, [a, b]) if a.is_list() || b.is_list() => {
            let size = a.size().plus(b.size());
            Estimate::list_of(1, a.item().or(&b.item()), size)
        }
        (operators::ADD, [a, b]) if a.is_text() || b.is_text() => {
            let size = a.size().plus(b.size());
            Estimate::sized(size.traversal(), Data::Text, size)
        }
        ("dyn", [of]) => of.clone().costing(1),
        ("string" | "bytes", [of]) if of.is_text() => {
            Estimate::sized(of.size().traversal(), Data::Text, Size::up_to(of.size().max.saturating_mul(4)))
        }
        ("string" | "bytes", [_]) => Estimate::new(1, Data::Text),
        ("url", [of]) => Estimate::new(of.size().traversal(), Data::Unknown),
        (
            operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::LOGICAL_NOT
            | operators::NOT_STRICTLY_FALSE
            | operators::NEGATE
            | operators::ADD
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | "size"
            | "int"
            | "uint"
            | "double"
            | "bool",
            _,
        ) => Estimate::scalar(1),
        _ => Estimate::new(1, Data::Unknown),
    }
}

fn compared<'s>(a: &Estimate<'s>, b: &Estimate<'s>) -> Estimate<'s> {
    Estimate::scalar(Size::up_to(a.size().max.min(b.size().max)).traversal())
}

/// A method by itself, without what its target and arguments cost.
fn method<'s>(name: &str, target: &Estimate<'s>, args: &[Estimate<'s>], call: &CallExpr) -> Estimate<'s> {
    let own = target.size();
    match (name, args) {
        ("check", _) => Estimate::new(AUTHORIZATION_CHECK, Data::Unknown),
        ("startsWith" | "endsWith", [part]) => Estimate::scalar(part.size().traversal()),
        ("contains", [part]) if !target.is_list() => {
            Estimate::scalar(own.traversal().saturating_mul(part.size().traversal()))
        }
        ("matches" | "find" | "findAll", [pattern, ..]) => {
            let text = own.plus(Size::exactly(1)).traversal();
            let cost = text.saturating_mul(pattern.size().max.div_ceil(4));
            let found = Estimate::sized(cost, Data::Text, Size::up_to(own.max));
            match name {
                "matches" => Estimate::scalar(cost),
                "find" => found,
                _ => Estimate::list_of(cost, found, Size::up_to(own.max)),
            }
        }
        ("lowerAscii" | "upperAscii" | "substring" | "trim", _) => {
            Estimate::sized(own.traversal(), Data::Text, own)
        }
        ("replace", [what, with, ..]) => {
            let size = Size::up_to(replaced(own, what.size(), with.size()));
            Estimate::sized(own.max.div_ceil(5), Data::Text, size)
        }
        ("split", _) => {
            let limit = call.args.get(1).and_then(|limit| match &limit.expr {
                Expr::Literal(LiteralValue::Int(limit)) => u64::try_from(*limit.inner()).ok(),
                _ => None,
            });
            let part = Estimate::sized(0, Data::Text, Size::up_to(own.max));
            Estimate::list_of(own.max.div_ceil(5), part, Size::up_to(limit.unwrap_or(own.max)))
        }
        ("join", args) => {
            let between = Size { min: own.min.saturating_sub(1), max: own.max.saturating_sub(1) };
            let separators = args.first().map_or(Size::exactly(0), |by| by.size().times(between));
            let size = own.times(target.item().size()).plus(separators);
            Estimate::sized(size.traversal(), Data::Text, size)
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", _) => match target.is_list() {
            true => {
                let item = target.item();
                let one = if item.is_text() { item.size().traversal() + 1 } else { 1 };
                let cost = own.max.saturating_mul(one);
                if matches!(name, "max" | "min") { item.costing(cost) } else { Estimate::scalar(cost) }
            }
            false => Estimate::scalar(own.traversal()),
        },
        // On a namespace: `sets.contains(a, b)`.
        ("contains" | "intersects", [a, b]) => {
            Estimate::scalar(a.size().times(b.size()).max.saturating_add(1))
        }
        ("equivalent", [a, b]) => {
            Estimate::scalar(a.size().times(b.size()).max.saturating_mul(2).saturating_add(1))
        }
        ("size" | "hasValue", _) => Estimate::scalar(1),
        // What an optional holds.
        ("value" | "orValue" | "or", _) | ("slice" | "distinct" | "reverse" | "sort", _) => {
            target.clone().costing(1)
        }
        _ => Estimate::new(1, Data::Unknown),
    }
}

/// How long a text gets at most when parts of it are replaced.
fn replaced(text: Size, what: Size, with: Size) -> u64 {
    match what.min {
        // Between all characters.
        0 => text.max.saturating_add(1).saturating_mul(with.max).saturating_add(text.max),
        least if with.max <= least => text.max,
        least => text.max.div_ceil(least).saturating_mul(with.max),
    }
}
