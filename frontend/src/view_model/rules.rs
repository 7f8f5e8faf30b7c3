//! What the signed-in user may do, from the server's review of its own rules.
use super::list;
use serde_json::Value;

/// The answer of a SelfSubjectRulesReview for one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: Vec<Value>,
}

impl Rules {
    pub fn from_review(review: &Value) -> Self {
        Self { rules: list(review, &["status", "resourceRules"]).to_vec() }
    }

    /// The server would not say: then everything is offered, and the server decides at each request.
    pub fn unknown() -> Self {
        Self { rules: vec![serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})] }
    }

    /// `resource` may carry a subresource: `deployments/scale`.
    pub fn allow(&self, verb: &str, group: &str, resource: &str) -> bool {
        self.rules.iter().any(|rule| {
            list(rule, &["resourceNames"]).is_empty()
                && holds(rule, "verbs", |v| v == verb)
                && holds(rule, "apiGroups", |g| g == group)
                && holds(rule, "resources", |r| r == resource || is_any_of_subresource(r, resource))
        })
    }
}

/// `*/scale` is the scale of everything.
fn is_any_of_subresource(rule: &str, resource: &str) -> bool {
    match (rule.strip_prefix("*/"), resource.split_once('/')) {
        (Some(rule), Some((_, subresource))) => rule == subresource,
        _ => false,
    }
}

fn holds(rule: &Value, field: &str, is: impl Fn(&str) -> bool) -> bool {
    list(rule, &[field]).iter().filter_map(Value::as_str).any(|value| value == "*" || is(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_holds_for_its_verbs_groups_and_resources_and_no_others() {
        let rules = Rules::from_review(&json!({"status": {"resourceRules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*/scale"]},
            {"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["one"]}]}}));
        assert!(rules.allow("get", "", "pods/log"));
        assert!(rules.allow("patch", "apps", "deployments/scale"));
        for (verb, group, resource) in [
            ("get", "apps", "pods"),
            ("create", "", "pods"),
            ("get", "", "pods/exec"),
            ("delete", "", "pods"),
            ("get", "apps", "deployments"),
        ] {
            assert!(!rules.allow(verb, group, resource), "{verb} {group} {resource}");
        }
        assert!(Rules::unknown().allow("delete", "x", "y/z"));
        assert!(!Rules::default().allow("get", "", "pods"));
    }
}
