//! EndpointSlices for Endpoints that somebody wrote by hand: what is read is slices, so those that only know Endpoints are
//! heard, too.
use crate::cluster::Cluster;
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub struct EndpointSliceMirroring;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const ENDPOINTS: &str = "endpoints";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MIRRORER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Some programs elect a leader with an Endpoints object; it stands for no service.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Of no meaning on a copy.
const NOT_COPIED: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// Kubernetes' bound on what one subset can ask for.
const MOST_ADDRESSES: usize = 1000;

impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        let of = |name: &str| Key::new(ENDPOINTS, change.key.namespace.clone(), name);
        match &*change.key.resource {
            ENDPOINTS | SERVICES => vec![of(&change.key.name)],
            SLICES => {
                let labels = change.latest().map(labels).unwrap_or_default();
                let ours = labels.get(MANAGED_BY).is_some_and(|by| by == MIRRORER);
                labels.get(SERVICE_LABEL).filter(|_| ours).map(|service| of(service)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(ENDPOINTS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        // Slices of an object that is gone go with their owner.
        let Some(endpoints) = cluster.get(key).filter(|endpoints| !is_deleting(endpoints)) else {
            return plan;
        };
        let service = cluster.find(SERVICES, &key.namespace, &key.name);
        let wanted = match service.filter(|service| is_mirrored(&endpoints, service)) {
            Some(_) => slices(key, &endpoints),
            None => BTreeMap::new(),
        };
        let ours = cluster.controlled(uid(&endpoints), SLICES);
        let ours: BTreeMap<Key, Arc<Value>> = ours
            .filter(|(_, slice)| slice["metadata"]["labels"][MANAGED_BY] == MIRRORER)
            .map(|(key, slice)| (key.clone(), slice))
            .collect();
        for (slice_key, slice) in ours.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            plan.delete(slice_key.clone(), slice);
        }
        for (slice_key, slice) in wanted {
            match ours.get(&slice_key) {
                None => plan.create(slice_key, slice),
                Some(old) => {
                    let mut next = Value::clone(old);
                    next["metadata"]["labels"] = slice["metadata"]["labels"].clone();
                    let annotations = slice["metadata"]["annotations"].clone();
                    match (annotations, next["metadata"].as_object_mut()) {
                        (Value::Null, Some(metadata)) => drop(metadata.remove("annotations")),
                        (annotations, Some(metadata)) => {
                            drop(metadata.insert("annotations".into(), annotations))
                        }
                        (_, None) => {}
                    }
                    (next["endpoints"], next["ports"]) = (slice["endpoints"].clone(), slice["ports"].clone());
                    if next != **old {
                        plan.update(slice_key, next, Part::Spec);
                    }
                }
            }
        }
        plan
    }
}

/// A service that selects pods has slices of its own.
fn is_mirrored(endpoints: &Value, service: &Value) -> bool {
    let selects = service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    !selects && endpoints["metadata"]["labels"][SKIP] != "true" && annotation(endpoints, LEADER).is_none()
}

/// One slice for the addresses of one family behind the same ports. Its name follows from those, so that a repeat of a
/// plan is refused instead of doubled.
fn slices(key: &Key, endpoints: &Value) -> BTreeMap<Key, Value> {
    let mut groups: BTreeMap<(String, &str), (Value, Vec<Value>)> = BTreeMap::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = ports(subset);
        let list = |field: &str| subset[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = list("addresses").iter().map(|address| (address, true));
        let all = ready.chain(list("notReadyAddresses").iter().map(|address| (address, false)));
        for (address, ready) in all.take(MOST_ADDRESSES) {
            let family = match address["ip"].as_str().and_then(|ip| ip.parse().ok()) {
                Some(IpAddr::V4(_)) => "IPv4",
                Some(IpAddr::V6(_)) => "IPv6",
                None => continue,
            };
            let group =
                groups.entry((ports.to_string(), family)).or_insert_with(|| (ports.clone(), Vec::new()));
            group.1.push(endpoint(address, ready));
        }
    }
    let named = groups.into_iter().map(|((id, family), (ports, found))| {
        let name = format!("{}-{}", key.name, letters(hash(&[uid(endpoints), &id, family]), 5));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "name": name, "generateName": format!("{}-", key.name), "namespace": &*key.namespace,
                "labels": slice_labels(key, endpoints), "annotations": slice_annotations(endpoints),
                "ownerReferences": [controller_reference(endpoints)],
            },
            "endpoints": found, "ports": ports,
        });
        (Key::new(SLICES, key.namespace.clone(), name), slice)
    });
    named.collect()
}

