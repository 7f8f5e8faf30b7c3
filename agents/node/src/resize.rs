//! Pods resized in place: what the node has promised to each container, and whether it can promise what is asked for.
//! After <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.
use crate::runtime::Limits;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::resize::is_resizable;
use pilothouse_api::usage::{self, Amounts, Bound, quantity};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

const FILE: &str = "allocation.json";
const LISTS: [&str; 2] = ["containers", "initContainers"];
/// How a share of one CPU is written, and the least of it (`cm/helpers_linux.go`).
const SHARES_PER_CPU: i64 = 1024;
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;
/// Microseconds in which a container may use its quota, and the least quota the kernel takes.
pub const PERIOD_MICROSECONDS: i64 = 100_000;
const LEAST_QUOTA: i64 = 1000;

/// What the node promised: the `resources` of each container that can be resized, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation(BTreeMap<String, Value>);

/// Why what is asked for is not promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// The node has it, but not now.
    Deferred(String),
    /// The node never has it.
    Infeasible(String),
}

fn resizable(pod: &Value) -> impl Iterator<Item = &Value> {
    let of = |list: &'static str| {
        let all = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(move |container| is_resizable(list, container))
    };
    LISTS.into_iter().flat_map(of)
}

impl Allocation {
    pub fn of(pod: &Value) -> Self {
        let named = |c: &Value| Some((c["name"].as_str()?.to_owned(), c["resources"].clone()));
        Self(resizable(pod).filter_map(named).collect())
    }

    /// The pod as it was promised; the same one where that is what it asks for.
    pub fn apply(&self, pod: &Arc<Value>) -> Arc<Value> {
        if *self == Self::of(pod) {
            return pod.clone();
        }
        let mut promised = Value::clone(pod);
        for list in LISTS {
            for container in
                promised["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
            {
                if let Some(resources) = self.0.get(container["name"].as_str().unwrap_or_default()) {
                    container["resources"] = resources.clone();
                }
            }
        }
        Arc::new(promised)
    }

    pub fn load(pod_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(pod_dir.join(FILE)).ok()?).ok().map(Self)
    }

    /// Whole or not at all: the next agent goes by it.
    pub fn save(&self, pod_dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(pod_dir)?;
        let fresh = pod_dir.join("allocation.new");
        std::fs::write(&fresh, json!(self.0).to_string())?;
        std::fs::rename(fresh, pod_dir.join(FILE))
    }
}

/// One pod in the node's book.
#[derive(Clone, Debug, Default)]
struct Entry {
    allocation: Allocation,
    pending: Option<(Pending, Timestamp)>,
}

/// What the node promised to all its pods, by UID.
#[derive(Default)]
pub struct Book(HashMap<String, Entry>);

impl Book {
    pub fn knows(&self, uid: &str) -> bool {
        self.0.contains_key(uid)
    }

    pub fn enter(&mut self, uid: &str, allocation: Allocation) {
        self.0.insert(uid.to_owned(), Entry { allocation, pending: None });
    }

    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    pub fn allocation(&self, uid: &str) -> Option<&Allocation> {
        self.0.get(uid).map(|entry| &entry.allocation)
    }

    pub fn pending(&self, uid: &str) -> Option<&Pending> {
        self.0.get(uid)?.pending.as_ref().map(|(pending, _)| pending)
    }

    pub fn has_deferred(&self) -> bool {
        self.0.values().any(|entry| matches!(entry.pending, Some((Pending::Deferred(_), _))))
    }

