//! The functions of expressions: CEL's own, and the libraries Kubernetes adds.
use super::authorizer::{decision_method, question_method};
use super::evaluate::{Evaluation, Failure, Outcome};
use super::value::{Url, V};
use crate::custom::formats::{self, duration_nanoseconds};
use crate::custom::schema::pattern_of;
use crate::quantity::Quantity;
use ::cel::common::ast::operators;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp, Zoned};
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

/// Names before a dot that are no values.
pub fn is_namespace(name: &str) -> bool {
    matches!(name, "optional" | "sets" | "ip" | "lists" | "strings" | "format" | "math" | "jsonpatch")
}

pub fn type_named(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 10] =
        ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];
    TYPES.into_iter().find(|of| *of == name)
}

/// Every function there is, for telling a misspelt one.
pub fn is_known(name: &str) -> bool {
    name.starts_with(|c: char| !c.is_ascii_alphabetic()) || KNOWN.contains(&name)
}

#[rustfmt::skip]
const KNOWN: [&str; 145] = [
    "size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double", "string", "bytes", "bool", "type",
    "dyn", "timestamp", "duration", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek",
    "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds",
    "charAt", "indexOf", "lastIndexOf", "lowerAscii", "upperAscii", "replace", "split", "substring", "trim", "join",
    "reverse", "quote", "format", "find", "findAll",
    "isSorted", "sum", "min", "max", "slice", "flatten", "distinct", "sort", "range", "sortBy",
    "url", "isURL", "getScheme", "getHost", "getHostname", "getPort", "getEscapedPath", "getQuery",
    "quantity", "isQuantity", "sign", "isInteger", "asInteger", "asApproximateFloat", "add", "sub", "isGreaterThan",
    "isLessThan", "compareTo",
    "ip", "isIP", "isCanonical", "family", "isUnspecified", "isLoopback", "isLinkLocalMulticast",
    "isLinkLocalUnicast", "isGlobalUnicast", "cidr", "isCIDR", "containsIP", "containsCIDR", "masked", "prefixLength",
    "of", "none", "ofNonZeroValue", "hasValue", "value", "or", "orValue", "optMap", "optFlatMap",
    "equivalent", "intersects", "bind", "named", "validate", "dns1123Label", "dns1123Subdomain", "dns1035Label",
    "qualifiedName", "labelValue", "uri", "uuid", "byte", "date", "datetime", "dns1123LabelPrefix",
    "dns1123SubdomainPrefix", "dns1035LabelPrefix",
    "group", "resource", "subresource", "namespace", "name", "path", "serviceAccount", "check", "allowed", "reason",
    "errored", "error", "fieldSelector", "labelSelector", "escapeKey",
    "all", "exists", "exists_one", "existsOne", "map", "filter", "has", "transformList", "transformMap",
    "transformMapEntry", "greatest", "least", "abs", "ceil", "floor", "round", "trunc", "isNaN", "isFinite",
];

