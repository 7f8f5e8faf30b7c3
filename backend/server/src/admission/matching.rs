//! Which requests a webhook or an admission policy is for: rules, selectors, and versions that stand for each other.
use super::{Operation, Request};
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, KindEntry, Registry};
use pilothouse_store::Store;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// No webhook and no policy judges what admission itself stands on: nobody could remove a broken one.
const OWN_GROUP: &str = "admissionregistration.k8s.io";
/// Questions that are answered on the spot, and stored nowhere.
const REVIEWS: &[&str] = &["authorization.k8s.io", "authentication.k8s.io"];

/// Whether nobody outside has a say in a request.
pub fn is_exempt(request: &Request<'_>) -> bool {
    let group = request.entry.group.as_str();
    group == OWN_GROUP || REVIEWS.contains(&group)
}

pub struct Matcher {
    /// Empty where rules may be missing: then everything matches.
    rules: Vec<Rule>,
    excludes: Vec<Rule>,
    matches_equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
    needs_rules: bool,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// Empty for any.
    names: Vec<String>,
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

impl Matcher {
    /// Of a webhook: without rules it is for nothing.
    pub fn of_webhook(webhook: &Value) -> Self {
        Self { needs_rules: true, ..Self::new(webhook, "rules") }
    }

    /// `matchConstraints` of a policy or `matchResources` of its binding: without rules everything is meant.
    pub fn of_policy(matching: &Value) -> Self {
        Self::new(matching, "resourceRules")
    }

    fn new(of: &Value, rules: &str) -> Self {
        let read = |list: &Value| list.as_array().into_iter().flatten().map(Rule::new).collect();
        Self {
            rules: read(&of[rules]),
            excludes: read(&of["excludeResourceRules"]),
            matches_equivalent: of["matchPolicy"] != "Exact",
            namespaces: selector(&of["namespaceSelector"]),
            objects: selector(&of["objectSelector"]),
            needs_rules: false,
        }
    }

    /// In whose shape the request's objects are seen; None where the request is not meant. `namespace_labels` are those
    /// of the namespace that the request is about, None outside of any.
    pub fn wants(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
        namespace_labels: Option<&BTreeMap<String, String>>,
        registry: &Registry,
    ) -> Option<Arc<KindEntry>> {
        let in_namespace = namespace_labels.is_none_or(|labels| self.namespaces.matches(labels));
        let mut objects = object.into_iter().chain(request.old);
        let is_object = self.objects.is_empty() || objects.any(|object| self.objects.matches_object(object));
        if !in_namespace || !is_object || self.shape(&self.excludes, request, registry).is_some() {
            return None;
        }
        match self.rules.is_empty() && !self.needs_rules {
            true => {
                let entry = request.entry;
                registry.by_url(&entry.group, &entry.version, &entry.plural).cloned()
            }
            false => self.shape(&self.rules, request, registry),
        }
    }

    fn shape(&self, rules: &[Rule], request: &Request<'_>, registry: &Registry) -> Option<Arc<KindEntry>> {
        let matches = |entry: &KindEntry| rules.iter().any(|rule| rule.matches(request, entry));
        let entry = request.entry;
        let served = registry.by_url(&entry.group, &entry.version, &entry.plural)?;
        if matches(served) {
            return Some(served.clone());
        }
        if rules.is_empty() || !self.matches_equivalent {
            return None;
        }
        // The same objects under another version's name.
        let is_other =
            |other: &&Arc<KindEntry>| other.stored_as == entry.stored_as && other.plural == entry.plural;
        registry.entries().iter().filter(is_other).find(|other| matches(other)).cloned()
    }
}

impl Rule {
    fn new(rule: &Value) -> Self {
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            names: texts(&rule["resourceNames"]),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

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
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
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

/// Of the namespace a request is about; None where it is about none.
pub fn namespace_labels(
    store: &Store,
    request: &Request<'_>,
    object: Option<&Value>,
) -> Option<BTreeMap<String, String>> {
    if &*request.entry.resource == "namespaces" {
        let labels = object.or(request.old)?["metadata"]["labels"].as_object();
        let labels = labels.into_iter().flatten();
        return Some(
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        );
    }
    if !request.entry.is_namespaced() {
        return None;
    }
    let namespace = store.get(&Key::new("namespaces", "", request.namespace));
    Some(namespace.map(|namespace| namespace.labels.clone()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Actor;
    use serde_json::json;

    fn matcher(rule: Value, more: Value) -> Matcher {
        let mut webhook = json!({"rules": [rule]});
        for (field, value) in more.as_object().unwrap() {
            webhook[field] = value.clone();
        }
        Matcher::of_webhook(&webhook)
    }

    fn rule(operations: &[&str], group: &str, version: &str, resource: &str) -> Value {
        json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
    }

    /// The version a webhook sees, or nothing.
    fn seen(
        matcher: &Matcher,
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
        let shape = matcher.wants(&request, Some(&object), Some(&labels), &registry);
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
                seen(&matcher(rule, json!({})), url, operation, subresource, json!({})),
                expected,
                "{told}"
            );
        }
    }

    #[test]
    fn an_equivalent_version_is_seen_as_the_rule_names_it() {
        let rule = rule(&["*"], "autoscaling", "v1", "horizontalpodautoscalers");
        let v2 = ("autoscaling", "v2", "horizontalpodautoscalers");
        let of = |policy: &str| matcher(rule.clone(), json!({"matchPolicy": policy}));
        assert_eq!(seen(&of("Equivalent"), v2, Operation::Create, "", json!({})), "autoscaling/v1");
        assert_eq!(seen(&of("Exact"), v2, Operation::Create, "", json!({})), "");
    }

    #[test]
    fn selectors_and_scope_narrow_a_rule() {
        let pods = ("", "v1", "pods");
        let all = || rule(&["*"], "*", "*", "*");
        let is_for = |more: Value| {
            let object = json!({"metadata": {"labels": {"app": "web"}}});
            !seen(&matcher(all(), more), pods, Operation::Create, "", object).is_empty()
        };
        assert!(is_for(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
        assert!(!is_for(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}})));
        assert!(is_for(json!({"objectSelector": {"matchLabels": {"app": "web"}}})));
        assert!(!is_for(json!({"objectSelector": {"matchLabels": {"app": "db"}}})));
        let mut cluster = all();
        cluster["scope"] = "Cluster".into();
        assert_eq!(seen(&matcher(cluster.clone(), json!({})), pods, Operation::Create, "", json!({})), "");
        assert_eq!(
            seen(&matcher(cluster, json!({})), ("", "v1", "nodes"), Operation::Create, "", json!({})),
            "v1"
        );
    }

    #[test]
    fn a_policy_leaves_out_what_it_excludes_and_a_binding_without_rules_takes_all() {
        let pods = ("", "v1", "pods");
        let rules = json!([rule(&["CREATE"], "", "v1", "pods")]);
        let sees =
            |of: Value| !seen(&Matcher::of_policy(&of), pods, Operation::Create, "", json!({})).is_empty();
        assert!(sees(json!({"resourceRules": rules})));
        assert!(!sees(json!({"resourceRules": rules, "excludeResourceRules": rules})));
        assert!(sees(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
        assert!(!sees(json!({"excludeResourceRules": rules})));
        let mut named = rules.clone();
        named[0]["resourceNames"] = json!(["other"]);
        assert!(!sees(json!({"resourceRules": named})));
        named[0]["resourceNames"] = json!(["other", "a"]);
        assert!(sees(json!({"resourceRules": named})));
    }
}
