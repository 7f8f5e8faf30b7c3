//! Gives each node its range of pod addresses.
use crate::cluster::{Cluster, NODES};
use crate::object::text;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub struct NodeIpam;

/// 10.244.0.0/16 in ranges of /24: 256 addresses a node, 256 nodes.
const FIRST_TWO: (u8, u8) = (10, 244);

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    /// One key for all nodes: two nodes must not be given the same range at once.
    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        let node = change.object.as_deref().filter(|_| &*change.key.resource == NODES);
        node.filter(|node| lacks_range(node)).map(|_| Key::new(NODES, "", "")).into_iter().collect()
    }

    fn all_keys(&self, _cluster: &Cluster) -> Vec<Key> {
        vec![Key::new(NODES, "", "")]
    }

    fn reconcile(&self, _key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let mut without = cluster.all(NODES).filter(|(_, node)| lacks_range(node)).peekable();
        if without.peek().is_none() {
            return plan;
        }
        let taken: BTreeSet<String> =
            cluster.all(NODES).map(|(_, node)| text(&node["spec"], "podCIDR").to_owned()).collect();
        let (a, b) = FIRST_TWO;
        let mut free =
            (0..=u8::MAX).map(|c| format!("{a}.{b}.{c}.0/24")).filter(|range| !taken.contains(range));
        while let Some((key, node)) = without.next() {
            let Some(range) = free.next() else {
                // One event for all: thousands of nodes would be told of at every look.
                let count = 1 + without.count();
                let message =
                    format!("The cluster's range of pod addresses is used up; nodes without: {count}");
                plan.event(&node, "Warning", "CIDRNotAvailable", message);
                break;
            };
            let mut next = Value::clone(&node);
            next["spec"]["podCIDR"] = range.as_str().into();
            next["spec"]["podCIDRs"] = json!([range]);
            plan.update(key, next, Part::Spec);
        }
        plan
    }
}

fn lacks_range(node: &Value) -> bool {
    text(&node["spec"], "podCIDR").is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn each_node_gets_a_range_of_its_own_and_a_range_is_given_again_when_its_node_is_gone() {
        let mut world = World::new();
        let range = |world: &World, key: &Key| text(&world.get(key)["spec"], "podCIDR").to_owned();
        let (a, b) = (world.add_node("a"), world.add_node("b"));
        world.settle();
        assert_eq!((range(&world, &a), range(&world, &b)), ("10.244.0.0/24".into(), "10.244.1.0/24".into()));
        world.delete(&a, "Background");
        let c = world.add_node("c");
        world.settle();
        assert_eq!(range(&world, &c), "10.244.0.0/24");
    }
}
