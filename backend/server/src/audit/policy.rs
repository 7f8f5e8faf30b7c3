//! What is written of which request: audit.k8s.io/v1 `Policy`.
use crate::auth::Attributes;
use crate::objects::Actor;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// How much is written of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When in a request's life an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    /// Of what stays open: the answer has begun.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// audit.k8s.io/v1 `Policy`: the first rule that fits a request counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

/// What the policy says about one request.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    policy: &'a Policy,
    rule: &'a Rule,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// From YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let file: Value = serde_yaml_ng::from_str(text).context("the audit policy is no YAML")?;
        ensure!(
            file["kind"] == "Policy" && file["apiVersion"] == "audit.k8s.io/v1",
            "the audit policy must be a Policy of audit.k8s.io/v1"
        );
        let policy = Self::deserialize(&file).context("the audit policy cannot be read")?;
        let rules = file["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(!rules.is_empty(), "the audit policy has no rules: nothing would be written");
        for (i, (rule, given)) in policy.rules.iter().zip(rules).enumerate() {
            ensure!(given["level"].is_string(), "rules[{i}].level: Required value");
            ensure!(
                rule.non_resource_urls.is_empty()
                    || (rule.resources.is_empty() && rule.namespaces.is_empty()),
                "rules[{i}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
            );
            for url in rule.non_resource_urls.iter().filter(|url| *url != "*") {
                let stars = url.matches('*').count();
                ensure!(
                    url.starts_with('/') && (stars == 0 || (stars == 1 && url.ends_with('*'))),
                    "rules[{i}].nonResourceURLs: {url:?} must begin with '/', and have '*' at its end alone"
                );
            }
        }
        Ok(policy)
    }

    /// None: nothing is written.
    pub fn judge(&self, actor: &Actor, wanted: &Attributes) -> Option<Verdict<'_>> {
        let rule = self.rules.iter().find(|rule| rule.fits(actor, wanted))?;
        (rule.level != Level::None).then_some(Verdict { policy: self, rule })
    }
}

impl Verdict<'_> {
    pub fn level(&self) -> Level {
        self.rule.level
    }

    pub fn omits(&self, stage: Stage) -> bool {
        self.policy.omit_stages.contains(&stage) || self.rule.omit_stages.contains(&stage)
    }

    pub fn omits_managed_fields(&self) -> bool {
        self.rule.omit_managed_fields.unwrap_or(self.policy.omit_managed_fields)
    }
}

impl Rule {
    fn fits(&self, actor: &Actor, wanted: &Attributes) -> bool {
        let open = |list: &[String], text: &str| list.is_empty() || list.iter().any(|item| item == text);
        let in_group = self.user_groups.is_empty() || self.user_groups.iter().any(|group| actor.is_in(group));
        if !open(&self.users, &actor.user) || !in_group || !open(&self.verbs, &wanted.verb) {
            return false;
        }
        match (wanted.is_resource(), self.resources.is_empty() && self.namespaces.is_empty()) {
            (true, true) => self.non_resource_urls.is_empty(),
            (true, false) => {
                let namespaces = open(&self.namespaces, &wanted.namespace);
                namespaces && (self.resources.is_empty() || self.resources.iter().any(|r| r.fit(wanted)))
            }
            (false, false) => false,
            (false, true) => {
                self.non_resource_urls.is_empty()
                    || self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                        Some(prefix) => wanted.path.starts_with(prefix),
                        None => *url == wanted.path,
                    })
            }
        }
    }
}

impl Resources {
    fn fit(&self, wanted: &Attributes) -> bool {
        let full = wanted.full_resource();
        let below = |resource: &str| match resource.split_once('/') {
            Some(("*", subresource)) => subresource == wanted.subresource,
            Some((resource, "*")) => resource == wanted.resource,
            _ => false,
        };
        let named = |resource: &String| resource == "*" || *resource == full || below(resource);
        self.group == wanted.group
            && (self.resources.is_empty() || self.resources.iter().any(named))
            && (self.resource_names.is_empty() || self.resource_names.contains(&wanted.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
- level: Metadata
  resources: [{group: "", resources: ["secrets", "pods/*"]}]
- level: RequestResponse
  verbs: [create]
  namespaces: [shop]
  omitManagedFields: true
- level: Request
  resources: [{group: "apps"}]
  omitStages: [ResponseComplete]
- level: Metadata
  nonResourceURLs: ["/api*"]
"#;

    fn asks(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_says_how_much() {
        let policy = Policy::parse(POLICY).unwrap();
        let level = |user: &str, wanted: &Attributes| {
            let actor = Actor { user: user.into(), ..Actor::default() };
            policy.judge(&actor, wanted).map_or(Level::None, |verdict| verdict.level())
        };
        assert_eq!(level("system:kube-proxy", &asks("get", "", "secrets", "a")), Level::None);
        assert_eq!(level("jane", &asks("get", "", "secrets", "a")), Level::Metadata);
        assert_eq!(level("jane", &asks("create", "", "pods/exec", "a")), Level::Metadata);
        assert_eq!(level("jane", &asks("create", "", "configmaps", "shop")), Level::RequestResponse);
        assert_eq!(level("jane", &asks("list", "apps", "deployments", "shop")), Level::Request);
        assert_eq!(level("jane", &asks("list", "", "configmaps", "shop")), Level::None);
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert_eq!(
            (level("jane", &path("/apis")), level("jane", &path("/livez"))),
            (Level::Metadata, Level::None)
        );
    }

    #[test]
    fn stages_and_managed_fields_are_left_out_as_policy_and_rule_say() {
        let policy = Policy::parse(POLICY).unwrap();
        let actor = Actor::default();
        let apps = asks("get", "apps", "deployments", "a");
        let verdict = policy.judge(&actor, &apps).unwrap();
        assert!(verdict.omits(Stage::RequestReceived) && verdict.omits(Stage::ResponseComplete));
        assert!(!verdict.omits(Stage::ResponseStarted) && !verdict.omits_managed_fields());
        let made = asks("create", "", "configmaps", "shop");
        assert!(policy.judge(&actor, &made).unwrap().omits_managed_fields());
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        for wrong in [
            "kind: Other",
            head,
            &format!("{head}rules: [{{users: [a]}}]"),
            &format!("{head}rules: [{{level: Much}}]"),
            &format!("{head}rules: [{{level: Metadata, omitStages: [Later]}}]"),
            &format!("{head}rules: [{{level: Metadata, nonResourceURLs: [/a], namespaces: [b]}}]"),
            &format!("{head}rules: [{{level: Metadata, nonResourceURLs: ['/*/a']}}]"),
        ] {
            assert!(Policy::parse(wrong).is_err(), "{wrong}");
        }
    }
}
