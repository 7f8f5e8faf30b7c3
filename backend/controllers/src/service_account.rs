//! Every namespace has a ServiceAccount `default`, for pods that name none.
use crate::cluster::Cluster;
use crate::{Controller, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::json;

pub struct ServiceAccounts;

const NAMESPACES: &str = "namespaces";
const SERVICE_ACCOUNTS: &str = "serviceaccounts";
const DEFAULT: &str = "default";

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            NAMESPACES => vec![change.key.clone()],
            SERVICE_ACCOUNTS if &*change.key.name == DEFAULT => {
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
        if !cluster.contains(key) || cluster.is_deleting(key) {
            return plan;
        }
        let account = Key::new(SERVICE_ACCOUNTS, key.name.clone(), DEFAULT);
        if !cluster.contains(&account) {
            let object = json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": &*key.name},
            });
            plan.create(account, object);
        }
        plan
    }
}
