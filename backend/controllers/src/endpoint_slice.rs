//! EndpointSlices and Endpoints: which pods stand behind a Service, and which of them are ready.
use crate::cluster::{Cluster, NODES, PODS};
use crate::object::*;
use crate::pod::Pod;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub struct EndpointSlices;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const ENDPOINTS: &str = "endpoints";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
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
                let mut states: Vec<_> =
                    [&change.object, &change.previous].into_iter().flatten().map(|p| labels(p)).collect();
                states.dedup();
                let behind = states
                    .iter()
                    .flat_map(|labels| cluster.selecting(SERVICES, &change.key.namespace, labels));
                behind.collect()
            }
            SLICES => {
                let labels = change.latest().map(labels).unwrap_or_default();
                let ours = labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
                let service = labels.get(SERVICE_LABEL).filter(|_| ours);
                service
                    .map(|s| Key::new(SERVICES, change.key.namespace.clone(), s.as_str()))
                    .into_iter()
                    .collect()
            }
            ENDPOINTS => vec![Key::new(SERVICES, change.key.namespace.clone(), change.key.name.clone())],
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(SERVICES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(service) = cluster.get(key).filter(|service| !is_deleting(service)) else {
            return plan;
        };
        // No selector: its endpoints are somebody else's.
        let Some(selector) = cluster.selector(key).filter(|_| service["spec"]["type"] != "ExternalName")
        else {
            return plan;
        };
        let behind: Vec<Behind<'_>> = cluster
            .selected_pods(&key.namespace, selector)
            .into_iter()
            .filter(|(_, pod)| !pod.is_terminal())
            .filter_map(|(key, pod)| {
                Some(Behind { ip: pod.ip.as_deref()?, object: OnceCell::new(), key, pod })
            })
            .collect();
        write_slices(key, &service, &behind, cluster, &mut plan);
        write_endpoints(key, &service, &behind, cluster, &mut plan);
        plan
    }
}

/// A pod behind a service.
struct Behind<'a> {
    key: Key,
    pod: &'a Pod,
    ip: &'a str,
    /// Parsed only where its facts are not enough.
    object: OnceCell<Option<Arc<Value>>>,
}

impl Behind<'_> {
    fn object(&self, cluster: &Cluster) -> Option<&Value> {
        self.object.get_or_init(|| cluster.get(&self.key)).as_deref()
    }
}

/// The port numbers of a service on one pod: named target ports differ from pod to pod.
fn ports_on(service: &Value, behind: &Behind<'_>, cluster: &Cluster) -> Vec<Value> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let number = match &port["targetPort"] {
                Value::String(name) => named_port(behind.object(cluster)?, name, &port["protocol"])?,
                Value::Number(_) => port["targetPort"].as_i64()?,
                _ => port["port"].as_i64()?,
            };
            let mut result =
                json!({"name": text(port, "name"), "port": number, "protocol": port["protocol"]});
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
    ports.find(|p| p["name"] == name && (p["protocol"] == *protocol || protocol.is_null()))?["containerPort"]
        .as_i64()
}

fn target(behind: &Behind<'_>, cluster: &Cluster) -> Value {
    let (namespace, name) = (&*behind.key.namespace, &*behind.key.name);
    json!({"kind": "Pod", "namespace": namespace, "name": name, "uid": cluster.uid(&behind.key).map(|uid| &**uid)})
}

fn endpoint(service: &Value, behind: &Behind<'_>, cluster: &Cluster) -> Value {
    let pod = behind.pod;
    let (serving, terminating) = (pod.is_ready(), pod.is_deleting);
    let publishes_unready = service["spec"]["publishNotReadyAddresses"] == true;
    let mut endpoint = json!({
        "addresses": [behind.ip],
        "conditions": {"ready": publishes_unready || serving && !terminating, "serving": serving, "terminating": terminating},
        "targetRef": target(behind, cluster),
    });
    if let Some(node) = &pod.node {
        endpoint["nodeName"] = (**node).into();
        let zone = cluster.find(NODES, "", node);
        if let Some(zone) = zone.as_ref().and_then(|node| node["metadata"]["labels"][ZONE].as_str()) {
            endpoint["zone"] = zone.into();
        }
    }
    if let Some(host) = host_of(service, behind) {
        endpoint["hostname"] = host.into();
    }
    endpoint
}

