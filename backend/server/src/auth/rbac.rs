//! RBAC: who may do what, from Roles and their bindings, kept as an index that follows the store.
use super::attributes::Attributes;
use crate::feed::Observation;
use crate::objects::Actor;
use parking_lot::RwLock;
use pilothouse_store::Object;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub const RESOURCES: &[&str] = &[
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
];

/// rbac/v1 `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

impl PolicyRule {
    pub fn allows(&self, wanted: &Attributes) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == "*" || item == text);
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if !wanted.is_resource() {
            return self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => wanted.path.starts_with(prefix),
                None => *url == wanted.path,
            });
        }
        has(&self.api_groups, &wanted.group)
            && self.allows_resource(wanted)
            && (self.resource_names.is_empty() || self.resource_names.contains(&wanted.name))
    }

    fn allows_resource(&self, wanted: &Attributes) -> bool {
        let full = wanted.full_resource();
        self.resources.iter().any(|resource| {
            resource == "*"
                || *resource == full
                || (!wanted.subresource.is_empty()
                    && resource
                        .strip_prefix("*/")
                        .is_some_and(|subresource| subresource == wanted.subresource))
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// Namespace (empty for cluster scope) and name.
type Place = (Arc<str>, Arc<str>);

#[derive(Clone, Debug)]
struct Binding {
    place: Place,
    /// Whose rules: a Role of the binding's namespace or a ClusterRole.
    role: Place,
}

#[derive(Default)]
struct Index {
    /// Roles by namespace and name, ClusterRoles under the empty namespace.
    roles: HashMap<Place, Arc<Vec<PolicyRule>>>,
    bindings: HashMap<Subject, Vec<Binding>>,
    /// To take a binding out again.
    subjects: HashMap<Place, Vec<Subject>>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Rbac(Arc<RwLock<Index>>);

impl Rbac {
    pub fn observe(&self, observation: &Observation) {
        let mut index = self.0.write();
        match observation {
            Observation::Reset => *index = Index::default(),
            Observation::Put(object) => index.put(object),
            Observation::Gone(object) => index.remove(object),
        }
    }

    pub fn allows(&self, actor: &Actor, wanted: &Attributes) -> bool {
        let index = self.0.read();
        index.rules_of(actor, &wanted.namespace).any(|rules| rules.iter().any(|rule| rule.allows(wanted)))
    }

    /// All rules that hold for the actor in a namespace, for SelfSubjectRulesReview.
    pub fn rules(&self, actor: &Actor, namespace: &str) -> Vec<PolicyRule> {
        let index = self.0.read();
        index.rules_of(actor, namespace).flat_map(|rules| rules.iter().cloned()).collect()
    }
}

impl Index {
    fn rules_of<'a>(
        &'a self,
        actor: &'a Actor,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Vec<PolicyRule>>> {
        let user = Subject::User(actor.user.clone());
        let groups = actor.groups.iter().map(|group| Subject::Group(group.clone()));
        let bindings =
            std::iter::once(user).chain(groups).filter_map(|subject| self.bindings.get(&subject)).flatten();
        bindings
            .filter(move |binding| {
                binding.place.0.is_empty() || (*binding.place.0 == *namespace && !namespace.is_empty())
            })
            .filter_map(|binding| self.roles.get(&binding.role))
    }

    fn put(&mut self, object: &Object) {
        let value = object.value();
        let place = (object.key.namespace.clone(), object.key.name.clone());
        if is_role(object) {
            let rules = Arc::new(Vec::<PolicyRule>::deserialize(&value["rules"]).unwrap_or_default());
            self.roles.insert(place, rules);
            return;
        }
        self.remove_binding(&place);
        let role = &value["roleRef"];
        let Some(name) = role["name"].as_str() else { return };
        let namespace = match role["kind"].as_str() {
            Some("Role") => place.0.clone(),
            _ => "".into(),
        };
        let binding = Binding { place: place.clone(), role: (namespace, name.into()) };
        let subjects =
            value["subjects"].as_array().into_iter().flatten().filter_map(|s| subject(s, &place.0));
        let subjects: HashSet<Subject> = subjects.collect();
        for subject in &subjects {
            self.bindings.entry(subject.clone()).or_default().push(binding.clone());
        }
        self.subjects.insert(place, subjects.into_iter().collect());
    }

    fn remove(&mut self, object: &Object) {
        let place = (object.key.namespace.clone(), object.key.name.clone());
        match is_role(object) {
            true => drop(self.roles.remove(&place)),
            false => self.remove_binding(&place),
        }
    }

    fn remove_binding(&mut self, place: &Place) {
        for subject in self.subjects.remove(place).unwrap_or_default() {
            if let Some(bindings) = self.bindings.get_mut(&subject) {
                bindings.retain(|binding| binding.place != *place);
            }
        }
        self.bindings.retain(|_, bindings| !bindings.is_empty());
    }
}

fn is_role(object: &Object) -> bool {
    matches!(
        &*object.key.resource,
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io"
    )
}

fn subject(subject: &Value, namespace: &str) -> Option<Subject> {
    let name = subject["name"].as_str()?;
    match subject["kind"].as_str()? {
        "User" => Some(Subject::User(name.into())),
        "Group" => Some(Subject::Group(name.into())),
        "ServiceAccount" => {
            let namespace = subject["namespace"].as_str().unwrap_or(namespace);
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rbac(objects: &[(&str, &str, &str, Value)]) -> Rbac {
        let rbac = Rbac::default();
        for (resource, namespace, name, value) in objects {
            let key =
                pilothouse_api::Key::new(format!("{resource}.rbac.authorization.k8s.io"), *namespace, *name);
            let bytes = value.to_string().into();
            let object = Object {
                key,
                uid: "1".into(),
                revision: 1,
                bytes,
                labels: Default::default(),
                fields: Vec::new(),
            };
            rbac.observe(&Observation::Put(Arc::new(object)));
        }
        rbac
    }

    fn ann() -> Actor {
        Actor { user: "ann".into(), groups: vec!["dev".into()], ..Actor::default() }
    }

    fn may(rbac: &Rbac, verb: &str, namespace: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted = Attributes {
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..Default::default()
        };
        rbac.allows(&ann(), &wanted)
    }

    fn reader() -> Value {
        json!({"rules": [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]})
    }

    #[test]
    fn a_role_binding_holds_in_its_namespace_only() {
        let rbac = rbac(&[
            ("roles", "shop", "reader", reader()),
            (
                "rolebindings",
                "shop",
                "b",
                json!({"roleRef": {"kind": "Role", "name": "reader"},
                "subjects": [{"kind": "Group", "name": "dev"}]}),
            ),
        ]);
        assert!(may(&rbac, "get", "shop", "pods"));
        assert!(may(&rbac, "get", "shop", "pods/log"));
        assert!(!may(&rbac, "get", "shop", "pods/exec"));
        assert!(!may(&rbac, "delete", "shop", "pods"));
        assert!(!may(&rbac, "get", "other", "pods"));
        assert!(!may(&rbac, "list", "", "pods"));
    }

    #[test]
    fn a_cluster_role_binding_holds_everywhere() {
        let rbac = rbac(&[
            ("clusterroles", "", "reader", reader()),
            (
                "clusterrolebindings",
                "",
                "b",
                json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "User", "name": "ann"}]}),
            ),
        ]);
        assert!(may(&rbac, "get", "shop", "pods"));
        assert!(may(&rbac, "list", "", "pods"));
    }

    #[test]
    fn a_binding_that_changed_loses_its_former_subjects() {
        let binding = |user: &str| {
            json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "User", "name": user}]})
        };
        let rbac = rbac(&[
            ("clusterroles", "", "reader", reader()),
            ("clusterrolebindings", "", "b", binding("ann")),
            ("clusterrolebindings", "", "b", binding("bob")),
        ]);
        assert!(!may(&rbac, "get", "shop", "pods"));
    }

    #[test]
    fn names_and_paths_are_matched_as_documented() {
        let rule = |value: Value| PolicyRule::deserialize(&value).unwrap();
        let one =
            rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"], "resourceNames": ["a"]}));
        let wanted = |name: &str| Attributes {
            verb: "get".into(),
            resource: "pods".into(),
            name: name.into(),
            ..Default::default()
        };
        assert!(one.allows(&wanted("a")) && !one.allows(&wanted("b")) && !one.allows(&wanted("")));
        let path = rule(json!({"nonResourceURLs": ["/api/*"], "verbs": ["get"]}));
        let at = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Default::default() };
        assert!(path.allows(&at("/api/v1")) && !path.allows(&at("/apis")));
        let scale = rule(json!({"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["*"]}));
        let mut wanted = Attributes {
            verb: "patch".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            ..Default::default()
        };
        assert!(scale.allows(&wanted));
        wanted.subresource.clear();
        assert!(!scale.allows(&wanted));
    }
}
