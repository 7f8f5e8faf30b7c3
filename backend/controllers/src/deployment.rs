//! Deployment: rolls a template out by scaling ReplicaSets, within its bounds, and keeps their history.
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::replica_set::REPLICA_SETS;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::sync::Arc;

pub struct Deployments;

const DEPLOYMENTS: &str = "deployments.apps";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const HASH_LABEL: &str = "pod-template-hash";

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            DEPLOYMENTS => vec![change.key.clone()],
            REPLICA_SETS => {
                let owner = change.latest().and_then(controller_of).filter(|owner| owner["kind"] == "Deployment");
                owner
                    .map(|owner| Key::new(DEPLOYMENTS, change.key.namespace.clone(), text(owner, "name")))
                    .into_iter()
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.all(DEPLOYMENTS).map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(deployment) = cluster.get(key) else { return plan };
        let sets = ReplicaSets::of(deployment, cluster);
        if is_deleting(deployment) {
            return plan;
        }
        let mut rollout = Rollout { key, deployment, sets, cluster, now, plan: &mut plan };
        rollout.run();
        plan
    }
}

/// The ReplicaSets of one deployment, oldest first, split into the one of today's template and the others.
struct ReplicaSets<'a> {
    new: Option<(&'a Key, &'a Arc<Value>)>,
    old: Vec<(&'a Key, &'a Arc<Value>)>,
}

impl<'a> ReplicaSets<'a> {
    fn of(deployment: &Value, cluster: &'a Cluster) -> Self {
        let mut all: Vec<_> = cluster.dependents(uid(deployment)).filter(|(key, _)| &*key.resource == REPLICA_SETS).collect();
        all.sort_by(|a, b| created(a.1).cmp(created(b.1)).then_with(|| a.0.cmp(b.0)));
        let wanted = bare_template(&deployment["spec"]["template"]);
        let new = all.iter().position(|(_, set)| bare_template(&set["spec"]["template"]) == wanted);
        let new = new.map(|at| all.remove(at));
        Self { new, old: all }
    }

    fn all(&self) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        self.old.iter().copied().chain(self.new)
    }
}

fn created(object: &Value) -> &str {
    text(&object["metadata"], "creationTimestamp")
}

/// The template without the label that tells ReplicaSets apart.
fn bare_template(template: &Value) -> Value {
    let mut bare = template.clone();
    if let Some(labels) = bare["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH_LABEL);
    }
    if let Some(metadata) = bare["metadata"].as_object_mut() {
        metadata.retain(|_, value| !value.is_null());
    }
    bare
}

fn replicas(set: &Value) -> i64 {
    set["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn available(set: &Value) -> i64 {
    count(&set["status"]["availableReplicas"])
}

/// `25%` or a number, of `total`.
fn bound(value: &Value, total: i64, round_up: bool) -> i64 {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            (total * percent + if round_up { 99 } else { 0 }) / 100
        }
        other => count(other),
    }
}

struct Rollout<'a> {
    key: &'a Key,
    deployment: &'a Arc<Value>,
    sets: ReplicaSets<'a>,
    cluster: &'a Cluster,
    now: Timestamp,
    plan: &'a mut Plan,
}

