//! What a pod requests must be free on its node; emptier nodes are better (`LeastAllocated`).
use crate::framework::{Cycle, Event, Filter, MAX_SCORE, Score, Verdict};
use crate::snapshot::NodeInfo;

pub struct NodeResourcesFit;

/// What a pod that requests nothing is taken to use when nodes are compared (`util/pod_resources.go`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Verdict {
        let (wanted, size, used) = (&cycle.pod.requests, &node.facts.allocatable, &node.requested);
        let mut lacking = Vec::new();
        let mut check = |name: &str, wanted: i64, size: i64, used: i64| {
            if wanted > 0 && wanted > size - used {
                lacking.push(format!("Insufficient {name}"));
            }
        };
        check("cpu", wanted.milli_cpu, size.milli_cpu, used.milli_cpu);
        check("memory", wanted.memory, size.memory, used.memory);
        check("ephemeral-storage", wanted.ephemeral_storage, size.ephemeral_storage, used.ephemeral_storage);
        for (name, amount) in &wanted.others {
            let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
            check(name, *amount, of(&size.others), of(&used.others));
        }
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.facts.max_pods {
            lacking.insert(0, "Too many pods".into());
        }
        if lacking.is_empty() { Verdict::Fits } else { Verdict::No(lacking) }
    }

    fn helped_by(&self, event: Event) -> bool {
        matches!(event, Event::Node | Event::PodLeft)
    }

    fn is_about_pods(&self) -> bool {
        true
    }
}

impl Score for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        let usage = usage(cycle, node);
        let free = |(used, size): (i64, i64)| {
            if size <= 0 || used > size { 0 } else { (size - used) * MAX_SCORE / size }
        };
        usage.into_iter().map(free).sum::<i64>() / 2
    }
}

/// CPU and memory in use with the pod on the node, each with the node's size.
pub fn usage(cycle: &Cycle<'_>, node: &NodeInfo) -> [(i64, i64); 2] {
    let or = |value: i64, default: i64| if value == 0 { default } else { value };
    let pod = &cycle.pod.requests;
    let cpu = node.requested.milli_cpu + or(pod.milli_cpu, DEFAULT_MILLI_CPU);
    let memory = node.requested.memory.saturating_add(or(pod.memory, DEFAULT_MEMORY));
    [(cpu, node.facts.allocatable.milli_cpu), (memory, node.facts.allocatable.memory)]
}
