//! Names that Kubernetes takes: what is wrong with one is said before it is sent.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// RFC 1123 label: Namespaces, Services.
    Label,
    /// RFC 1123 subdomain, labels joined by dots: most kinds.
    Subdomain,
}

pub fn problem_of_name(name: &str, shape: Shape) -> Option<&'static str> {
    let most = if shape == Shape::Label { 63 } else { 253 };
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || byte == b'-'
            || (byte == b'.' && shape == Shape::Subdomain)
    };
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    match () {
        () if name.is_empty() => Some("give it a name, such as web"),
        () if !bytes.iter().copied().all(is_allowed) => {
            Some("only lower-case letters, digits and dashes, such as web-2")
        }
        () if !name
            .split('.')
            .all(|part| is_end(part.as_bytes().first()) && is_end(part.as_bytes().last())) =>
        {
            Some("begin and end with a letter or digit")
        }
        () if bytes.len() > most => Some("too long"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_the_server_judges_them() {
        for good in ["a", "web-2", "0", "a.b-c.d"] {
            assert_eq!(problem_of_name(good, Shape::Subdomain), None, "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a b", "ä"] {
            assert!(problem_of_name(bad, Shape::Subdomain).is_some(), "{bad}");
        }
        assert!(problem_of_name("a.b", Shape::Label).is_some());
        assert!(problem_of_name(&"a".repeat(64), Shape::Label).is_some());
        assert_eq!(problem_of_name(&"a".repeat(64), Shape::Subdomain), None);
    }
}
