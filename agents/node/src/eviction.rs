//! A node that runs short: what is short, what the node says of it, and which pod ends for it. Pure.
//! After <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>.
pub mod storage_limits;
pub mod thresholds;

use crate::pod_sync::Verdict;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::usage::{self, Bound, quantity};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use thresholds::{Rules, Signal, Threshold};

/// Pods of this priority and above are the system's own: they are never evicted (`SystemCriticalPriority`).
const CRITICAL_PRIORITY: i64 = 2_000_000_000;
const STATIC: &str = "kubernetes.io/config.source";

/// How much there is of something, and how much is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub capacity: u64,
    pub available: u64,
}

/// What is not in here is not known, and never short.
pub type Readings = BTreeMap<Signal, Reading>;

/// What one pod uses, in the unit of the signal that is short; of each container, and in its volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    pub containers: BTreeMap<String, u64>,
    pub volumes: u64,
}

impl Used {
    fn total(&self) -> u64 {
        self.containers.values().sum::<u64>() + self.volumes
    }
}

/// A threshold that was crossed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    pub threshold: Threshold,
    pub reading: Reading,
}

impl Shortage {
    pub fn signal(&self) -> Signal {
        self.threshold.signal
    }

    /// How much must come free until it is over.
    pub fn missing(&self, rules: &Rules) -> u64 {
        let least = self.threshold.least.of(self.reading.capacity);
        let more = rules.reclaim.get(&self.signal()).map_or(0, |amount| amount.of(self.reading.capacity));
        (least + more).saturating_sub(self.reading.available)
    }
}

/// What the node remembers between two looks.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Since when each threshold has been crossed, by signal and whether it is a soft one.
    since: HashMap<(Signal, bool), Timestamp>,
    /// When each condition was last due.
    due: HashMap<&'static str, Timestamp>,
    /// Signals that are not over yet: what was begun goes on until something more than the threshold is free.
    relieving: Vec<Signal>,
}

fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second() - from.as_second()
}

impl Pressure {
    /// Takes a look. What is short now and has been for its grace: memory first, then as Kubernetes orders them.
    pub fn observe(&mut self, rules: &Rules, readings: &Readings, now: Timestamp) -> Vec<Shortage> {
        let mut short = Vec::new();
        let mut relieving = Vec::new();
        for threshold in &rules.thresholds {
            let key = (threshold.signal, threshold.grace_seconds.is_some());
            let Some(reading) = readings.get(&threshold.signal).copied().filter(|r| r.capacity > 0) else {
                self.since.remove(&key);
                continue;
            };
            let least = threshold.least.of(reading.capacity);
            let more = rules.reclaim.get(&threshold.signal).map_or(0, |amount| amount.of(reading.capacity));
            let goal = if self.relieving.contains(&threshold.signal) { least + more } else { least };
            if reading.available >= goal {
                self.since.remove(&key);
                continue;
            }
            let since = *self.since.entry(key).or_insert(now);
            self.due.insert(threshold.signal.condition(), now);
            if threshold.grace_seconds.is_none_or(|grace| seconds_between(since, now) >= grace) {
                relieving.push(threshold.signal);
                short.push(Shortage { threshold: threshold.clone(), reading });
            }
        }
        self.relieving = relieving;
        // A hard threshold counts more than a soft one of the same signal.
        short.sort_by_key(|s| (s.signal(), s.threshold.grace_seconds.is_some()));
        short.dedup_by_key(|s| s.signal());
        short
    }

    /// Whether a condition holds: for a while after its cause is gone, so that it does not flap.
    pub fn holds(&self, rules: &Rules, condition: &str, now: Timestamp) -> bool {
        let last = self.due.get(condition);
        last.is_some_and(|last| *last == now || seconds_between(*last, now) < rules.transition_seconds)
    }

    /// Why a pod may not come to this node now.
    pub fn refusal(&self, rules: &Rules, pod: &Value, now: Timestamp) -> Option<Verdict> {
        let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure"];
        let holding: Vec<&str> = kinds.into_iter().filter(|kind| self.holds(rules, kind, now)).collect();
        if holding.is_empty() || is_critical(pod) {
            return None;
        }
        // Who requested memory is held to it by other means; who did not comes on top.
        if holding == ["MemoryPressure"] && pod["status"]["qosClass"] != "BestEffort" {
            return None;
        }
        let message = format!("The node had condition: [{}]. ", holding.join(" "));
        Some(Verdict::evicted(message))
    }
}

