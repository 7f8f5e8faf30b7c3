//! What an object takes of its namespace's share: the amounts that LimitRange and ResourceQuota count.
//!
//! Follows "Resource Quotas" and "Limit Ranges" of the Kubernetes documentation.
use crate::kinds::support::pod_spec::qos_class;
use crate::quantity::Quantity;
use k8s_openapi::jiff::{Timestamp, ToSpan};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub type Amounts = BTreeMap<String, Quantity>;

/// Which of the two lists of a container's `resources`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Requests,
    Limits,
}

impl Bound {
    pub fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// A resource list; what is no quantity is left out.
pub fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(resource, amount)| Some((resource.clone(), quantity(amount)?))).collect()
}

pub fn quantity(amount: &Value) -> Option<Quantity> {
    match amount {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    }
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (resource, amount) in more {
        let slot = sum.entry(resource.clone()).or_insert(Quantity::ZERO);
        *slot = slot.plus(*amount);
    }
}

fn take_larger(most: &mut Amounts, other: &Amounts) {
    for (resource, amount) in other {
        let slot = most.entry(resource.clone()).or_insert(*amount);
        if *amount > *slot {
            *slot = *amount;
        }
    }
}

/// What a pod may use at its most demanding moment: all its containers together, or a step of its start beside the
/// sidecars begun before it, plus overhead (`PodRequests` and `PodLimits` of `k8s.io/component-helpers/resource`).
pub fn of_pod(spec: &Value, bound: Bound) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][bound.field()]);
    let list = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut running, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    list("containers").iter().for_each(|container| add(&mut running, &of(container)));
    for container in list("initContainers") {
        let mut moment = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &moment);
            add(&mut sidecars, &moment);
            moment = sidecars.clone();
        } else {
            add(&mut moment, &sidecars);
        }
        take_larger(&mut starting, &moment);
    }
    take_larger(&mut running, &starting);
    // What is said of the pod as a whole stands above what its containers say.
    running.extend(amounts(&spec["resources"][bound.field()]));
    for (resource, amount) in amounts(&spec["overhead"]) {
        match (running.get_mut(&resource), bound) {
            (Some(slot), _) => *slot = slot.plus(amount),
            (None, Bound::Requests) => drop(running.insert(resource, amount)),
            // No limit stays no limit.
            (None, Bound::Limits) => {}
        }
    }
    running
}

/// What one object counts for, whatever any quota asks. `resource` is `pods`, `deployments.apps`.
pub fn of_object(resource: &str, object: &Value, now: Timestamp) -> Amounts {
    let one = || Quantity::from_milli(1000);
    let mut usage = Amounts::from([(format!("count/{resource}"), one())]);
    match resource {
        "pods" => {
            if !has_ended(object, now) {
                usage.insert("pods".into(), one());
                add_compute(&mut usage, &object["spec"]);
            }
        }
        "services" => {
            usage.insert(resource.into(), one());
            add_service(&mut usage, &object["spec"]);
        }
        "persistentvolumeclaims" => {
            usage.insert(resource.into(), one());
            add_claim(&mut usage, object);
        }
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            usage.insert(resource.into(), one());
        }
        _ => {}
    }
    usage
}

/// Ended, or long past the time it was given to end: its node may be gone.
fn has_ended(pod: &Value, now: Timestamp) -> bool {
    let meta = &pod["metadata"];
    let end = meta["deletionTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    // deletionTimestamp holds the grace period already; Kubernetes waits for it once more.
    let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let end = end.and_then(|end| end.checked_add(grace.seconds()).ok());
    matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
        || end.is_some_and(|end| now > end)
}

fn add_compute(usage: &mut Amounts, spec: &Value) {
    for (resource, amount) in of_pod(spec, Bound::Requests) {
        let plain = matches!(&*resource, "cpu" | "memory" | "ephemeral-storage");
        if plain || resource.starts_with("hugepages-") {
            usage.insert(resource.clone(), amount);
        }
        if plain || resource.starts_with("hugepages-") || is_extended(&resource) {
            usage.insert(format!("requests.{resource}"), amount);
        }
    }
    for (resource, amount) in of_pod(spec, Bound::Limits) {
        if matches!(&*resource, "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{resource}"), amount);
        }
    }
}