pub fn call<'a>(cx: &mut Evaluation<'a>, name: &str, is_method: bool, args: &[V<'a>]) -> Outcome<'a> {
    if let Some(outcome) = operator(cx, name, args) {
        return outcome;
    }
    // These look at nothing but the value's outside.
    if !matches!(name, "size" | "type" | "dyn" | "hasValue" | "value" | "optional.of") {
        cx.spend(args.iter().map(V::weight).sum())?;
    }
    let found = match is_method {
        true => method(cx, name, args),
        false => function(name, args),
    };
    found.unwrap_or_else(|| match is_known(name.rsplit('.').next().unwrap_or_default()) {
        true => Failure::no_overload(),
        false => Failure::error(format!("undeclared reference to '{name}'")),
    })
}

fn operator<'a>(cx: &mut Evaluation<'a>, name: &str, args: &[V<'a>]) -> Option<Outcome<'a>> {
    let ordered = |holds: fn(Ordering) -> bool, a: &V<'a>, b: &V<'a>| match a.compare(b) {
        Some(order) => Ok(V::Bool(holds(order))),
        None if a.as_double().is_some() && b.as_double().is_some() => Ok(V::Bool(false)),
        None => Failure::no_overload(),
    };
    Some(match (name, args) {
        (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => {
            if let Err(spent) = cx.spend(a.weight().min(b.weight())) {
                return Some(Err(spent));
            }
            Ok(V::Bool(a.equals(b) == (name == operators::EQUALS)))
        }
        (operators::LESS, [a, b]) => ordered(Ordering::is_lt, a, b),
        (operators::LESS_EQUALS, [a, b]) => ordered(Ordering::is_le, a, b),
        (operators::GREATER, [a, b]) => ordered(Ordering::is_gt, a, b),
        (operators::GREATER_EQUALS, [a, b]) => ordered(Ordering::is_ge, a, b),
        (operators::LOGICAL_NOT, [V::Bool(value)]) => Ok(V::Bool(!value)),
        (operators::NEGATE, [V::Int(n)]) => whole(n.checked_neg()),
        (operators::NEGATE, [V::Double(n)]) => Ok(V::Double(-n)),
        (operators::ADD, [a, b]) => add(cx, a, b),
        (operators::SUBSTRACT, [a, b]) => subtract(a, b),
        (operators::MULTIPLY, [V::Int(a), V::Int(b)]) => whole(a.checked_mul(*b)),
        (operators::MULTIPLY, [V::Uint(a), V::Uint(b)]) => natural(a.checked_mul(*b)),
        (operators::MULTIPLY, [V::Double(a), V::Double(b)]) => Ok(V::Double(a * b)),
        (operators::DIVIDE, [V::Int(_), V::Int(0)] | [V::Uint(_), V::Uint(0)]) => {
            Failure::error("division by zero")
        }
        (operators::DIVIDE, [V::Int(a), V::Int(b)]) => whole(a.checked_div(*b)),
        (operators::DIVIDE, [V::Uint(a), V::Uint(b)]) => natural(a.checked_div(*b)),
        (operators::DIVIDE, [V::Double(a), V::Double(b)]) => Ok(V::Double(a / b)),
        (operators::MODULO, [V::Int(_), V::Int(0)] | [V::Uint(_), V::Uint(0)]) => {
            Failure::error("modulus by zero")
        }
        (operators::MODULO, [V::Int(a), V::Int(b)]) => whole(a.checked_rem(*b)),
        (operators::MODULO, [V::Uint(a), V::Uint(b)]) => natural(a.checked_rem(*b)),
        (operators::IN, [item, range]) => contained(cx, item, range),
        (operators::INDEX, [V::Optional(inner), key]) => match inner {
            Some(inner) => {
                inner.at(key).map(|found| V::Optional(found.map(Box::new))).or_else(Failure::error)
            }
            None => Ok(V::Optional(None)),
        },
        (operators::INDEX, [range, key]) => match range.at(key) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => match (range.is_list(), key) {
                (true, V::Int(index)) => Failure::error(format!("index out of bounds: {index}")),
                (_, V::String(key)) => Failure::error(format!("no such key: {key}")),
                _ => Failure::error("no such key"),
            },
            Err(why) => Failure::error(why),
        },
        (operators::OPT_INDEX, [V::Optional(None), _]) => Ok(V::Optional(None)),
        (operators::OPT_INDEX, [V::Optional(Some(range)), key]) => {
            range.at(key).map(|found| V::Optional(found.map(Box::new))).or_else(Failure::error)
        }
        (operators::OPT_INDEX, [range, key]) => {
            range.at(key).map(|found| V::Optional(found.map(Box::new))).or_else(Failure::error)
        }
        _ => return None,
    })
}

fn whole<'a>(n: Option<i64>) -> Outcome<'a> {
    n.map_or_else(|| Failure::error("integer overflow"), |n| Ok(V::Int(n)))
}

fn natural<'a>(n: Option<u64>) -> Outcome<'a> {
    n.map_or_else(|| Failure::error("unsigned integer overflow"), |n| Ok(V::Uint(n)))
}

fn moved<'a>(time: &Timestamp, nanoseconds: i64) -> Outcome<'a> {
    match time.checked_add(SignedDuration::from_nanos(nanoseconds)) {
        Ok(time) => Ok(V::Timestamp(time)),
        Err(_) => Failure::error("timestamp overflow"),
    }
}

fn add<'a>(cx: &mut Evaluation<'a>, a: &V<'a>, b: &V<'a>) -> Outcome<'a> {
    match (a, b) {
        (V::Int(a), V::Int(b)) => return whole(a.checked_add(*b)),
        (V::Uint(a), V::Uint(b)) => return natural(a.checked_add(*b)),
        (V::Double(a), V::Double(b)) => return Ok(V::Double(a + b)),
        (V::String(a), V::String(b)) => {
            cx.spend((a.len() + b.len()) as u64)?;
            return Ok(V::text(format!("{a}{b}")));
        }
        (V::Bytes(a), V::Bytes(b)) => {
            cx.spend((a.len() + b.len()) as u64)?;
            return Ok(V::Bytes([&a[..], &b[..]].concat().into()));
        }
        (V::Duration(a), V::Duration(b)) => {
            return a
                .checked_add(*b)
                .map_or_else(|| Failure::error("duration overflow"), |d| Ok(V::Duration(d)));
        }
        (V::Timestamp(time), V::Duration(nanoseconds)) | (V::Duration(nanoseconds), V::Timestamp(time)) => {
            return moved(time, *nanoseconds);
        }
        _ => {}
    }
    cx.spend((a.size().unwrap_or(0) + b.size().unwrap_or(0)) as u64)?;
    match (a.items(), b.items()) {
        (Some(mut items), Some(more)) => {
            items.extend(more);
            Ok(V::list(items))
        }
        _ => Failure::no_overload(),
    }
}

