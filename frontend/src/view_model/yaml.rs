//! Objects as YAML, and back.
use super::log::push_escaped;
use serde_json::Value;
use serde_yaml_ng::{Mapping, Value as Yaml};

/// Fields in this order where they occur, before all others.
const FIRST: [&str; 5] = ["apiVersion", "kind", "metadata", "name", "namespace"];

/// YAML of an object, type and name first.
pub fn print(object: &Value) -> String {
    serde_yaml_ng::to_string(&ordered(object, 2)).unwrap_or_default()
}

/// As [`print`], without what no reader wants: the bookkeeping of field owners.
pub fn print_readable(object: &Value) -> String {
    print(&readable(object))
}

pub fn readable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// HTML of YAML as [`print`] writes it, keys told apart from values.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut text_block = None::<usize>;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if text_block.is_some_and(|start| line.trim().is_empty() || indent > start) {
            push_escaped(&mut out, line);
            out.push('\n');
            continue;
        }
        text_block = None;
        let dashes = line[indent..].len() - line[indent..].trim_start_matches("- ").len();
        let (lead, rest) = line.split_at(indent + dashes);
        let key = match rest.split_once(": ") {
            Some((key, _)) => Some(key),
            None => rest.strip_suffix(':'),
        };
        push_escaped(&mut out, lead);
        match key.filter(|key| !key.starts_with(['"', '\'', '{', '['])) {
            Some(key) => {
                out.push_str("<b>");
                push_escaped(&mut out, key);
                out.push_str("</b>");
                push_escaped(&mut out, &rest[key.len()..]);
            }
            None => push_escaped(&mut out, rest),
        }
        if [": |", ": |-", ": |+", ": >", ": >-"].iter().any(|end| rest.ends_with(end)) {
            text_block = Some(indent);
        }
        out.push('\n');
    }
    out
}

fn ordered(value: &Value, depth: u32) -> Yaml {
    let Value::Object(map) = value else { return serde_yaml_ng::to_value(value).unwrap_or(Yaml::Null) };
    let mut names: Vec<&String> = map.keys().collect();
    if depth > 0 {
        names.sort_by_key(|name| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    }
    let entry = |name: &String| (Yaml::String(name.clone()), ordered(&map[name], depth.saturating_sub(1)));
    Yaml::Mapping(names.into_iter().map(entry).collect::<Mapping>())
}

/// One object; the error names the line.
pub fn parse(text: &str) -> Result<Value, String> {
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Err("there is nothing here yet".into()),
        _ => Err("an object starts with apiVersion and kind".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn type_and_name_come_first_and_field_owners_not_at_all() {
        let object = json!({"data": {"name": "x", "a": "1\n2\n"}, "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"labels": {}, "name": "c", "managedFields": [{}]}});
        assert_eq!(
            print_readable(&object),
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  labels: {}\ndata:\n  name: x\n  a: |\n    1\n    2\n"
        );
    }

    #[test]
    fn keys_are_told_apart_and_nothing_becomes_markup() {
        let text = "kind: <b>\nspec:\n  list:\n  - name: a\n    url: http://x\n  text: |\n    not: a key\n  '1: x'\n---\n";
        assert_eq!(
            html(text),
            "<b>kind</b>: &lt;b&gt;\n<b>spec</b>:\n  <b>list</b>:\n  - <b>name</b>: a\n    <b>url</b>: http://x\n  \
             <b>text</b>: |\n    not: a key\n  '1: x'\n---\n"
        );
    }

    #[test]
    fn printed_yaml_reads_back_as_the_same_object() {
        let object = json!({"apiVersion": "v1", "kind": "X", "yes": "no", "n": "1", "f": 1.5, "t": "2001-01-01", "list": [{"a": null}]});
        assert_eq!(parse(&print(&object)), Ok(object));
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let error = parse("a: 1\nb: [1\nc: 2").unwrap_err();
        assert!(error.contains("line"), "{error}");
        assert!(parse("").is_err());
        assert!(parse("just text").is_err());
    }
}
