//! StatefulSet: pods with names and claims of their own, made, replaced and removed in order (`stateful_set_control.go` of
//! Kubernetes).
mod claims;
mod status;
#[cfg(test)]
mod tests;

use crate::cluster::{CLAIMS, CONTROLLER_REVISIONS, Cluster, PODS};
use crate::history::{History, Revision};
use crate::object::*;
use crate::pod::{Phase, Pod};
use crate::workload::{BURST, REVISION_LABEL, claim, is_available, owner_keys, pod_of};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub struct StatefulSets;

const STATEFUL_SETS: &str = "statefulsets.apps";
const KIND: &str = "StatefulSet";
/// On revisions: what their name ends with.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            STATEFUL_SETS => vec![change.key.clone()],
            PODS | CONTROLLER_REVISIONS => {
                let mut keys = owner_keys(change, KIND, STATEFUL_SETS, cluster);
                // A pod that held a name of ours, whosever it was.
                if let Some((set, _)) = change.key.name.rsplit_once('-').filter(|_| change.object.is_none()) {
                    let set = Key::new(STATEFUL_SETS, change.key.namespace.clone(), set);
                    keys.extend(Some(set).filter(|set| cluster.contains(set) && !keys.contains(set)));
                }
                keys
            }
            CLAIMS => claims::sets_of(&change.key, cluster),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(STATEFUL_SETS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = cluster.get(key) else { return plan };
        let Some(selector) = cluster.selector(key) else { return plan };
        let is_member = |pod: &Key, _: &Pod| ordinal(key, &pod.name).is_some();
        let pods = claim(&set, selector, cluster, &mut plan, is_member);
        let Some(mut history) = History::observe(&set, key, cluster, &mut plan) else { return plan };
        if !plan.is_empty() || is_deleting(&set) {
            return plan; // What is taken over is decided on once that is seen; what goes is garbage collection's.
        }
        let Some(update) = history.newest(&set, HASH_LABEL, cluster, &mut plan) else {
            if history.collisions != count(&set["status"]["collisionCount"]) {
                let mut next = Value::clone(&set);
                next["status"]["collisionCount"] = history.collisions.into();
                plan.update(key.clone(), next, Part::Status);
            }
            return plan;
        };
        let current = text(&set["status"], "currentRevision");
        let current = history.revisions.iter().find(|revision| revision.name() == current);
        let current = current.cloned().unwrap_or_else(|| update.clone());
        let mut run = Run::new(key, &set, cluster, now, (current, update), pods);
        run.claims_follow_retention(&mut plan);
        run.move_on(&mut plan);
        run.write_status(&history, &mut plan);
        let live = run.live_revisions();
        history.clean_up(&set, &live, &mut plan);
        plan
    }
}

/// The number that a pod's or a claim's name ends with, behind the set's name.
fn ordinal(set: &Key, name: &str) -> Option<i64> {
    let digits = name.strip_prefix(&*set.name)?.strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if canonical { digits.parse().ok() } else { None }
}

/// A pod as the set sees it.
#[derive(Clone, Copy)]
struct Member<'a> {
    key: &'a Key,
    pod: &'a Pod,
    /// Ready for long enough, not ended and not ending.
    is_healthy: bool,
}

impl Member<'_> {
    fn revision(&self) -> &str {
        self.pod.labels.get(REVISION_LABEL).map_or("", String::as_str)
    }
}

struct Run<'a> {
    key: &'a Key,
    set: &'a Value,
    cluster: &'a Cluster,
    current: Revision,
    update: Revision,
    members: BTreeMap<i64, Member<'a>>,
    /// The ordinals that are wanted.
    start: i64,
    end: i64,
    /// Pods this plan creates and deletes so far.
    moves: usize,
    doomed: BTreeSet<&'a Key>,
    /// When a member that is ready becomes available.
    available_at: Plan,
}

/// Whether an ordered set goes on to the next pod in this plan.
#[derive(PartialEq)]
enum Turn {
    GoesOn,
    Waits,
}

