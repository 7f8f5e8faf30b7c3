//! Deployment: rolls a template out by scaling ReplicaSets, within its bounds, and keeps their history.
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use crate::cluster::{Cluster, PODS, REPLICA_SETS};
use crate::object::*;
use crate::workload::owner_keys;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Map, Value, json};

pub struct Deployments;

const DEPLOYMENTS: &str = "deployments.apps";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations of a deployment that its sets do not take over.
const OWN: [&str; 5] = [REVISION, HISTORY, DESIRED, MAX, LAST_APPLIED];
const HASH_LABEL: &str = "pod-template-hash";
const HASH_LENGTH: usize = 9;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            DEPLOYMENTS => vec![change.key.clone()],
            REPLICA_SETS => owner_keys(change, "Deployment", DEPLOYMENTS, cluster),
            // Recreate waits for the last old pod.
            PODS if change.object.as_deref().is_none_or(is_terminal) => {
                let labels = change.latest().map(labels).unwrap_or_default();
                cluster.selecting(DEPLOYMENTS, &change.key.namespace, &labels).collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(DEPLOYMENTS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(deployment) = cluster.get(key).filter(|deployment| !is_deleting(deployment)) else {
            return plan;
        };
        if adopt(key, &deployment, cluster, &mut plan) {
            return plan;
        }
        Rollout::new(key, &deployment, cluster, now).run(&mut plan);
        plan
    }
}

/// Takes over sets that match and have no controller, lets those go that match no longer. Whether anything was to do: the
/// rollout goes on once that is seen.
fn adopt(key: &Key, deployment: &Value, cluster: &Cluster, plan: &mut Plan) -> bool {
    let Some(selector) = cluster.selector(key) else {
        return true;
    };
    for (set_key, set) in cluster.controlled(uid(deployment), REPLICA_SETS) {
        if !selector.matches(&labels(&set)) && !is_deleting(&set) {
            plan.update(set_key.clone(), released(&set, uid(deployment)), Part::Spec);
        }
    }
    for set_key in cluster.orphans(REPLICA_SETS, &key.namespace) {
        let Some(set) = cluster.get(set_key).filter(|set| !is_deleting(set)) else {
            continue;
        };
        if selector.matches(&labels(&set)) {
            plan.update(set_key.clone(), adopted(&set, deployment), Part::Spec);
        }
    }
    !plan.is_empty()
}

/// A ReplicaSet of the deployment: as it is and as this plan leaves it.
struct Set {
    key: Key,
    seen: Value,
    next: Value,
}

impl Set {
    fn replicas(&self) -> i64 {
        replicas(&self.next)
    }

    /// Pods that serve. Those beyond its size are about to go, whatever the status says yet.
    fn available(&self) -> i64 {
        count(&self.seen["status"]["availableReplicas"]).min(self.replicas())
    }

    fn status(&self, field: &str) -> i64 {
        count(&self.seen["status"][field])
    }

    fn revision(&self) -> i64 {
        annotation(&self.next, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }

    fn annotated(&self, note: &str) -> Option<i64> {
        annotation(&self.next, note)?.parse().ok()
    }
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// The template without the label that tells ReplicaSets apart.
fn bare_template(template: &Value) -> Value {
    let mut bare = template.clone();
    if let Some(metadata) = bare["metadata"].as_object_mut() {
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
        metadata.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
    }
    bare
}

struct Rollout<'a> {
    key: &'a Key,
    deployment: &'a Value,
    /// Oldest first; `new` is the place of today's template's set.
    sets: Vec<Set>,
    new: Option<usize>,
    /// The set this plan creates: name, size.
    created: Option<(String, i64)>,
    revision: i64,
    collisions: i64,
    cluster: &'a Cluster,
    now: Timestamp,
}

impl<'a> Rollout<'a> {
    fn new(key: &'a Key, deployment: &'a Value, cluster: &'a Cluster, now: Timestamp) -> Self {
        let owned = cluster.controlled(uid(deployment), REPLICA_SETS);
        let mut sets: Vec<Set> = owned
            .map(|(key, set)| Set { key: key.clone(), seen: Value::clone(&set), next: Value::clone(&set) })
            .collect();
        let created = |set: &Set| text(&set.seen["metadata"], "creationTimestamp").to_owned();
        sets.sort_by(|a, b| created(a).cmp(&created(b)).then_with(|| a.key.cmp(&b.key)));
        let wanted = bare_template(&deployment["spec"]["template"]);
        let new = sets.iter().position(|set| bare_template(&set.seen["spec"]["template"]) == wanted);
        let collisions = count(&deployment["status"]["collisionCount"]);
        Self { key, deployment, sets, new, created: None, revision: 0, collisions, cluster, now }
    }

