//! Ranges of addresses: the one that all pods of a cluster share, and how much of it each node gets.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

/// A range of IPv4 addresses, written `10.244.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    first: u32,
    prefix: u8,
}

impl Ipv4Cidr {
    /// The range of `address`, whose first `prefix` bits are the same for all; more than 32 are taken for 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { first: address.to_bits() & mask(prefix), prefix }
    }

    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first
    }

    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let wider = mask(self.prefix.min(other.prefix));
        self.first & wider == other.first & wider
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of IPv4 addresses, such as 10.244.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(wrong)?;
        let cidr = Self::new(address, prefix);
        match cidr.first == address.to_bits() {
            true => Ok(cidr),
            false => Err(format!("{text:?} does not begin at the range's first address: write {cidr}")),
        }
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> Self {
        cidr.to_string()
    }
}

/// More ranges than 2 to this power are refused, as kube-controller-manager does.
const MOST_BITS: u8 = 16;
/// What a node can use: the smallest has an address for its bridge and one for a pod.
const NODE_PREFIXES: RangeInclusive<u8> = 8..=30;

/// The addresses of all pods, in ranges of equal size of which each node gets one: `--cluster-cidr` and
/// `--node-cidr-mask-size` of <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    cidr: Ipv4Cidr,
    node_prefix: u8,
}

impl Default for PodNetwork {
    fn default() -> Self {
        Self { cidr: Self::DEFAULT_CIDR, node_prefix: Self::DEFAULT_NODE_PREFIX }
    }
}

impl PodNetwork {
    pub const DEFAULT_CIDR: Ipv4Cidr = Ipv4Cidr::new(Ipv4Addr::new(10, 244, 0, 0), 16);
    pub const DEFAULT_NODE_PREFIX: u8 = 24;

    /// # Errors
    /// A node's range is larger than all of them, too small to be of use, or there are too many.
    pub fn new(cidr: Ipv4Cidr, node_prefix: u8) -> Result<Self, String> {
        if node_prefix < cidr.prefix {
            return Err(format!("a node's range of /{node_prefix} is larger than the cluster's, {cidr}"));
        }
        if !NODE_PREFIXES.contains(&node_prefix) {
            let (largest, smallest) = NODE_PREFIXES.into_inner();
            return Err(format!("a node's range is /{largest} to /{smallest}, not /{node_prefix}"));
        }
        if node_prefix - cidr.prefix > MOST_BITS {
            let least = cidr.prefix + MOST_BITS;
            return Err(format!(
                "{cidr} has too many ranges of /{node_prefix}: /{least} is the smallest there"
            ));
        }
        Ok(Self { cidr, node_prefix })
    }

    /// The addresses of all pods.
    #[must_use]
    pub fn cidr(self) -> Ipv4Cidr {
        self.cidr
    }

    /// How many nodes can have a range.
    #[must_use]
    pub fn ranges(self) -> u32 {
        1 << (self.node_prefix - self.cidr.prefix)
    }

    /// A node's range by its number, which is less than [`Self::ranges`].
    #[must_use]
    pub fn range(self, number: u32) -> Ipv4Cidr {
        let first = self.cidr.first + (number << (32 - self.node_prefix));
        Ipv4Cidr { first, prefix: self.node_prefix }
    }

    /// The numbers of the ranges that have addresses of `other`.
    #[must_use]
    pub fn numbers_in(self, other: Ipv4Cidr) -> Range<u32> {
        if !self.cidr.overlaps(other) {
            return 0..0;
        }
        let last = other.first | !mask(other.prefix);
        let number = |address: u32| (address - self.cidr.first) >> (32 - self.node_prefix);
        let end = self.cidr.first | !mask(self.cidr.prefix);
        number(other.first.max(self.cidr.first))..number(last.min(end)) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Ipv4Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_read_and_written_as_it_is() {
        for text in ["10.244.0.0/16", "0.0.0.0/0", "10.0.0.1/32", "10.64.0.0/10"] {
            assert_eq!(cidr(text).to_string(), text);
            let told = serde_json::to_value(cidr(text)).unwrap();
            assert_eq!(serde_json::from_value::<Ipv4Cidr>(told).unwrap(), cidr(text));
        }
        for wrong in ["10.244.0.0", "10.244.0.0/33", "10.244.0.0/-1", "fd00::/8", "ten/8", ""] {
            assert!(wrong.parse::<Ipv4Cidr>().is_err(), "{wrong}");
        }
        let told = "10.244.7.0/16".parse::<Ipv4Cidr>().unwrap_err();
        assert!(told.ends_with("write 10.244.0.0/16"), "{told}");
    }

    #[test]
    fn addresses_are_in_it_or_not() {
        let pods = cidr("10.64.0.0/10");
        let inside = |address: [u8; 4]| pods.contains(address.into());
        assert!(inside([10, 64, 0, 0]) && inside([10, 127, 255, 255]));
        assert!(!inside([10, 63, 255, 255]) && !inside([10, 128, 0, 0]));
        assert!(pods.overlaps(cidr("10.96.0.0/16")) && cidr("10.96.0.0/16").overlaps(pods));
        assert!(!pods.overlaps(cidr("10.244.0.0/16")) && cidr("0.0.0.0/0").overlaps(pods));
    }

    #[test]
    fn nodes_get_ranges_up_to_the_end_and_not_past_it() {
        let network = PodNetwork::default();
        assert_eq!(network.ranges(), 256);
        assert_eq!([network.range(0), network.range(255)], [cidr("10.244.0.0/24"), cidr("10.244.255.0/24")]);
        let wide = PodNetwork::new(cidr("10.128.0.0/10"), 24).unwrap();
        assert_eq!((wide.ranges(), wide.range(16_383)), (16_384, cidr("10.191.255.0/24")));
        let upmost = PodNetwork::new(cidr("255.0.0.0/8"), 24).unwrap();
        assert_eq!(upmost.range(upmost.ranges() - 1), cidr("255.255.255.0/24"));
        assert_eq!(upmost.numbers_in(cidr("255.255.255.0/24")), 65_535..65_536);
    }

    #[test]
    fn what_another_range_takes_is_counted_in_ranges_of_nodes() {
        let network = PodNetwork::default();
        let rows = [
            ("10.244.3.0/24", 3..4),
            ("10.244.4.0/23", 4..6),
            ("10.244.9.128/25", 9..10),
            ("10.0.0.0/8", 0..256),
            ("10.245.0.0/24", 0..0),
            ("0.0.0.0/0", 0..256),
        ];
        for (other, numbers) in rows {
            assert_eq!(network.numbers_in(cidr(other)), numbers, "{other}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for (whole, node) in
            [("10.244.0.0/16", 15), ("10.0.0.0/8", 25), ("10.244.0.0/16", 31), ("0.0.0.0/0", 7)]
        {
            assert!(PodNetwork::new(cidr(whole), node).is_err(), "{whole} {node}");
        }
        assert!(PodNetwork::new(cidr("10.244.0.0/16"), 16).is_ok());
    }
}