fn subtract<'a>(a: &V<'a>, b: &V<'a>) -> Outcome<'a> {
    let duration =
        |n: Option<i64>| n.map_or_else(|| Failure::error("duration overflow"), |d| Ok(V::Duration(d)));
    match (a, b) {
        (V::Int(a), V::Int(b)) => whole(a.checked_sub(*b)),
        (V::Uint(a), V::Uint(b)) => natural(a.checked_sub(*b)),
        (V::Double(a), V::Double(b)) => Ok(V::Double(a - b)),
        (V::Duration(a), V::Duration(b)) => duration(a.checked_sub(*b)),
        (V::Timestamp(time), V::Duration(n)) => match n.checked_neg() {
            Some(n) => moved(time, n),
            None => Failure::error("timestamp overflow"),
        },
        (V::Timestamp(a), V::Timestamp(b)) => duration(i64::try_from(a.duration_since(*b).as_nanos()).ok()),
        _ => Failure::no_overload(),
    }
}

fn contained<'a>(cx: &mut Evaluation<'a>, item: &V<'a>, range: &V<'a>) -> Outcome<'a> {
    cx.spend(range.size().unwrap_or(0) as u64)?;
    if let Some(items) = range.items() {
        return Ok(V::Bool(items.iter().any(|other| other.equals(item))));
    }
    match range.entries() {
        Some(entries) => Ok(V::Bool(entries.iter().any(|(key, _)| key.equals(item)))),
        None => Failure::no_overload(),
    }
}

/// Global functions. None: there is no such function for these arguments.
fn function<'a>(name: &str, args: &[V<'a>]) -> Option<Outcome<'a>> {
    let failed = |why: String| Some(Failure::error(why));
    let good = |value: V<'a>| Some(Ok(value));
    match (name, args) {
        ("size", [value]) => good(V::Int(value.size()? as i64)),
        ("type", [value]) => good(V::Type(value.type_name())),
        ("dyn", [value]) => good(value.clone()),
        ("string", [value]) => good(V::text(printed(value)?)),
        ("int" | "uint" | "double" | "bool" | "bytes", [value]) => converted(name, value),
        ("timestamp", [V::Timestamp(time)]) => good(V::Timestamp(*time)),
        ("timestamp", [V::String(text)]) => match text.parse() {
            Ok(time) => good(V::Timestamp(time)),
            Err(_) => failed(format!("invalid timestamp {text:?}")),
        },
        ("duration", [V::Duration(n)]) => good(V::Duration(*n)),
        ("duration", [V::String(text)]) => match duration_nanoseconds(text) {
            Some(n) => good(V::Duration(n)),
            None => failed(format!("invalid duration {text:?}")),
        },
        ("quantity", [V::String(text)]) => match Quantity::parse(text) {
            Some(quantity) => good(V::Quantity(quantity)),
            None => failed(format!("quantities must match the regular expression: {text:?}")),
        },
        ("isQuantity", [V::String(text)]) => good(V::Bool(Quantity::parse(text).is_some())),
        ("url", [V::String(text)]) => match Url::parse(text) {
            Some(url) => good(V::Url(Rc::new(url))),
            None => {
                failed(format!("URL parse error during conversion from string: parse {text:?}: invalid URI"))
            }
        },
        ("isURL", [V::String(text)]) => good(V::Bool(Url::parse(text).is_some())),
        ("ip", [V::String(text)]) => match address(text) {
            Some(ip) => good(V::Ip(ip)),
            None => failed(format!("IP Address {text:?} parse error during conversion from string")),
        },
        ("isIP", [V::String(text)]) => good(V::Bool(address(text).is_some())),
        ("ip.isCanonical", [V::String(text)]) => {
            good(V::Bool(address(text).is_some_and(|ip| ip.to_string() == **text)))
        }
        ("cidr", [V::String(text)]) => match network(text) {
            Some((ip, bits)) => good(V::Cidr(ip, bits)),
            None => failed(format!("network address parse error during conversion from string: {text:?}")),
        },
        ("isCIDR", [V::String(text)]) => good(V::Bool(network(text).is_some())),
        ("optional.of", [value]) => good(V::Optional(Some(Box::new(value.clone())))),
        ("optional.none", []) => good(V::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => {
            let is_zero = match value {
                V::Null | V::Bool(false) | V::Int(0) | V::Uint(0) | V::Duration(0) => true,
                V::Double(n) => *n == 0.0,
                value => value.size() == Some(0),
            };
            good(V::Optional((!is_zero).then(|| Box::new(value.clone()))))
        }
        ("sets.contains", [list, other]) => {
            let (list, other) = (list.items()?, other.items()?);
            good(V::Bool(other.iter().all(|item| list.iter().any(|own| own.equals(item)))))
        }
        ("sets.equivalent", [a, b]) => {
            let (a, b) = (a.items()?, b.items()?);
            let within =
                |a: &[V<'a>], b: &[V<'a>]| a.iter().all(|item| b.iter().any(|other| other.equals(item)));
            good(V::Bool(within(&a, &b) && within(&b, &a)))
        }
        ("sets.intersects", [a, b]) => {
            let (a, b) = (a.items()?, b.items()?);
            good(V::Bool(a.iter().any(|item| b.iter().any(|other| other.equals(item)))))
        }
        ("lists.range", [V::Int(n @ 0..=10_000)]) => good(V::list((0..*n).map(V::Int).collect())),
        ("jsonpatch.escapeKey", [V::String(key)]) => good(V::text(key.replace('~', "~0").replace('/', "~1"))),
        ("strings.quote", [V::String(text)]) => good(V::text(format!("{text:?}"))),
        ("format.named", [V::String(name)]) => {
            good(V::Optional(format_named(name).map(|f| Box::new(V::Format(f)))))
        }
        (name, []) => name.strip_prefix("format.").and_then(format_named).map(|format| Ok(V::Format(format))),
        ("math.greatest" | "math.least", args) => extreme(args, name == "math.greatest"),
        ("math.abs", [V::Int(n)]) => Some(whole(n.checked_abs())),
        ("math.abs", [V::Double(n)]) => good(V::Double(n.abs())),
        ("math.ceil", [V::Double(n)]) => good(V::Double(n.ceil())),
        ("math.floor", [V::Double(n)]) => good(V::Double(n.floor())),
        ("math.round", [V::Double(n)]) => good(V::Double(n.round())),
        ("math.trunc", [V::Double(n)]) => good(V::Double(n.trunc())),
        ("matches", [V::String(_), V::String(_)]) => text_method("matches", args),
        _ => None,
    }
}

