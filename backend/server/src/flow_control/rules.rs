//! Which requests belong to which flow: FlowSchemas, read once, matched against every request.
use crate::auth::Attributes;
use crate::objects::Actor;
use axum::http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// flowcontrol/v1 `FlowSchemaSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub matching_precedence: i32,
    pub priority_level_configuration: Named,
    distinguisher_method: Option<Method>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Method {
    r#type: Distinguisher,
}

/// What makes requests of one schema different flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Distinguisher {
    ByUser,
    ByNamespace,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind")]
enum Subject {
    User {
        user: Named,
    },
    Group {
        group: Named,
    },
    ServiceAccount {
        #[serde(rename = "serviceAccount")]
        account: Account,
    },
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NonResourceRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

/// A FlowSchema whose level of priority is `L`.
pub struct Schema<L> {
    pub name: String,
    pub uid: HeaderValue,
    pub level: Arc<L>,
    precedence: i32,
    distinguisher: Option<Distinguisher>,
    rules: Vec<Rule>,
    seed: u64,
}

impl<L> Schema<L> {
    pub fn new(name: &str, uid: &str, spec: Spec, level: Arc<L>) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self {
            name: name.to_owned(),
            uid: HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static("")),
            level,
            precedence: spec.matching_precedence,
            distinguisher: spec.distinguisher_method.map(|method| method.r#type),
            rules: spec.rules,
            seed: hasher.finish(),
        }
    }

    /// The order in which schemas are asked.
    pub fn rank(&self) -> (i32, &str) {
        (self.precedence, &self.name)
    }

    pub fn matches(&self, actor: &Actor, wanted: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.matches(actor, wanted))
    }

    /// The flow's hash.
    pub fn flow(&self, actor: &Actor, wanted: &Attributes) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        match self.distinguisher {
            Some(Distinguisher::ByUser) => actor.user.hash(&mut hasher),
            Some(Distinguisher::ByNamespace) => wanted.namespace.hash(&mut hasher),
            None => {}
        }
        hasher.finish()
    }
}

/// The spec of a stored FlowSchema.
pub fn spec(object: &Value) -> Option<Spec> {
    Spec::deserialize(&object["spec"]).ok()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == "*" || item == text)
}

impl Rule {
    fn matches(&self, actor: &Actor, wanted: &Attributes) -> bool {
        self.subjects.iter().any(|subject| subject.matches(actor))
            && match wanted.is_resource() {
                true => self.resource_rules.iter().any(|rule| rule.matches(wanted)),
                false => self.non_resource_rules.iter().any(|rule| rule.matches(wanted)),
            }
    }
}

impl Subject {
    fn matches(&self, actor: &Actor) -> bool {
        match self {
            Self::User { user } => user.name == "*" || user.name == actor.user,
            Self::Group { group } => group.name == "*" || actor.is_in(&group.name),
            Self::ServiceAccount { account } => {
                let own = actor.user.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'));
                own.is_some_and(|(namespace, name)| {
                    namespace == account.namespace && (account.name == "*" || account.name == name)
                })
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, wanted: &Attributes) -> bool {
        let scope = match &*wanted.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        scope && has(&self.verbs, &wanted.verb) && has(&self.api_groups, &wanted.group) && self.names(wanted)
    }

    fn names(&self, wanted: &Attributes) -> bool {
        self.resources.iter().any(|rule| {
            let below = || match rule.strip_prefix(&*wanted.resource) {
                Some(rest) => rest.strip_prefix('/').is_some_and(|sub| sub == wanted.subresource),
                None => false,
            };
            rule == "*" || if wanted.subresource.is_empty() { *rule == wanted.resource } else { below() }
        })
    }
}

impl NonResourceRule {
    fn matches(&self, wanted: &Attributes) -> bool {
        has(&self.verbs, &wanted.verb)
            && self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => wanted.path.starts_with(prefix),
                None => *url == wanted.path,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(method: Value, rule: Value) -> Schema<()> {
        let object = json!({"spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "l"},
            "distinguisherMethod": method, "rules": [rule]}});
        Schema::new("s", "1", spec(&object).unwrap(), Arc::new(()))
    }

    fn who(user: &str, groups: &[&str]) -> Actor {
        Actor { user: user.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..Actor::default() }
    }

    fn asks(verb: &str, resource: &str, namespace: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_request_matches_by_subject_verb_resource_and_scope() {
        let schema = schema(
            Value::Null,
            json!({
                "subjects": [
                    {"kind": "User", "user": {"name": "ann"}},
                    {"kind": "Group", "group": {"name": "ops"}},
                    {"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}},
                ],
                "resourceRules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "nodes/status"],
                    "namespaces": ["a"], "clusterScope": true}],
            }),
        );
        let pods = asks("get", "pods", "a");
        assert!(schema.matches(&who("ann", &[]), &pods));
        assert!(schema.matches(&who("bob", &["ops"]), &pods));
        assert!(schema.matches(&who("system:serviceaccount:kube-system:x", &[]), &pods));
        assert!(!schema.matches(&who("system:serviceaccount:default:x", &[]), &pods));
        let ann = who("ann", &[]);
        assert!(schema.matches(&ann, &asks("get", "nodes/status", "")));
        for (verb, resource, namespace) in [
            ("create", "pods", "a"),
            ("get", "pods", "b"),
            ("get", "pods/status", "a"),
            ("get", "nodes", ""),
            ("get", "services", "a"),
        ] {
            assert!(!schema.matches(&ann, &asks(verb, resource, namespace)), "{verb} {resource} {namespace}");
        }
    }

    #[test]
    fn paths_match_as_a_whole_or_by_their_beginning() {
        let all = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let rule = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/openapi/*"]}]);
        let schema = schema(Value::Null, json!({"subjects": all, "nonResourceRules": rule}));
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        let actor = who("x", &["system:unauthenticated"]);
        assert!(schema.matches(&actor, &path("/healthz")) && schema.matches(&actor, &path("/openapi/v3")));
        assert!(!schema.matches(&actor, &path("/healthz/etcd")) && !schema.matches(&actor, &path("/apis")));
    }

    #[test]
    fn flows_differ_as_the_schema_says() {
        let (ann, bob) = (who("ann", &[]), who("bob", &[]));
        let (a, b) = (asks("get", "pods", "a"), asks("get", "pods", "b"));
        let by_user = schema(json!({"type": "ByUser"}), json!({}));
        assert_ne!(by_user.flow(&ann, &a), by_user.flow(&bob, &a));
        assert_eq!(by_user.flow(&ann, &a), by_user.flow(&ann, &b));
        let by_namespace = schema(json!({"type": "ByNamespace"}), json!({}));
        assert_eq!(by_namespace.flow(&ann, &a), by_namespace.flow(&bob, &a));
        assert_ne!(by_namespace.flow(&ann, &a), by_namespace.flow(&ann, &b));
        let all = schema(Value::Null, json!({}));
        assert_eq!(all.flow(&ann, &a), all.flow(&bob, &b));
    }
}
