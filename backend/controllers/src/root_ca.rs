//! Every namespace has a ConfigMap with the authority that signed the server's certificate, for pods to trust it.
use crate::cluster::Cluster;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct RootCa;

const NAMESPACES: &str = "namespaces";
const CONFIG_MAPS: &str = "configmaps";
const NAME: &str = "kube-root-ca.crt";

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            NAMESPACES => vec![change.key.clone()],
            CONFIG_MAPS if &*change.key.name == NAME => {
                vec![Key::new(NAMESPACES, "", change.key.namespace.clone())]
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(NAMESPACES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let authority = &*cluster.settings.root_ca;
        if authority.is_empty() || !cluster.contains(key) || cluster.is_deleting(key) {
            return plan;
        }
        let data = json!({"ca.crt": authority});
        let map = Key::new(CONFIG_MAPS, key.name.clone(), NAME);
        match cluster.get(&map) {
            None => {
                let note = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints.";
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                    "metadata": {"name": NAME, "namespace": &*key.name, "annotations": {"kubernetes.io/description": note}},
                });
                plan.create(map, object);
            }
            Some(old) if old["data"] != data => {
                let mut next = Value::clone(&old);
                next["data"] = data;
                plan.update(map, next, Part::Spec);
            }
            Some(_) => {}
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn every_namespace_is_given_the_authority_and_gets_it_back_when_someone_changes_it() {
        let mut world = World::new();
        let key = Key::new(CONFIG_MAPS, "default", NAME);
        world.settle();
        assert!(!world.objects.contains_key(&key), "without an authority there is nothing to publish");
        world.cluster.settings.root_ca = "PEM".into();
        world.visit_everything();
        world.settle();
        assert_eq!(world.get(&key)["data"]["ca.crt"], "PEM");
        world.edit(&key, |map| map["data"] = json!({"ca.crt": "forged"}));
        world.settle();
        assert_eq!(world.get(&key)["data"]["ca.crt"], "PEM");
        world.assert_at_rest();
    }
}
