//! ResourceQuota: counts again what is used, whenever something goes or the quota changes. What comes is charged by
//! admission in the write that makes it.
use crate::cluster::Cluster;
use crate::object::with_status;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::usage::{self, Inventory};
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::sync::Arc;

pub struct ResourceQuotas;

const QUOTAS: &str = "resourcequotas";

impl Controller for ResourceQuotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource == QUOTAS {
            return vec![change.key.clone()];
        }
        let mut quotas = cluster.keys_in(QUOTAS, &change.key.namespace).peekable();
        if change.key.namespace.is_empty() || quotas.peek().is_none() || !frees(change) {
            return Vec::new();
        }
        quotas.collect()
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(QUOTAS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(quota) = cluster.get(key) else { return plan };
        let inventory = InView { cluster, namespace: &key.namespace };
        let used = usage::printed(&usage::of_quota(&quota["spec"], &inventory, now));
        let hard = quota["spec"].get("hard").cloned().unwrap_or_else(|| json!({}));
        if let Some(next) = with_status(&quota, json!({"hard": hard, "used": used})) {
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

/// Whether less is used than before: something is gone, or a pod has ended.
fn frees(change: &Observed) -> bool {
    let (Some(now), resource) = (&change.object, &*change.key.resource) else { return true };
    let Some(before) = &change.previous else { return false };
    // Usage that depends on the time alone is seen by the slow timer.
    let of = |object: &Value| usage::of_object(resource, object, Timestamp::MIN);
    of(now) != of(before)
}

struct InView<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl Inventory for InView<'_> {
    fn count(&self, resource: &str) -> usize {
        self.cluster.keys_in(resource, self.namespace).count()
    }

    fn objects(&self, resource: &str) -> Vec<Arc<Value>> {
        self.cluster.keys_in(resource, self.namespace).filter_map(|key| self.cluster.get(&key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn a_quota_follows_what_is_there() {
        let mut world = World::new();
        let quota = world
            .create(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
            "spec": {"hard": {"configmaps": "5", "pods": "3"}}}));
        let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        world.settle();
        let before = world.get(&quota)["status"].clone();
        assert_eq!(before["hard"], json!({"configmaps": "5", "pods": "3"}));
        let gone = world.create(map("a"));
        world.delete(&gone, "Background");
        world.settle();
        assert_eq!(world.get(&quota)["status"], before);
        world.edit(&quota, |quota| quota["spec"]["hard"] = json!({"configmaps": "9"}));
        world.settle();
        let number = world
            .objects
            .keys()
            .filter(|key| &*key.resource == "configmaps" && &*key.namespace == "default")
            .count();
        assert_eq!(
            world.get(&quota)["status"],
            json!({"hard": {"configmaps": "9"}, "used": {"configmaps": number.to_string()}})
        );
    }
}