/// The pod's name in the service's domain, where it has one there.
fn host_of<'a>(service: &Value, behind: &Behind<'a>) -> Option<&'a str> {
    let pod = behind.pod;
    pod.hostname.as_deref().filter(|_| pod.subdomain.as_deref() == service["metadata"]["name"].as_str())
}

/// What today's slice held stays in its place, so that one pod's change rewrites one slice.
fn in_slices(endpoints: Vec<Value>, current: &[Arc<Value>]) -> Vec<Vec<Value>> {
    let mut by_target: HashMap<String, Value> =
        endpoints.into_iter().map(|e| (text(&e["targetRef"], "uid").to_owned(), e)).collect();
    let mut slices: Vec<Vec<Value>> = Vec::new();
    for slice in current {
        let held = slice["endpoints"].as_array().into_iter().flatten();
        slices.push(held.filter_map(|e| by_target.remove(text(&e["targetRef"], "uid"))).collect());
    }
    let mut fresh: Vec<Value> = by_target.into_values().collect();
    fresh.sort_by_key(|e| text(&e["targetRef"], "name").to_owned());
    for endpoint in fresh {
        match slices.iter_mut().find(|slice| slice.len() < SLICE_SIZE) {
            Some(slice) => slice.push(endpoint),
            None => slices.push(vec![endpoint]),
        }
    }
    // Slices that emptied go, but for one: a service without pods has a slice, too.
    if slices.iter().all(Vec::is_empty) {
        slices.truncate(1);
    }
    if slices.is_empty() {
        slices.push(Vec::new());
    }
    slices
}

fn write_slices(key: &Key, service: &Value, pods: &[Behind<'_>], cluster: &Cluster, plan: &mut Plan) {
    // Pods whose ports have the same numbers share slices.
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for behind in pods {
        let ports = ports_on(service, behind, cluster);
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint(service, behind, cluster));
    }
    let ours = cluster
        .controlled(uid(service), SLICES)
        .filter(|(_, slice)| slice["metadata"]["labels"][MANAGED_BY] == MANAGER);
    let mut ours: Vec<(Key, Arc<Value>)> = ours.map(|(key, slice)| (key.clone(), slice)).collect();
    if groups.is_empty() {
        // Nobody: the slice that is there stays, empty.
        let ports =
            ours.first().and_then(|(_, slice)| slice["ports"].as_array()).cloned().unwrap_or_default();
        groups.insert(json!(ports).to_string(), (ports, Vec::new()));
    }
    let mut names = Names { service, key, cluster, next: 0 };
    for (_, (ports, endpoints)) in groups {
        let (same, rest) = ours.into_iter().partition(|(_, slice)| slice["ports"].as_array() == Some(&ports));
        ours = rest;
        let same: Vec<(Key, Arc<Value>)> = same;
        let current: Vec<Arc<Value>> = same.iter().map(|(_, slice)| slice.clone()).collect();
        let slices = in_slices(endpoints, &current);
        let several = slices.len() > 1;
        for (i, endpoints) in slices.into_iter().enumerate() {
            match same.get(i) {
                Some((slice_key, slice)) if endpoints.is_empty() && several => {
                    plan.delete(slice_key.clone(), slice)
                }
                Some((slice_key, slice)) => {
                    let next = filled(service, key, Value::clone(slice), &ports, endpoints);
                    if next != **slice {
                        plan.update(slice_key.clone(), next, Part::Spec);
                    }
                }
                None => {
                    let slice_key = names.free();
                    let slice = new_slice(service, key, &slice_key.name);
                    plan.create(slice_key, filled(service, key, slice, &ports, endpoints));
                }
            }
        }
        for (slice_key, slice) in same.iter().skip(if several { usize::MAX } else { 1 }) {
            plan.delete(slice_key.clone(), slice);
        }
    }
    for (slice_key, slice) in ours {
        plan.delete(slice_key, &slice);
    }
}