fn ports(subset: &Value) -> Value {
    let ports = subset["ports"].as_array().into_iter().flatten();
    let ports = ports.map(|port| {
        let mut copy =
            json!({"name": text(port, "name"), "port": port["port"], "protocol": port["protocol"].as_str().unwrap_or("TCP")});
        if !port["appProtocol"].is_null() {
            copy["appProtocol"] = port["appProtocol"].clone();
        }
        copy
    });
    ports.collect()
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if !address[field].is_null() {
            endpoint[field] = address[field].clone();
        }
    }
    endpoint
}

fn slice_labels(key: &Key, endpoints: &Value) -> Value {
    let mut labels = endpoints["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), (*key.name).into());
    labels.insert(MANAGED_BY.into(), MIRRORER.into());
    labels.into()
}

fn slice_annotations(endpoints: &Value) -> Value {
    let mut annotations = endpoints["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    if annotations.is_empty() { Value::Null } else { annotations.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn service(selector: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": selector, "ports": [{"port": 5432}]},
        })
    }

    fn endpoints(ips: &[&str]) -> Value {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db", "labels": {"team": "a"}},
            "subsets": [{"addresses": addresses, "notReadyAddresses": [{"ip": "10.1.1.9"}], "ports": [{"port": 5432}]}],
        })
    }

    fn told(world: &World) -> Vec<String> {
        let slices = world.all(SLICES).into_iter();
        let all = slices.flat_map(|(_, slice)| slice["endpoints"].as_array().cloned().unwrap_or_default());
        all.map(|e| format!("{} {}", e["addresses"][0].as_str().unwrap(), e["conditions"]["ready"])).collect()
    }

    #[test]
    fn endpoints_written_by_hand_are_told_as_slices_and_followed() {
        let mut world = World::new();
        world.create(service(Value::Null));
        let key = world.create(endpoints(&["10.1.1.1", "10.1.1.2"]));
        world.settle();
        assert_eq!(told(&world), ["10.1.1.1 true", "10.1.1.2 true", "10.1.1.9 false"]);
        let (_, slice) = world.all(SLICES).remove(0);
        assert_eq!(
            slice["metadata"]["labels"],
            json!({"team": "a", SERVICE_LABEL: "db", MANAGED_BY: MIRRORER})
        );
        assert_eq!(slice["ports"], json!([{"name": "", "port": 5432, "protocol": "TCP"}]));
        world.edit(&key, |endpoints| endpoints["subsets"][0]["addresses"] = json!([{"ip": "10.1.1.3"}]));
        world.settle();
        assert_eq!(told(&world), ["10.1.1.3 true", "10.1.1.9 false"]);
        world.edit(&key, |endpoints| endpoints["metadata"]["labels"][SKIP] = "true".into());
        world.settle();
        assert_eq!(told(&world), Vec::<String>::new());
    }

    #[test]
    fn a_service_that_selects_pods_is_not_mirrored() {
        let mut world = World::new();
        world.create(service(json!({"app": "db"})));
        world.settle();
        let ours = |world: &World| {
            let slices = world.all(SLICES).into_iter();
            slices.filter(|(_, slice)| slice["metadata"]["labels"][MANAGED_BY] == MIRRORER).count()
        };
        assert_eq!(ours(&world), 0);
    }
}
