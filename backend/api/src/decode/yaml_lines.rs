//! Where in a YAML text a field stands: strict decoding names the line of a key that comes twice.
use std::collections::HashMap;

/// The one error that YAML's strict reading gives for all keys that come twice; None without any. `paths` are those keys,
/// in the order met.
pub fn duplicates(body: &[u8], paths: &[String]) -> Option<String> {
    if paths.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let lines = lines_by_path(&text);
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let said = paths.iter().map(|path| {
        let times = seen.entry(path).or_default();
        *times += 1;
        let key = path.rsplit('.').next().unwrap_or(path);
        // A key in braces has no line of its own that is found so simply.
        let line = lines.get(path).and_then(|lines| lines.get(*times));
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("\n  {line}key {key:?} already set in map")
    });
    Some(format!("yaml: unmarshal errors:{}", said.collect::<String>()))
}

/// One level of nesting: the column at which it stands and what it adds to the path.
struct Level {
    column: usize,
    step: Step,
}

enum Step {
    Key(String),
    Item(usize),
}

/// The lines, counted from one, on which the keys of block mappings stand. Indentation tells what belongs to what.
fn lines_by_path(text: &str) -> HashMap<String, Vec<usize>> {
    let mut lines: HashMap<String, Vec<usize>> = HashMap::new();
    let mut levels: Vec<Level> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut rest = line.trim_start_matches(' ');
        let mut column = line.len() - rest.len();
        if rest.is_empty() || rest.starts_with('#') {
            continue;
        }
        while let Some(after) = rest.strip_prefix("- ") {
            enter_item(&mut levels, column);
            let inner = after.trim_start_matches(' ');
            column += rest.len() - inner.len();
            rest = inner;
        }
        if rest == "-" {
            enter_item(&mut levels, column);
        } else if let Some(key) = key_of(rest) {
            levels.truncate(levels.iter().take_while(|level| level.column < column).count());
            levels.push(Level { column, step: Step::Key(key.to_owned()) });
            lines.entry(path_of(&levels)).or_default().push(number);
        }
    }
    lines
}

fn enter_item(levels: &mut Vec<Level>, column: usize) {
    // The items of a list may stand at the column of the key they belong to.
    let outside = |level: &&Level| {
        level.column < column || (level.column == column && matches!(level.step, Step::Key(_)))
    };
    let depth = levels.iter().take_while(outside).count();
    let index = match levels.get(depth) {
        Some(Level { column: at, step: Step::Item(index) }) if *at == column => index + 1,
        _ => 0,
    };
    levels.truncate(depth);
    levels.push(Level { column, step: Step::Item(index) });
}

fn key_of(text: &str) -> Option<&str> {
    let end = match text.chars().next()? {
        quote @ ('"' | '\'') => text[1..].find(quote)? + 2,
        '{' | '[' | '|' | '>' => return None,
        _ => text.find(": ").or_else(|| text.trim_end().strip_suffix(':').map(str::len))?,
    };
    text[end..].starts_with(':').then(|| text[..end].trim_matches(['"', '\'']))
}

fn path_of(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels {
        match &level.step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => {
                path.push('.');
                path.push_str(key);
            }
            Step::Item(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_second_key_is_told() {
        let text = "\napiVersion: v1 # x\nmetadata:\n  finalizers:\n  - a/b\n  - c/d\nspec:\n  foo: 1\n  \"foo\": 2\n  \
                    list:\n    - name: a\n      image: x\n    - name: b\n      image: y\n      image: z\n  foo: 3\n";
        let paths = ["spec.foo", "spec.list[1].image", "spec.foo"].map(str::to_owned);
        assert_eq!(
            duplicates(text.as_bytes(), &paths).unwrap(),
            "yaml: unmarshal errors:\n  line 9: key \"foo\" already set in map\n  line 15: key \"image\" already set in \
             map\n  line 16: key \"foo\" already set in map"
        );
        assert_eq!(duplicates(b"a: 1", &[]), None);
        let braces = duplicates(b"{a: 1, a: 2}", &["a".to_owned()]).unwrap();
        assert_eq!(braces, "yaml: unmarshal errors:\n  key \"a\" already set in map");
    }
}