/// The system's own pods, and those that this machine itself brings.
pub fn is_critical(pod: &Value) -> bool {
    pod["spec"]["priority"].as_i64().is_some_and(|priority| priority >= CRITICAL_PRIORITY)
        || pod["metadata"]["annotations"][STATIC] == "file"
}

/// Whom to evict: first who uses more than requested, then by priority, then by how much more. None is left: nobody.
pub fn choose(signal: Signal, pods: &[(Arc<Value>, Used)]) -> Option<&(Arc<Value>, Used)> {
    let rank = |(pod, used): &&(Arc<Value>, Used)| {
        let requested = match signal.resource() {
            resource @ ("memory" | "ephemeral-storage") => requested(&pod["spec"], resource),
            _ => 0,
        };
        let priority = pod["spec"]["priority"].as_i64().unwrap_or(0);
        let over = i128::from(used.total()) - i128::from(requested);
        // Of processes nothing can be requested: who has more of them goes first within a priority.
        let exceeds = over > 0 || signal == Signal::PidAvailable;
        (!exceeds, priority, -over, pod["metadata"]["creationTimestamp"].as_str().map(str::to_owned))
    };
    pods.iter().filter(|(pod, _)| !is_critical(pod)).min_by_key(rank)
}

fn requested(spec: &Value, resource: &str) -> u64 {
    let all = usage::of_pod(spec, Bound::Requests);
    all.get(resource).map_or(0, |amount| u64::try_from(amount.value()).unwrap_or(0))
}

/// The last word on an evicted pod.
pub fn verdict(shortage: &Shortage, rules: &Rules, pod: &Value, used: &Used) -> Verdict {
    let signal = shortage.signal();
    let resource = signal.resource();
    let in_bytes =
        !matches!(signal, Signal::PidAvailable | Signal::NodefsInodesFree | Signal::ImagefsInodesFree);
    let amount = |number: u64| match in_bytes {
        true => format!("{}Ki", number / 1024),
        false => number.to_string(),
    };
    let mut message = format!("The node was low on resource: {resource}. ");
    let least = shortage.threshold.least;
    let least = match least {
        thresholds::Amount::Percent(_) => amount(least.of(shortage.reading.capacity)),
        thresholds::Amount::Quantity(_) => least.to_string(),
    };
    message += &format!("Threshold quantity: {least}, available: {}. ", amount(shortage.reading.available));
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let name = container["name"].as_str().unwrap_or_default();
        let Some(used) = used.containers.get(name).filter(|_| in_bytes) else { continue };
        let request = quantity(&container["resources"]["requests"][resource]).unwrap_or(Quantity::ZERO);
        if i128::from(*used) > i128::from(request.value()) {
            message += &format!(
                "Container {name} was using {}, request is {request}, has larger consumption of {resource}. ",
                amount(*used)
            );
        }
    }
    Verdict { grace_seconds: Some(grace_seconds(shortage, rules, pod)), ..Verdict::evicted(message) }
}

