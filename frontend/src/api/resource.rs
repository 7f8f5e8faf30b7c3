//! What can be asked for: a kind's names and the URLs they make.
use std::borrow::Cow;

/// One kind of object as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub namespaced: bool,
}

pub static PODS: Resource = Resource::of("", "v1", "pods", "Pod", true);
pub static NODES: Resource = Resource::of("", "v1", "nodes", "Node", false);
pub static EVENTS: Resource = Resource::of("", "v1", "events", "Event", true);
pub static SECRETS: Resource = Resource::of("", "v1", "secrets", "Secret", true);
pub static SERVICES: Resource = Resource::of("", "v1", "services", "Service", true);
pub static NAMESPACES: Resource = Resource::of("", "v1", "namespaces", "Namespace", false);
pub static CONFIG_MAPS: Resource = Resource::of("", "v1", "configmaps", "ConfigMap", true);
pub static DEPLOYMENTS: Resource = Resource::of("apps", "v1", "deployments", "Deployment", true);
pub static REPLICA_SETS: Resource = Resource::of("apps", "v1", "replicasets", "ReplicaSet", true);

/// The kinds with pages of their own; `page` of each is its plural.
pub static WITH_PAGES: [&Resource; 9] =
    [&PODS, &NODES, &EVENTS, &SECRETS, &SERVICES, &NAMESPACES, &CONFIG_MAPS, &DEPLOYMENTS, &REPLICA_SETS];

impl Resource {
    const fn of(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    pub fn api_version(&self) -> String {
        match self.group.is_empty() {
            true => self.version.to_string(),
            false => format!("{}/{}", self.group, self.version),
        }
    }

    /// As `kubectl get` takes it without doubt: `pods`, `deployments.apps`.
    pub fn full_name(&self) -> String {
        match self.group.is_empty() {
            true => self.plural.to_string(),
            false => format!("{}.{}", self.plural, self.group),
        }
    }

    /// `None` or an empty namespace means all of them.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api/" } else { "/apis/" };
        let base = format!("{root}{}", self.api_version());
        match namespace {
            Some(namespace) if self.namespaced && !namespace.is_empty() => {
                format!("{base}/namespaces/{}/{}", escape(namespace), self.plural)
            }
            _ => format!("{base}/{}", self.plural),
        }
    }

    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), escape(name))
    }

    fn has_page(&self) -> bool {
        WITH_PAGES.contains(&self)
    }

    /// Where the dashboard lists this kind.
    pub fn list_page(&self) -> String {
        match self.has_page() {
            true => format!("/ui/{}", self.plural),
            false => {
                let group = if self.group.is_empty() { "core" } else { &self.group };
                format!("/ui/more/{group}/{}/{}", self.version, self.plural)
            }
        }
    }

    /// Where the dashboard shows one object. `_` stands for "no namespace".
    pub fn object_page(&self, namespace: &str, name: &str) -> String {
        let namespace = if namespace.is_empty() { "_" } else { namespace };
        format!("{}/{namespace}/{}", self.list_page(), escape(name))
    }
}

/// Percent-encodes what may not stand in one segment of a path or in a query's value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The reverse of [`escape`]; what is no valid escape stays as it is.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_the_kubernetes_api() {
        assert_eq!(PODS.collection(None), "/api/v1/pods");
        assert_eq!(PODS.object("a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(DEPLOYMENTS.collection(Some("a")), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(NODES.object("", "n1"), "/api/v1/nodes/n1");
        assert_eq!(NAMESPACES.collection(Some("ignored")), "/api/v1/namespaces");
    }

    #[test]
    fn a_kind_without_a_page_of_its_own_has_the_generic_one() {
        let leases = Resource::of("coordination.k8s.io", "v1", "leases", "Lease", true);
        assert_eq!(leases.list_page(), "/ui/more/coordination.k8s.io/v1/leases");
        assert_eq!(PODS.object_page("a", "b"), "/ui/pods/a/b");
        assert_eq!(NODES.object_page("", "n:1"), "/ui/nodes/_/n%3A1");
    }

    #[test]
    fn escaping_and_unescaping_are_inverse() {
        for text in ["plain", "a/b c", "system:node:x", "ä%zz", "100%"] {
            assert_eq!(unescape(&escape(text)), text);
        }
        assert_eq!(unescape("100%"), "100%");
    }
}