fn is_extended(resource: &str) -> bool {
    resource.contains('/') && !resource.split('/').next().unwrap_or_default().ends_with("kubernetes.io")
}

fn add_service(usage: &mut Amounts, spec: &Value) {
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let node_ports = match spec["type"].as_str() {
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count()
        }
        Some("NodePort" | "LoadBalancer") => ports.len(),
        _ => 0,
    };
    let balancers = i64::from(spec["type"] == "LoadBalancer");
    usage.insert("services.nodeports".into(), count(node_ports));
    usage.insert("services.loadbalancers".into(), Quantity::from_milli(balancers * 1000));
}

fn add_claim(usage: &mut Amounts, claim: &Value) {
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = annotated.or_else(|| claim["spec"]["storageClassName"].as_str()).filter(|c| !c.is_empty());
    let of_class = |name: &str| class.map(|class| format!("{class}.storageclass.storage.k8s.io/{name}"));
    if let Some(name) = of_class("persistentvolumeclaims") {
        usage.insert(name, count(1));
    }
    // While a claim grows, what was promised counts if it is more.
    let wanted = quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let promised = quantity(&claim["status"]["allocatedResources"]["storage"]);
    let storage = match (wanted, promised) {
        (Some(wanted), Some(promised)) if promised > wanted => Some(promised),
        (wanted, promised) => wanted.or(promised),
    };
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
        if let Some(name) = of_class("requests.storage") {
            usage.insert(name, storage);
        }
    }
}

fn count(number: usize) -> Quantity {
    Quantity::from_milli(i64::try_from(number).unwrap_or(i64::MAX / 1000).saturating_mul(1000))
}

/// The resource whose objects count towards a name of `spec.hard`; None where nothing does.
pub fn counted_in(hard: &str) -> Option<&str> {
    let claims = "persistentvolumeclaims";
    match hard {
        "pods" | "cpu" | "memory" | "ephemeral-storage" => Some("pods"),
        "services" | "services.nodeports" | "services.loadbalancers" => Some("services"),
        "persistentvolumeclaims" | "requests.storage" => Some(claims),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => Some(hard),
        _ if hard.contains(".storageclass.storage.k8s.io/") => Some(claims),
        _ if hard.starts_with("count/") => hard.strip_prefix("count/"),
        _ if hard.starts_with("requests.") || hard.starts_with("limits.") => Some("pods"),
        _ if hard.starts_with("hugepages-") => Some("pods"),
        _ => None,
    }
}

/// The scopes of a quota, both ways of writing them as one.
fn scopes(spec: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let plain = spec["scopes"].as_array().into_iter().flatten();
    let plain = plain.filter_map(|scope| Some((scope.as_str()?, "Exists", &Value::Null)));
    let told = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    plain.chain(told.map(|term| {
        let text = |field: &str| term[field].as_str().unwrap_or_default();
        (text("scopeName"), text("operator"), &term["values"])
    }))
}

/// Whether a quota counts the object: it fits all of the quota's scopes. Scopes are about pods, and one about claims.
pub fn in_scope(quota_spec: &Value, resource: &str, object: &Value) -> bool {
    scopes(quota_spec).all(|(scope, operator, values)| match resource {
        "pods" => pod_fits(scope, operator, values, object),
        "persistentvolumeclaims" if scope == "VolumeAttributesClass" => {
            named(object["spec"]["volumeAttributesClassName"].as_str(), operator, values)
        }
        _ => false,
    })
}

fn pod_fits(scope: &str, operator: &str, values: &Value, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => named(spec["priorityClassName"].as_str(), operator, values),
        "CrossNamespacePodAffinity" => reaches_other_namespaces(spec),
        _ => false,
    }
}

