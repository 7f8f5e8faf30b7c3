//! JSON paths as definitions write them: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.
//! Follows Kubernetes' "JSONPath Support", without ranges of text and recursive descent.
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// From the end where it is negative.
    Index(i64),
    All,
    /// Items in which the path holds a value that compares so.
    Where(JsonPath, Compare, Value),
    /// Items in which the path leads somewhere.
    Has(JsonPath),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARISONS: [(&str, Compare); 6] = [
    ("==", Compare::Equal),
    ("!=", Compare::NotEqual),
    ("<=", Compare::LessOrEqual),
    (">=", Compare::GreaterOrEqual),
    ("<", Compare::Less),
    (">", Compare::Greater),
];

impl JsonPath {
    /// Starts with a dot. Errors say what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut steps, mut rest) = (Vec::new(), text.strip_prefix('$').unwrap_or(text));
        while !rest.is_empty() {
            let step;
            (step, rest) = match rest.as_bytes()[0] {
                b'.' => field(&rest[1..])?,
                b'[' => bracket(&rest[1..])?,
                _ => return Err(format!("unexpected {rest:?} in JSON path {text:?}")),
            };
            steps.extend(step);
        }
        Ok(Self(steps))
    }

    /// The names of a path that only goes through fields; None for others.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let names = self.0.iter().map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }

    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.follow(value)).collect();
        }
        found
    }

    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.find(value).into_iter().next()
    }

    /// Puts a value where the fields lead; objects on the way are made.
    pub fn set(&self, object: &mut Value, value: Value) {
        let Some(names) = self.fields() else { return };
        let mut slot = object;
        for name in names {
            if !slot.is_object() {
                *slot = Value::Object(Default::default());
            }
            slot = &mut slot[name];
        }
        *slot = value;
    }
}

fn field(rest: &str) -> Result<(Option<Step>, &str), String> {
    let (mut name, mut chars) = (String::new(), rest.char_indices());
    let end = loop {
        match chars.next() {
            None => break rest.len(),
            Some((at, '.' | '[')) => break at,
            Some((_, '\\')) => name.extend(chars.next().map(|(_, c)| c)),
            Some((_, c)) => name.push(c),
        }
    };
    match name.as_str() {
        // `.` alone is the root; before a bracket a dot says nothing.
        "" if rest.is_empty() || rest.starts_with('[') => Ok((None, &rest[end..])),
        "" => Err("recursive descent is not supported".into()),
        "*" => Ok((Some(Step::All), &rest[end..])),
        _ => Ok((Some(Step::Field(name)), &rest[end..])),
    }
}

fn bracket(rest: &str) -> Result<(Option<Step>, &str), String> {
    if let Some(filter) = rest.strip_prefix("?(") {
        let (inside, rest) = filter.split_once(")]").ok_or("unterminated filter")?;
        return Ok((Some(condition(inside)?), rest));
    }
    for quote in ['\'', '"'] {
        if let Some(text) = rest.strip_prefix(quote) {
            let (name, rest) = text.split_once(&format!("{quote}]")).ok_or("unterminated string")?;
            return Ok((Some(Step::Field(name.replace("\\.", "."))), rest));
        }
    }
    let (inside, rest) = rest.split_once(']').ok_or("unterminated array")?;
    match inside.trim() {
        "*" => Ok((Some(Step::All), rest)),
        index => match index.parse() {
            Ok(index) => Ok((Some(Step::Index(index)), rest)),
            Err(_) => Err(format!("invalid array index {index}")),
        },
    }
}

fn condition(text: &str) -> Result<Step, String> {
    let path = |text: &str| {
        let text = text.trim();
        JsonPath::parse(text.strip_prefix('@').ok_or(format!("{text:?} does not start with @"))?)
    };
    for (sign, compare) in COMPARISONS {
        if let Some((left, right)) = text.split_once(sign) {
            let right = right.trim();
            let unquoted = right.trim_matches(['\'', '"']);
            let value = match serde_json::from_str(right) {
                Ok(value) if unquoted == right => value,
                _ => unquoted.into(),
            };
            return Ok(Step::Where(path(left)?, compare, value));
        }
    }
    Ok(Step::Has(path(text)?))
}

impl Step {
    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let at = if *index < 0 { items.len() as i64 + index } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            _ => {
                let all: Vec<&Value> = match value {
                    Value::Array(items) => items.iter().collect(),
                    Value::Object(fields) => fields.values().collect(),
                    _ => Vec::new(),
                };
                all.into_iter().filter(|item| self.selects(item)).collect()
            }
        }
    }

    fn selects(&self, item: &Value) -> bool {
        match self {
            Step::Where(path, compare, wanted) => path.first(item).is_some_and(|v| compare.holds(v, wanted)),
            Step::Has(path) => path.first(item).is_some(),
            _ => true,
        }
    }
}

impl Compare {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(left), Value::Number(right)) => left.as_f64().partial_cmp(&right.as_f64()),
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (left, right) => (left == right).then_some(std::cmp::Ordering::Equal),
        };
        match self {
            Compare::Equal => order.is_some_and(|o| o.is_eq()),
            Compare::NotEqual => order.is_none_or(|o| o.is_ne()),
            Compare::Less => order.is_some_and(|o| o.is_lt()),
            Compare::LessOrEqual => order.is_some_and(|o| o.is_le()),
            Compare::Greater => order.is_some_and(|o| o.is_gt()),
            Compare::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_finds_what_printer_columns_ask_for() {
        let object = json!({
            "metadata": {"annotations": {"example.com/x": "1"}},
            "spec": {"replicas": 3, "ports": [{"p": 80}, {"p": 443}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]},
        });
        let rows = [
            (".spec.replicas", json!([3])),
            (".spec.ports[*].p", json!([80, 443])),
            (".spec.ports[-1].p", json!([443])),
            (".spec.ports[0]['p']", json!([80])),
            (".spec.ports[?(@.p>100)].p", json!([443])),
            (".spec.none.x", json!([])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type=='Synced')].status", json!(["False"])),
            (r".metadata.annotations.example\.com/x", json!(["1"])),
            (".metadata.annotations['example.com/x']", json!(["1"])),
        ];
        for (path, expected) in rows {
            let found: Vec<Value> =
                JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(Value::Array(found), expected, "{path}");
        }
        for broken in ["spec", ".spec[", ".spec[a]", ".spec[?(x==1)]", "..a", ".a['b"] {
            assert!(JsonPath::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_value_is_put_where_the_fields_lead() {
        let mut object = json!({"spec": {"a": 1}});
        JsonPath::parse(".spec.pool.size").unwrap().set(&mut object, json!(2));
        assert_eq!(object, json!({"spec": {"a": 1, "pool": {"size": 2}}}));
    }
}
