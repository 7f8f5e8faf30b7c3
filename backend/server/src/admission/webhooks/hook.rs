//! One webhook of a configuration, and which requests it is for.
use super::super::{Operation, Request};
use super::client::Endpoint;
use super::conditions::Conditions;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{KindEntry, Registry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mutating,
    Validating,
}

pub struct Hook {
    pub kind: Kind,
    pub name: String,
    pub endpoint: Endpoint,
    pub timeout: Duration,
    /// Whether a request passes where the webhook cannot be asked.
    pub ignores_failure: bool,
    /// Whether it wants to see what those after it changed.
    pub is_reinvoked: bool,
    /// Of `AdmissionReview`: `v1` or `v1beta1`.
    pub version: &'static str,
    pub conditions: Conditions,
    rules: Vec<Rule>,
    matches_equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// One that cannot be read selects everything: to skip a webhook by mistake would be worse than to ask it.
fn selector(selector: &Value) -> LabelSelector {
    match selector.is_object() {
        true => LabelSelector::from_object(selector).unwrap_or_else(|_| everything()),
        false => everything(),
    }
}

fn everything() -> LabelSelector {
    LabelSelector::from_labels(&BTreeMap::new())
}

impl Hook {
    /// All webhooks of a configuration, in its order.
    pub fn all_of(kind: Kind, configuration: &Value) -> Vec<Self> {
        let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
        webhooks.map(|webhook| Self::new(kind, webhook)).collect()
    }

    fn new(kind: Kind, webhook: &Value) -> Self {
        let rules = webhook["rules"].as_array().into_iter().flatten().map(|rule| Rule {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        });
        let versions = texts(&webhook["admissionReviewVersions"]);
        let version = versions.iter().find_map(|version| match version.as_str() {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        Self {
            kind,
            name: webhook["name"].as_str().unwrap_or_default().to_owned(),
            endpoint: Endpoint::new(&webhook["clientConfig"]),
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
            ignores_failure: webhook["failurePolicy"] == "Ignore",
            is_reinvoked: webhook["reinvocationPolicy"] == "IfNeeded",
            version: version.unwrap_or("v1"),
            conditions: Conditions::new(&webhook["matchConditions"]),
            rules: rules.collect(),
            matches_equivalent: webhook["matchPolicy"] != "Exact",
            namespaces: selector(&webhook["namespaceSelector"]),
            objects: selector(&webhook["objectSelector"]),
        }
    }

    /// In whose shape the webhook sees the request's objects; None where the request is none of its business.
    /// `namespace_labels` are those of the namespace that the request is about, None outside of any.
    pub fn wants(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
        namespace_labels: Option<&BTreeMap<String, String>>,
        registry: &Registry,
    ) -> Option<Arc<KindEntry>> {
        let shape = self.shape(request, registry)?;
        let in_namespace = namespace_labels.is_none_or(|labels| self.namespaces.matches(labels));
        let mut objects = object.into_iter().chain(request.old);
        let is_object = self.objects.is_empty() || objects.any(|object| self.objects.matches_object(object));
        (in_namespace && is_object).then_some(shape)
    }

    fn shape(&self, request: &Request<'_>, registry: &Registry) -> Option<Arc<KindEntry>> {
        let matches = |entry: &KindEntry| self.rules.iter().any(|rule| rule.matches(request, entry));
        let entry = request.entry;
        let served = registry.by_url(&entry.group, &entry.version, &entry.plural)?;
        if matches(served) {
            return Some(served.clone());
        }
        // The same objects under another version's name.
        let is_other =
            |other: &&Arc<KindEntry>| other.stored_as == entry.stored_as && other.plural == entry.plural;
        let mut others = registry.entries().iter().filter(is_other).filter(|_| self.matches_equivalent);
        others.find(|other| matches(other)).cloned()
    }
}

impl Rule {
    fn matches(&self, request: &Request<'_>, entry: &KindEntry) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == "*" || item == text);
        let is_namespaced = entry.is_namespaced();
        let in_scope = match self.scope.as_str() {
            "Namespaced" => is_namespaced,
            "Cluster" => !is_namespaced,
            _ => true,
        };
        in_scope
            && has(&self.operations, operation(request.operation))
            && has(&self.groups, &entry.group)
            && has(&self.versions, &entry.version)
            && self.resources.iter().any(|resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                (resource == "*" || resource == entry.plural)
                    && (subresource == "*" || subresource == request.subresource)
            })
    }
}

pub fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Actor;
    use serde_json::json;