impl<'a> Run<'a> {
    fn new(
        key: &'a Key,
        set: &'a Value,
        cluster: &'a Cluster,
        now: Timestamp,
        (current, update): (Revision, Revision),
        pods: Vec<(&'a Key, &'a Pod)>,
    ) -> Self {
        let start = count(&set["spec"]["ordinals"]["start"]);
        let min_ready = count(&set["spec"]["minReadySeconds"]);
        let mut available_at = Plan::default();
        let members = pods.into_iter().filter_map(|(pod_key, pod)| {
            let is_healthy = pod.is_active()
                && pod.phase == Phase::Running
                && is_available(pod, min_ready, now, &mut available_at);
            Some((ordinal(key, &pod_key.name)?, Member { key: pod_key, pod, is_healthy }))
        });
        let members = members.collect();
        let end = start + set["spec"]["replicas"].as_i64().unwrap_or(1);
        Self {
            key,
            set,
            cluster,
            current,
            update,
            members,
            start,
            end,
            moves: 0,
            doomed: BTreeSet::new(),
            available_at,
        }
    }

    fn is_ordered(&self) -> bool {
        self.set["spec"]["podManagementPolicy"] != "Parallel"
    }

    fn is_wanted(&self, ordinal: i64) -> bool {
        (self.start..self.end).contains(&ordinal)
    }

    /// The next steps: pods that are missing, then pods that are too many, then pods of an old template.
    fn move_on(&mut self, plan: &mut Plan) {
        if let Some(at) = self.available_at.check_again_at {
            plan.check_again(at);
        }
        for ordinal in self.start..self.end {
            if self.fill(ordinal, plan) == Turn::Waits && self.is_ordered() || self.moves >= BURST {
                return;
            }
        }
        if self.shrink(plan) == Turn::GoesOn && self.set["spec"]["updateStrategy"]["type"] != "OnDelete" {
            self.roll(plan);
        }
    }

    /// Gives an ordinal its pod. Waits unless that is there and healthy.
    fn fill(&mut self, ordinal: i64, plan: &mut Plan) -> Turn {
        let Some(member) = self.members.get(&ordinal).copied() else {
            self.create(ordinal, plan);
            return Turn::Waits;
        };
        if member.pod.is_terminal() {
            // Its name is wanted for the one that comes in its place.
            self.delete(&member, plan);
            return Turn::Waits;
        }
        if member.pod.phase == Phase::Pending && !member.pod.is_deleting {
            self.create_claims(ordinal, plan);
        }
        if !member.pod.is_deleting
            && member.pod.labels.get(POD_NAME_LABEL).is_none_or(|l| **l != *member.key.name)
        {
            self.give_identity(ordinal, &member, plan);
        }
        if member.is_healthy { Turn::GoesOn } else { Turn::Waits }
    }

    fn create(&mut self, ordinal: i64, plan: &mut Plan) {
        if !self.create_claims(ordinal, plan) {
            return; // The pod follows its claims: without them it might run on other data.
        }
        let name = self.pod_name(ordinal);
        let key = Key::new(PODS, self.key.namespace.clone(), name.as_str());
        if self.cluster.contains(&key) {
            return; // A pod that is not ours, or no longer: it must go first.
        }
        plan.create(key, self.new_pod(ordinal));
        let message = format!("create Pod {name} in StatefulSet {} successful", self.key.name);
        plan.event(self.set, "Normal", "SuccessfulCreate", message);
        self.moves += 1;
    }

    fn delete(&mut self, member: &Member<'a>, plan: &mut Plan) {
        if member.pod.is_deleting || !self.doomed.insert(member.key) {
            return;
        }
        let Some(object) = self.cluster.get(member.key) else { return };
        plan.delete(member.key.clone(), &object);
        let message = format!("delete Pod {} in StatefulSet {} successful", member.key.name, self.key.name);
        plan.event(self.set, "Normal", "SuccessfulDelete", message);
        self.moves += 1;
    }

    fn pod_name(&self, ordinal: i64) -> String {
        format!("{}-{ordinal}", self.key.name)
    }

    /// Ordinals below the partition stay with the old template, also when their pod is made anew.
    fn revision_for(&self, ordinal: i64) -> &Revision {
        let strategy = &self.set["spec"]["updateStrategy"];
        let kept = strategy["type"] != "OnDelete" && ordinal < self.start + self.partition();
        if kept { &self.current } else { &self.update }
    }

    fn partition(&self) -> i64 {
        count(&self.set["spec"]["updateStrategy"]["rollingUpdate"]["partition"])
    }

