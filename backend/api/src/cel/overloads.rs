//! What operators and functions give for arguments of known types, and which they do not take.
use super::types::Type;
use ::cel::common::ast::operators;

/// The result of a call. None: no overload takes these.
pub fn result<'s>(name: &str, target: Option<&Type<'s>>, args: &[Type<'s>]) -> Option<Type<'s>> {
    match target {
        Some(target) => method(name, target, args),
        None => operator(name, args).or_else(|| function(name, args)),
    }
}

/// `'_>_' applied to '(int, string)'`; a method as `'int.(string)'`.
pub fn missing(name: &str, target: Option<&Type<'_>>, args: &[Type<'_>]) -> String {
    let list: Vec<String> = args.iter().map(Type::to_string).collect();
    let on = target.map(|target| format!("{target}.")).unwrap_or_default();
    format!("found no matching overload for '{name}' applied to '{on}({})'", list.join(", "))
}

fn operator<'s>(name: &str, args: &[Type<'s>]) -> Option<Type<'s>> {
    use Type::{Bool, Bytes, Double, Duration, Dyn, Int, List, Map, Optional, String, Timestamp, Uint};
    let bool_or_dyn = |of: &Type<'s>| Bool.takes(of);
    match (name, args) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, args) => {
            args.iter().all(bool_or_dyn).then_some(Bool)
        }
        (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, [of]) => bool_or_dyn(of).then_some(Bool),
        (operators::CONDITIONAL, [condition, yes, no]) => {
            let fits = bool_or_dyn(condition) && (yes.takes(no) || no.takes(yes));
            fits.then(|| yes.clone().join(no))
        }
        (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => (a.takes(b) || b.takes(a)).then_some(Bool),
        (
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
            [a, b],
        ) => {
            let ordered = |of: &Type<'s>| {
                of.is_number() || matches!(of, Dyn | Bool | String | Bytes | Timestamp | Duration)
            };
            let fits = (a.is_number() && b.is_number()) || a.takes(b);
            (ordered(a) && ordered(b) && fits).then_some(Bool)
        }
        (operators::NEGATE, [of @ (Int | Double | Dyn)]) => Some(of.clone()),
        (operators::ADD, [a, b]) => match (a, b) {
            (Dyn, of) | (of, Dyn) => {
                let adds =
                    of.is_number() || matches!(of, Dyn | String | Bytes | Timestamp | Duration | List(_));
                adds.then_some(Dyn)
            }
            (Timestamp, Duration) | (Duration, Timestamp) => Some(Timestamp),
            (Int | Uint | Double | String | Bytes | Duration, _) => a.takes(b).then(|| a.clone()),
            (List(x), List(y)) => Some(Type::list((**x).clone().join(y))),
            _ => None,
        },
        (operators::SUBSTRACT, [a, b]) => match (a, b) {
            (Dyn, of) | (of, Dyn) => {
                (of.is_number() || matches!(of, Dyn | Timestamp | Duration)).then_some(Dyn)
            }
            (Timestamp, Timestamp) => Some(Duration),
            (Timestamp, Duration) => Some(Timestamp),
            (Int | Uint | Double | Duration, _) => a.takes(b).then(|| a.clone()),
            _ => None,
        },
        (operators::MULTIPLY | operators::DIVIDE | operators::MODULO, [a, b]) => {
            let counts = |of: &Type<'s>| match of {
                Double => name != operators::MODULO,
                Int | Uint | Dyn => true,
                _ => false,
            };
            (counts(a) && counts(b) && a.takes(b)).then(|| a.clone().join(b))
        }
        (operators::IN, [item, range]) => match range {
            Dyn => Some(Bool),
            List(of) => of.takes(item).then_some(Bool),
            Map(key, _) => key.takes(item).then_some(Bool),
            Type::Object(_) | Type::Fields(_) => String.takes(item).then_some(Bool),
            _ => None,
        },
        (operators::INDEX | operators::OPT_INDEX, [range, key]) => {
            let found = indexed(range, key)?;
            Some(match (name, range, found) {
                (operators::OPT_INDEX, _, Optional(of)) | (_, Optional(_), Optional(of)) => Optional(of),
                (operators::OPT_INDEX, _, of) | (_, Optional(_), of) => Type::optional(of),
                (_, _, of) => of,
            })
        }
        _ => None,
    }
}

fn indexed<'s>(range: &Type<'s>, key: &Type<'s>) -> Option<Type<'s>> {
    match range {
        Type::Dyn => Some(Type::Dyn),
        Type::List(of) => (key.is_number() || matches!(key, Type::Dyn)).then(|| (**of).clone()),
        Type::Map(own, of) => own.takes(key).then(|| (**of).clone()),
        Type::Object(_) | Type::Fields(_) => Type::String.takes(key).then_some(Type::Dyn),
        Type::Optional(inner) => indexed(inner, key),
        _ => None,
    }
}