    fn hook(rule: Value, more: Value) -> Hook {
        let mut webhook = json!({"name": "a.b.c", "rules": [rule], "clientConfig": {"url": "https://x/"}});
        for (field, value) in more.as_object().unwrap() {
            webhook[field] = value.clone();
        }
        Hook::new(Kind::Validating, &webhook)
    }

    fn rule(operations: &[&str], group: &str, version: &str, resource: &str) -> Value {
        json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
    }

    /// The version a webhook sees, or nothing.
    fn seen(
        hook: &Hook,
        url: (&str, &str, &str),
        operation: Operation,
        subresource: &str,
        object: Value,
    ) -> String {
        let registry = Registry::builtin();
        let entry = registry.by_url(url.0, url.1, url.2).unwrap();
        let actor = Actor::default();
        let request = Request::new(operation, entry, &actor).of("ns", "a", "").subresource(subresource);
        let labels = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
        let shape = hook.wants(&request, Some(&object), Some(&labels), &registry);
        shape.map(|entry| entry.api_version()).unwrap_or_default()
    }

    #[test]
    fn rules_name_operations_groups_versions_and_resources() {
        let pods = ("", "v1", "pods");
        let rows = [
            (rule(&["CREATE"], "", "v1", "pods"), pods, Operation::Create, "", "v1"),
            (rule(&["UPDATE"], "", "v1", "pods"), pods, Operation::Create, "", ""),
            (rule(&["*"], "*", "*", "*"), ("apps", "v1", "deployments"), Operation::Delete, "", "apps/v1"),
            (rule(&["*"], "*", "*", "*"), pods, Operation::Update, "status", ""),
            (rule(&["*"], "*", "*", "*/*"), pods, Operation::Update, "status", "v1"),
            (rule(&["*"], "", "v1", "pods/*"), pods, Operation::Create, "", "v1"),
            (rule(&["*"], "", "v1", "pods/status"), pods, Operation::Update, "status", "v1"),
            (rule(&["*"], "", "v1", "pods/status"), pods, Operation::Update, "", ""),
            (rule(&["CONNECT"], "", "v1", "pods/exec"), pods, Operation::Connect, "exec", "v1"),
            (rule(&["*"], "apps", "v1", "pods"), pods, Operation::Create, "", ""),
        ];
        for (rule, url, operation, subresource, expected) in rows {
            let told = rule.to_string();
            assert_eq!(
                seen(&hook(rule, json!({})), url, operation, subresource, json!({})),
                expected,
                "{told}"
            );
        }
    }

    #[test]
    fn an_equivalent_version_is_seen_as_the_rule_names_it() {
        let rule = rule(&["*"], "autoscaling", "v1", "horizontalpodautoscalers");
        let v2 = ("autoscaling", "v2", "horizontalpodautoscalers");
        let of = |policy: &str| hook(rule.clone(), json!({"matchPolicy": policy}));
        assert_eq!(seen(&of("Equivalent"), v2, Operation::Create, "", json!({})), "autoscaling/v1");
        assert_eq!(seen(&of("Exact"), v2, Operation::Create, "", json!({})), "");
    }

    #[test]
    fn selectors_and_scope_narrow_a_rule() {
        let pods = ("", "v1", "pods");
        let all = || rule(&["*"], "*", "*", "*");
        let is_for = |more: Value| {
            let object = json!({"metadata": {"labels": {"app": "web"}}});
            !seen(&hook(all(), more), pods, Operation::Create, "", object).is_empty()
        };
        assert!(is_for(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
        assert!(!is_for(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}})));
        assert!(is_for(json!({"objectSelector": {"matchLabels": {"app": "web"}}})));
        assert!(!is_for(json!({"objectSelector": {"matchLabels": {"app": "db"}}})));
        let mut cluster = all();
        cluster["scope"] = "Cluster".into();
        assert_eq!(seen(&hook(cluster.clone(), json!({})), pods, Operation::Create, "", json!({})), "");
        assert_eq!(
            seen(&hook(cluster, json!({})), ("", "v1", "nodes"), Operation::Create, "", json!({})),
            "v1"
        );
    }
}