fn named(name: Option<&str>, operator: &str, values: &Value) -> bool {
    let name = name.filter(|name| !name.is_empty());
    let is_in = || values.as_array().is_some_and(|all| all.iter().any(|value| value.as_str() == name));
    match operator {
        "In" => name.is_some() && is_in(),
        "NotIn" => name.is_none() || !is_in(),
        "DoesNotExist" => name.is_none(),
        _ => name.is_some(),
    }
}

fn reaches_other_namespaces(spec: &Value) -> bool {
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let affinity = &spec["affinity"][kind];
        let required = affinity["requiredDuringSchedulingIgnoredDuringExecution"].as_array();
        let preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
        let preferred = preferred.into_iter().flatten().map(|term| &term["podAffinityTerm"]);
        required.into_iter().flatten().chain(preferred)
    });
    let mut reaching = terms.filter(|term| {
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty())
            || !term["namespaceSelector"].is_null()
    });
    reaching.next().is_some()
}

/// The part of `usage` that `hard` asks for.
pub fn within(hard: &Value, usage: &Amounts) -> Amounts {
    let asked = usage.iter().filter(|(name, _)| hard.get(name.as_str()).is_some());
    asked.map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// The objects of one namespace, as far as quotas ask.
pub trait Inventory {
    fn count(&self, resource: &str) -> usize;
    fn objects(&self, resource: &str) -> Vec<Arc<Value>>;
}

/// What is used of each name of `spec.hard`, counted from the objects themselves.
pub fn of_quota(spec: &Value, inventory: &impl Inventory, now: Timestamp) -> Amounts {
    let hard = &spec["hard"];
    let names = || hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let mut used: Amounts = names().map(|name| (name.to_owned(), Quantity::ZERO)).collect();
    let mut resources: Vec<&str> = names().filter_map(counted_in).collect();
    resources.sort_unstable();
    resources.dedup();
    let scoped = scopes(spec).next().is_some();
    for resource in resources {
        let only_count = |name: &str| name == resource || name.starts_with("count/");
        let by_count =
            resource != "pods" && names().filter(|n| counted_in(n) == Some(resource)).all(only_count);
        if by_count && !scoped {
            // Nothing of them matters but their number.
            let number = count(inventory.count(resource));
            for name in [resource.to_owned(), format!("count/{resource}")] {
                used.entry(name).and_modify(|amount| *amount = number);
            }
            continue;
        }
        for object in inventory.objects(resource) {
            if in_scope(spec, resource, &object) {
                add(&mut used, &within(hard, &of_object(resource, &object, now)));
            }
        }
    }
    used
}

/// As `status.used` is written.
pub fn printed(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn a_pod_needs_what_its_most_demanding_moment_needs() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
        let mut sidecar = container("200m");
        sidecar["restartPolicy"] = "Always".into();
        let rows = [
            (json!({"containers": [container("1"), container("500m")]}), "cpu=1500m"),
            (json!({"containers": [container("1")], "initContainers": [container("2")]}), "cpu=2"),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar, container("1")]}),
                "cpu=1200m",
            ),
            (json!({"containers": [container("1")], "overhead": {"cpu": "100m"}}), "cpu=1100m"),
            (
                json!({"containers": [{}], "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}}),
                "cpu=3",
            ),
        ];
        for (spec, expected) in rows {
            assert_eq!(told(&of_pod(&spec, Bound::Requests)), expected, "{spec}");
            assert_eq!(told(&of_pod(&spec, Bound::Limits)), expected, "{spec}");
        }
        let only_overhead = json!({"containers": [{}], "overhead": {"cpu": "100m"}});
        assert_eq!(told(&of_pod(&only_overhead, Bound::Limits)), "", "no limit stays no limit");
    }

    #[test]
    fn objects_count_as_documented() {
        let resources =
            json!({"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}});
        let pod = json!({"spec": {"containers": [{"resources": resources}]}});
        let rows = [
            (
                "pods",
                pod,
                "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/gpu=2",
            ),
            ("pods", json!({"spec": {}, "status": {"phase": "Failed"}}), "count/pods=1"),
            (
                "pods",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z", "deletionGracePeriodSeconds": 30}}),
                "count/pods=1",
            ),
            (
                "services",
                json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
            ),
            (
                "services",
                json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"nodePort": 30000}, {}]}}),
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
            ),
            (
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}}),
                "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
                 gold.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi",
            ),
            ("secrets", json!({}), "count/secrets=1,secrets=1"),
            ("deployments.apps", json!({}), "count/deployments.apps=1"),
        ];
        for (resource, object, expected) in rows {
            assert_eq!(told(&of_object(resource, &object, now())), expected);
        }
    }

    #[test]
    fn every_name_that_objects_count_for_leads_back_to_them() {
        let pod = json!({"spec": {"containers": [{"resources": {
            "requests": {"cpu": "1", "memory": "1", "ephemeral-storage": "1", "hugepages-2Mi": "2Mi", "example.com/gpu": "2"},
            "limits": {"cpu": "1", "memory": "1", "ephemeral-storage": "1"}}}]}});
        let claim =
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}});
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}]}});
        let rows = [
            ("pods", pod),
            ("persistentvolumeclaims", claim),
            ("services", service),
            ("configmaps", json!({})),
            ("jobs.batch", json!({})),
        ];
        for (resource, object) in rows {
            for name in of_object(resource, &object, now()).keys() {
                assert_eq!(counted_in(name), Some(resource), "{name}");
            }
        }
        assert_eq!(counted_in("anything"), None);
    }

    #[test]
    fn scopes_choose_what_counts() {
        let classed = |class: &str| json!({"spec": {"priorityClassName": class, "containers": [{}]}});
        let term = |operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
        let busy = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let short = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{}]}});
        let near = json!({"spec": {"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaceSelector": {}}]}}}});
        let rows = [
            (json!({}), &busy, true),
            (json!({"scopes": ["BestEffort"]}), &busy, false),
            (json!({"scopes": ["NotBestEffort"]}), &busy, true),
            (json!({"scopes": ["Terminating"]}), &short, true),
            (json!({"scopes": ["NotTerminating"]}), &short, false),
            (json!({"scopes": ["Terminating", "BestEffort"]}), &short, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &near, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &short, false),
            (term("In", json!(["high"])), &classed("high"), true),
            (term("In", json!(["high"])), &classed("low"), false),
            (term("NotIn", json!(["high"])), &classed("low"), true),
            (term("Exists", Value::Null), &classed("low"), true),
            (term("DoesNotExist", Value::Null), &busy, true),
        ];
        for (spec, pod, fits) in rows {
            assert_eq!(in_scope(&spec, "pods", pod), fits, "{spec} {pod}");
        }
        assert!(!in_scope(&json!({"scopes": ["BestEffort"]}), "configmaps", &json!({})));
    }

    struct Here(Vec<(&'static str, Value)>);

    impl Inventory for Here {
        fn count(&self, resource: &str) -> usize {
            self.objects(resource).len()
        }
        fn objects(&self, resource: &str) -> Vec<Arc<Value>> {
            self.0
                .iter()
                .filter(|(of, _)| *of == resource)
                .map(|(_, object)| Arc::new(object.clone()))
                .collect()
        }
    }

    #[test]
    fn a_quota_counts_what_is_there() {
        let pod = |cpu: &str| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
        let here = Here(vec![
            ("pods", pod("500m")),
            ("pods", pod("1")),
            ("configmaps", json!({})),
            ("jobs.batch", json!({})),
        ]);
        let hard = json!({"pods": 5, "requests.cpu": "2", "configmaps": 1, "count/jobs.batch": 3, "services": 1, "odd": 1});
        let used = of_quota(&json!({"hard": hard}), &here, now());
        assert_eq!(told(&used), "configmaps=1,count/jobs.batch=1,odd=0,pods=2,requests.cpu=1500m,services=0");
        assert_eq!(printed(&used)["requests.cpu"], "1500m");
        let scoped = json!({"hard": {"pods": 5, "configmaps": 1}, "scopes": ["BestEffort"]});
        assert_eq!(told(&of_quota(&scoped, &here, now())), "configmaps=0,pods=0");
    }
}