fn extreme<'a>(args: &[V<'a>], greatest: bool) -> Option<Outcome<'a>> {
    let items = match args {
        [list] => list.items().unwrap_or_else(|| vec![list.clone()]),
        many => many.to_vec(),
    };
    let mut best: Option<V<'a>> = None;
    for item in items {
        best = match best {
            None => Some(item),
            Some(best) => {
                let order = item.compare(&best)?;
                let wins = if greatest { order.is_gt() } else { order.is_lt() };
                Some(if wins { item } else { best })
            }
        };
    }
    Some(Ok(best?))
}

fn printed(value: &V<'_>) -> Option<String> {
    Some(match value {
        V::String(text) => text.to_string(),
        V::Bool(value) => value.to_string(),
        V::Int(n) => n.to_string(),
        V::Uint(n) => n.to_string(),
        V::Double(n) => n.to_string(),
        V::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        V::Timestamp(time) => time.to_string(),
        V::Duration(n) => format!("{}s", *n as f64 / 1e9),
        V::Quantity(quantity) => quantity.to_string(),
        V::Ip(ip) => ip.to_string(),
        V::Cidr(ip, bits) => format!("{ip}/{bits}"),
        _ => return None,
    })
}

fn converted<'a>(name: &str, value: &V<'a>) -> Option<Outcome<'a>> {
    let wrong =
        || Some(Failure::error(format!("type conversion error from '{}' to '{name}'", value.type_name())));
    let good = |value: V<'a>| Some(Ok(value));
    match (name, value) {
        ("int", V::Int(n)) => good(V::Int(*n)),
        ("int", V::Uint(n)) => Some(whole(i64::try_from(*n).ok())),
        ("int", V::Double(n)) if n.abs() < 9.2e18 => good(V::Int(*n as i64)),
        ("int", V::Double(_)) => Some(whole(None)),
        ("int", V::String(text)) => text.parse().map_or_else(|_| wrong(), |n| good(V::Int(n))),
        ("int", V::Timestamp(time)) => good(V::Int(time.as_second())),
        ("uint", V::Uint(n)) => good(V::Uint(*n)),
        ("uint", V::Int(n)) => Some(natural(u64::try_from(*n).ok())),
        ("uint", V::Double(n)) if (0.0..1.8e19).contains(n) => good(V::Uint(*n as u64)),
        ("uint", V::String(text)) => text.parse().map_or_else(|_| wrong(), |n| good(V::Uint(n))),
        ("double", V::String(text)) => text.parse().map_or_else(|_| wrong(), |n| good(V::Double(n))),
        ("double", value) => good(V::Double(value.as_double()?)),
        ("bool", V::Bool(value)) => good(V::Bool(*value)),
        ("bool", V::String(text)) => match &**text {
            "1" | "t" | "true" | "TRUE" | "True" => good(V::Bool(true)),
            "0" | "f" | "false" | "FALSE" | "False" => good(V::Bool(false)),
            _ => wrong(),
        },
        ("bytes", V::Bytes(bytes)) => good(V::Bytes(bytes.clone())),
        ("bytes", V::String(text)) => good(V::Bytes(text.as_bytes().into())),
        _ => None,
    }
}

