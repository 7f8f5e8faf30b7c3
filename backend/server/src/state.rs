//! What every request handler and loop shares.
use crate::auth::Auth;
use crate::custom_kinds::DEFINITIONS;
use crate::http::Documents;
use crate::objects::Objects;
use arc_swap::ArcSwap;
use pilothouse_api::{Key, KindEntry, PodNetwork, Registry, Revision};
use pilothouse_store::{Index, Store};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a request for a kind that is on its way into the registry waits for it.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The kinds served now. A CustomResourceDefinition swaps in a registry with one entry more.
#[derive(Clone)]
pub struct SharedRegistry {
    current: Arc<ArcSwap<Registry>>,
    /// The revision of the newest definition that the registry shows.
    shown: Arc<watch::Sender<Revision>>,
}

impl SharedRegistry {
    pub fn new(registry: Registry) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(registry)), shown: Arc::new(watch::Sender::new(0)) }
    }

    /// One consistent state: a request that looks twice should keep it.
    pub fn load(&self) -> Arc<Registry> {
        self.current.load_full()
    }

    /// `revision` is that of the definition that changed.
    pub fn replace(&self, registry: Registry, revision: Revision) {
        self.current.store(Arc::new(registry));
        self.shown.send_modify(|shown| *shown = revision.max(*shown));
    }

    /// Waits until the registry shows the definitions that memory holds: who has just seen one Established may use it.
    /// Says whether it had to wait.
    pub async fn catch_up(&self, store: &Store) -> bool {
        let definitions = store.list(DEFINITIONS, None).objects;
        let newest = definitions.iter().map(|object| object.revision).max().unwrap_or(0);
        let mut shown = self.shown.subscribe();
        if *shown.borrow_and_update() >= newest {
            return false;
        }
        let waiting = shown.wait_for(|shown| *shown >= newest);
        tokio::time::timeout(CATCH_UP, waiting).await.is_ok()
    }

    /// Resolves when other rules than those of `entry` hold at its URL, or none. Built-in kinds stay.
    pub async fn replaced(&self, entry: &Arc<KindEntry>) {
        if !entry.rules.is_custom() {
            return std::future::pending().await;
        }
        let mut shown = self.shown.subscribe();
        loop {
            shown.borrow_and_update();
            let registry = self.load();
            let serving = registry.by_url(&entry.group, &entry.version, &entry.plural);
            if !serving.is_some_and(|serving| Arc::ptr_eq(&serving.rules, &entry.rules))
                || shown.changed().await.is_err()
            {
                return;
            }
        }
    }

    /// The entry in whose shape objects of `resource` are stored.
    pub fn by_resource(&self, resource: &str) -> Option<Arc<KindEntry>> {
        self.current.load().by_resource(resource).cloned()
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
    pub pods: PodNetwork,
    /// Network address and prefix length.
    pub service_cidr: (Ipv4Addr, u8),
    pub cluster_domain: String,
    pub cluster_dns_ip: Ipv4Addr,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        Self {
            pods: PodNetwork::default(),
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_domain: "cluster.local".into(),
            cluster_dns_ip: Ipv4Addr::new(10, 96, 0, 10),
        }
    }
}

/// Cheap to clone: the framework does so several times a request. Changed before it is shared, as when the server starts.
#[derive(Clone)]
pub struct AppState(Arc<Handles>);

impl From<Handles> for AppState {
    fn from(handles: Handles) -> Self {
        Self(Arc::new(handles))
    }
}

impl Deref for AppState {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

impl DerefMut for AppState {
    fn deref_mut(&mut self) -> &mut Handles {
        Arc::make_mut(&mut self.0)
    }
}

/// What handlers reach: every field is a handle.
#[derive(Clone)]
pub struct Handles {
    pub store: Store,
    pub registry: SharedRegistry,
    pub objects: Objects,
    pub auth: Auth,
    pub hub: crate::node_hub::Hub,
    pub(crate) metrics: crate::metrics::Metrics,
    pub webhooks: crate::admission::Webhooks,
    pub policies: crate::admission::Policies,
    pub(crate) aggregation: crate::aggregation::Aggregation,
    pub audit: crate::audit::Audit,
    pub flow_control: crate::flow_control::FlowControl,
    pub network: Arc<ClusterNetwork>,
    /// The authority that signed the server's certificate, for pods and tokens.
    pub ca_pem: Arc<str>,
    pub(crate) documents: Arc<Documents>,
}
