//! Gives each node its range of pod addresses.
use crate::cluster::{Cluster, NODES, lacks_range};
use crate::object::later;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct NodeIpam;

/// Ranges given in one plan: thousands of nodes may come at once, and one that changes meanwhile costs the plan.
const AT_ONCE: usize = 64;
/// A node that has no range while some are free is about to get one, or has just missed the last.
const SOON_SECONDS: i64 = 5;

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    /// One key gives all ranges: two nodes must not be given the same one at once. The key of a node tells people when it
    /// can have none.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource != NODES {
            return Vec::new();
        }
        let mut looks = [&change.object, &change.previous].into_iter().flatten();
        let (concerns_ranges, is_gone) = (looks.any(|node| lacks_range(node)), change.object.is_none());
        let all = (cluster.ranges.are_lacking() && (concerns_ranges || is_gone)).then(all_nodes);
        all.into_iter().chain(concerns_ranges.then(|| change.key.clone())).collect()
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let lacking = cluster.ranges.lacking().map(|name| Key::new(NODES, "", name.clone()));
        std::iter::once(all_nodes()).chain(lacking).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if *key != all_nodes() {
            self.tell(key, cluster, now, &mut plan);
            return plan;
        }
        for (name, range) in cluster.ranges.lacking().zip(cluster.ranges.free()).take(AT_ONCE) {
            let key = Key::new(NODES, "", name.clone());
            let Some(node) = cluster.get(&key) else { continue };
            let (mut next, range) = (Value::clone(&node), range.to_string());
            next["spec"]["podCIDR"] = range.as_str().into();
            next["spec"]["podCIDRs"] = json!([range]);
            plan.update(key, next, Part::Spec);
        }
        plan
    }
}

impl NodeIpam {
    fn tell(&self, key: &Key, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
        let Some(node) = cluster.get(key).filter(|node| lacks_range(node)) else { return };
        if cluster.ranges.free().next().is_some() {
            return plan.check_again(later(now, SOON_SECONDS));
        }
        let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
        plan.tell("Normal", "CIDRNotAvailable", message);
        plan.tell_news(&node, cluster.told(self.name(), key));
    }
}

fn all_nodes() -> Key {
    Key::new(NODES, "", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::object::text;
    use crate::world::World;
    use pilothouse_api::PodNetwork;

    fn range(world: &World, key: &Key) -> String {
        text(&world.get(key)["spec"], "podCIDR").to_owned()
    }

    #[test]
    fn each_node_gets_a_range_of_its_own_and_a_range_is_given_again_when_its_node_is_gone() {
        let mut world = World::new();
        let (a, b) = (world.add_node("a"), world.add_node("b"));
        world.settle();
        assert_eq!((range(&world, &a), range(&world, &b)), ("10.244.0.0/24".into(), "10.244.1.0/24".into()));
        world.delete(&a, "Background");
        let c = world.add_node("c");
        world.settle();
        assert_eq!(range(&world, &c), "10.244.0.0/24");
    }

    #[test]
    fn ranges_are_of_the_size_and_from_the_network_that_the_server_was_told() {
        let mut world = World::new();
        let pods = PodNetwork::new("10.128.0.0/10".parse().unwrap(), 22).unwrap();
        world.cluster = Cluster::new(Settings { pods, ..Settings::default() });
        let nodes: Vec<Key> = (0..AT_ONCE + 3).map(|n| world.add_node(&format!("n{n:03}"))).collect();
        world.settle();
        let given: Vec<String> = nodes.iter().map(|node| range(&world, node)).collect();
        assert_eq!(
            (&*given[0], &*given[1], &*given[AT_ONCE + 2]),
            ("10.128.0.0/22", "10.128.4.0/22", "10.129.8.0/22")
        );
    }

    #[test]
    fn a_node_that_finds_no_range_is_told_of_once_and_gets_the_next_that_is_free() {
        let mut world = World::new();
        let pods = PodNetwork::new("10.1.0.0/24".parse().unwrap(), 25).unwrap();
        world.cluster = Cluster::new(Settings { pods, ..Settings::default() });
        let nodes = ["a", "b", "c", "d"].map(|name| world.add_node(name));
        world.settle();
        world.visit_everything();
        world.settle();
        let told = |world: &World| {
            world
                .events
                .iter()
                .filter(|event| event.starts_with("CIDRNotAvailable"))
                .cloned()
                .collect::<Vec<_>>()
        };
        let expected =
            ["c", "d"].map(|name| format!("CIDRNotAvailable Node {name} status is now: CIDRNotAvailable"));
        assert_eq!(told(&world), expected);
        world.delete(&nodes[0], "Background");
        world.settle();
        assert_eq!(
            (range(&world, &nodes[2]), range(&world, &nodes[3])),
            ("10.1.0.0/25".into(), String::new())
        );
        assert_eq!(told(&world), expected);
        world.assert_at_rest();
    }
}