fn function<'s>(name: &str, args: &[Type<'s>]) -> Option<Type<'s>> {
    use Type::{Bool, Bytes, Double, Duration, Dyn, Int, List, Map, String, Timestamp, Uint};
    let text = || args.iter().all(|of| String.takes(of));
    match (name, args) {
        ("size", [of]) => {
            let sized =
                matches!(of, Dyn | String | Bytes | List(_) | Map(..) | Type::Object(_) | Type::Fields(_));
            sized.then_some(Int)
        }
        ("type" | "dyn", [_]) => Some(Dyn),
        ("string", [_]) => Some(String),
        ("int", [_]) => Some(Int),
        ("uint", [_]) => Some(Uint),
        ("double", [_]) => Some(Double),
        ("bool", [_]) => Some(Bool),
        ("bytes", [_]) => Some(Bytes),
        ("timestamp", [_]) => Some(Timestamp),
        ("duration", [_]) => Some(Duration),
        ("isQuantity" | "isURL" | "isIP" | "isCIDR" | "ip.isCanonical", [_]) => text().then_some(Bool),
        ("quantity", [_]) => text().then(|| Type::named("kubernetes.Quantity")),
        ("url", [_]) => text().then(|| Type::named("kubernetes.URL")),
        ("ip", [_]) => text().then(|| Type::named("net.IP")),
        ("cidr", [_]) => text().then(|| Type::named("net.CIDR")),
        ("matches", [_, _]) => text().then_some(Bool),
        ("optional.of" | "optional.ofNonZeroValue", [of]) => Some(Type::optional(of.clone())),
        ("optional.none", []) => Some(Type::optional(Dyn)),
        ("sets.contains" | "sets.equivalent" | "sets.intersects", [_, _]) => Some(Bool),
        ("jsonpatch.escapeKey", [_]) => text().then_some(String),
        _ => (!is_operator(name)).then_some(Dyn),
    }
}

fn is_operator(name: &str) -> bool {
    name.starts_with(|c: char| !c.is_ascii_alphabetic()) && name != "@in"
        || matches!(name, "size" | "quantity" | "url" | "ip" | "cidr" | "matches" | "jsonpatch.escapeKey")
}

fn method<'s>(name: &str, target: &Type<'s>, args: &[Type<'s>]) -> Option<Type<'s>> {
    use Type::{Bool, Bytes, Duration, Dyn, Int, List, Map, Optional, String, Timestamp};
    let texts = || args.iter().all(|of| String.takes(of));
    match (target, name) {
        (Dyn, _) => Some(untyped(name)),
        (String | Bytes | List(_) | Map(..) | Type::Object(_), "size") => args.is_empty().then_some(Int),
        (String, "startsWith" | "endsWith" | "contains" | "matches") => {
            (args.len() == 1 && texts()).then_some(Bool)
        }
        (String, "lowerAscii" | "upperAscii" | "trim" | "reverse") => args.is_empty().then_some(String),
        (String, "find") => texts().then_some(String),
        (String, "replace" | "substring" | "charAt" | "format") => Some(String),
        (String, "indexOf" | "lastIndexOf") => Some(Int),
        (String, "split" | "findAll") => Some(Type::list(String)),
        (Timestamp | Duration, name) => name.starts_with("get").then_some(Int),
        (List(of), "isSorted") => args.is_empty().then_some(of.as_ref()).map(|_| Bool),
        (List(of), "join") => (String.takes(of) && texts()).then_some(String),
        (List(of), "min" | "max" | "sum") => Some((**of).clone()),
        (List(_), "indexOf" | "lastIndexOf") => Some(Int),
        (List(_), "contains") => Some(Bool),
        (List(of), "slice" | "distinct" | "reverse" | "sort") => Some(Type::List(of.clone())),
        (List(_), "flatten") => Some(Type::list(Dyn)),
        (Optional(_), "hasValue") => Some(Bool),
        (Optional(of), "value") => Some((**of).clone()),
        (Optional(of), "orValue") => args.first().map(|other| (**of).clone().join(other)),
        (Optional(_), "or") => Some(target.clone()),
        (Type::Named(of), name) => named(of, name, args),
        _ => None,
    }
}

/// What a method gives whatever it is called on.
fn untyped<'s>(name: &str) -> Type<'s> {
    match name {
        "size" => Type::Int,
        "startsWith" | "endsWith" | "contains" | "matches" | "isSorted" | "hasValue" | "allowed"
        | "errored" => Type::Bool,
        "lowerAscii" | "upperAscii" | "trim" | "join" | "format" => Type::String,
        _ => Type::Dyn,
    }
}

fn named<'s>(of: &str, name: &str, args: &[Type<'s>]) -> Option<Type<'s>> {
    const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
    let next = |of: &str| Some(Type::named(&format!("kubernetes.authorization.{of}")));
    let texts = args.iter().all(|of| Type::String.takes(of));
    let check = (of, name, args.len());
    match check {
        _ if of.starts_with("kubernetes.authorization.") && !texts => None,
        (AUTHORIZER, "serviceAccount", 2) => next("Authorizer"),
        (AUTHORIZER, "path", 1) => next("PathCheck"),
        (AUTHORIZER, "group", 1) => next("GroupCheck"),
        ("kubernetes.authorization.GroupCheck", "resource", 1) => next("ResourceCheck"),
        (
            "kubernetes.authorization.ResourceCheck",
            "subresource" | "namespace" | "name" | "fieldSelector" | "labelSelector",
            1,
        ) => next("ResourceCheck"),
        ("kubernetes.authorization.ResourceCheck" | "kubernetes.authorization.PathCheck", "check", 1) => {
            next("Decision")
        }
        ("kubernetes.authorization.Decision", "allowed" | "errored", 0) => Some(Type::Bool),
        ("kubernetes.authorization.Decision", "reason" | "error", 0) => Some(Type::String),
        _ if of.starts_with("kubernetes.authorization.") => None,
        _ => Some(Type::Dyn),
    }
}
