//! Reading and writing `metadata` on JSON objects, names and ages.
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// The age of an object as `kubectl` prints it: `5s`, `3m12s`, `4h`, `12d`.
pub fn age(object: &Value, now: Timestamp) -> String {
    match text(object, "creationTimestamp").parse::<Timestamp>() {
        Ok(created) => human_duration((now.as_second() - created.as_second()).max(0)),
        Err(_) => "<unknown>".into(),
    }
}

/// apimachinery's `HumanDuration`: two units at most, fewer the longer it is. `seconds` is not negative.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |a: i64, a_unit: &str, b: i64, b_unit: &str| match b {
        0 => format!("{a}{a_unit}"),
        b => format!("{a}{a_unit}{b}{b_unit}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The order of API versions: `v1alpha1`, `v1beta1`, `v1beta2`, `v1`, `v2`; other names come before, by the alphabet.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    let rank = |version: &str| -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let major_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..major_end].parse().ok()?;
        let stage = &rest[major_end..];
        match (stage, stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
            ("", ..) => Some((2, major, 0)),
            (_, Some(minor), _) => Some((1, major, minor.parse().ok()?)),
            (.., Some(minor)) => Some((0, major, minor.parse().ok()?)),
            _ => None,
        }
    };
    rank(a).cmp(&rank(b)).then_with(|| b.cmp(a))
}

/// RFC 1123 subdomain, at most 253 characters.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() > 253 {
        return Err("must be no more than 253 bytes".into());
    }
    if name.split('.').all(is_label_text) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
         start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        .into())
}

/// RFC 1123 label, at most 63 characters.
pub fn dns_label(name: &str) -> Result<(), String> {
    if name.len() > 63 {
        return Err("must be no more than 63 bytes".into());
    }
    if is_label_text(name) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
         with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        .into())
}

fn is_label_text(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            inner(first) && inner(last) && bytes.iter().all(|&c| inner(c) || c == b'-')
        }
        _ => false,
    }
}

/// The key of a label or annotation, the name of a finalizer: an optional DNS subdomain and a slash, then up to 63
/// characters. An error carries all that is wrong, as Kubernetes joins it.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        None => (None, key),
        Some((_, name)) if name.contains('/') => {
            return Err(format!("a qualified name {}", name_part_rule(true)));
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    match prefix {
        Some("") => return Err("prefix part must be non-empty".into()),
        Some(prefix) => dns_subdomain(prefix).map_err(|why| format!("prefix part {why}"))?,
        None => {}
    }
    if name.is_empty() {
        return Err(format!("name part must be non-empty; name part {}", name_part_rule(false)));
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 bytes".into());
    }
    match is_label_value_text(name) {
        true => Ok(()),
        false => Err(format!("name part {}", name_part_rule(false))),
    }
}

fn name_part_rule(with_prefix: bool) -> String {
    let rule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    match with_prefix {
        true => format!("{rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"),
        false => rule.into(),
    }
}

/// The value of a label: at most 63 of `[A-Za-z0-9_.-]`, letters or digits at both ends; may be empty.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.len() > 63 {
        return Err("must be no more than 63 bytes".into());
    }
    if value.is_empty() || is_label_value_text(value) {
        return Ok(());
    }
    Err("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
         and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
         validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        .into())
}

fn is_label_value_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|c| c.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_after_those_on_the_way() {
        let mut versions = ["v1", "v2beta1", "foo", "v10", "v1alpha1", "v2", "v1beta2", "v1beta10", "bar"];
        versions.sort_by(|a, b| compare_versions(b, a));
        let expected = ["v10", "v2", "v1", "v2beta1", "v1beta10", "v1beta2", "v1alpha1", "bar", "foo"];
        assert_eq!(versions, expected);
    }

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let rows = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
        ];
        for (seconds, expected) in rows {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn keys_and_values_of_labels_keep_their_rules() {
        let long = "x".repeat(64);
        for good in ["a", "A.b_c-d", "example.com/role", "9"] {
            assert_eq!(qualified_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "/a", "a/", "a/b/c", "Example.com/a", "a b", "é", &long] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "1.0_x-Y"] {
            assert_eq!(label_value(good), Ok(()), "{good}");
        }
        for bad in ["-", "a b", "a/b", &long] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
    }
}
