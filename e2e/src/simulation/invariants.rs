//! What must hold of the true state after every single write, whatever happened.
use super::api::{Api, Told, next};
use super::node::Node;
use pilothouse_api::{Key, Observed};
use pilothouse_store::Watch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The true state, never late, and what was seen on the way to it.
pub struct Invariants {
    watch: Option<Watch>,
    truth: BTreeMap<Key, Value>,
    /// Pods that a budget let go and that are still there.
    evicted: BTreeSet<String>,
    /// The most pods that a deployment's sets may want together: the largest of what it allowed since it was rolled out.
    ceilings: BTreeMap<String, i64>,
    /// The same of each set's pods.
    sizes: BTreeMap<String, i64>,
}

impl Invariants {
    pub fn new(api: &Api) -> Self {
        let (state, watch) = api.snapshot();
        let truth = state.into_iter().filter_map(|o| Some((o.key, Value::clone(&*o.object?)))).collect();
        Self { watch, truth, evicted: BTreeSet::new(), ceilings: BTreeMap::new(), sizes: BTreeMap::new() }
    }

    /// Errors: what does not hold.
    pub fn check(&mut self, nodes: &[Node]) -> Result<(), String> {
        let mut seen = false;
        while let Told::Change(change) = next(&mut self.watch) {
            seen = true;
            self.take(&change)?;
        }
        if seen { self.names_run_once(nodes) } else { Ok(()) }
    }

