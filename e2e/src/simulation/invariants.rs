//! What must hold of the true state after every single write, whatever happened.
use super::api::Api;
use super::machine::Machine;
use super::rollouts::allowed;
use pilothouse_api::{Key, Observed};
use pilothouse_node::runtime::State;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const NODE_MILLIS: i64 = 4000;

/// What is asked of a pod at every step.
struct Pod {
    uid: String,
    owner: String,
    owner_kind: String,
    is_over: bool,
    is_deleting: bool,
    is_tracked: bool,
    node: String,
    /// The node it is on, or must go to.
    target: String,
    millis: i64,
    index: Option<String>,
    app: String,
}

impl Pod {
    fn new(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let owner = &pod["metadata"]["ownerReferences"][0];
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let millis = |container: &Value| {
            let cpu = container["resources"]["requests"]["cpu"].as_str().unwrap_or("0").to_owned();
            let whole = || cpu.parse::<i64>().unwrap_or(0) * 1000;
            cpu.strip_suffix('m').map_or_else(whole, |m| m.parse().unwrap_or(0))
        };
        Self {
            uid: uid(pod).to_owned(),
            owner: text(&owner["uid"]),
            owner_kind: text(&owner["kind"]),
            is_over: is_over(pod),
            is_deleting: is_deleting(pod),
            is_tracked: pod["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()),
            node: text(&pod["spec"]["nodeName"]),
            target: target(pod).to_owned(),
            millis: containers.map(millis).sum(),
            index: pod["metadata"]["labels"][INDEX].as_str().map(str::to_owned),
            app: text(&pod["metadata"]["labels"]["app"]),
        }
    }

    fn is_live(&self) -> bool {
        !self.is_over && !self.is_deleting
    }
}

/// What was seen of the true state, which is never late.
pub struct Invariants {
    place: usize,
    pods: BTreeMap<Key, Pod>,
    sets: BTreeMap<Key, Arc<Value>>,
    jobs: BTreeMap<Key, Arc<Value>>,
    schedules: BTreeMap<String, Arc<Value>>,
    /// Pods that a budget let go and that are still there.
    evicted: BTreeSet<String>,
    /// The most pods that a deployment's sets may want together: the largest of what it allowed since it was rolled out.
    ceilings: BTreeMap<String, i64>,
    /// The same of each set's pods.
    sizes: BTreeMap<String, i64>,
    /// Names of StatefulSets' pods by UID, also of those that are gone: their containers may not be.
    names: HashMap<String, Key>,
}

impl Invariants {
    pub fn new() -> Self {
        Self {
            place: 0,
            pods: BTreeMap::new(),
            sets: BTreeMap::new(),
            jobs: BTreeMap::new(),
            schedules: BTreeMap::new(),
            evicted: BTreeSet::new(),
            ceilings: BTreeMap::new(),
            sizes: BTreeMap::new(),
            names: HashMap::new(),
        }
    }

    /// Errors: what does not hold.
    pub fn check(&mut self, api: &Api) -> Result<(), String> {
        while let Some(change) = api.next(&mut self.place) {
            self.take(change)?;
        }
        Ok(())
    }