/// Methods: the first argument is what they are called on. None: there is no such method for these arguments.
fn method<'a>(cx: &mut Evaluation<'a>, name: &str, args: &[V<'a>]) -> Option<Outcome<'a>> {
    match (&args[0], &args[1..]) {
        (value, []) if name == "size" => Some(Ok(V::Int(value.size()? as i64))),
        (V::String(_), _) => {
            let size = |value: &V<'a>| if let V::String(text) = value { text.len() as u64 } else { 0 };
            // A regular expression is compiled, and a replacement may multiply its text.
            let cost = match name {
                "matches" | "find" | "findAll" => args.iter().map(size).sum::<u64>() + 100,
                "replace" => size(&args[0]) * (1 + args.get(2).map_or(0, size)),
                _ => size(&args[0]),
            };
            match cx.spend(cost) {
                Ok(()) => text_method(name, args),
                Err(spent) => Some(Err(spent)),
            }
        }
        (V::Timestamp(time), rest) => time_part(name, time, rest),
        (V::Duration(n), []) => {
            let per = match name {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => 1_000_000,
                _ => return None,
            };
            Some(Ok(V::Int(n / per)))
        }
        (V::Optional(inner), []) => Some(match (name, inner) {
            ("hasValue", inner) => Ok(V::Bool(inner.is_some())),
            ("value", Some(value)) => Ok((**value).clone()),
            ("value", None) => Failure::error("optional.none() dereference"),
            _ => return None,
        }),
        (V::Quantity(quantity), rest) => quantity_method(name, *quantity, rest),
        (V::Url(url), []) => {
            let (host, port) = url.host_and_port();
            let text = match name {
                "getScheme" => url.scheme.clone(),
                "getHost" => url.host.clone(),
                "getHostname" => host.trim_matches(['[', ']']).to_owned(),
                "getPort" => port.to_owned(),
                "getEscapedPath" => url.path.clone(),
                "getQuery" => return Some(Ok(url.query())),
                _ => return None,
            };
            Some(Ok(V::text(text)))
        }
        (V::Question(question), rest) => question_method(cx, name, question, rest),
        (V::Decision(decision), []) => decision_method(name, decision),
        (V::Ip(ip), []) => ip_method(name, ip).map(Ok),
        (V::Cidr(ip, bits), rest) => cidr_method(name, *ip, *bits, rest).map(Ok),
        (V::Format(format), [V::String(text)]) if name == "validate" => {
            let problems = format_problems(format, text);
            let list = (!problems.is_empty()).then(|| V::list(problems.into_iter().map(V::text).collect()));
            Some(Ok(V::Optional(list.map(Box::new))))
        }
        (list, rest) => list_method(cx, name, list, rest),
    }
}

fn text_method<'a>(name: &str, args: &[V<'a>]) -> Option<Outcome<'a>> {
    let [V::String(text), rest @ ..] = args else { return None };
    let good = |value: V<'a>| Some(Ok(value));
    let position = |found: Option<usize>| found.map_or(-1, |at| text[..at].chars().count() as i64);
    let chars = || text.chars().collect::<Vec<char>>();
    let cut = |from: i64, to: i64| {
        let chars = chars();
        let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        match range.and_then(|(from, to)| chars.get(from..to)) {
            Some(part) => Ok(V::text(part.iter().collect::<String>())),
            None => Failure::error(format!("index out of range: {from}")),
        }
    };
    let pattern = |pattern: &str| pattern_of(pattern).map_err(|error| Failure::Error(error.to_string()));
    match (name, rest) {
        ("contains", [V::String(part)]) => good(V::Bool(text.contains(&**part))),
        ("startsWith", [V::String(part)]) => good(V::Bool(text.starts_with(&**part))),
        ("endsWith", [V::String(part)]) => good(V::Bool(text.ends_with(&**part))),
        ("matches", [V::String(regex)]) => Some(pattern(regex).map(|regex| V::Bool(regex.is_match(text)))),
        ("find", [V::String(regex)]) => {
            Some(pattern(regex).map(|regex| V::text(regex.find(text).map_or("", |found| found.as_str()))))
        }
        ("findAll", [V::String(regex), most @ ..]) => {
            let most = match most {
                [] => usize::MAX,
                [V::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => return None,
            };
            let all = |regex: regex::Regex| {
                V::list(regex.find_iter(text).take(most).map(|found| V::text(found.as_str())).collect())
            };
            Some(pattern(regex).map(all))
        }
        ("charAt", [V::Int(at)]) if *at == chars().len() as i64 => good(V::text("")),
        ("charAt", [V::Int(at)]) => Some(cut(*at, at.saturating_add(1))),
        ("substring", [V::Int(from)]) => Some(cut(*from, chars().len() as i64)),
        ("substring", [V::Int(from), V::Int(to)]) => Some(cut(*from, *to)),
        ("indexOf", [V::String(part)]) => good(V::Int(position(text.find(&**part)))),
        ("lastIndexOf", [V::String(part)]) => good(V::Int(position(text.rfind(&**part)))),
        ("indexOf", [V::String(part), V::Int(from)]) => {
            let from = text.char_indices().nth(usize::try_from(*from).ok()?).map_or(text.len(), |(at, _)| at);
            good(V::Int(position(text[from..].find(&**part).map(|at| at + from))))
        }
        ("lowerAscii", []) => good(V::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => good(V::text(text.to_ascii_uppercase())),
        ("trim", []) => good(V::text(text.trim())),
        ("reverse", []) => good(V::text(text.chars().rev().collect::<String>())),
        ("replace", [V::String(from), V::String(to)]) => good(V::text(text.replace(&**from, to))),
        ("replace", [V::String(from), V::String(to), V::Int(most)]) => good(match usize::try_from(*most) {
            Ok(most) => V::text(text.replacen(&**from, to, most)),
            Err(_) => V::text(text.replace(&**from, to)),
        }),
        ("split", [V::String(separator), most @ ..]) => {
            let most = match most {
                [] => usize::MAX,
                [V::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => return None,
            };
            let parts: Vec<V<'a>> = match (most, separator.is_empty()) {
                (0, _) => Vec::new(),
                (_, true) => chars().into_iter().map(|c| V::text(c.to_string())).collect(),
                (most, false) => text.splitn(most, &**separator).map(V::text).collect(),
            };
            good(V::list(parts))
        }
        ("format", [list]) => Some(formatted(text, &list.items()?)),
        _ => None,
    }
}

/// `"%s has %d".format([...])`
fn formatted<'a>(template: &str, values: &[V<'a>]) -> Outcome<'a> {
    let (mut text, mut values, mut chars) = (String::new(), values.iter(), template.chars().peekable());
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut precision = String::new();
        if chars.next_if_eq(&'.').is_some() {
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                precision.push(digit);
            }
        }
        let places = precision.parse::<usize>().unwrap_or(6).min(100);
        let verb = chars.next();
        if verb == Some('%') {
            text.push('%');
            continue;
        }
        let Some(value) = values.next() else { return Failure::error("index out of range in format()") };
        match (verb, value) {
            (Some('f'), value) => match value.as_double() {
                Some(n) => text.push_str(&format!("{n:.places$}")),
                None => return Failure::no_overload(),
            },
            (Some('x'), V::Int(n)) => text.push_str(&format!("{n:x}")),
            (Some('X'), V::Int(n)) => text.push_str(&format!("{n:X}")),
            (Some('o'), V::Int(n)) => text.push_str(&format!("{n:o}")),
            (Some('b'), V::Int(n)) => text.push_str(&format!("{n:b}")),
            (Some('s' | 'd'), value) => text.push_str(&shown(value)),
            _ => return Failure::error("unrecognized formatting clause"),
        }
    }
    Ok(V::text(text))
}

