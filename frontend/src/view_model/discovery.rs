//! The kinds a server has, from aggregated discovery.
use super::{list, text};
use crate::api::Resource;
use serde_json::Value;

/// A kind and what can be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub resource: Resource,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
}

impl Found {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Every list here is live; what is only ever computed when asked for, as measurements are, has no watch.
    fn is_shown(&self) -> bool {
        self.can("list") && self.can("watch")
    }
}

/// Reads an `APIGroupDiscoveryList`: each group's preferred version of each kind that can be shown.
pub fn from_groups(body: &Value) -> Vec<Found> {
    let mut out: Vec<Found> = Vec::new();
    for group in list(body, &["items"]) {
        for version in list(group, &["versions"]) {
            for resource in list(version, &["resources"]) {
                let found = found(text(group, &["metadata", "name"]), text(version, &["version"]), resource);
                let known = out.iter().any(|other| {
                    other.resource.group == found.resource.group
                        && other.resource.plural == found.resource.plural
                });
                if !known && found.is_shown() {
                    out.push(found);
                }
            }
        }
    }
    out
}

fn found(group: &str, version: &str, resource: &Value) -> Found {
    Found {
        resource: Resource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: text(resource, &["resource"]).to_owned().into(),
            kind: text(resource, &["responseKind", "kind"]).to_owned().into(),
            namespaced: text(resource, &["scope"]) == "Namespaced",
        },
        verbs: strings(resource, "verbs"),
        short_names: strings(resource, "shortNames"),
    }
}

/// Reads one `APIResourceList`, the older form of discovery.
pub fn from_resource_list(body: &Value) -> Vec<Found> {
    let (group, version) = match text(body, &["groupVersion"]) {
        core if !core.contains('/') => ("", core),
        other => other.split_once('/').unwrap_or_default(),
    };
    let resources =
        list(body, &["resources"]).iter().filter(|resource| !text(resource, &["name"]).contains('/'));
    let found = |resource: &Value| Found {
        resource: Resource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: text(resource, &["name"]).to_owned().into(),
            kind: text(resource, &["kind"]).to_owned().into(),
            namespaced: resource["namespaced"] == true,
        },
        verbs: strings(resource, "verbs"),
        short_names: strings(resource, "shortNames"),
    };
    resources.map(found).filter(Found::is_shown).collect()
}

fn strings(value: &Value, field: &str) -> Vec<String> {
    list(value, &[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resource::{DEPLOYMENTS, PODS};
    use serde_json::json;

    #[test]
    fn both_forms_of_discovery_give_the_same_kinds() {
        let old = json!({"groupVersion": "v1", "resources": [
            {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["list", "watch"], "shortNames": ["po"]},
            {"name": "pods/log", "kind": "Pod", "namespaced": true, "verbs": ["get"]},
            {"name": "looks", "kind": "Look", "namespaced": true, "verbs": ["list", "get"]},
            {"name": "bindings", "kind": "Binding", "namespaced": true, "verbs": ["create"]}]});
        let new = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            {"resource": "pods", "responseKind": {"kind": "Pod"}, "scope": "Namespaced", "verbs": ["list", "watch"], "shortNames": ["po"]},
            {"resource": "looks", "responseKind": {"kind": "Look"}, "scope": "Namespaced", "verbs": ["list", "get"]},
            {"resource": "bindings", "responseKind": {"kind": "Binding"}, "scope": "Namespaced", "verbs": ["create"]}]}]}]});
        assert_eq!(from_resource_list(&old), from_groups(&new));
        let [pods] = from_groups(&new).try_into().unwrap();
        assert_eq!(pods.resource, PODS, "neither what cannot be listed nor what cannot be watched");
    }

    #[test]
    fn a_kind_in_two_versions_is_shown_once_in_the_preferred_one() {
        let resource = json!({"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": ["list", "watch"]});
        let body = json!({"items": [{"metadata": {"name": "apps"}, "versions": [
            {"version": "v1", "resources": [resource]}, {"version": "v1beta1", "resources": [resource]}]}]});
        let found = from_groups(&body);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].resource, DEPLOYMENTS);
    }
}
