//! Label and field selectors: parsing what clients send, and matching objects.
use crate::kind::KindEntry;
use crate::meta;
use crate::status::Status;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The set-based selector of Kubernetes' "Labels and Selectors": all requirements hold. Without any it matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    /// Holds for an object without the label, too.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// `app=web,tier!=db,env in (a,b),zone notin (c),gpu,!spot,cores>4`. Errors are BadRequest.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut parser = Parser { rest: text.trim_start() };
        let mut requirements = Vec::new();
        if parser.rest.is_empty() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement().map_err(Status::bad_request)?);
            match parser.take_symbol() {
                None if parser.rest.is_empty() => return Ok(Self(requirements)),
                Some(",") => {}
                other => {
                    let other = other.unwrap_or(parser.found());
                    return Err(Status::bad_request(format!(
                        "unable to parse requirement: found '{other}', expected: ',' or 'end of string'"
                    )));
                }
            }
        }
    }

    /// From `{matchLabels, matchExpressions}`. A null or missing selector matches nothing useful here: callers decide;
    /// an empty one matches everything.
    pub fn from_object(selector: &Value) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Test::In(vec![value])).map_err(Status::bad_request)?);
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default();
            let values = || strings(&expression["values"]);
            let test = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Test::In(values()),
                "NotIn" => Test::NotIn(values()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::DoesNotExist,
                other => {
                    return Err(Status::bad_request(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            requirements.push(Requirement::new(key, test).map_err(Status::bad_request)?);
        }
        Ok(Self(requirements))
    }

    /// From a plain map of labels, as `Service.spec.selector` has it.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) });
        Self(requirements.collect())
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Matches `metadata.labels` of an object.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.test.holds(label(&r.key)))
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As `status.selector` of a Scale prints it: parsing the text gives the selector again.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Exists => f.write_str(key)?,
                Test::DoesNotExist => write!(f, "!{key}")?,
                Test::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Test::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

impl Test {
    fn holds(&self, label: Option<&str>) -> bool {
        let number = || label.and_then(|text| text.parse::<i64>().ok());
        match self {
            Test::In(values) => label.is_some_and(|text| values.iter().any(|v| v == text)),
            Test::NotIn(values) => label.is_none_or(|text| values.iter().all(|v| v != text)),
            Test::Exists => label.is_some(),
            Test::DoesNotExist => label.is_none(),
            Test::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Test::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

impl Requirement {
    fn new(key: &str, test: Test) -> Result<Self, String> {
        meta::qualified_name(key).map_err(|why| format!("key: Invalid value: {key:?}: {why}"))?;
        match &test {
            Test::In(values) | Test::NotIn(values) => {
                if values.is_empty() {
                    return Err(
                        "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                            .into(),
                    );
                }
                for value in values {
                    meta::label_value(value)
                        .map_err(|why| format!("values[0][{key}]: Invalid value: {value:?}: {why}"))?;
                }
            }
            _ => {}
        }
        Ok(Self { key: key.to_owned(), test })
    }
}

/// Cuts a label selector into words and symbols.
struct Parser<'a> {
    rest: &'a str,
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<"];

impl<'a> Parser<'a> {
    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.symbol_is("!") {
            self.take_symbol();
            let key = self.word();
            return Requirement::new(key, Test::DoesNotExist);
        }
        let key = self.word();
        if key.is_empty() {
            let found = self.found();
            return Err(format!(
                "unable to parse requirement: found '{found}', expected: !, identifier, or 'end of string'"
            ));
        }
        if self.rest.is_empty() || self.symbol_is(",") {
            return Requirement::new(key, Test::Exists);
        }
        let test = match self.take_symbol() {
            Some("=" | "==") => Test::In(vec![self.word().to_owned()]),
            Some("!=") => Test::NotIn(vec![self.word().to_owned()]),
            Some(">") => Test::GreaterThan(self.number()?),
            Some("<") => Test::LessThan(self.number()?),
            Some(other) => return Err(expected_operator(other)),
            None => match self.word() {
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                other => return Err(expected_operator(other)),
            },
        };
        Requirement::new(key, test)
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if self.take_symbol() != Some("(") {
            return Err(format!("unable to parse requirement: found '{}' expected: '('", self.found()));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            match self.take_symbol() {
                Some(",") => {}
                Some(")") => return Ok(values),
                other => {
                    let found = other.unwrap_or_default();
                    return Err(format!(
                        "unable to parse requirement: found '{found}', expected: ',' or ')'"
                    ));
                }
            }
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let word = self.word();
        word.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: {word:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    fn word(&mut self) -> &'a str {
        let ends = |c: char| c.is_whitespace() || "=!,()<>".contains(c);
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        word
    }

    fn symbol_is(&self, symbol: &str) -> bool {
        SYMBOLS.iter().find(|s| self.rest.starts_with(**s)) == Some(&symbol)
    }

    fn take_symbol(&mut self) -> Option<&'static str> {
        let symbol = SYMBOLS.iter().find(|s| self.rest.starts_with(**s))?;
        self.rest = self.rest[symbol.len()..].trim_start();
        Some(symbol)
    }

    fn found(&self) -> &'a str {
        self.rest.split(char::is_whitespace).next().unwrap_or_default()
    }
}

fn expected_operator(found: &str) -> String {
    format!("unable to parse requirement: found '{found}', expected: in, notin, =, ==, !=, gt, lt")
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// `metadata.name=web,status.phase!=Running`: equality on the few fields a kind offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTest>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTest {
    field: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// `\,` `\=` and `\\` stand for the character itself. Errors are BadRequest.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut tests = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, operator, value)) = split_operator(term) else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            tests.push(FieldTest {
                field: field.to_owned(),
                value: unescape(value).ok_or_else(|| {
                    Status::bad_request(format!("invalid field selector: invalid escape sequence: {value}"))
                })?,
                equal: operator != "!=",
            });
        }
        Ok(Self(tests))
    }

    /// A field an object does not have counts as empty.
    pub fn matches(&self, fields: &[(String, String)]) -> bool {
        self.0.iter().all(|test| {
            let value = fields.iter().find(|(field, _)| *field == test.field);
            (value.map_or("", |(_, value)| value) == test.value) == test.equal
        })
    }

    /// Refuses fields that the kind does not offer.
    pub fn check(&self, entry: &KindEntry) -> Result<(), Status> {
        let offered = entry.rules.selectable_fields(&Value::Object(serde_json::Map::new()));
        for FieldTest { field, .. } in &self.0 {
            let general =
                field == "metadata.name" || (field == "metadata.namespace" && entry.is_namespaced());
            if !general && !offered.iter().any(|(name, _)| name == field) {
                return Err(Status::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(())
    }

    /// The one value that `field` must have, where the selector says so: a list by name needs only one look-up.
    pub fn requires(&self, field: &str) -> Option<&str> {
        let test = self.0.iter().find(|t| t.equal && t.field == field)?;
        Some(&test.value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_operator(term: &str) -> Option<(&str, &str, &str)> {
    let at = term.find(['=', '!'])?;
    let operator = ["!=", "==", "="].into_iter().find(|o| term[at..].starts_with(o))?;
    Some((&term[..at], operator, &term[at + operator.len()..]))
}

fn unescape(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            '=' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn label_selectors_match_as_documented() {
        let rows = [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a==1,b=2", "a=1,b=2", true),
            ("a = 1 , b = 3", "a=1,b=2", false),
            ("a!=1", "", true),
            ("a!=1", "a=1", false),
            ("env in (prod, test)", "env=test", true),
            ("env in (prod,test)", "", false),
            ("env notin (prod)", "", true),
            ("env notin (prod)", "env=prod", false),
            ("a", "a=1", true),
            ("!a", "a=1", false),
            ("!a,b", "b=", true),
            ("cores>4", "cores=5", true),
            ("cores<4", "cores=x", false),
            ("a=", "a=", true),
            ("example.com/role in (x)", "example.com/role=x", true),
        ];
        for (selector, of, expected) in rows {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(of)), expected, "{selector} on {of}");
            assert_eq!(LabelSelector::parse(&parsed.to_string()).unwrap(), parsed, "{selector}");
        }
    }

    #[test]
    fn broken_label_selectors_are_bad_requests() {
        for selector in
            ["=1", "a in", "a in (b", "a b", "a,,b", "a,", "-x=1", "a=b c", "a>x", "a in ()x", "a=é"]
        {
            let error = LabelSelector::parse(selector).unwrap_err();
            assert_eq!(error.code(), 400, "{selector}");
        }
    }

    #[test]
    fn a_label_selector_object_reads_labels_and_expressions() {
        let selector = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["db"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        assert!(selector.matches(&labels("app=web,tier=x")));
        assert!(!selector.matches(&labels("app=web,tier=db")));
        assert!(!selector.matches(&labels("app=web,old=1")));
        assert_eq!(selector.to_string(), "app=web,tier!=db,!old");
        assert!(
            LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}))
                .is_err()
        );
    }

    #[test]
    fn field_selectors_compare_for_equality() {
        let fields = [("metadata.name", "a,b"), ("status.phase", "Running")];
        let fields: Vec<_> = fields.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let rows = [
            ("", true),
            ("status.phase=Running", true),
            ("status.phase==Running,metadata.name=a\\,b", true),
            ("status.phase!=Running", false),
            ("spec.nodeName=", true),
        ];
        for (selector, expected) in rows {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(&fields), expected, "{selector}");
        }
        assert!(FieldSelector::parse("status.phase").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
        let by_name = FieldSelector::parse("metadata.name=x").unwrap();
        assert_eq!(by_name.requires("metadata.name"), Some("x"));
    }

    #[test]
    fn a_field_the_kind_does_not_offer_is_refused() {
        let registry = crate::Registry::builtin();
        let entry = registry.by_resource("configmaps").unwrap();
        assert!(FieldSelector::parse("metadata.namespace=x").unwrap().check(entry).is_ok());
        let error = FieldSelector::parse("data=x").unwrap().check(entry).unwrap_err();
        assert_eq!(error.message, "field label not supported: data");
    }
}
