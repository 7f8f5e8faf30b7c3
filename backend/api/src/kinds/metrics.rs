//! NodeMetrics and PodMetrics: what is used now (metrics.k8s.io). Made from what nodes measured whenever they are asked
//! for, and never stored.
use super::support::*;
use crate::kind::{Column, Kind, Verb};
use crate::metrics::{NodeUsage, PodUsage, Usage};
use crate::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const GROUP: &str = "metrics.k8s.io";
const VERBS: &[Verb] = &[Verb::Get, Verb::List];

type Amounts = BTreeMap<String, Amount>;

pub struct NodeMetrics;
pub struct PodMetrics;

/// Resource usage metrics of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics"))]
#[serde(rename_all = "camelCase")]
pub struct NodeMetricsObject {
    pub metadata: ObjectMeta,
    /// The end of the interval from which metrics were collected.
    #[serde(default)]
    pub timestamp: Option<Time>,
    /// The length of the interval from which metrics were collected.
    #[serde(default)]
    pub window: String,
    /// The memory usage is the memory working set.
    #[serde(default)]
    pub usage: Amounts,
}

/// Resource usage metrics of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"))]
#[serde(rename_all = "camelCase")]
pub struct PodMetricsObject {
    pub metadata: ObjectMeta,
    /// The end of the interval from which metrics were collected.
    #[serde(default)]
    pub timestamp: Option<Time>,
    /// The length of the interval from which metrics were collected.
    #[serde(default)]
    pub window: String,
    /// Metrics for all containers are collected within the same time window.
    #[serde(default)]
    pub containers: Vec<ContainerMetrics>,
}

/// Resource usage metrics of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics"))]
pub struct ContainerMetrics {
    /// Container name corresponding to the one from pod.spec.containers.
    pub name: String,
    /// The memory usage is the memory working set.
    #[serde(default)]
    pub usage: Amounts,
}

macro_rules! resource {
    ($object:ident, $scope:ident, $kind:literal, $plural:literal) => {
        impl Resource for $object {
            const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = "v1beta1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }
    };
}
resource!(NodeMetricsObject, ClusterResourceScope, "NodeMetrics", "nodes");
resource!(PodMetricsObject, NamespaceResourceScope, "PodMetrics", "pods");

impl Kind for NodeMetrics {
    type Object = NodeMetricsObject;
    const SINGULAR: &'static str = "";
    const VERBS: &'static [Verb] = VERBS;

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(object: &NodeMetricsObject, _now: Timestamp) -> Vec<Value> {
        cells(&object.metadata, std::iter::once(&object.usage), &object.window)
    }
}

impl Kind for PodMetrics {
    type Object = PodMetricsObject;
    const SINGULAR: &'static str = "";
    const VERBS: &'static [Verb] = VERBS;

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(object: &PodMetricsObject, _now: Timestamp) -> Vec<Value> {
        cells(&object.metadata, object.containers.iter().map(|c| &c.usage), &object.window)
    }
}

fn columns() -> Vec<Column> {
    vec![text("Name"), text("CPU"), text("Memory"), text("Window")]
}

fn cells<'a>(metadata: &ObjectMeta, used: impl Iterator<Item = &'a Amounts>, window: &str) -> Vec<Value> {
    let mut sums = [Quantity::ZERO, Quantity::from_bytes(0)];
    for amounts in used {
        for (sum, resource) in sums.iter_mut().zip(["cpu", "memory"]) {
            if let Some(amount) = amounts.get(resource).and_then(|amount| Quantity::parse(&amount.0)) {
                *sum = sum.plus(amount);
            }
        }
    }
    vec![name_cell(metadata), sums[0].to_string().into(), sums[1].to_string().into(), window.into()]
}

fn amounts(usage: Usage) -> Value {
    let cpu = Quantity::parse(&format!("{}n", usage.cpu_nanocores)).unwrap_or(Quantity::ZERO);
    let memory = Quantity::from_bytes(i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX));
    json!({"cpu": cpu.to_string(), "memory": memory.to_string()})
}

/// Go's way to write the length of the window: `10.2s`.
fn window(look: &NodeUsage) -> String {
    let (seconds, rest) = (look.window_milliseconds / 1000, look.window_milliseconds % 1000);
    match format!("{rest:03}").trim_end_matches('0') {
        "" => format!("{seconds}s"),
        rest => format!("{seconds}.{rest}s"),
    }
}

fn metrics(kind: &str, object: Value, labels: &BTreeMap<String, String>, look: &NodeUsage) -> Value {
    let mut all = object;
    all["kind"] = kind.into();
    all["apiVersion"] = NodeMetricsObject::API_VERSION.into();
    all["metadata"]["creationTimestamp"] = crate::lifecycle::seconds(look.taken_at).into();
    if !labels.is_empty() {
        all["metadata"]["labels"] = json!(labels);
    }
    all["timestamp"] = crate::lifecycle::seconds(look.taken_at).into();
    all["window"] = window(look).into();
    all
}

/// NodeMetrics of a node with these labels.
pub fn of_node(name: &str, labels: &BTreeMap<String, String>, look: &NodeUsage) -> Value {
    metrics("NodeMetrics", json!({"metadata": {"name": name}, "usage": amounts(look.node)}), labels, look)
}

/// PodMetrics of a pod with these labels.
pub fn of_pod(
    namespace: &str,
    name: &str,
    labels: &BTreeMap<String, String>,
    pod: &PodUsage,
    look: &NodeUsage,
) -> Value {
    let containers: Vec<Value> =
        pod.containers.iter().map(|c| json!({"name": c.name, "usage": amounts(c.usage)})).collect();
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "containers": containers});
    metrics("PodMetrics", object, labels, look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ContainerUsage;

    #[test]
    fn what_was_measured_reads_as_kubernetes_writes_it() {
        let usage = Usage { cpu_nanoseconds: 9, cpu_nanocores: 12_345_678, memory_bytes: 5 << 20 };
        let container = |name: &str| ContainerUsage { name: name.into(), usage };
        let pod = PodUsage { uid: "u".into(), containers: vec![container("main"), container("log")] };
        let look = NodeUsage {
            taken_at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            window_milliseconds: 10_020,
            node: usage,
            pods: vec![pod.clone()],
        };
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let told = of_pod("shop", "web", &labels, &pod, &look);
        assert_eq!(
            told,
            json!({"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "timestamp": "2026-01-01T00:00:00Z", "window": "10.02s",
                "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "containers": [{"name": "main", "usage": {"cpu": "12345678n", "memory": "5Mi"}},
                    {"name": "log", "usage": {"cpu": "12345678n", "memory": "5Mi"}}]})
        );
        let typed: PodMetricsObject = serde_json::from_value(told).unwrap();
        let cells = PodMetrics::cells(&typed, Timestamp::UNIX_EPOCH);
        assert_eq!(cells, ["web", "24691356n", "10Mi", "10.02s"]);
        let typed: NodeMetricsObject = serde_json::from_value(of_node("n1", &labels, &look)).unwrap();
        assert_eq!(NodeMetrics::cells(&typed, Timestamp::UNIX_EPOCH)[0], "n1");
    }
}
