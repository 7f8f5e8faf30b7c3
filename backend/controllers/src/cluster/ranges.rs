//! Which ranges of pod addresses nodes have, and which nodes have none: what would otherwise be looked for among all nodes.
use crate::object::text;
use pilothouse_api::{Ipv4Cidr, PodNetwork};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Fed change by change.
#[derive(Default)]
pub struct Ranges {
    network: PodNetwork,
    /// Nodes without a range.
    lacking: BTreeSet<Arc<str>>,
    /// The numbers of what a node has.
    held: HashMap<Arc<str>, Box<[Range<u32>]>>,
    /// How many nodes have a range, by its number. A person may have given two of them the same.
    taken: BTreeMap<u32, u32>,
    /// The first number that nobody has.
    lowest_free: u32,
}

impl Ranges {
    pub(super) fn new(network: PodNetwork) -> Self {
        Self { network, ..Self::default() }
    }

    pub(super) fn apply(&mut self, name: &Arc<str>, node: Option<&Value>) {
        self.lacking.remove(name);
        for number in self.held.remove(name).iter().flatten().cloned().flatten() {
            self.give_back(number);
        }
        let Some(node) = node else { return };
        if lacks_range(node) {
            self.lacking.insert(name.clone());
            return;
        }
        let several = node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let all = several.chain([text(&node["spec"], "podCIDR")]);
        let all: BTreeSet<Ipv4Cidr> = all.filter_map(|cidr| cidr.parse().ok()).collect();
        let held: Box<[Range<u32>]> = all.into_iter().map(|cidr| self.network.numbers_in(cidr)).collect();
        held.iter().cloned().flatten().for_each(|number| *self.taken.entry(number).or_default() += 1);
        while self.taken.contains_key(&self.lowest_free) {
            self.lowest_free += 1;
        }
        self.held.insert(name.clone(), held);
    }

    fn give_back(&mut self, number: u32) {
        let Some(holders) = self.taken.get_mut(&number) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.taken.remove(&number);
            self.lowest_free = self.lowest_free.min(number);
        }
    }

    /// Nodes without a range, in order.
    pub fn lacking(&self) -> impl Iterator<Item = &Arc<str>> {
        self.lacking.iter()
    }

    pub fn are_lacking(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Ranges that no node has, in order.
    pub fn free(&self) -> impl Iterator<Item = Ipv4Cidr> {
        let numbers = self.lowest_free..self.network.ranges();
        let free = numbers.filter(|number| !self.taken.contains_key(number));
        free.map(|number| self.network.range(number))
    }
}

/// Whether a node has no range yet.
pub fn lacks_range(node: &Value) -> bool {
    text(&node["spec"], "podCIDR").is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn first_free(ranges: &Ranges) -> String {
        ranges.free().next().map(|cidr| cidr.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_free_follows_the_nodes() {
        let mut ranges = Ranges::new(PodNetwork::new("10.1.0.0/22".parse().unwrap(), 24).unwrap());
        let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        let with = |range: &str| json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
        ranges.apply(&a, Some(&json!({"spec": {}})));
        assert_eq!(ranges.lacking().collect::<Vec<_>>(), [&a]);
        ranges.apply(&a, Some(&with("10.1.0.0/24")));
        assert!(!ranges.are_lacking());
        ranges.apply(&b, Some(&with("10.1.1.0/24")));
        assert_eq!(first_free(&ranges), "10.1.2.0/24");
        ranges.apply(&c, Some(&with("10.1.0.0/24")));
        ranges.apply(&a, None);
        assert_eq!(first_free(&ranges), "10.1.2.0/24", "another still has it");
        ranges.apply(&c, Some(&with("10.1.2.0/23")));
        assert_eq!(first_free(&ranges), "10.1.0.0/24");
        assert_eq!(ranges.free().count(), 1, "a wider range of somebody's takes two");
        ranges.apply(&a, Some(&with("10.1.0.0/24")));
        assert_eq!(first_free(&ranges), "");
        ranges.apply(&b, None);
        assert_eq!(first_free(&ranges), "10.1.1.0/24");
        ranges.apply(&b, Some(&with("192.0.2.0/24")));
        assert_eq!(first_free(&ranges), "10.1.1.0/24", "not one of ours");
    }
}