    /// Judges what pods ask for, the most important first. The UIDs for which the answer changed, and of those the ones
    /// that were promised something else.
    pub fn settle(
        &mut self,
        pods: &[Arc<Value>],
        allocatable: &Value,
        now: Timestamp,
    ) -> (Vec<String>, Vec<String>) {
        let (mut changed, mut promised) = (Vec::new(), Vec::new());
        let size = usage::amounts(allocatable);
        let mut asking: Vec<(&str, &Arc<Value>)> = Vec::new();
        for pod in pods {
            let uid = uid_of(pod);
            let Some(entry) = self.0.get_mut(uid) else { continue };
            if entry.allocation != Allocation::of(pod) {
                asking.push((uid, pod));
            } else if entry.pending.take().is_some() {
                changed.push(uid.to_owned());
            }
        }
        asking.sort_by_key(|(uid, pod)| self.rank(uid, pod));
        for (uid, pod) in asking {
            let Some(entry) = self.0.get(uid) else { continue };
            let has = usage::of_pod(&entry.allocation.apply(pod)["spec"], Bound::Requests);
            let answer = judge(pod, &has, &size, &self.used_by_others(uid, pods));
            let Some(entry) = self.0.get_mut(uid) else { continue };
            match answer {
                None => {
                    entry.allocation = Allocation::of(pod);
                    entry.pending = None;
                    changed.push(uid.to_owned());
                    promised.push(uid.to_owned());
                }
                Some(why) if entry.pending.as_ref().is_none_or(|(old, _)| *old != why) => {
                    let since = entry.pending.take().map_or(now, |(_, since)| since);
                    entry.pending = Some((why, since));
                    changed.push(uid.to_owned());
                }
                Some(_) => {}
            }
        }
        (changed, promised)
    }

    /// Who asks for no more comes first; then priority, quality of service, and who has waited longest.
    fn rank(&self, uid: &str, pod: &Arc<Value>) -> (bool, i64, bool, Timestamp) {
        let entry = self.0.get(uid);
        let has = entry.map(|e| usage::of_pod(&e.allocation.apply(pod)["spec"], Bound::Requests));
        let wants = usage::of_pod(&pod["spec"], Bound::Requests);
        let grows = has.is_some_and(|has| wants.iter().any(|(name, amount)| *amount > of(&has, name)));
        let waits = entry.and_then(|e| e.pending.as_ref()).map_or(Timestamp::MAX, |(_, since)| *since);
        let priority = pod["spec"]["priority"].as_i64().unwrap_or(0);
        (grows, -priority, pod["status"]["qosClass"] != "Guaranteed", waits)
    }

    fn used_by_others(&self, uid: &str, pods: &[Arc<Value>]) -> Amounts {
        let mut used = Amounts::new();
        for pod in pods.iter().filter(|pod| uid_of(pod) != uid) {
            if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
                continue;
            }
            let promised = self.allocation(uid_of(pod)).map_or_else(|| pod.clone(), |a| a.apply(pod));
            for (resource, amount) in usage::of_pod(&promised["spec"], Bound::Requests) {
                let slot = used.entry(resource).or_insert(Quantity::ZERO);
                *slot = slot.plus(amount);
            }
        }
        used
    }
}

