//! Counting a job's pods, each once, whatever happens in between.
use super::policy::{Verdict, judge};
use super::{Indexes, Run, index_of, untracked};
use crate::object::*;
use crate::pod::{Phase, Pod};
use crate::{Part, Plan};
use pilothouse_api::Key;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// UIDs that a status holds at most; the others wait for their turn.
const MOST_UNCOUNTED: usize = 500;
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index has failed, by its latest failed pod, and when that was.
#[derive(Clone, Copy, Debug, Default)]
pub struct IndexFailures {
    pub counted: i64,
    pub ignored: i64,
    pub last: Option<pilothouse_api::jiff::Timestamp>,
}

impl IndexFailures {
    pub fn annotate(&self, metadata: &mut Value) {
        metadata["annotations"][FAILURES] = self.counted.to_string().into();
        if self.ignored > 0 {
            metadata["annotations"][IGNORED] = self.ignored.to_string().into();
        }
    }
}

/// What is counted, as the next status will tell it.
#[derive(Default)]
pub struct Count {
    pub succeeded: i64,
    pub failed: i64,
    succeeded_uids: Vec<Arc<str>>,
    failed_uids: Vec<Arc<str>>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// Pods whose end is written down, or not to be counted: their finalizer may go.
    counted: Vec<Key>,
    pub failures: BTreeMap<i64, IndexFailures>,
    /// The latest failed pod of each index: it remembers how often the index failed until another takes its place.
    remembering: BTreeMap<i64, Key>,
    /// Why the whole job is given up.
    pub fatal: Option<String>,
    /// Ended, but left for the next run.
    is_partial: bool,
}

impl Count {
    pub fn all_succeeded(&self) -> i64 {
        self.succeeded + self.succeeded_uids.len() as i64
    }

    pub fn all_failed(&self) -> i64 {
        self.failed + self.failed_uids.len() as i64
    }

    /// Everything that ended is in the counts.
    pub fn is_settled(&self) -> bool {
        !self.is_partial && self.succeeded_uids.is_empty() && self.failed_uids.is_empty()
    }

    pub fn uncounted(&self) -> Value {
        let mut uncounted = json!({});
        for (field, uids) in [("succeeded", &self.succeeded_uids), ("failed", &self.failed_uids)] {
            if !uids.is_empty() {
                uncounted[field] = uids.iter().map(|uid| Value::from(&**uid)).collect();
            }
        }
        uncounted
    }

    fn has_room(&mut self) -> bool {
        let room = self.succeeded_uids.len() + self.failed_uids.len() < MOST_UNCOUNTED;
        self.is_partial |= !room;
        room
    }
}

