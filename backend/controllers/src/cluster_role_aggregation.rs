//! ClusterRole aggregation: a role with an `aggregationRule` has the rules of the roles it selects.
use crate::cluster::Cluster;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed};
use serde_json::Value;

pub struct ClusterRoleAggregation;

const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";

impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    /// There are few roles, and they change rarely.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource == ROLES { self.all_keys(cluster) } else { Vec::new() }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let gathering = cluster.all(ROLES).filter(|(_, role)| selectors(role).next().is_some());
        gathering.map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(role) = cluster.get(key) else { return plan };
        let selectors: Vec<LabelSelector> = selectors(&role).collect();
        if selectors.is_empty() {
            return plan;
        }
        let mut rules: Vec<Value> = Vec::new();
        for (other, selected) in cluster.all(ROLES) {
            if other == *key || !selectors.iter().any(|selector| selector.matches_object(&selected)) {
                continue;
            }
            for rule in selected["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        let has = role["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        if has != rules.as_slice() {
            let mut next = Value::clone(&role);
            next["rules"] = rules.into();
            plan.update(key.clone(), next, Part::Spec);
        }
        plan
    }
}

fn selectors(role: &Value) -> impl Iterator<Item = LabelSelector> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
    selectors.filter_map(|selector| LabelSelector::from_object(selector).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::json;

    fn role(name: &str, label: &str, resource: &str) -> Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {"to": label}},
            "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
    }

    #[test]
    fn a_gathering_role_has_the_rules_of_those_it_selects() {
        let mut world = World::new();
        let mut all = role("all", "", "nothing");
        all["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]});
        let all = world.create(all);
        let pods = world.create(role("pods", "all", "pods"));
        world.create(role("secrets", "other", "secrets"));
        world.settle();
        let resources = |world: &World| {
            let rules = world.get(&all)["rules"].as_array().cloned().unwrap_or_default();
            rules.iter().map(|rule| rule["resources"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(resources(&world), ["pods"]);
        world.create(role("maps", "all", "configmaps"));
        world.settle();
        assert_eq!(resources(&world), ["configmaps", "pods"]);
        world.delete(&pods, "Background");
        world.settle();
        assert_eq!(resources(&world), ["configmaps"]);
        world.assert_at_rest();
    }
}
