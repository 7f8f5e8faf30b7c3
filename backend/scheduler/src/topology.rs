//! Counts of pods by topology domain, as one pod's rules ask for them.
use crate::pod_info::{PodInfo, PodTerm, SpreadRule, Wants};
use crate::snapshot::{NodeInfo, Snapshot};
use pilothouse_api::placement::untolerated;
use std::collections::HashMap;
use std::sync::Arc;

pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Pods by the value of a topology key.
pub type Domains<'a> = HashMap<&'a str, i64>;

#[derive(Default)]
pub struct Topology<'a> {
    /// By constraint of [`Wants::spread`]: matching pods in each domain that may be chosen.
    pub spread: Vec<Domains<'a>>,
    /// By required affinity term.
    pub affinity: Vec<Domains<'a>>,
    /// By required anti-affinity term.
    pub anti_affinity: Vec<Domains<'a>>,
    /// Topology key and domain that a placed pod keeps this one out of.
    pub kept_out: Vec<(Arc<str>, &'a str)>,
    /// By preferred term.
    pub preferred: Vec<Domains<'a>>,
    /// Pods of the same controller in each zone, for a pod without constraints of its own.
    pub zones: Domains<'a>,
}

impl<'a> Topology<'a> {
    pub fn of(pod: &PodInfo, wants: &Wants, snapshot: &'a Snapshot) -> Self {
        let terms = |terms: &[PodTerm]| terms.iter().map(|term| term_counts(term, snapshot)).collect();
        let owner = pod.owner.as_ref().filter(|_| wants.spread.is_empty());
        Self {
            spread: wants.spread.iter().map(|rule| spread_counts(rule, pod, wants, snapshot)).collect(),
            affinity: terms(&wants.affinity),
            anti_affinity: terms(&pod.anti_affinity),
            kept_out: kept_out(pod, snapshot),
            preferred: terms(&wants.preferred),
            zones: owner.map_or_else(HashMap::new, |owner| siblings_by_zone(owner, snapshot)),
        }
    }
}

/// The count of a domain; none for a node that is in none.
pub fn counted(domains: &Domains<'_>, domain: Option<&str>) -> i64 {
    domain.and_then(|domain| domains.get(domain)).copied().unwrap_or(0)
}

fn term_counts<'a>(term: &PodTerm, snapshot: &'a Snapshot) -> Domains<'a> {
    let mut domains = HashMap::new();
    let Some(selector) = &term.selector else {
        return domains;
    };
    snapshot.count_matching(
        term.namespaces.as_deref(),
        |labels| selector.matches(labels),
        |node, count| {
            if let Some(domain) = node.domain(&term.topology_key) {
                *domains.entry(domain).or_default() += count;
            }
        },
    );
    domains
}

fn spread_counts<'a>(rule: &SpreadRule, pod: &PodInfo, wants: &Wants, snapshot: &'a Snapshot) -> Domains<'a> {
    let counts = |node: &NodeInfo| {
        let affine = !rule.honors_affinity || wants.nodes.matches(&node.name, &node.facts.labels);
        affine && (!rule.honors_taints || untolerated(&node.facts.taints, &wants.tolerations).is_none())
    };
    // Domains without a match count as well: they are the emptiest.
    let mut domains: Domains<'a> = snapshot
        .nodes()
        .filter(|n| counts(n))
        .filter_map(|n| n.domain(&rule.topology_key))
        .map(|d| (d, 0))
        .collect();
    let Some(selector) = &rule.selector else {
        return domains;
    };
    let namespace = [pod.key.namespace.to_string()];
    snapshot.count_matching(
        Some(&namespace),
        |labels| selector.matches(labels),
        |node, count| {
            if let Some(slot) =
                node.domain(&rule.topology_key).filter(|_| counts(node)).and_then(|d| domains.get_mut(d))
            {
                *slot += count;
            }
        },
    );
    domains
}

fn kept_out<'a>(pod: &PodInfo, snapshot: &'a Snapshot) -> Vec<(Arc<str>, &'a str)> {
    let mut domains = Vec::new();
    for other in snapshot.repelling() {
        let Some(node) = other.node.as_deref().and_then(|name| snapshot.node(name)) else {
            continue;
        };
        for term in other.anti_affinity.iter().filter(|term| term.matches(&pod.key.namespace, &pod.labels)) {
            domains.extend(node.domain(&term.topology_key).map(|domain| (term.topology_key.clone(), domain)));
        }
    }
    domains
}

fn siblings_by_zone<'a>(owner: &str, snapshot: &'a Snapshot) -> Domains<'a> {
    let mut zones = HashMap::new();
    for (zone, count) in snapshot.zoned_siblings(owner) {
        *zones.entry(zone).or_default() += count;
    }
    zones
}