impl Run<'_> {
    pub(super) fn count(&self) -> Count {
        let status = &self.job["status"];
        let end = self.completions().unwrap_or(i64::MAX);
        let mut count = Count {
            succeeded: count(&status["succeeded"]),
            failed: count(&status["failed"]),
            completed: Indexes::parse(text(status, "completedIndexes"), end),
            failed_indexes: Indexes::parse(text(status, "failedIndexes"), end),
            ..Count::default()
        };
        let known = self.count_written_down(&mut count);
        let mut completed = BTreeSet::new();
        for (key, pod) in self.pods.iter().filter(|(_, pod)| pod.is_tracked) {
            let Some(uid) = self.cluster.uid(key) else { continue };
            if known.contains(uid) {
                count.counted.push((*key).clone());
                self.remember_failure(key, pod, &mut count);
                continue;
            }
            match self.end_of(pod) {
                None => {}
                Some(Phase::Succeeded) => self.count_success(key, pod, uid, &mut count, &mut completed),
                Some(_) => self.count_failure(key, pod, uid, &mut count),
            }
        }
        count.completed.extend(&completed);
        if self.is_indexed() {
            count.succeeded = count.completed.len();
        }
        self.give_up_indexes(&mut count);
        count
    }

    /// Moves those whose finalizer is gone from the list into the counts. The UIDs that stay on it.
    fn count_written_down(&self, count: &mut Count) -> BTreeSet<Arc<str>> {
        let listed = &self.job["status"]["uncountedTerminatedPods"];
        let mut known = BTreeSet::new();
        let uids = |field: &str| -> Vec<Arc<str>> {
            let list = listed[field].as_array().into_iter().flatten();
            list.filter_map(|uid| uid.as_str().map(Arc::from)).collect()
        };
        let is_tracked = |uid: &Arc<str>| {
            self.cluster.by_uid(uid).and_then(|key| self.cluster.pod(key)).is_some_and(|pod| pod.is_tracked)
        };
        for uid in uids("succeeded") {
            match is_tracked(&uid) {
                true => count.succeeded_uids.push(uid),
                false => count.succeeded += 1,
            }
        }
        for uid in uids("failed") {
            match is_tracked(&uid) {
                true => count.failed_uids.push(uid),
                false => count.failed += 1,
            }
        }
        known.extend(count.succeeded_uids.iter().chain(&count.failed_uids).cloned());
        known
    }

    /// How a pod ended, if it has. One on its way out has failed, unless its own end is to be awaited; one that no node
    /// will ever report about has failed in any case.
    fn end_of(&self, pod: &Pod) -> Option<Phase> {
        match pod.phase {
            Phase::Succeeded | Phase::Failed => Some(pod.phase),
            _ if pod.is_abandoned || pod.is_deleting && !self.awaits_failure() => Some(Phase::Failed),
            _ => None,
        }
    }

    fn valid_index(&self, pod: &Pod) -> Option<i64> {
        index_of(pod).filter(|index| self.completions().is_some_and(|end| (0..end).contains(index)))
    }

    fn count_success(
        &self,
        key: &Key,
        pod: &Pod,
        uid: &Arc<str>,
        count: &mut Count,
        completed: &mut BTreeSet<i64>,
    ) {
        if !self.is_indexed() {
            if count.has_room() {
                count.succeeded_uids.push(uid.clone());
            }
            return;
        }
        match self.valid_index(pod) {
            // Written down already, or for an index that is not wanted any more.
            Some(index) if !count.completed.contains(index) => drop(completed.insert(index)),
            _ => count.counted.push(key.clone()),
        }
    }

    fn count_failure(&self, key: &Key, pod: &Pod, uid: &Arc<str>, count: &mut Count) {
        if self.is_indexed() && self.valid_index(pod).is_none() {
            return count.counted.push(key.clone());
        }
        match self.remember_failure(key, pod, count) {
            Verdict::Ignore => count.counted.push(key.clone()),
            verdict => {
                if let Verdict::FailJob(message) = verdict {
                    count.fatal.get_or_insert(message);
                }
                if count.has_room() {
                    count.failed_uids.push(uid.clone());
                }
            }
        }
    }

    /// What a failure means, and how often its index has failed with it.
    fn remember_failure(&self, key: &Key, pod: &Pod, count: &mut Count) -> Verdict {
        let per_index =
            self.limit_per_index().zip(self.valid_index(pod).filter(|_| pod.phase != Phase::Succeeded));
        if per_index.is_none() && self.spec()["podFailurePolicy"].is_null() {
            return Verdict::Count;
        }
        let Some(object) = self.cluster.get(key) else { return Verdict::Count };
        let verdict = if pod.phase == Phase::Failed { judge(self.job, &object) } else { Verdict::Count };
        let Some((limit, index)) = per_index else { return verdict };
        let number = |note: &str| annotation(&object, note).and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
        let is_ignored = verdict == Verdict::Ignore;
        let failures = IndexFailures {
            counted: number(FAILURES) + i64::from(!is_ignored),
            ignored: number(IGNORED) + i64::from(is_ignored),
            last: pod.finished_at,
        };
        let before = count.failures.get(&index).map_or(-1, |f| f.counted + f.ignored);
        if failures.counted + failures.ignored > before {
            count.failures.insert(index, failures);
            count.remembering.insert(index, key.clone());
        }
        if verdict == Verdict::FailIndex || failures.counted > limit {
            count.failed_indexes.extend(&[index].into());
        }
        verdict
    }

    /// An index that succeeded after all is not given up.
    fn give_up_indexes(&self, count: &mut Count) {
        if count.failed_indexes.common(&count.completed) > 0 {
            let end = self.completions().unwrap_or(0);
            let kept =
                (0..end).filter(|i| count.failed_indexes.contains(*i) && !count.completed.contains(*i));
            let kept: BTreeSet<i64> = kept.collect();
            count.failed_indexes = Indexes::default();
            count.failed_indexes.extend(&kept);
        }
    }

    /// Takes the finalizer from pods whose end is written down, and lets the others know nothing of it.
    pub(super) fn release(&self, count: &Count, stopping: bool, plan: &mut Plan) {
        let is_final = |index: i64| {
            let status = &self.job["status"];
            let end = self.completions().unwrap_or(i64::MAX);
            ["completedIndexes", "failedIndexes"]
                .iter()
                .any(|f| Indexes::parse(text(status, f), end).contains(index))
        };
        let is_replaced = |index: i64| {
            self.pods.iter().any(|(_, pod)| pod.is_active() && pod.is_tracked && index_of(pod) == Some(index))
        };
        let holding: BTreeSet<&Key> = count
            .remembering
            .iter()
            .filter(|(index, _)| !stopping && !is_final(**index) && !is_replaced(**index))
            .map(|(_, key)| key)
            .collect();
        for key in count.counted.iter().filter(|key| !holding.contains(key)) {
            if let Some(object) = self.cluster.get(key) {
                plan.update(key.clone(), untracked(&object), Part::Spec);
            }
        }
    }
}