/// Names for new slices: those of a view are always the same, so that a repeat is refused instead of doubled.
struct Names<'a> {
    service: &'a Value,
    key: &'a Key,
    cluster: &'a Cluster,
    next: u64,
}

impl Names<'_> {
    fn free(&mut self) -> Key {
        loop {
            let suffix = letters(hash(&[uid(self.service), &self.next.to_string()]), 5);
            self.next += 1;
            let key = Key::new(SLICES, self.key.namespace.clone(), format!("{}-{suffix}", self.key.name));
            if !self.cluster.contains(&key) {
                return key;
            }
        }
    }
}

fn new_slice(service: &Value, key: &Key, name: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": name, "generateName": format!("{}-", key.name), "namespace": &*key.namespace,
            "ownerReferences": [controller_reference(service)],
        },
    })
}

fn filled(service: &Value, key: &Key, mut slice: Value, ports: &[Value], endpoints: Vec<Value>) -> Value {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), (*key.name).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    slice["metadata"]["labels"] = labels.into();
    slice["endpoints"] = endpoints.into();
    slice["ports"] = ports.to_vec().into();
    slice
}

#[derive(Default)]
struct Subset {
    ports: Vec<Value>,
    ready: Vec<Value>,
    unready: Vec<Value>,
}

impl Subset {
    fn to_json(&self) -> Value {
        let mut subset = json!({"ports": self.ports});
        for (field, addresses) in [("addresses", &self.ready), ("notReadyAddresses", &self.unready)] {
            if !addresses.is_empty() {
                subset[field] = addresses.clone().into();
            }
        }
        subset
    }
}