    fn run(mut self, plan: &mut Plan) {
        let paused = self.spec()["paused"] == true;
        // A new size comes before a new template: both in one plan would add up to more than is allowed.
        let scales = paused || self.is_scaling_event();
        if !scales && self.new.is_none() {
            self.create_new_set(plan);
        }
        self.follow_revision();
        match () {
            () if scales => self.scale(),
            () if self.created.is_some() => {}
            () if self.recreates() => self.recreate(),
            () => self.roll(),
        }
        self.write_sets(plan);
        self.write_deployment(paused, plan);
        if !paused {
            self.clean_up(plan);
        }
    }

    fn spec(&self) -> &'a Value {
        &self.deployment["spec"]
    }

    fn desired(&self) -> i64 {
        replicas(self.deployment)
    }

    fn recreates(&self) -> bool {
        self.spec()["strategy"]["type"] == "Recreate"
    }

    /// Surge and unavailable pods allowed; never both none, or nothing could move.
    fn bounds(&self) -> (i64, i64) {
        if self.recreates() {
            return (0, 0);
        }
        let rolling = &self.spec()["strategy"]["rollingUpdate"];
        let surge = bound(&rolling["maxSurge"], self.desired(), true);
        let unavailable = bound(&rolling["maxUnavailable"], self.desired(), false).min(self.desired());
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn max_total(&self) -> i64 {
        if self.desired() > 0 { self.desired() + self.bounds().0 } else { 0 }
    }

    fn total(&self) -> i64 {
        self.sets.iter().map(Set::replicas).sum::<i64>() + self.created.as_ref().map_or(0, |(_, size)| *size)
    }

    fn old(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter().enumerate().filter(|(i, _)| Some(*i) != self.new).map(|(_, set)| set)
    }

    /// Gives a set its size and renews what it remembers of the deployment.
    fn resize(&mut self, at: usize, size: i64) {
        let (desired, max) = (self.desired().to_string(), self.max_total().to_string());
        let next = &mut self.sets[at].next;
        next["spec"]["replicas"] = size.into();
        let notes = annotations_mut(next);
        notes.insert(DESIRED.into(), desired.into());
        notes.insert(MAX.into(), max.into());
    }

    fn create_new_set(&mut self, plan: &mut Plan) {
        if self.recreates() && self.other_pods_exist(None) {
            return; // Recreate: the old ones end before the new set is made.
        }
        let template = bare_template(&self.spec()["template"]);
        let salt = if self.collisions > 0 { self.collisions.to_string() } else { String::new() };
        let hash = letters(hash(&[&template.to_string(), &salt]), HASH_LENGTH);
        let set_name = format!("{}-{hash}", name(self.deployment));
        let key = Key::new(REPLICA_SETS, self.key.namespace.clone(), set_name.as_str());
        if self.cluster.contains(&key) {
            // Another template, or another deployment's, has that hash: the next run tries the next one.
            self.collisions += 1;
            return;
        }
        let size = self.desired().min(self.max_total() - self.total()).max(0);
        let mut labeled = self.spec()["template"].clone();
        labeled["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
        let mut selector = self.spec()["selector"].clone();
        selector["matchLabels"][HASH_LABEL] = hash.as_str().into();
        let mut notes = self.notes_for_sets();
        for (note, value) in
            [(REVISION, self.next_revision()), (DESIRED, self.desired()), (MAX, self.max_total())]
        {
            notes.insert(note.into(), value.to_string().into());
        }
        let mut spec = json!({"replicas": size, "selector": selector, "template": labeled});
        if count(&self.spec()["minReadySeconds"]) > 0 {
            spec["minReadySeconds"] = self.spec()["minReadySeconds"].clone();
        }
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": set_name, "namespace": &*self.key.namespace, "labels": labeled["metadata"]["labels"],
                "annotations": notes, "ownerReferences": [controller_reference(self.deployment)],
            },
            "spec": spec,
        });
        plan.create(key, set);
        if size > 0 {
            let message = format!("Scaled up replica set {set_name} from 0 to {size}");
            plan.event(self.deployment, "Normal", "ScalingReplicaSet", message);
        }
        self.created = Some((set_name, size));
    }

    /// The deployment's annotations, as its sets carry them for `kubectl rollout history`.
    fn notes_for_sets(&self) -> Map<String, Value> {
        let mut notes = self.deployment["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        notes.retain(|note, _| !OWN.contains(&note.as_str()));
        notes
    }

    fn next_revision(&self) -> i64 {
        self.old().map(Set::revision).max().unwrap_or(0) + 1
    }

    /// The new set is the newest revision, also when it is an old one come back, and the deployment says so.
    fn follow_revision(&mut self) {
        self.revision = self.next_revision();
        let Some(at) = self.new else {
            if self.created.is_none() {
                // Nothing new yet: the deployment goes on telling what it told.
                self.revision =
                    annotation(self.deployment, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0);
            }
            return;
        };
        let was = self.sets[at].revision();
        self.revision = self.revision.max(was);
        let mut notes = self.notes_for_sets();
        if self.revision != was && was > 0 {
            let history = annotation(&self.sets[at].next, HISTORY).unwrap_or_default();
            let history = if history.is_empty() { was.to_string() } else { format!("{history},{was}") };
            notes.insert(HISTORY.into(), history.into());
        }
        notes.insert(REVISION.into(), self.revision.to_string().into());
        let seconds = count(&self.spec()["minReadySeconds"]);
        let next = &mut self.sets[at].next;
        annotations_mut(next).extend(notes);
        if count(&next["spec"]["minReadySeconds"]) != seconds {
            next["spec"]["minReadySeconds"] = seconds.into();
        }
    }

    fn write_sets(&self, plan: &mut Plan) {
        for set in self.sets.iter().filter(|set| set.next != set.seen && !is_deleting(&set.seen)) {
            plan.update(set.key.clone(), set.next.clone(), Part::Spec);
            let (before, after) = (replicas(&set.seen), set.replicas());
            if before != after {
                let direction = if after > before { "up" } else { "down" };
                let message =
                    format!("Scaled {direction} replica set {} from {before} to {after}", set.key.name);
                plan.event(self.deployment, "Normal", "ScalingReplicaSet", message);
            }
        }
    }

    /// Drops the oldest empty sets beyond the history limit once a rollout is over.
    fn clean_up(&self, plan: &mut Plan) {
        if !self.is_complete(&self.deployment["status"]) || self.created.is_some() {
            return;
        }
        let limit = usize::try_from(self.spec()["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
        let empty = |set: &&Set| set.next == set.seen && set.replicas() == 0 && set.status("replicas") == 0;
        let mut done: Vec<&Set> = self.old().filter(empty).filter(|set| !is_deleting(&set.seen)).collect();
        done.sort_by_key(|set| set.revision());
        for set in done.iter().take(done.len().saturating_sub(limit)) {
            plan.delete(set.key.clone(), &set.seen);
        }
    }
}