fn shown(value: &V<'_>) -> String {
    if let Some(text) = printed(value) {
        return text;
    }
    if let Some(items) = value.items() {
        return format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "));
    }
    match (value, value.entries()) {
        (_, Some(entries)) => {
            let each: Vec<String> =
                entries.iter().map(|(k, v)| format!("{}: {}", shown(k), shown(v))).collect();
            format!("{{{}}}", each.join(", "))
        }
        (V::Type(name), _) => (*name).to_owned(),
        _ => "null".into(),
    }
}

fn time_part<'a>(name: &str, time: &Timestamp, rest: &[V<'a>]) -> Option<Outcome<'a>> {
    let zone = match rest {
        [] => TimeZone::UTC,
        [V::String(zone)] => match zone_named(zone) {
            Some(zone) => zone,
            None => return Some(Failure::error(format!("unknown time zone {zone}"))),
        },
        _ => return None,
    };
    let at: Zoned = time.to_zoned(zone);
    let part = match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return None,
    };
    Some(Ok(V::Int(part)))
}

/// `UTC` and offsets: a pure function reads no database of zones.
fn zone_named(name: &str) -> Option<TimeZone> {
    if matches!(name, "UTC" | "Z" | "") {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match name.as_bytes().first()? {
        b'-' => (-1, &name[1..]),
        b'+' => (1, &name[1..]),
        _ => (1, name),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = sign * (hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60);
    k8s_openapi::jiff::tz::Offset::from_seconds(seconds).ok().map(TimeZone::fixed)
}

fn quantity_method<'a>(name: &str, quantity: Quantity, rest: &[V<'a>]) -> Option<Outcome<'a>> {
    let other = match rest {
        [] => None,
        [V::Quantity(other)] => Some(*other),
        [V::Int(n)] => Quantity::parse(&n.to_string()),
        _ => return None,
    };
    let is_integer = || quantity.milli().checked_rem(1000) == Some(0);
    Some(Ok(match (name, other) {
        ("sign", None) if quantity.is_zero() => V::Int(0),
        ("sign", None) => V::Int(if quantity.is_negative() { -1 } else { 1 }),
        ("isInteger", None) => V::Bool(is_integer()),
        ("asInteger", None) if is_integer() => V::Int(quantity.value()),
        ("asInteger", None) => return Some(Failure::error("cannot convert value to integer")),
        ("asApproximateFloat", None) => V::Double(quantity.milli() as f64 / 1000.0),
        ("add", Some(other)) => V::Quantity(quantity.plus(other)),
        ("sub", Some(other)) => V::Quantity(quantity.minus(other)),
        ("isGreaterThan", Some(other)) => V::Bool(quantity > other),
        ("isLessThan", Some(other)) => V::Bool(quantity < other),
        ("compareTo", Some(other)) => V::Int(quantity.cmp(&other) as i64),
        _ => return None,
    }))
}

