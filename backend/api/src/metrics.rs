//! What nodes measure of themselves and of their containers: sent by agents, kept in memory, read by people and
//! autoscalers.
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// What a container or a whole machine uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Since its start, in nanoseconds of one CPU.
    pub cpu_nanoseconds: u64,
    /// Over the window, in billionths of a CPU.
    pub cpu_nanocores: u64,
    /// The working set: what cannot be given back under pressure, in bytes.
    pub memory_bytes: u64,
}

impl Usage {
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_nanoseconds: self.cpu_nanoseconds.saturating_add(other.cpu_nanoseconds),
            cpu_nanocores: self.cpu_nanocores.saturating_add(other.cpu_nanocores),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    pub name: String,
    #[serde(flatten)]
    pub usage: Usage,
}

/// The running containers of a pod, all of them measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUsage {
    pub uid: Arc<str>,
    pub containers: Vec<ContainerUsage>,
}

impl PodUsage {
    /// Of one container where that is named, else of all; None: it was not measured.
    pub fn of(&self, container: Option<&str>) -> Option<Usage> {
        let counted = self.containers.iter().filter(|c| container.is_none_or(|wanted| c.name == wanted));
        counted.map(|c| c.usage).reduce(Usage::plus)
    }
}

/// One look of a node at everything that runs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    pub taken_at: Timestamp,
    /// What rates are averages over, in milliseconds.
    pub window_milliseconds: i64,
    pub node: Usage,
    /// In the order of their UIDs, as [`NodeUsage::sorted`] leaves them.
    pub pods: Vec<PodUsage>,
}

impl NodeUsage {
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        self
    }

    pub fn pod(&self, uid: &str) -> Option<&PodUsage> {
        let at = self.pods.binary_search_by(|pod| (*pod.uid).cmp(uid)).ok()?;
        self.pods.get(at)
    }
}

/// The newest look of each node, by its name.
pub type Measured = HashMap<Arc<str>, Arc<NodeUsage>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_the_sum_of_its_containers_and_unmeasured_ones_are_not_nothing() {
        let usage =
            |milli: u64| Usage { cpu_nanoseconds: 1, cpu_nanocores: milli * 1_000_000, memory_bytes: 7 };
        let container = |name: &str, milli| ContainerUsage { name: name.into(), usage: usage(milli) };
        let pods = ["b", "a"].map(|uid| PodUsage {
            uid: uid.into(),
            containers: vec![container("main", 20), container("log", 3)],
        });
        let look = NodeUsage {
            taken_at: Timestamp::UNIX_EPOCH,
            window_milliseconds: 10_000,
            node: usage(100),
            pods: pods.to_vec(),
        };
        let look = look.sorted();
        let pod = look.pod("a").unwrap();
        assert_eq!(pod.of(None).unwrap().cpu_nanocores, 23_000_000);
        assert_eq!(pod.of(Some("log")).unwrap().cpu_nanocores, 3_000_000);
        assert_eq!((pod.of(Some("other")), look.pod("c")), (None, None));
    }
}
