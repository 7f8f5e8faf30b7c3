//! RBAC escalation: nobody grants what they do not have, unless they may `escalate` roles or `bind` them. After
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>.
use super::{Context, Operation, Outcome, Request, Rule, done};
use crate::auth::rbac::PolicyRule;
use crate::auth::{Attributes, Auth, MASTERS};
use crate::objects::Actor;
use pilothouse_api::{Key, Status, meta};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct RbacEscalation {
    context: Context,
    auth: Auth,
}

impl RbacEscalation {
    pub fn new(context: Context, auth: Auth) -> Self {
        Self { context, auth }
    }

    fn judge(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let changes = matches!(request.operation, Operation::Create | Operation::Update);
        if request.entry.group != GROUP || !changes || request.actor.is_in(MASTERS) {
            return Ok(());
        }
        let same = |field: &str| request.old.is_some_and(|old| old[field] == object[field]);
        match request.entry.plural.as_str() {
            "roles" | "clusterroles" if same("rules") && same("aggregationRule") => Ok(()),
            "rolebindings" | "clusterrolebindings" if same("roleRef") && same("subjects") => Ok(()),
            "roles" | "clusterroles" => self.judge_role(request, object),
            "rolebindings" | "clusterrolebindings" => self.judge_binding(request, object),
            _ => Ok(()),
        }
    }

    fn may(&self, request: &Request<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let wanted = Attributes {
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: request.namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        self.auth.decide(request.actor, &wanted).is_ok()
    }

    fn judge_role(&self, request: &Request<'_>, role: &Value) -> Result<(), Status> {
        let name = meta::name(role);
        if self.may(request, "escalate", &request.entry.plural, name) {
            return Ok(());
        }
        let rules = rules_of(role);
        let granted = self.granted(request, name, &rules);
        if role["aggregationRule"].is_null() {
            return granted;
        }
        // What it gathers can be anything.
        let everything = serde_json::json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ]);
        let everything = Vec::<PolicyRule>::deserialize(&everything).unwrap_or_default();
        let held = self.auth.rbac().rules(request.actor, request.namespace);
        match missing(&held, &everything).is_empty() {
            true => granted,
            false => {
                let why = "must have cluster-admin privileges to use an aggregationRule";
                Err(Status::forbidden(&request.entry.resource, name, why))
            }
        }
    }

    fn judge_binding(&self, request: &Request<'_>, binding: &Value) -> Result<(), Status> {
        let role = &binding["roleRef"];
        let role_name = role["name"].as_str().unwrap_or_default();
        let (plural, namespace) = match role["kind"].as_str() {
            Some("Role") => ("roles", request.namespace),
            _ => ("clusterroles", ""),
        };
        if self.may(request, "bind", plural, role_name) {
            return Ok(());
        }
        let resource = format!("{plural}.{GROUP}");
        let found = self.context.store.get(&Key::new(resource.as_str(), namespace, role_name));
        let found = found.ok_or_else(|| Status::not_found(&resource, role_name))?;
        self.granted(request, meta::name(binding), &rules_of(&found.value()))
    }

    /// Errors: Forbidden, with the rules that the actor does not have.
    fn granted(&self, request: &Request<'_>, name: &str, rules: &[PolicyRule]) -> Result<(), Status> {
        let held = self.auth.rbac().rules(request.actor, request.namespace);
        let missing = missing(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let Actor { user, groups, .. } = request.actor;
        let groups: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
        let why = format!(
            "user {user:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            groups.join(" "),
            missing.join("\n")
        );
        Err(Status::forbidden(&request.entry.resource, name, why))
    }
}

impl Rule for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        done(self.judge(request, object))
    }
}

fn rules_of(role: &Value) -> Vec<PolicyRule> {
    Vec::<PolicyRule>::deserialize(&role["rules"]).unwrap_or_default()
}

/// What a rule says, apart from its verbs: groups, resources, paths and names, one each.
type Subject = (Vec<String>, Vec<String>, Vec<String>, Vec<String>);