impl Url {
    /// As Go's `url.ParseRequestURI` reads it.
    fn parse(text: &str) -> Option<Self> {
        if !formats::fits("uri", text) {
            return None;
        }
        let (scheme, rest) = match text.starts_with('/') {
            true => ("", text),
            false => text.split_once(':')?,
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        Some(Self { scheme: scheme.into(), host: host.into(), path: path.into(), query: query.into() })
    }

    fn host_and_port(&self) -> (&str, &str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
            _ => (&self.host, ""),
        }
    }

    /// The values of each key.
    fn query<'a>(&self) -> V<'a> {
        let mut entries: Vec<(V<'a>, Vec<V<'a>>)> = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (V::text(key), V::text(value));
            match entries.iter_mut().find(|(own, _)| own.equals(&key)) {
                Some((_, values)) => values.push(value),
                None => entries.push((key, vec![value])),
            }
        }
        V::Map(Rc::new(entries.into_iter().map(|(key, values)| (key, V::list(values))).collect()))
    }
}

fn address(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    // Kubernetes takes no IPv4 address written as IPv6.
    match ip {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/')?;
    let (ip, bits) = (address(ip)?, bits.parse().ok()?);
    (bits <= length(ip)).then_some((ip, bits))
}

fn length(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn ip_method<'a>(name: &str, ip: &IpAddr) -> Option<V<'a>> {
    let v4 = match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    let link_local_unicast = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    Some(match name {
        "family" => V::Int(if v4.is_some() { 4 } else { 6 }),
        "isUnspecified" => V::Bool(ip.is_unspecified()),
        "isLoopback" => V::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => V::Bool(link_local_multicast),
        "isLinkLocalUnicast" => V::Bool(link_local_unicast),
        "isGlobalUnicast" => {
            let broadcast = v4.is_some_and(|ip| ip.is_broadcast());
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast;
            V::Bool(!broadcast && !special)
        }
        _ => return None,
    })
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn cidr_method<'a>(name: &str, ip: IpAddr, bits: u8, rest: &[V<'a>]) -> Option<V<'a>> {
    let within = |other: IpAddr, other_bits: u8| {
        other.is_ipv4() == ip.is_ipv4() && other_bits >= bits && masked(other, bits) == masked(ip, bits)
    };
    Some(match (name, rest) {
        ("ip", []) => V::Ip(ip),
        ("prefixLength", []) => V::Int(bits.into()),
        ("masked", []) => V::Cidr(masked(ip, bits), bits),
        ("containsIP", [V::Ip(other)]) => V::Bool(within(*other, length(*other))),
        ("containsIP", [V::String(other)]) => {
            let other = address(other)?;
            V::Bool(within(other, length(other)))
        }
        ("containsCIDR", [V::Cidr(other, other_bits)]) => V::Bool(within(*other, *other_bits)),
        ("containsCIDR", [V::String(other)]) => {
            let (other, other_bits) = network(other)?;
            V::Bool(within(other, other_bits))
        }
        _ => return None,
    })
}

fn format_named(name: &str) -> Option<&'static str> {
    const FORMATS: [&str; 14] = [
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime",
        "duration",
    ];
    FORMATS.into_iter().find(|format| *format == name)
}