    fn take(&mut self, change: &Observed) -> Result<(), String> {
        let key = &change.key;
        let before = match &change.object {
            Some(object) => self.truth.insert(key.clone(), Value::clone(object)),
            None => self.truth.remove(key),
        };
        match &*key.resource {
            "deployments.apps" => self.raise_ceiling(key),
            "replicasets.apps" => {
                self.raise_size(key);
                self.sets_keep_the_bounds(key, before.as_ref())?;
            }
            "pods" => {
                if change.object.is_none() {
                    self.evicted.remove(uid(before.as_ref().unwrap_or(&Value::Null)));
                }
                self.sets_make_no_pod_too_many(key, before.is_none())?;
                self.nodes_are_not_overfull(key)?;
                self.one_daemon_a_node(key)?;
                self.indexes_are_worked_on_once(key)?;
            }
            "jobs.batch" => {
                self.completions_are_kept(key, before.as_ref())?;
                self.forbidden_jobs_do_not_overlap(key)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn all<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        self.truth.iter().filter(move |(key, _)| &*key.resource == resource)
    }

    fn raise_ceiling(&mut self, key: &Key) {
        let Some(deployment) = self.truth.get(key) else { return };
        let desired = number(&deployment["spec"]["replicas"]);
        let surge = &deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"];
        let surge = match surge.as_str() {
            Some(percent) => (desired * percent.trim_end_matches('%').parse::<i64>().unwrap_or(0) + 99) / 100,
            None => number(surge),
        };
        let settled = deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
            && self.wanted_by_sets(uid(deployment)) <= desired + surge;
        let ceiling = self.ceilings.entry(uid(deployment).to_owned()).or_default();
        *ceiling = if settled { desired + surge } else { (*ceiling).max(desired + surge) };
    }

    fn wanted_by_sets(&self, deployment: &str) -> i64 {
        let ours = self.all("replicasets.apps").filter(|(_, set)| owner(set) == deployment);
        ours.map(|(_, set)| number(&set["spec"]["replicas"])).sum()
    }

    fn sets_keep_the_bounds(&self, key: &Key, before: Option<&Value>) -> Result<(), String> {
        let Some(set) = self.truth.get(key) else { return Ok(()) };
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
    fn raise_size(&mut self, key: &Key) {
        let Some(set) = self.truth.get(key) else { return };
        let (set_uid, size) = (uid(set).to_owned(), number(&set["spec"]["replicas"]));
        let settled = set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && self.live_pods(&set_uid) <= size;
        let ceiling = self.sizes.entry(set_uid).or_default();
        *ceiling = if settled { size } else { (*ceiling).max(size) };
    }

    fn live_pods(&self, owned_by: &str) -> i64 {
        let live = |pod: &Value| owner(pod) == owned_by && !is_over(pod) && !is_deleting(pod);
        i64::try_from(self.all("pods").filter(|(_, pod)| live(pod)).count()).unwrap_or(i64::MAX)
    }

    /// Sizes fall while pods are being made for the size before; that aside, none is made twice.
    fn sets_make_no_pod_too_many(&self, key: &Key, is_new: bool) -> Result<(), String> {
        let Some(pod) = self.truth.get(key).filter(|pod| is_new && owner_kind(pod) == "ReplicaSet") else {
            return Ok(());
        };
        let (live, most) =
            (self.live_pods(owner(pod)), self.sizes.get(owner(pod)).copied().unwrap_or(i64::MAX));
        if live > most { Err(format!("{live} pods of a set of {most} ({key})")) } else { Ok(()) }
    }

    fn nodes_are_not_overfull(&self, key: &Key) -> Result<(), String> {
        let Some(node) = self.truth.get(key).and_then(|pod| pod["spec"]["nodeName"].as_str()) else {
            return Ok(());
        };
        let here = |pod: &Value| pod["spec"]["nodeName"] == node && !is_over(pod);
        let millis: i64 = self
            .all("pods")
            .filter(|(_, pod)| here(pod))
            .map(|(_, pod)| {
                let cpu =
                    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap_or("0");
                cpu.strip_suffix('m')
                    .map_or_else(|| cpu.parse::<i64>().unwrap_or(0) * 1000, |m| m.parse().unwrap_or(0))
            })
            .sum();
        if millis > 4000 { Err(format!("{node} has 4 CPUs, and pods for {millis}m")) } else { Ok(()) }
    }

    fn one_daemon_a_node(&self, key: &Key) -> Result<(), String> {
        let Some(pod) = self.truth.get(key).filter(|pod| owner_kind(pod) == "DaemonSet") else {
            return Ok(());
        };
        let live = |pod: &Value| !is_over(pod) && !is_deleting(pod);
        let same = |other: &Value| owner(other) == owner(pod) && live(other) && target(other) == target(pod);
        let count = self.all("pods").filter(|(_, other)| same(other)).count();
        if count > 1 { Err(format!("{count} daemons for {}", target(pod))) } else { Ok(()) }
    }

    fn indexes_are_worked_on_once(&self, key: &Key) -> Result<(), String> {
        const INDEX: &str = "batch.kubernetes.io/job-completion-index";
        let Some(pod) = self.truth.get(key).filter(|pod| pod["metadata"]["labels"][INDEX].is_string()) else {
            return Ok(());
        };
        let works = |pod: &Value| {
            let tracked = pod["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
            !is_over(pod) && !is_deleting(pod) && tracked
        };
        let same = |other: &Value| {
            owner(other) == owner(pod)
                && other["metadata"]["labels"][INDEX] == pod["metadata"]["labels"][INDEX]
        };
        let count = self.all("pods").filter(|(_, other)| same(other) && works(other)).count();
        if count > 1 { Err(format!("{count} pods work on the index of {key}")) } else { Ok(()) }
    }

    fn completions_are_kept(&self, key: &Key, before: Option<&Value>) -> Result<(), String> {
        let Some(job) = self.truth.get(key) else { return Ok(()) };
        let waiting = job["status"]["uncountedTerminatedPods"]["succeeded"].as_array().map_or(0, Vec::len);
        let succeeded = number(&job["status"]["succeeded"]) + i64::try_from(waiting).unwrap_or(0);
        let completions = job["spec"]["completions"].as_i64().unwrap_or(i64::MAX);
        if succeeded > completions {
            return Err(format!("{key} has {succeeded} of {completions} completions"));
        }
        let Some(before) = before else { return Ok(()) };
        for field in ["succeeded", "failed"] {
            if number(&job["status"][field]) < number(&before["status"][field]) {
                return Err(format!("{key} forgot that pods {field}"));
            }
        }
        let held = |job: &Value, kind: &str| {
            let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        for kind in ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"] {
            if held(before, kind) && !held(job, kind) {
                return Err(format!("{key} took {kind} back"));
            }
        }
        Ok(())
    }

    fn forbidden_jobs_do_not_overlap(&self, key: &Key) -> Result<(), String> {
        let Some(job) = self.truth.get(key).filter(|job| owner_kind(job) == "CronJob") else { return Ok(()) };
        let runs = |job: &Value| {
            let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
            let ended =
                conditions.into_iter().any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")));
            !ended && !is_deleting(job)
        };
        let count =
            self.all("jobs.batch").filter(|(_, other)| owner(other) == owner(job) && runs(other)).count();
        if count > 1 { Err(format!("{count} jobs of one schedule that forbids it ({key})")) } else { Ok(()) }
    }

    /// A StatefulSet's name stands for one process: two at a time would share its data.
    fn names_run_once(&self, nodes: &[Node]) -> Result<(), String> {
        let mut seen = BTreeMap::new();
        for node in nodes {
            for name in node.running().filter(|name| name.starts_with("db-")) {
                if let Some(other) = seen.insert(name, &node.name) {
                    return Err(format!("{name} runs on {other} and on {}", node.name));
                }
            }
        }
        Ok(())
    }

    /// A budget let a pod go. Even if all others were well there must be enough left.
    pub fn evicted(&mut self, pod: &Key, label: &str, desired: i64) -> Result<(), String> {
        if let Some(object) = self.truth.get(pod) {
            self.evicted.insert(uid(object).to_owned());
        }
        let selected = |pod: &Value| pod["metadata"]["labels"]["app"] == label && !is_over(pod);
        let left =
            self.all("pods").filter(|(_, pod)| selected(pod) && !self.evicted.contains(uid(pod))).count();
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        if left < desired {
            Err(format!("evictions leave {left} of {label} where {desired} must stay"))
        } else {
            Ok(())
        }
    }
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

fn owner_kind(object: &Value) -> &str {
    object["metadata"]["ownerReferences"][0]["kind"].as_str().unwrap_or_default()
}

/// The node a pod is on, or must go to.
fn target(pod: &Value) -> &str {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let wanted = &required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).or(wanted.as_str()).unwrap_or_default()
}