impl Rollout<'_> {
    fn spec(&self) -> &Value {
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
            return (0, self.desired());
        }
        let rolling = &self.spec()["strategy"]["rollingUpdate"];
        let surge = bound(&rolling["maxSurge"], self.desired(), true);
        let unavailable = bound(&rolling["maxUnavailable"], self.desired(), false).min(self.desired());
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn max_total(&self) -> i64 {
        let surge = self.bounds().0;
        self.desired() + if self.desired() > 0 { surge } else { 0 }
    }

    fn run(&mut self) {
        let paused = self.spec()["paused"] == true;
        let scaled = self.is_scaling_event() && self.scale_proportionally();
        if !paused {
            let made = self.sets.new.is_none() && self.create_new_set();
            self.follow_revision();
            if !made && !scaled {
                match self.recreates() {
                    true => self.recreate(),
                    false => self.roll(),
                }
            }
        }
        self.write_status(paused);
        if !paused {
            self.clean_up();
        }
    }

    /// Someone changed `spec.replicas`: the sets still carry the number they were scaled for.
    fn is_scaling_event(&self) -> bool {
        let mut active = self.sets.all().filter(|(_, set)| replicas(set) > 0);
        active.any(|(_, set)| annotation(set, DESIRED).and_then(|d| d.parse::<i64>().ok()).is_some_and(|d| d != self.desired()))
    }

    /// Spreads a change of `spec.replicas` over all active sets by their size, so that a rollout under way keeps its
    /// proportions. Whether anything was scaled.
    fn scale_proportionally(&mut self) -> bool {
        let active: Vec<_> = self.sets.all().filter(|(_, set)| replicas(set) > 0).collect();
        if let [(key, set)] = active[..] {
            return self.scale_to(key, set, self.desired());
        }
        if self.recreates() {
            return false;
        }
        let total: i64 = active.iter().map(|(_, set)| replicas(set)).sum();
        let mut left = self.max_total() - total;
        let mut by_size = active;
        by_size.sort_by_key(|(_, set)| std::cmp::Reverse(replicas(set)));
        let mut scaled = false;
        for (i, (key, set)) in by_size.iter().enumerate() {
            let was = annotation(set, MAX).and_then(|m| m.parse::<i64>().ok()).unwrap_or(total).max(1);
            let share = match i + 1 == by_size.len() {
                true => left,
                false => {
                    let target = (replicas(set) * self.max_total() + was / 2) / was;
                    (target - replicas(set)).clamp(left.min(0), left.max(0))
                }
            };
            left -= share;
            scaled |= self.scale_to(key, set, (replicas(set) + share).max(0));
        }
        scaled
    }

    /// Scales one set and renews what it remembers of the deployment. Whether its size changed.
    fn scale_to(&mut self, key: &Key, set: &Value, size: i64) -> bool {
        let mut next = set.clone();
        next["spec"]["replicas"] = size.into();
        let (desired, max) = (self.desired().to_string(), self.max_total().to_string());
        let notes = annotations_mut(&mut next);
        notes.insert(DESIRED.into(), desired.into());
        notes.insert(MAX.into(), max.into());
        if next == *set {
            return false;
        }
        self.plan.update(key.clone(), next, Part::Spec);
        let before = replicas(set);
        if size != before {
            let direction = if size > before { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {before} to {size}", key.name);
            self.plan.event(self.deployment, "Normal", "ScalingReplicaSet", message);
        }
        size != before
    }

    fn create_new_set(&mut self) -> bool {
        if self.recreates() && self.old_pods_exist() {
            // Recreate: the old ones end before the new set is made.
            return false;
        }
        let template = bare_template(&self.spec()["template"]);
        let collisions = count(&self.deployment["status"]["collisionCount"]).to_string();
        let hash = letters(hash(&[&template.to_string(), &collisions]), 9);
        let set_name = format!("{}-{hash}", name(self.deployment));
        let key = Key::new(REPLICA_SETS, self.key.namespace.clone(), set_name.as_str());
        if self.cluster.get(&key).is_some() {
            // Another template, or another deployment of that name, hashed alike: try the next hash.
            let mut next = Value::clone(self.deployment);
            next["status"]["collisionCount"] = (count(&next["status"]["collisionCount"]) + 1).into();
            self.plan.update(self.key.clone(), next, Part::Status);
            return true;
        }
        let size = self.desired().min(self.max_total() - self.total()).max(0);
        let mut labeled = self.spec()["template"].clone();
        labeled["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
        let mut selector = self.spec()["selector"].clone();
        selector["matchLabels"][HASH_LABEL] = hash.as_str().into();
        let mut notes = self.own_annotations();
        for (note, value) in [(REVISION, self.next_revision()), (DESIRED, self.desired()), (MAX, self.max_total())] {
            notes.insert(note.into(), value.to_string().into());
        }
        let mut spec = json!({"replicas": size, "selector": selector, "template": labeled});
        if !self.spec()["minReadySeconds"].is_null() {
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
        self.plan.create(key, set);
        if size > 0 {
            let message = format!("Scaled up replica set {set_name} from 0 to {size}");
            self.plan.event(self.deployment, "Normal", "ScalingReplicaSet", message);
        }
        true
    }

    /// The deployment's annotations, as its sets carry them for `kubectl rollout history`.
    fn own_annotations(&self) -> serde_json::Map<String, Value> {
        let mut notes = self.deployment["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        notes.retain(|key, _| !matches!(key.as_str(), REVISION | DESIRED | MAX | LAST_APPLIED));
        notes
    }

    fn next_revision(&self) -> i64 {
        self.sets.old.iter().map(|(_, set)| revision(set)).max().unwrap_or(0) + 1
    }

    /// The new set is the newest revision, also when it is an old one come back, and the deployment says so.
    fn follow_revision(&mut self) {
        let mut newest = self.next_revision();
        if let Some((key, set)) = self.sets.new {
            newest = newest.max(revision(set));
            let mut next = Value::clone(set);
            let mut notes = self.own_annotations();
            if newest != revision(set) && revision(set) > 0 {
                let history = annotation(set, "deployment.kubernetes.io/revision-history").unwrap_or("");
                let history = if history.is_empty() { revision(set).to_string() } else { format!("{history},{}", revision(set)) };
                notes.insert("deployment.kubernetes.io/revision-history".into(), history.into());
            }
            notes.insert(REVISION.into(), newest.to_string().into());
            annotations_mut(&mut next).extend(notes);
            if next != **set {
                self.plan.update(key.clone(), next, Part::Spec);
            }
        }
        if annotation(self.deployment, REVISION) != Some(newest.to_string().as_str()) {
            let mut next = Value::clone(self.deployment);
            annotations_mut(&mut next).insert(REVISION.into(), newest.to_string().into());
            self.plan.update(self.key.clone(), next, Part::Spec);
        }
    }

    fn total(&self) -> i64 {
        self.sets.all().map(|(_, set)| replicas(set)).sum()
    }

    fn old_pods_exist(&self) -> bool {
        self.sets.old.iter().any(|(_, set)| {
            replicas(set) > 0 || self.cluster.controlled(uid(set), PODS).any(|(_, pod)| !is_terminal(pod))
        })
    }

    fn recreate(&mut self) {
        let old: Vec<_> = self.sets.old.iter().copied().filter(|(_, set)| replicas(set) > 0).collect();
        if !old.is_empty() {
            for (key, set) in old {
                self.scale_to(key, set, 0);
            }
            return;
        }
        if let Some((key, set)) = self.sets.new.filter(|_| !self.old_pods_exist()) {
            self.scale_to(key, set, self.desired());
        }
    }

    /// One step of a rolling update: the new set up as far as the surge allows, else old ones down as far as
    /// availability allows.
    fn roll(&mut self) {
        let Some((key, set)) = self.sets.new else { return };
        let size = replicas(set);
        let target = match size.cmp(&self.desired()) {
            std::cmp::Ordering::Greater => self.desired(),
            _ => size + (self.max_total() - self.total()).clamp(0, self.desired() - size),
        };
        if self.scale_to(key, set, target) {
            return;
        }
        self.scale_down_old(set);
    }

    fn scale_down_old(&mut self, new: &Value) {
        let old: Vec<_> = self.sets.old.iter().copied().filter(|(_, set)| replicas(set) > 0).collect();
        if old.is_empty() {
            return;
        }
        let min_available = self.desired() - self.bounds().1;
        let new_unavailable = replicas(new) - available(new);
        let mut room = self.total() - min_available - new_unavailable;
        let mut sizes: Vec<i64> = old.iter().map(|(_, set)| replicas(set)).collect();
        // Unhealthy old pods serve nobody: they go first, and cost no availability.
        for ((_, set), size) in old.iter().zip(&mut sizes) {
            let gone = (replicas(set) - available(set)).clamp(0, room.max(0));
            *size -= gone;
            room -= gone;
        }
        let available_now: i64 = self.sets.all().map(|(_, set)| available(set)).sum();
        let mut spare = (available_now - min_available).min(room).max(0);
        for ((_, set), size) in old.iter().zip(&mut sizes) {
            let gone = (*size).min(available(set)).min(spare).max(0);
            *size -= gone;
            spare -= gone;
        }
        for ((key, set), size) in old.iter().zip(sizes) {
            self.scale_to(key, set, size);
        }
    }

    fn write_status(&mut self, paused: bool) {
        let sum = |field: &str| -> i64 { self.sets.all().map(|(_, set)| count(&set["status"][field])).sum() };
        let updated = self.sets.new.map_or(0, |(_, set)| count(&set["status"]["replicas"]));
        let available = sum("availableReplicas");
        let old = &self.deployment["status"];
        let mut status = json!({"observedGeneration": self.deployment["metadata"]["generation"]});
        let unavailable = (self.total() - available).max(0);
        let counts = [
            ("replicas", sum("replicas")), ("updatedReplicas", updated), ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available), ("unavailableReplicas", unavailable),
        ];
        for (field, value) in counts.into_iter().filter(|(_, value)| *value > 0) {
            status[field] = value.into();
        }
        if !old["collisionCount"].is_null() {
            status["collisionCount"] = old["collisionCount"].clone();
        }
        let conditions = self.conditions(&status, paused);
        status["conditions"] = conditions.into();
        let pending = self.plan.actions.iter().any(|a| matches!(a, crate::Action::Update { key, .. } if key == self.key));
        if pending {
            return; // the next run, which sees that write, writes the status
        }
        if let Some(next) = with_status(self.deployment, status) {
            self.plan.update(self.key.clone(), next, Part::Status);
        }
    }

    fn is_complete(&self, status: &Value) -> bool {
        let field = |name: &str| count(&status[name]);
        field("updatedReplicas") == self.desired()
            && field("replicas") == self.desired()
            && field("availableReplicas") == self.desired()
    }

    fn conditions(&mut self, status: &Value, paused: bool) -> Vec<Value> {
        let old_status = &self.deployment["status"];
        let mut conditions: Vec<Value> = old_status["conditions"].as_array().cloned().unwrap_or_default();
        let enough = count(&status["availableReplicas"]) >= self.desired() - self.bounds().1;
        match enough {
            true => note(&mut conditions, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", self.now),
            false => note(&mut conditions, "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", self.now),
        }
        if paused {
            note(&mut conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", self.now);
            return conditions;
        }
        let Some(deadline) = self.spec()["progressDeadlineSeconds"].as_i64().filter(|d| *d < i64::from(i32::MAX)) else {
            conditions.retain(|c| c["type"] != "Progressing");
            return conditions;
        };
        let set_name = self.sets.new.map_or("", |(key, _)| &*key.name).to_owned();
        let progress = |field: &str| count(&status[field]) > count(&old_status[field]);
        let moved = progress("updatedReplicas") || progress("readyReplicas") || progress("availableReplicas")
            || count(&status["replicas"]) - count(&status["updatedReplicas"])
                < count(&old_status["replicas"]) - count(&old_status["updatedReplicas"]);
        let current = conditions.iter().find(|c| c["type"] == "Progressing").cloned();
        if self.is_complete(status) {
            let message = format!("ReplicaSet \"{set_name}\" has successfully progressed.");
            note(&mut conditions, "Progressing", "True", "NewReplicaSetAvailable", &message, self.now);
            return conditions;
        }
        let resumed = current.as_ref().is_none_or(|c| c["reason"] == "DeploymentPaused");
        let renewed = current.as_ref().is_some_and(|c| c["reason"] == "NewReplicaSetAvailable") && self.sets.new.is_none();
        if resumed || renewed || moved || current.as_ref().is_some_and(|c| c["reason"] == "NewReplicaSetAvailable") {
            let message = format!("ReplicaSet \"{set_name}\" is progressing.");
            note(&mut conditions, "Progressing", "True", "ReplicaSetUpdated", &message, self.now);
            if let Some(condition) = conditions.iter_mut().find(|c| c["type"] == "Progressing") {
                condition["lastUpdateTime"] = stamp(self.now);
            }
        }
        let since = conditions.iter().find(|c| c["type"] == "Progressing").and_then(|c| time(&c["lastUpdateTime"]));
        if let Some(at) = since.map(|since| later(since, deadline)) {
            if at > self.now {
                self.plan.check_again(at);
            } else {
                let message = format!("ReplicaSet \"{set_name}\" has timed out progressing.");
                note(&mut conditions, "Progressing", "False", "ProgressDeadlineExceeded", &message, self.now);
            }
        }
        conditions
    }

    /// Drops the oldest empty sets beyond the history limit once a rollout is over.
    fn clean_up(&mut self) {
        if !self.is_complete(&self.deployment["status"]) {
            return;
        }
        let limit = usize::try_from(self.spec()["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
        let empty = |set: &Value| replicas(set) == 0 && count(&set["status"]["replicas"]) == 0 && !is_deleting(set);
        let mut done: Vec<_> = self.sets.old.iter().copied().filter(|(_, set)| empty(set)).collect();
        done.sort_by_key(|(_, set)| revision(set));
        for (key, set) in done.iter().take(done.len().saturating_sub(limit)) {
            self.plan.delete((*key).clone(), set);
        }
    }
}

fn revision(set: &Value) -> i64 {
    annotation(set, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// A deployment's condition, which also tells when it was last updated.
fn note(conditions: &mut Vec<Value>, r#type: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let before = conditions.iter().find(|c| c["type"] == r#type).cloned();
    set_condition(conditions, r#type, status, reason, message, now);
    let Some(after) = conditions.iter_mut().find(|c| c["type"] == r#type) else { return };
    let same = before.is_some_and(|b| b["status"] == after["status"] && b["reason"] == after["reason"] && b["message"] == after["message"]);
    if !same || after["lastUpdateTime"].is_null() {
        after["lastUpdateTime"] = stamp(now);
    }
}