/// How long an evicted pod may take to end, in seconds: a hard threshold leaves no time.
fn grace_seconds(shortage: &Shortage, rules: &Rules, pod: &Value) -> i64 {
    match shortage.threshold.grace_seconds {
        None => 0,
        Some(_) => {
            let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
            own.min(rules.max_grace_seconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn readings(signal: Signal, available: u64, capacity: u64) -> Readings {
        Readings::from([(signal, Reading { capacity, available })])
    }

    fn pod(name: &str, priority: i64, request: &str, used: u64) -> (Arc<Value>, Used) {
        let resources = json!({"requests": {"memory": request, "ephemeral-storage": request}});
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]}});
        (Arc::new(pod), Used { containers: BTreeMap::from([("c".into(), used)]), volumes: 0 })
    }

    #[test]
    fn a_hard_threshold_holds_at_once_and_a_soft_one_after_its_grace() {
        let rules =
            Rules::parse("memory.available<100Mi", "memory.available<200Mi", "memory.available=1m", "")
                .unwrap();
        let mut pressure = Pressure::default();
        let mut look = |mebibytes: u64, second: i64| {
            let found = pressure.observe(
                &rules,
                &readings(Signal::MemoryAvailable, mebibytes << 20, 1 << 30),
                at(second),
            );
            let softs: Vec<bool> = found.iter().map(|s| s.threshold.grace_seconds.is_some()).collect();
            (softs, pressure.holds(&rules, "MemoryPressure", at(second)))
        };
        assert_eq!(look(300, 0), (vec![], false));
        assert_eq!(look(150, 10), (vec![], true), "the condition comes before the eviction");
        assert_eq!(look(150, 69), (vec![], true));
        assert_eq!(look(150, 70), (vec![true], true));
        assert_eq!(look(50, 80), (vec![false], true));
        assert_eq!(look(300, 90), (vec![], true));
        assert_eq!(look(150, 100), (vec![], true), "a new shortage has its own grace");
        assert_eq!(look(300, 399), (vec![], true));
        assert_eq!(look(300, 400), (vec![], false), "five minutes after the last cause");
    }

    #[test]
    fn an_eviction_goes_on_until_what_it_must_free_is_free() {
        let rules = Rules::parse("nodefs.available<10%", "", "", "nodefs.available=5%").unwrap();
        let mut pressure = Pressure::default();
        let mut look = |available: u64| {
            pressure.observe(&rules, &readings(Signal::NodefsAvailable, available, 1000), at(0))
        };
        assert_eq!(look(120), []);
        let short = look(90);
        assert_eq!(short[0].missing(&rules), 60);
        assert_eq!(look(140).len(), 1);
        assert_eq!(look(150), []);
        assert_eq!(look(120), [], "it is over");
        assert_eq!(pressure.observe(&rules, &Readings::new(), at(1)), [], "not to know is no shortage");
    }

    #[test]
    fn who_uses_more_than_requested_goes_first_then_by_priority_then_by_how_much() {
        let chosen = |pods: &[(Arc<Value>, Used)], signal| {
            choose(signal, pods).map(|(pod, _)| pod["metadata"]["name"].as_str().unwrap().to_owned())
        };
        let within = pod("within", 0, "1Gi", 500 << 20);
        let over = pod("over", 0, "100Mi", 200 << 20);
        let more = pod("more", 0, "100Mi", 300 << 20);
        let important = pod("important", 1000, "0", 900 << 20);
        let critical = pod("critical", CRITICAL_PRIORITY, "0", 999 << 20);
        let memory = Signal::MemoryAvailable;
        let all = [within.clone(), over.clone(), more.clone(), important.clone(), critical.clone()];
        assert_eq!(chosen(&all, memory).unwrap(), "more");
        assert_eq!(chosen(&[within.clone(), over, important.clone()], memory).unwrap(), "over");
        assert_eq!(chosen(&[within.clone(), important.clone()], memory).unwrap(), "important");
        assert_eq!(chosen(&[within.clone(), critical.clone()], memory).unwrap(), "within");
        assert_eq!(chosen(&[critical], memory), None);
        assert_eq!(
            chosen(&[within, important], Signal::PidAvailable).unwrap(),
            "within",
            "by priority alone"
        );
    }

    #[test]
    fn the_status_says_what_was_short_and_who_used_it() {
        let rules = Rules::default();
        let short =
            Pressure::default().observe(&rules, &readings(Signal::MemoryAvailable, 50 << 20, 1 << 30), at(0));
        let (pod, used) = pod("p", 0, "100Mi", 200 << 20);
        let verdict = verdict(&short[0], &rules, &pod, &used);
        assert_eq!(verdict.reason, "Evicted");
        assert_eq!(
            verdict.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. \
             Container c was using 204800Ki, request is 100Mi, has larger consumption of memory. "
        );
        assert_eq!(verdict.grace_seconds, Some(0));
    }

    #[test]
    fn under_pressure_the_node_takes_no_more_of_what_would_add_to_it() {
        let rules = Rules::default();
        let refused = |signal, pod: &Value| {
            let mut pressure = Pressure::default();
            pressure.observe(&rules, &readings(signal, 1, 1 << 40), at(0));
            pressure.refusal(&rules, pod, at(1)).map(|verdict| verdict.message)
        };
        let of = |class: &str| json!({"status": {"qosClass": class}});
        let memory = Signal::MemoryAvailable;
        assert_eq!(refused(memory, &of("BestEffort")).unwrap(), "The node had condition: [MemoryPressure]. ");
        assert_eq!(refused(memory, &of("Burstable")), None);
        assert!(refused(Signal::NodefsAvailable, &of("Guaranteed")).is_some());
        let critical = json!({"spec": {"priority": CRITICAL_PRIORITY}});
        assert_eq!(refused(Signal::NodefsAvailable, &critical), None);
    }
}