fn format_problems(format: &str, text: &str) -> Vec<String> {
    use crate::meta;
    let prefix = || text.strip_suffix('-').map_or_else(|| text.to_owned(), |rest| format!("{rest}a"));
    let outcome = match format {
        "dns1123Label" => meta::dns_label(text),
        "dns1123LabelPrefix" => meta::dns_label(&prefix()),
        "dns1123Subdomain" => meta::dns_subdomain(text),
        "dns1123SubdomainPrefix" => meta::dns_subdomain(&prefix()),
        "dns1035Label" | "dns1035LabelPrefix" => match meta::dns_label(&prefix()) {
            Ok(()) if !text.starts_with(|c: char| c.is_ascii_digit()) => Ok(()),
            _ => Err(
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                      alphabetic character, and end with an alphanumeric character"
                    .into(),
            ),
        },
        "qualifiedName" => meta::qualified_name(text),
        "labelValue" => meta::label_value(text),
        other => match formats::fits(other, text) {
            true => Ok(()),
            false => Err(format!("invalid {other}")),
        },
    };
    outcome.err().into_iter().collect()
}

fn list_method<'a>(cx: &mut Evaluation<'a>, name: &str, list: &V<'a>, rest: &[V<'a>]) -> Option<Outcome<'a>> {
    let items = list.items()?;
    if let Err(spent) = cx.spend(items.len() as u64) {
        return Some(Err(spent));
    }
    let good = |value: V<'a>| Some(Ok(value));
    let at = |found: Option<usize>| V::Int(found.map_or(-1, |at| at as i64));
    match (name, rest) {
        ("isSorted", []) => {
            good(V::Bool(items.windows(2).all(|pair| pair[0].compare(&pair[1]).is_some_and(Ordering::is_le))))
        }
        ("min" | "max", []) if items.is_empty() => {
            Some(Failure::error(format!("{name} called on empty list")))
        }
        ("min" | "max", []) => extreme(&items, name == "max"),
        ("sum", []) => {
            let mut total = match items.first() {
                None => return good(V::Int(0)),
                Some(first) => first.clone(),
            };
            for item in &items[1..] {
                total = match add(cx, &total, item) {
                    Ok(total) => total,
                    failure => return Some(failure),
                };
            }
            good(total)
        }
        ("indexOf", [item]) => good(at(items.iter().position(|other| other.equals(item)))),
        ("lastIndexOf", [item]) => good(at(items.iter().rposition(|other| other.equals(item)))),
        ("contains", [item]) => good(V::Bool(items.iter().any(|other| other.equals(item)))),
        ("join", []) => Some(joined(&items, "")),
        ("join", [V::String(separator)]) => Some(joined(&items, separator)),
        ("slice", [V::Int(from), V::Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
            match range.and_then(|(from, to)| items.get(from..to)) {
                Some(part) => good(V::list(part.to_vec())),
                None => Some(Failure::error(format!(
                    "cannot slice({from}, {to}), list is length {}",
                    items.len()
                ))),
            }
        }
        ("reverse", []) => good(V::list(items.into_iter().rev().collect())),
        ("distinct", []) => {
            let mut seen: Vec<V<'a>> = Vec::new();
            for item in items {
                if let Err(spent) = cx.spend(seen.len() as u64) {
                    return Some(Err(spent));
                }
                if !seen.iter().any(|other| other.equals(&item)) {
                    seen.push(item);
                }
            }
            good(V::list(seen))
        }
        ("flatten", []) => {
            let each = items.into_iter().flat_map(|item| item.items().unwrap_or_else(|| vec![item]));
            good(V::list(each.collect()))
        }
        ("sort", []) => Some(sorted(items.into_iter().map(|item| (item.clone(), item)).collect())),
        _ => None,
    }
}

fn joined<'a>(items: &[V<'a>], separator: &str) -> Outcome<'a> {
    let texts = items.iter().map(|item| if let V::String(text) = item { Some(&**text) } else { None });
    match texts.collect::<Option<Vec<&str>>>() {
        Some(texts) => Ok(V::text(texts.join(separator))),
        None => Failure::no_overload(),
    }
}

/// Values in the order of their keys, which have one type: others have no order.
pub fn sorted<'a>(mut keyed: Vec<(V<'a>, V<'a>)>) -> Outcome<'a> {
    let uniform = keyed.windows(2).all(|pair| pair[0].0.type_name() == pair[1].0.type_name());
    if !uniform || keyed.iter().any(|(key, _)| key.is_list() || key.is_map()) {
        return Failure::error("list elements must have the same type");
    }
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (V::Double(a), V::Double(b)) => a.total_cmp(b),
        (a, b) => a.compare(b).unwrap_or(Ordering::Equal),
    });
    Ok(V::list(keyed.into_iter().map(|(_, item)| item).collect()))
}
