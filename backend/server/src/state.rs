//! What every request handler and loop shares.
use crate::auth::Auth;
use crate::objects::Objects;
use arc_swap::ArcSwap;
use pilothouse_api::{Key, KindEntry, Registry};
use pilothouse_store::{Index, Store};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The kinds served now. A CustomResourceDefinition swaps in a registry with one entry more.
#[derive(Clone)]
pub struct SharedRegistry(Arc<ArcSwap<Registry>>);

impl SharedRegistry {
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(registry)))
    }

    pub fn load(&self) -> Arc<Registry> {
        self.0.load_full()
    }

    pub fn replace(&self, registry: Registry) {
        self.0.store(Arc::new(registry));
    }

    /// The entry in whose shape objects of `resource` are stored.
    pub fn by_resource(&self, resource: &str) -> Option<Arc<KindEntry>> {
        self.0.load().by_resource(resource).cloned()
    }

    /// What field selectors may ask of an object.
    pub fn index(&self) -> Index {
        let registry = self.clone();
        Arc::new(move |key: &Key, object: &Value| {
            let mut fields = vec![("metadata.name".to_owned(), key.name.to_string())];
            if !key.namespace.is_empty() {
                fields.push(("metadata.namespace".to_owned(), key.namespace.to_string()));
            }
            if let Some(entry) = registry.by_resource(&key.resource) {
                fields.extend(entry.rules.selectable_fields(object));
            }
            fields
        })
    }
}

/// A store together with the registry its index reads.
#[derive(Clone)]
pub struct ClusterStore {
    pub store: Store,
    pub registry: SharedRegistry,
}

impl ClusterStore {
    /// A store without a database, for tests.
    pub fn memory() -> Self {
        let registry = crate::registry();
        Self { store: Store::memory(registry.index()), registry }
    }
}

/// The cluster's address plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// Network address and prefix length.
    pub pod_cidr: (Ipv4Addr, u8),
    pub service_cidr: (Ipv4Addr, u8),
    pub cluster_domain: String,
    pub cluster_dns_ip: Ipv4Addr,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        Self {
            pod_cidr: (Ipv4Addr::new(10, 244, 0, 0), 16),
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_domain: "cluster.local".into(),
            cluster_dns_ip: Ipv4Addr::new(10, 96, 0, 10),
        }
    }
}

/// Cloned into each handler: every field is a handle.
#[derive(Clone)]
pub struct AppState {
    pub store: Store,
    pub registry: SharedRegistry,
    pub objects: Objects,
    pub auth: Auth,
    pub hub: crate::node_hub::Hub,
    pub network: Arc<ClusterNetwork>,
    /// The authority that signed the server's certificate, for pods and tokens.
    pub ca_pem: Arc<str>,
}
