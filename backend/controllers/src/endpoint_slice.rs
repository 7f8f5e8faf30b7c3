//! EndpointSlices and Endpoints: which pods stand behind a Service, and which of them are ready.
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct EndpointSlices;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const ENDPOINTS: &str = "endpoints";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Kubernetes' default: small slices make small updates.
const SLICE_SIZE: usize = 100;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            SERVICES => vec![change.key.clone()],
            PODS => {
                let states: Vec<_> = [&change.object, &change.previous].into_iter().flatten().map(|p| labels(p)).collect();
                let services = cluster.in_namespace(SERVICES, &change.key.namespace);
                services.filter(|(_, s)| selector(s).is_some_and(|x| states.iter().any(|l| x.matches(l)))).map(|(k, _)| k).collect()
            }
            SLICES => {
                let labels = change.latest().map(labels).unwrap_or_default();
                let ours = labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
                let service = labels.get(SERVICE_LABEL).filter(|_| ours);
                service.map(|s| Key::new(SERVICES, change.key.namespace.clone(), s.as_str())).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.all(SERVICES).map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(service) = cluster.get(key) else { return plan };
        let Some(selector) = selector(service).filter(|_| !is_deleting(service)) else { return plan };
        let behind: Vec<(Key, &Arc<Value>)> = cluster
            .in_namespace(PODS, &key.namespace)
            .filter(|(_, pod)| !is_terminal(pod) && !text(&pod["status"], "podIP").is_empty() && selector.matches(&labels(pod)))
            .collect();
        write_slices(key, service, &behind, cluster, &mut plan);
        write_endpoints(key, service, &behind, cluster, &mut plan);
        plan
    }
}

/// None: no selector, so its endpoints are somebody else's.
fn selector(service: &Value) -> Option<LabelSelector> {
    let map = service["spec"]["selector"].as_object().filter(|map| !map.is_empty())?;
    LabelSelector::from_object(&json!({"matchLabels": map})).ok()
}

/// The port numbers of a service on one pod: named target ports differ from pod to pod.
fn ports_on(service: &Value, pod: &Value) -> Vec<Value> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let number = match &port["targetPort"] {
                Value::String(name) => named_port(pod, name, &port["protocol"])?,
                Value::Number(_) => port["targetPort"].as_i64()?,
                _ => port["port"].as_i64()?,
            };
            let mut result = json!({"name": text(port, "name"), "port": number, "protocol": port["protocol"]});
            if !port["appProtocol"].is_null() {
                result["appProtocol"] = port["appProtocol"].clone();
            }
            Some(result)
        })
        .collect()
}

fn named_port(pod: &Value, name: &str, protocol: &Value) -> Option<i64> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.find(|p| p["name"] == name && (p["protocol"] == *protocol || protocol.is_null()))?["containerPort"].as_i64()
}

fn endpoint(service: &Value, key: &Key, pod: &Value) -> Value {
    let serving = is_ready(pod);
    let publishes_unready = service["spec"]["publishNotReadyAddresses"] == true;
    let terminating = is_deleting(pod);
    let mut endpoint = json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": publishes_unready || serving && !terminating, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": &*key.namespace, "name": &*key.name, "uid": uid(pod)},
        "nodeName": pod["spec"]["nodeName"],
    });
    let host = text(&pod["spec"], "hostname");
    if !host.is_empty() && pod["spec"]["subdomain"] == service["metadata"]["name"] {
        endpoint["hostname"] = host.into();
    }
    endpoint
}

fn write_slices(key: &Key, service: &Value, pods: &[(Key, &Arc<Value>)], cluster: &Cluster, plan: &mut Plan) {
    // Pods whose ports have the same numbers share slices.
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for (pod_key, pod) in pods {
        let ports = ports_on(service, pod);
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint(service, pod_key, pod));
    }
    if groups.is_empty() {
        groups.insert(String::new(), (Vec::new(), Vec::new()));
    }
    let mut wanted = BTreeSet::new();
    for (group, (ports, endpoints)) in groups {
        let chunks: Vec<&[Value]> = if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(SLICE_SIZE).collect() };
        for (i, endpoints) in chunks.into_iter().enumerate() {
            // The first slice of the usual group keeps its name while pods come and go.
            let salt = if wanted.is_empty() && i == 0 { String::new() } else { format!("{group}{i}") };
            let slice_name = format!("{}-{}", key.name, letters(hash(&[uid(service), &salt]), 5));
            wanted.insert(slice_name.clone());
            let slice_key = Key::new(SLICES, key.namespace.clone(), slice_name.as_str());
            let existing = cluster.get(&slice_key).cloned();
            let mut slice = existing.as_deref().cloned().unwrap_or_else(|| json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": slice_name, "generateName": format!("{}-", key.name), "namespace": &*key.namespace,
                    "ownerReferences": [controller_reference(service)],
                },
            }));
            let mut slice_labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            slice_labels.insert(SERVICE_LABEL.into(), (*key.name).into());
            slice_labels.insert(MANAGED_BY.into(), MANAGER.into());
            if service["spec"]["clusterIP"] == "None" {
                slice_labels.insert("service.kubernetes.io/headless".into(), "".into());
            }
            slice["metadata"]["labels"] = slice_labels.into();
            slice["endpoints"] = endpoints.to_vec().into();
            slice["ports"] = ports.clone().into();
            match existing {
                None => plan.create(slice_key, slice),
                Some(old) if *old != slice => plan.update(slice_key, slice, Part::Spec),
                Some(_) => {}
            }
        }
    }
    for (slice_key, slice) in cluster.controlled(uid(service), SLICES) {
        if !wanted.contains(&*slice_key.name) && slice["metadata"]["labels"][MANAGED_BY] == MANAGER {
            plan.delete(slice_key.clone(), slice);
        }
    }
}

fn write_endpoints(key: &Key, service: &Value, pods: &[(Key, &Arc<Value>)], cluster: &Cluster, plan: &mut Plan) {
    let mut subsets: BTreeMap<String, (Vec<Value>, Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for (pod_key, pod) in pods.iter().filter(|(_, pod)| !is_deleting(pod)) {
        let ports = ports_on(service, pod);
        let subset = subsets.entry(json!(ports).to_string()).or_insert_with(|| (ports, Vec::new(), Vec::new()));
        let address = json!({
            "ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "namespace": &*pod_key.namespace, "name": &*pod_key.name, "uid": uid(pod)},
        });
        let ready = is_ready(pod) || service["spec"]["publishNotReadyAddresses"] == true;
        if ready { subset.1.push(address) } else { subset.2.push(address) }
    }
    let subsets: Vec<Value> = subsets
        .into_values()
        .map(|(ports, ready, unready)| {
            let mut subset = json!({"ports": ports});
            for (field, addresses) in [("addresses", ready), ("notReadyAddresses", unready)] {
                if !addresses.is_empty() {
                    subset[field] = addresses.into();
                }
            }
            subset
        })
        .collect();
    let endpoints_key = Key::new(ENDPOINTS, key.namespace.clone(), key.name.clone());
    let existing = cluster.get(&endpoints_key).cloned();
    let mut next = existing.as_deref().cloned().unwrap_or_else(|| json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": &*key.name, "namespace": &*key.namespace, "ownerReferences": [controller_reference(service)],
            "labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"},
        },
    }));
    next["subsets"] = subsets.into();
    match existing {
        None => plan.create(endpoints_key, next),
        Some(old) if *old != next => plan.update(endpoints_key, next, Part::Spec),
        Some(_) => {}
    }
}
