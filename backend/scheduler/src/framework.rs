//! What plugins see and answer, and how their answers become one node.
use crate::plugins;
use crate::snapshot::{NodeInfo, Snapshot};
use pilothouse_api::Key;
use pilothouse_api::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Resources by name: CPU in thousandths, everything else in whole units.
pub type Resources = BTreeMap<String, i64>;

/// A pod as plugins read it: what it asks for is added up once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub key: Key,
    pub uid: String,
    pub pod: Arc<Value>,
    pub requests: Resources,
    pub priority: i64,
    /// UID of its controller, to spread the pods of one workload.
    pub owner: Option<String>,
}

impl PodInfo {
    pub fn new(key: Key, pod: Arc<Value>) -> Self {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.clone().find(|o| o["controller"] == true).and_then(|o| o["uid"].as_str());
        Self {
            key,
            uid: pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            requests: requests(&pod["spec"]),
            priority: pod["spec"]["priority"].as_i64().unwrap_or(0),
            owner: owner.map(str::to_owned),
            pod,
        }
    }
}

/// What a pod needs of a node: the sum of its containers, or its largest init container, plus overhead; and one place.
/// Sidecars (init containers that restart always) count like containers.
fn requests(spec: &Value) -> Resources {
    let mut total = Resources::new();
    for container in spec["containers"].as_array().into_iter().flatten() {
        add(&mut total, &amounts(&container["resources"]["requests"]));
    }
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let own = amounts(&container["resources"]["requests"]);
        if container["restartPolicy"] == "Always" {
            add(&mut sidecars, &own);
            continue;
        }
        let mut now = sidecars.clone();
        add(&mut now, &own);
        for (resource, amount) in now {
            let most = peak.entry(resource).or_default();
            *most = (*most).max(amount);
        }
    }
    add(&mut total, &sidecars);
    for (resource, amount) in peak {
        let most = total.entry(resource).or_default();
        *most = (*most).max(amount);
    }
    add(&mut total, &amounts(&spec["overhead"]));
    total.insert("pods".into(), 1);
    total
}

pub fn add(total: &mut Resources, more: &Resources) {
    for (resource, amount) in more {
        *total.entry(resource.clone()).or_default() += amount;
    }
}

/// A map of quantities in scheduling units.
pub fn amounts(map: &Value) -> Resources {
    let entries = map.as_object().into_iter().flatten();
    entries
        .filter_map(|(resource, amount)| {
            let text = amount.as_str().map(str::to_owned).unwrap_or_else(|| amount.to_string());
            let quantity = Quantity::parse(&text)?;
            let amount = if resource == "cpu" { quantity.milli() } else { quantity.value() };
            Some((resource.clone(), amount))
        })
        .collect()
}

/// A filter's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Why not, as the pod's event says it: `Insufficient cpu`.
    No(Vec<String>),
}

/// Whether a node can take a pod at all.
pub trait Filter: Send + Sync {
    fn name(&self) -> &'static str;
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Verdict;
}

/// How well a node suits a pod, 0 to 100.
pub trait Score: Send + Sync {
    fn name(&self) -> &'static str;
    fn weight(&self) -> i64;
    fn score(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64;
}

/// The best node, or why there is none (`0/3 nodes are available: 3 Insufficient cpu.`).
pub fn schedule(pod: &PodInfo, snapshot: &Snapshot) -> Result<Arc<str>, String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i64, u64, Arc<str>)> = None;
    for node in snapshot.nodes() {
        let refusals = plugins::filters().iter().find_map(|plugin| match plugin.filter(pod, node, snapshot) {
            Verdict::Fits => None,
            Verdict::No(reasons) => Some(reasons),
        });
        if let Some(refusals) = refusals {
            for reason in refusals {
                *reasons.entry(reason).or_default() += 1;
            }
            continue;
        }
        let score: i64 = plugins::scores().iter().map(|plugin| plugin.weight() * plugin.score(pod, node, snapshot)).sum();
        // Among equals the choice differs from pod to pod, so that they spread; it is the same at every run.
        let tie = tie_break(&pod.uid, &node.name);
        if best.as_ref().is_none_or(|(top, top_tie, _)| (score, tie) > (*top, *top_tie)) {
            best = Some((score, tie, node.name.clone()));
        }
    }
    if let Some((_, _, node)) = best {
        return Ok(node);
    }
    let total = snapshot.nodes().count();
    if total == 0 {
        return Err("no nodes available to schedule pods".into());
    }
    let list: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(format!("0/{total} nodes are available: {}.", list.join(", ")))
}

fn tie_break(uid: &str, node: &str) -> u64 {
    uid.bytes().chain(node.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