    fn take(&mut self, change: &Observed) -> Result<(), String> {
        let key = &change.key;
        match &*key.resource {
            "deployments.apps" => {
                if let Some(deployment) = &change.object {
                    self.raise_ceiling(deployment);
                }
            }
            "replicasets.apps" => {
                let Some(set) = &change.object else {
                    self.sets.remove(key);
                    return Ok(());
                };
                self.sets.insert(key.clone(), set.clone());
                self.raise_size(set);
                self.sets_keep_the_bounds(key, set, change.previous.as_deref())?;
            }
            "pods" => self.take_pod(change)?,
            "jobs.batch" => {
                let Some(job) = &change.object else {
                    self.jobs.remove(key);
                    return Ok(());
                };
                self.jobs.insert(key.clone(), job.clone());
                completions_are_kept(key, job, change.previous.as_deref())?;
                self.jobs_of_a_schedule_keep_apart(key, job)?;
            }
            "cronjobs.batch" => {
                if let Some(schedule) = &change.object {
                    self.schedules.insert(uid(schedule).to_owned(), schedule.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_pod(&mut self, change: &Observed) -> Result<(), String> {
        let key = &change.key;
        let Some(object) = &change.object else {
            if let Some(gone) = self.pods.remove(key) {
                self.evicted.remove(&gone.uid);
            }
            return Ok(());
        };
        let pod = Pod::new(object);
        if pod.owner_kind == "StatefulSet" && change.previous.is_none() {
            self.names.insert(pod.uid.clone(), key.clone());
        }
        self.pods.insert(key.clone(), pod);
        let pod = &self.pods[key];
        self.sets_make_no_pod_too_many(key, pod, change.previous.is_none())?;
        self.nodes_are_not_overfull(pod)?;
        self.one_daemon_a_node(pod)?;
        self.indexes_are_worked_on_once(key, pod)
    }

    fn raise_ceiling(&mut self, deployment: &Value) {
        let desired = number(&deployment["spec"]["replicas"]);
        let bounds = &deployment["spec"]["strategy"]["rollingUpdate"];
        let surge = allowed(&bounds["maxSurge"], desired, 99);
        let most = desired + surge;
        let settled = deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
            && self.wanted_by_sets(uid(deployment)) <= most;
        let ceiling = self.ceilings.entry(uid(deployment).to_owned()).or_default();
        *ceiling = if settled { most } else { (*ceiling).max(most) };
    }

    fn wanted_by_sets(&self, deployment: &str) -> i64 {
        let ours = self.sets.values().filter(|set| owner(set) == deployment);
        ours.map(|set| number(&set["spec"]["replicas"])).sum()
    }

    fn sets_keep_the_bounds(&self, key: &Key, set: &Value, before: Option<&Value>) -> Result<(), String> {
        let grew =
            number(&set["spec"]["replicas"]) > before.map_or(0, |old| number(&old["spec"]["replicas"]));
        let Some(ceiling) = self.ceilings.get(owner(set)).filter(|_| grew) else { return Ok(()) };
        let wanted = self.wanted_by_sets(owner(set));
        if wanted > *ceiling {
            return Err(format!(
                "the sets of a deployment want {wanted} pods where {ceiling} are allowed ({key})"
            ));
        }
        Ok(())
    }

    /// The largest size that a set was asked for since it last had no pod too many.
    fn raise_size(&mut self, set: &Value) {
        let (set_uid, size) = (uid(set).to_owned(), number(&set["spec"]["replicas"]));
        let settled = set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && self.live_pods(&set_uid) <= size;
        let ceiling = self.sizes.entry(set_uid).or_default();
        *ceiling = if settled { size } else { (*ceiling).max(size) };
    }

    fn live_pods(&self, owned_by: &str) -> i64 {
        count(self.pods.values().filter(|pod| pod.owner == owned_by && pod.is_live()))
    }

    /// Sizes fall while pods are being made for the size before; that aside, none is made twice.
    fn sets_make_no_pod_too_many(&self, key: &Key, pod: &Pod, is_new: bool) -> Result<(), String> {
        if !is_new || pod.owner_kind != "ReplicaSet" {
            return Ok(());
        }
        let (live, most) =
            (self.live_pods(&pod.owner), self.sizes.get(&pod.owner).copied().unwrap_or(i64::MAX));
        if live > most { Err(format!("{live} pods of a set of {most} ({key})")) } else { Ok(()) }
    }

    fn nodes_are_not_overfull(&self, pod: &Pod) -> Result<(), String> {
        if pod.node.is_empty() {
            return Ok(());
        }
        let here = self.pods.values().filter(|other| other.node == pod.node && !other.is_over);
        let millis: i64 = here.map(|other| other.millis).sum();
        if millis <= NODE_MILLIS {
            return Ok(());
        }
        Err(format!("{} has {NODE_MILLIS}m of CPU, and pods for {millis}m", pod.node))
    }

    fn one_daemon_a_node(&self, pod: &Pod) -> Result<(), String> {
        if pod.owner_kind != "DaemonSet" {
            return Ok(());
        }
        let same = |other: &&Pod| other.owner == pod.owner && other.is_live() && other.target == pod.target;
        let found = count(self.pods.values().filter(same));
        // One more while the set surges.
        if found > 1 + i64::from(pod.app == "surging") {
            return Err(format!("{found} daemons for {}", pod.target));
        }
        Ok(())
    }

    fn indexes_are_worked_on_once(&self, key: &Key, pod: &Pod) -> Result<(), String> {
        if pod.index.is_none() {
            return Ok(());
        }
        let same = |other: &&Pod| {
            other.owner == pod.owner && other.index == pod.index && other.is_live() && other.is_tracked
        };
        let found = count(self.pods.values().filter(same));
        if found > 1 { Err(format!("{found} pods work on the index of {key}")) } else { Ok(()) }
    }

    fn jobs_of_a_schedule_keep_apart(&self, key: &Key, job: &Value) -> Result<(), String> {
        let Some(schedule) = self.schedules.get(owner(job)) else { return Ok(()) };
        if schedule["spec"]["concurrencyPolicy"] == "Allow" {
            return Ok(());
        }
        let runs = |job: &&Arc<Value>| !has(job, "Complete") && !has(job, "Failed") && !is_deleting(job);
        let ours = self.jobs.values().filter(|other| owner(other) == owner(job));
        let found = count(ours.filter(runs));
        if found > 1 {
            return Err(format!("{found} jobs of one schedule that forbids it ({key})"));
        }
        Ok(())
    }

    /// A StatefulSet's name stands for one process: two at a time would share its data. And nothing runs twice on a node.
    pub fn runs_once(&self, machines: &[Machine]) -> Result<(), String> {
        let mut seen = BTreeMap::new();
        for machine in machines {
            for pod in machine.node.pods() {
                let mut running =
                    pod.containers().containers.iter().filter(|c| c.state == State::Running).peekable();
                if running.peek().is_none() {
                    continue;
                }
                let mut names = BTreeSet::new();
                if let Some(twice) = running.find(|c| !names.insert(&c.name)) {
                    return Err(format!("{} of {} runs twice on {}", twice.name, pod.uid, machine.node.name));
                }
                let Some(name) = self.names.get(&*pod.uid) else { continue };
                if let Some(other) = seen.insert(name, &machine.node.name) {
                    return Err(format!("{name} runs on {other} and on {}", machine.node.name));
                }
            }
        }
        Ok(())
    }

    /// A budget let a pod go. Even if all others were well there must be enough left.
    pub fn evicted(&mut self, pod: &Key, app: &str, desired: i64) -> Result<(), String> {
        if let Some(pod) = self.pods.get(pod) {
            self.evicted.insert(pod.uid.clone());
        }
        let selected = |pod: &&Pod| pod.app == app && !pod.is_over && !self.evicted.contains(&pod.uid);
        let left = count(self.pods.values().filter(selected));
        if left < desired {
            return Err(format!("evictions leave {left} of {app} where {desired} must stay"));
        }
        Ok(())
    }
}

fn completions_are_kept(key: &Key, job: &Value, before: Option<&Value>) -> Result<(), String> {
    let waiting = job["status"]["uncountedTerminatedPods"]["succeeded"].as_array().map_or(0, Vec::len);
    let succeeded = number(&job["status"]["succeeded"]) + i64::try_from(waiting).unwrap_or(0);
    let completions = job["spec"]["completions"].as_i64().unwrap_or(i64::MAX);
    if succeeded > completions {
        return Err(format!("{key} has {succeeded} of {completions} completions"));
    }
    if has(job, "Complete") && has(job, "Failed") {
        return Err(format!("{key} is complete and has failed"));
    }
    let Some(before) = before else { return Ok(()) };
    for field in ["succeeded", "failed"] {
        if number(&job["status"][field]) < number(&before["status"][field]) {
            return Err(format!("{key} forgot that pods {field}"));
        }
    }
    for kind in ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"] {
        if has(before, kind) && !has(job, kind) {
            return Err(format!("{key} took {kind} back"));
        }
    }
    Ok(())
}

fn count<T>(found: impl Iterator<Item = T>) -> i64 {
    i64::try_from(found.count()).unwrap_or(i64::MAX)
}

/// Whether a condition holds.
pub fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn owner(object: &Value) -> &str {
    object["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default()
}

/// The node a pod is on, or must go to.
fn target(pod: &Value) -> &str {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let wanted = &required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).or(wanted.as_str()).unwrap_or_default()
}