/// What `wanted` allows beyond `held`, as Kubernetes tells rules.
fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<String> {
    let mut missing: BTreeMap<Subject, BTreeSet<String>> = BTreeMap::new();
    for simple in wanted.iter().flat_map(broken_down) {
        if !held.iter().any(|rule| covers(rule, &simple)) {
            let subject =
                (simple.api_groups, simple.resources, simple.non_resource_urls, simple.resource_names);
            missing.entry(subject).or_default().extend(simple.verbs);
        }
    }
    let told = missing.into_iter().map(|((groups, resources, paths, names), verbs)| {
        let verbs = verbs.into_iter().collect();
        let parts = [
            ("APIGroups", groups),
            ("Resources", resources),
            ("NonResourceURLs", paths),
            ("ResourceNames", names),
            ("Verbs", verbs),
        ];
        let parts = parts.into_iter().filter(|(_, items)| !items.is_empty()).map(|(field, items)| {
            let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            format!("{field}:[{}]", items.join(" "))
        });
        format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
    });
    let mut told: Vec<String> = told.collect();
    told.sort();
    told
}

/// The rule as many that say one thing each.
fn broken_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| vec![text.clone()];
    let mut simple = Vec::new();
    for verb in &rule.verbs {
        for path in &rule.non_resource_urls {
            simple.push(PolicyRule {
                verbs: one(verb),
                non_resource_urls: one(path),
                ..PolicyRule::default()
            });
        }
        for (group, resource) in rule
            .api_groups
            .iter()
            .flat_map(|group| rule.resources.iter().map(move |resource| (group, resource)))
        {
            let base = PolicyRule {
                verbs: one(verb),
                api_groups: one(group),
                resources: one(resource),
                ..PolicyRule::default()
            };
            match rule.resource_names.is_empty() {
                true => simple.push(base),
                false => simple.extend(
                    rule.resource_names
                        .iter()
                        .map(|name| PolicyRule { resource_names: one(name), ..base.clone() }),
                ),
            }
        }
    }
    simple
}

/// Whether a rule allows all that a simple one does.
fn covers(rule: &PolicyRule, simple: &PolicyRule) -> bool {
    let has = |list: &[String], wanted: &[String]| {
        list.iter().any(|item| item == "*") || wanted.iter().all(|item| list.contains(item))
    };
    let resource = |wanted: &String| {
        let below = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        rule.resources.iter().any(|item| item == "*" || item == wanted || Some(item) == below.as_ref())
    };
    let path = |wanted: &String| {
        rule.non_resource_urls.iter().any(|item| match item.strip_suffix('*') {
            Some(prefix) => wanted.starts_with(prefix),
            None => item == wanted,
        })
    };
    let names = rule.resource_names.is_empty()
        || (!simple.resource_names.is_empty() && has(&rule.resource_names, &simple.resource_names));
    has(&rule.verbs, &simple.verbs)
        && (simple.api_groups.is_empty() || has(&rule.api_groups, &simple.api_groups))
        && simple.resources.iter().all(resource)
        && simple.non_resource_urls.iter().all(path)
        && (simple.resources.is_empty() || names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(rules: Value) -> Vec<PolicyRule> {
        Vec::<PolicyRule>::deserialize(&rules).unwrap()
    }

    #[test]
    fn what_is_not_held_is_told_rule_by_rule() {
        let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
        let rows = [
            (pods.clone(), pods.clone(), ""),
            (json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]), pods.clone(), ""),
            (
                json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
                json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "list"]}]),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}|{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
            ),
            (
                pods.clone(),
                json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#,
            ),
            (
                pods.clone(),
                json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]}]),
                "",
            ),
            (
                json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]}]),
                json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#,
            ),
            (
                json!([{"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["get"]}]),
                json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]}]),
                "",
            ),
            (
                json!([{"nonResourceURLs": ["/healthz/*"], "verbs": ["get"]}]),
                json!([{"nonResourceURLs": ["/healthz/etcd", "/metrics"], "verbs": ["get"]}]),
                r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#,
            ),
            (
                json!([{"nonResourceURLs": ["*"], "verbs": ["*"]}]),
                json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#,
            ),
        ];
        for (held, wanted, expected) in rows {
            assert_eq!(missing(&rules(held), &rules(wanted)).join("|"), expected);
        }
    }
}