/// The older shape, for clients that still read it.
fn write_endpoints(key: &Key, service: &Value, pods: &[Behind<'_>], cluster: &Cluster, plan: &mut Plan) {
    let mut subsets: BTreeMap<String, Subset> = BTreeMap::new();
    let publishes_unready = service["spec"]["publishNotReadyAddresses"] == true;
    for behind in pods.iter().filter(|behind| publishes_unready || !behind.pod.is_deleting) {
        let ports = ports_on(service, behind, cluster);
        let subset = subsets.entry(json!(ports).to_string()).or_default();
        subset.ports = ports;
        let mut address = json!({"ip": behind.ip, "targetRef": target(behind, cluster)});
        if let Some(node) = &behind.pod.node {
            address["nodeName"] = (**node).into();
        }
        if let Some(host) = host_of(service, behind) {
            address["hostname"] = host.into();
        }
        match publishes_unready || behind.pod.is_ready() {
            true => subset.ready.push(address),
            false => subset.unready.push(address),
        }
    }
    let subsets: Vec<Value> = subsets.values().map(Subset::to_json).collect();
    let endpoints_key = Key::new(ENDPOINTS, key.namespace.clone(), key.name.clone());
    let existing = cluster.get(&endpoints_key);
    let mut next = existing.as_deref().cloned().unwrap_or_else(|| {
        let owner = controller_reference(service);
        let metadata = json!({"name": &*key.name, "namespace": &*key.namespace, "ownerReferences": [owner]});
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata})
    });
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    next["metadata"]["labels"] = labels.into();
    next["subsets"] = subsets.into();
    match existing {
        None => plan.create(endpoints_key, next),
        Some(old) if *old != next => plan.update(endpoints_key, next, Part::Spec),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn service(target_port: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"team": "a"}},
            "spec": {
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": target_port}],
            },
        })
    }

    fn pod(world: &mut World, name: &str, port: i64) -> Key {
        let ports = json!([{"name": "web", "containerPort": port}]);
        world.create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "web", "ports": ports}]},
        }))
    }

    /// `pod ready/serving/terminating` of every slice.
    fn endpoints(world: &World) -> Vec<Vec<String>> {
        let flags = |e: &Value| {
            let flag = |name: &'static str| {
                if e["conditions"][name] == true { &name[..1] } else { "-" }
            };
            format!(
                "{} {}{}{}",
                text(&e["targetRef"], "name"),
                flag("ready"),
                flag("serving"),
                flag("terminating")
            )
        };
        let slices = world.all(SLICES).into_iter();
        slices
            .map(|(_, slice)| slice["endpoints"].as_array().into_iter().flatten().map(flags).collect())
            .collect()
    }

    #[test]
    fn endpoints_tell_ready_serving_and_terminating() {
        let mut world = World::new();
        world.create(service(8080.into()));
        let (ready, unready, leaving) =
            (pod(&mut world, "a", 1), pod(&mut world, "b", 1), pod(&mut world, "c", 1));
        pod(&mut world, "d-has-no-address", 1);
        world.run_pod(&ready, true);
        world.run_pod(&unready, false);
        world.run_pod(&leaving, true);
        world.settle();
        world.delete(&leaving, "Background");
        world.settle();
        assert_eq!(endpoints(&world), [["a rs-", "b ---", "c -st"]]);
        let (_, slice) = world.all(SLICES).remove(0);
        assert_eq!(slice["metadata"]["labels"][SERVICE_LABEL], "web");
        assert_eq!(slice["metadata"]["labels"]["team"], "a");
        assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        let subset = &world.get(&Key::new(ENDPOINTS, "default", "web"))["subsets"][0];
        let names = |list: &Value| {
            list.as_array()
                .unwrap()
                .iter()
                .map(|a| text(&a["targetRef"], "name").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (names(&subset["addresses"]), names(&subset["notReadyAddresses"])),
            (vec!["a".into()], vec!["b".into()])
        );
        world.end_pod(&leaving);
        world.settle();
        assert_eq!(endpoints(&world), [["a rs-", "b ---"]]);
        world.assert_at_rest();
    }

    #[test]
    fn a_named_port_is_looked_up_in_each_pod() {
        let mut world = World::new();
        world.create(service("web".into()));
        let (a, b) = (pod(&mut world, "a", 8080), pod(&mut world, "b", 9090));
        world.run_pod(&a, true);
        world.run_pod(&b, true);
        world.settle();
        let mut ports: Vec<Value> =
            world.all(SLICES).into_iter().map(|(_, slice)| slice["ports"][0]["port"].clone()).collect();
        ports.sort_by_key(Value::as_i64);
        assert_eq!(ports, [8080, 9090]);
    }

    #[test]
    fn one_pod_of_many_changes_one_slice_and_emptied_slices_go() {
        let mut world = World::new();
        let web = world.create(service(80.into()));
        let pods: Vec<Key> = (0..250).map(|i| pod(&mut world, &format!("p{i:03}"), 1)).collect();
        for pod in &pods {
            world.run_pod(pod, true);
        }
        world.settle();
        let mut sizes: Vec<usize> = endpoints(&world).iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [50, 100, 100]);
        world.run_pod(&pods[7], false);
        let plan = world.plan("endpointslice-controller", &web);
        let slices = plan
            .actions
            .iter()
            .filter(|a| matches!(a, crate::Action::Update { key, .. } if &*key.resource == SLICES));
        assert_eq!(slices.count(), 1);
        for pod in &pods {
            world.delete(pod, "Background");
            world.end_pod(pod);
        }
        world.settle();
        assert_eq!(endpoints(&world), [Vec::<String>::new()]);
        world.assert_at_rest();
    }

    #[test]
    fn a_service_gone_takes_its_endpoints_along_and_one_without_selector_is_left_alone() {
        let mut world = World::new();
        let mut object = service(80.into());
        object["spec"].as_object_mut().unwrap().remove("selector");
        let manual = world.create(object);
        world.settle();
        assert!(world.all(SLICES).is_empty());
        world.edit(&manual, |s| s["spec"]["selector"] = json!({"app": "web"}));
        world.settle();
        assert_eq!((world.all(SLICES).len(), world.all(ENDPOINTS).len()), (1, 1));
        world.delete(&manual, "Background");
        world.settle();
        assert_eq!((world.all(SLICES).len(), world.all(ENDPOINTS).len()), (0, 0));
    }
}