fn uid_of(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

fn of(amounts: &Amounts, resource: &str) -> Quantity {
    amounts.get(resource).copied().unwrap_or(Quantity::ZERO)
}

/// None: it can be promised.
fn judge(pod: &Value, has: &Amounts, size: &Amounts, used: &Amounts) -> Option<Pending> {
    let wants = usage::of_pod(&pod["spec"], Bound::Requests);
    let number = |resource: &str, amount: Quantity| match resource {
        "cpu" => amount.milli(),
        _ => amount.value(),
    };
    let mut deferred = None;
    for resource in ["cpu", "memory"] {
        let [wants, has, size, used] =
            [&wants, has, size, used].map(|all| number(resource, of(all, resource)));
        if wants > size {
            return Some(Pending::Infeasible(format!(
                "Node didn't have enough capacity: {resource}, requested: {wants}, capacity: {size}"
            )));
        }
        // Who asks for less is never in the way, on however full a node.
        if wants > has && wants > size - used {
            deferred.get_or_insert_with(|| {
                Pending::Deferred(format!(
                    "Node didn't have enough resource: {resource}, requested: {wants}, used: {used}, capacity: {size}"
                ))
            });
        }
    }
    deferred
}

/// A container's limits as the kernel holds them.
pub fn limits_of(container: &Value) -> Limits {
    let amount = |section: &str, resource: &str| quantity(&container["resources"][section][resource]);
    let shares = amount("requests", "cpu").map_or(0, |q| q.milli() * SHARES_PER_CPU / 1000);
    let quota = amount("limits", "cpu").filter(|q| !q.is_zero());
    Limits {
        cpu_shares: shares.clamp(LEAST_SHARES, MOST_SHARES),
        cpu_quota: quota.map_or(0, |q| (q.milli() * PERIOD_MICROSECONDS / 1000).max(LEAST_QUOTA)),
        memory_bytes: amount("limits", "memory").map_or(0, Quantity::value),
    }
}

/// What is changed by a step from one set of limits to another. A limit is never taken away. A runtime that tells no shares
/// tells no limits at all.
pub fn differing(from: &Limits, to: &Limits) -> Vec<&'static str> {
    if from.cpu_shares == 0 {
        return Vec::new();
    }
    let cpu = from.cpu_shares != to.cpu_shares || (to.cpu_quota != 0 && from.cpu_quota != to.cpu_quota);
    let memory = to.memory_bytes != 0 && from.memory_bytes != to.memory_bytes;
    [(cpu, "cpu"), (memory, "memory")].into_iter().filter(|(differs, _)| *differs).map(|(_, r)| r).collect()
}

/// Whether a container must start anew for a resource to change.
pub fn needs_restart(container: &Value, changes: &[&str]) -> bool {
    let policies = container["resizePolicy"].as_array().into_iter().flatten();
    policies.into_iter().any(|policy| {
        policy["restartPolicy"] == "RestartContainer" && changes.iter().any(|r| policy["resourceName"] == *r)
    })
}