    fn new_pod(&self, ordinal: i64) -> Value {
        let revision = self.revision_for(ordinal);
        let name = self.pod_name(ordinal);
        let mut pod = pod_of(self.set, &revision.template(), &name);
        let labels = &mut pod["metadata"]["labels"];
        labels[REVISION_LABEL] = revision.name().into();
        labels[POD_NAME_LABEL] = name.as_str().into();
        labels[INDEX_LABEL] = ordinal.to_string().into();
        pod["spec"]["hostname"] = name.as_str().into();
        if let Some(service) = self.set["spec"]["serviceName"].as_str().filter(|name| !name.is_empty()) {
            pod["spec"]["subdomain"] = service.into();
        }
        self.mount_claims(ordinal, &mut pod);
        pod
    }

    /// A pod that was taken over may lack the labels that services for single pods select.
    fn give_identity(&self, ordinal: i64, member: &Member<'_>, plan: &mut Plan) {
        let Some(object) = self.cluster.get(member.key) else { return };
        let mut next = Value::clone(&object);
        next["metadata"]["labels"][POD_NAME_LABEL] = (*member.key.name).into();
        next["metadata"]["labels"][INDEX_LABEL] = ordinal.to_string().into();
        plan.update(member.key.clone(), next, Part::Spec);
    }

    /// Removes pods beyond the size, the largest ordinal first.
    fn shrink(&mut self, plan: &mut Plan) -> Turn {
        let condemned: Vec<(i64, Member<'a>)> =
            self.members.iter().filter(|(o, _)| !self.is_wanted(**o)).map(|(o, m)| (*o, *m)).collect();
        // What has ended comes back no more, and is not waited for.
        let is_broken = |member: &Member<'_>| !member.is_healthy && !member.pod.is_terminal();
        let unhealthy = |(_, member): &&(i64, Member<'a>)| is_broken(member);
        let first_unhealthy = condemned.iter().find(unhealthy).map(|(ordinal, _)| *ordinal);
        for (ordinal, member) in condemned.into_iter().rev() {
            if member.pod.is_deleting {
                if self.is_ordered() {
                    return Turn::Waits;
                }
                continue;
            }
            // In an ordered set a broken pod holds the others up, unless it is the only one.
            if self.is_ordered() && is_broken(&member) && first_unhealthy != Some(ordinal) {
                return Turn::Waits;
            }
            if !self.claims_are_ready_to_go(ordinal, &member) {
                return Turn::Waits; // They are told first, in this plan, that they go with the pod.
            }
            self.delete(&member, plan);
            if self.is_ordered() || self.moves >= BURST {
                return Turn::Waits;
            }
        }
        Turn::GoesOn
    }

    /// Replaces pods of an old template, the largest ordinal first. What is broken already costs no availability.
    fn roll(&mut self, plan: &mut Plan) {
        let total = self.end - self.start;
        let bound = &self.set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
        let max = if bound.is_null() { 1 } else { self::bound(bound, total, false).max(1) };
        let wanted: Vec<Member<'a>> =
            self.members.iter().filter(|(o, _)| self.is_wanted(**o)).map(|(_, m)| *m).collect();
        let present = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
        let healthy = i64::try_from(wanted.iter().filter(|m| m.is_healthy).count()).unwrap_or(0);
        let mut unavailable = (total - present) + (present - healthy);
        // Those that were replaced already, and are not back yet.
        let mut pending = 0;
        for ordinal in ((self.start + self.partition()).max(self.start)..self.end).rev() {
            if pending >= max || self.moves >= BURST {
                return;
            }
            let Some(member) = self.members.get(&ordinal).copied() else {
                pending += 1;
                continue;
            };
            let leaves = member.pod.is_deleting || self.doomed.contains(member.key);
            let is_old = member.revision() != self.update.name() && !leaves;
            match (is_old, member.is_healthy) {
                (false, true) => {}
                (false, false) => pending += 1,
                (true, false) => {
                    self.delete(&member, plan);
                    pending += 1;
                }
                (true, true) if unavailable < max => {
                    self.delete(&member, plan);
                    pending += 1;
                    unavailable += 1;
                }
                (true, true) => {}
            }
        }
    }

    fn live_revisions(&self) -> BTreeSet<&str> {
        let mut live: BTreeSet<&str> = self.members.values().map(Member::revision).collect();
        live.extend([self.current.name(), self.update.name()]);
        live
    }
}
