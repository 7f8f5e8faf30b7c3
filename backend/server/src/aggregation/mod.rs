//! Aggregated API services: group versions that another server answers for, as APIService objects name them. Follows
//! Kubernetes' "Kubernetes API Aggregation Layer".
pub mod documents;
mod front_proxy;
mod remote_api;
mod request;
#[cfg(test)]
mod tests;

pub use front_proxy::{FrontProxy, publish};
pub use remote_api::RemoteApi;
pub use request::{forward, serve};

use crate::feed::Observation;
use crate::remote::Client;
use parking_lot::Mutex;
use pilothouse_store::Object;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

pub const RESOURCE: &str = "apiservices.apiregistration.k8s.io";
/// Where a group stands that no APIService speaks for.
const LOWEST: i64 = 0;

/// Group and version.
type GroupVersion = (String, String);

/// The APIServices. Cheap to clone.
#[derive(Clone)]
pub struct Aggregation(Arc<Inner>);

struct Inner {
    client: Client,
    /// How this server proves to the others that it speaks for its callers.
    identity: OnceLock<FrontProxy>,
    services: Mutex<BTreeMap<GroupVersion, Service>>,
}

struct Service {
    /// The largest of its group counts.
    group_priority: i64,
    version_priority: i64,
    /// None: this server answers itself.
    remote: Option<Arc<RemoteApi>>,
}

impl Aggregation {
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Inner { client, identity: OnceLock::new(), services: Mutex::default() }))
    }

    /// Gives the certificate to show. Once, before requests are taken.
    pub fn identify(&self, identity: FrontProxy) {
        let _ = self.0.identity.set(identity);
    }

    pub fn observe(&self, observation: &Observation) {
        let mut services = self.0.services.lock();
        match observation {
            Observation::Reset => services.clear(),
            Observation::Gone(object) => drop(services.remove(&group_version(&object.value()["spec"]))),
            Observation::Put(object) => {
                let (key, service) = self.read(object, &services);
                services.insert(key, service);
            }
        }
    }

    fn read(&self, object: &Object, known: &BTreeMap<GroupVersion, Service>) -> (GroupVersion, Service) {
        let value = object.value();
        let spec = &value["spec"];
        let key = group_version(spec);
        let remote = spec["service"].is_object().then(|| {
            let is_available = is_available(&value);
            // What was learnt of it stays while the way to it does.
            let before = known.get(&key).and_then(|service| service.remote.as_ref());
            match before.filter(|before| before.is_same(spec)) {
                Some(before) => {
                    before.set_available(is_available);
                    before.clone()
                }
                None => Arc::new(RemoteApi::new(&object.key.name, spec, is_available)),
            }
        });
        let service = Service {
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(LOWEST),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(LOWEST),
            remote,
        };
        (key, service)
    }

    /// The server that answers for a group version, if it is another.
    pub fn remote(&self, group: &str, version: &str) -> Option<Arc<RemoteApi>> {
        let services = self.0.services.lock();
        services.get(&(group.to_owned(), version.to_owned()))?.remote.clone()
    }

    /// All group versions that other servers answer for.
    pub fn remotes(&self) -> Vec<(GroupVersion, Arc<RemoteApi>)> {
        let services = self.0.services.lock();
        let remotes =
            services.iter().filter_map(|(key, service)| Some((key.clone(), service.remote.clone()?)));
        remotes.collect()
    }

    /// Where a group stands among the others.
    fn group_priority(&self, group: &str) -> i64 {
        let services = self.0.services.lock();
        let own =
            services.iter().filter(|((of, _), _)| of == group).map(|(_, service)| service.group_priority);
        own.max().unwrap_or(LOWEST)
    }

    fn version_priority(&self, group: &str, version: &str) -> i64 {
        let services = self.0.services.lock();
        services
            .get(&(group.to_owned(), version.to_owned()))
            .map_or(LOWEST, |service| service.version_priority)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn identity(&self) -> Option<&FrontProxy> {
        self.0.identity.get()
    }
}

fn group_version(spec: &Value) -> GroupVersion {
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    (text("group"), text("version"))
}

/// Whether an APIService's condition says so.
pub fn is_available(service: &Value) -> bool {
    let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Available" && condition["status"] == "True")
}