/// The `resources` of a container's status: what was promised, where it is in force what the kernel holds.
pub fn in_force(container: &Value, limits: Option<&Limits>) -> Value {
    let mut resources = json!({});
    for field in ["requests", "limits"] {
        if container["resources"][field].as_object().is_some_and(|list| !list.is_empty()) {
            resources[field] = container["resources"][field].clone();
        }
    }
    let Some(limits) = limits.filter(|limits| limits.cpu_shares != 0) else { return resources };
    let promised = limits_of(container);
    let mut set = |field: &str, resource: &str, amount: Option<Quantity>| match amount {
        Some(amount) => resources[field][resource] = amount.to_string().into(),
        None => {
            if let Some(list) = resources.get_mut(field).and_then(Value::as_object_mut) {
                list.remove(resource);
            }
        }
    };
    if limits.cpu_shares != promised.cpu_shares && !container["resources"]["requests"]["cpu"].is_null() {
        let milli = (limits.cpu_shares * 1000 + SHARES_PER_CPU - 1) / SHARES_PER_CPU;
        set("requests", "cpu", (limits.cpu_shares > LEAST_SHARES).then(|| Quantity::from_milli(milli)));
    }
    if limits.cpu_quota != promised.cpu_quota {
        let milli = limits.cpu_quota * 1000 / PERIOD_MICROSECONDS;
        set("limits", "cpu", (limits.cpu_quota > 0).then(|| Quantity::from_milli(milli)));
    }
    if limits.memory_bytes != promised.memory_bytes {
        let bytes = limits.memory_bytes;
        set("limits", "memory", (bytes > 0).then(|| Quantity::from_bytes(bytes)));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: &str, priority: i64) -> Arc<Value> {
        Arc::new(json!({"metadata": {"uid": uid}, "spec": {"priority": priority,
            "containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}}))
    }

    fn book(pods: &[Arc<Value>]) -> Book {
        let mut book = Book::default();
        pods.iter().for_each(|pod| book.enter(uid_of(pod), Allocation::of(pod)));
        book
    }

    fn settled(book: &mut Book, pods: &[Arc<Value>]) -> (Vec<String>, Vec<String>) {
        book.settle(pods, &json!({"cpu": "2", "memory": "1Gi"}), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_the_node_has_is_promised_and_what_it_has_not_waits() {
        let mut book = book(&[pod("a", "500m", 0), pod("b", "1", 0)]);
        let rows = [
            ("1", None),
            (
                "1500m",
                Some(Pending::Deferred(
                    "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"
                        .into(),
                )),
            ),
            (
                "3",
                Some(Pending::Infeasible(
                    "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000".into(),
                )),
            ),
            ("100m", None),
        ];
        for (asked, answer) in rows {
            let asking = pod("a", asked, 0);
            let (changed, promised) = settled(&mut book, &[asking.clone(), pod("b", "1", 0)]);
            assert_eq!((changed.len(), promised.len()), (1, usize::from(answer.is_none())), "{asked}");
            assert_eq!(book.pending("a"), answer.as_ref(), "{asked}");
            assert_eq!(*book.allocation("a").unwrap() == Allocation::of(&asking), answer.is_none());
            let again = settled(&mut book, &[asking, pod("b", "1", 0)]);
            assert_eq!(again, Default::default(), "the same answer is no news");
        }
    }

    #[test]
    fn when_room_comes_the_more_important_pod_gets_it() {
        let mut book = book(&[pod("a", "500m", 0), pod("b", "500m", 5), pod("c", "1", 0)]);
        let asking = [pod("a", "1", 0), pod("b", "1", 5), pod("c", "1", 0)];
        settled(&mut book, &asking);
        assert!(book.has_deferred());
        assert_eq!(settled(&mut book, &asking[..2]).1, ["b", "a"]);
        assert!(!book.has_deferred());
        // Who asks for less comes before who asks for more: that makes room.
        let (_, promised) = settled(&mut book, &[pod("a", "1500m", 9), pod("b", "500m", 0)]);
        assert_eq!(promised, ["b", "a"]);
    }

    #[test]
    fn a_resize_that_is_taken_back_waits_no_more() {
        let mut book = book(&[pod("a", "500m", 0)]);
        settled(&mut book, &[pod("a", "4", 0)]);
        assert!(book.pending("a").is_some());
        assert_eq!(settled(&mut book, &[pod("a", "500m", 0)]), (vec!["a".to_owned()], Vec::new()));
        assert!(book.pending("a").is_none());
    }

    #[test]
    fn the_promise_outlives_the_agent() {
        let dir = std::env::temp_dir().join(format!("pilothouse-allocation-{}", std::process::id()));
        let promised = Allocation::of(&pod("a", "500m", 0));
        promised.save(&dir).unwrap();
        assert_eq!(Allocation::load(&dir).as_ref(), Some(&promised));
        let asked = promised.apply(&pod("a", "1", 0));
        assert_eq!(asked["spec"]["containers"][0]["resources"]["requests"]["cpu"], "500m");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_status_tells_what_the_kernel_holds() {
        let container = json!({"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi"}}, "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]});
        let promised = limits_of(&container);
        assert_eq!(promised, Limits { cpu_shares: 102, cpu_quota: 50_000, memory_bytes: 128 << 20 });
        assert_eq!(in_force(&container, Some(&promised)), container["resources"]);
        let old = Limits { cpu_shares: 205, cpu_quota: 20_000, memory_bytes: 256 << 20 };
        let told = json!({"requests": {"cpu": "201m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}});
        assert_eq!(in_force(&container, Some(&old)), told);
        assert_eq!(differing(&old, &promised), ["cpu", "memory"]);
        assert!(needs_restart(&container, &["memory"]) && !needs_restart(&container, &["cpu"]));
        assert_eq!(in_force(&json!({"name": "a"}), Some(&limits_of(&json!({})))), json!({}));
    }
}
