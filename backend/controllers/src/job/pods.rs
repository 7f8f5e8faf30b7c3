//! A job's pods: how many, for which indexes, when after a failure, and which of too many go.
use super::counting::{Count, IndexFailures};
use super::{INDEX, NAME, Run, index_of, untracked};
use crate::cluster::PODS;
use crate::object::*;
use crate::pod::{JOB_TRACKING, Pod};
use crate::workload::{BURST, Names, burst, pod_from_template};
use crate::{Part, Plan};
use pilothouse_api::Key;
use pilothouse_api::jiff::Timestamp;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The pause after a first failure, doubled with each that follows.
const FIRST_PAUSE_SECONDS: i64 = 10;
const LONGEST_PAUSE_SECONDS: i64 = 600;
/// 10 s doubled so often is past the longest pause.
const LARGEST_SHIFT: i64 = 10;
/// Room for the dash and the suffix in a pod's name.
const LONGEST_NAME: usize = 57;

fn pause(failures: i64) -> i64 {
    match failures {
        ..=0 => 0,
        n => (FIRST_PAUSE_SECONDS << (n - 1).min(LARGEST_SHIFT)).min(LONGEST_PAUSE_SECONDS),
    }
}

impl<'a> Run<'a> {
    /// Pods that work and will be counted.
    fn active(&self) -> impl Iterator<Item = (&'a Key, &'a Pod)> {
        self.pods.iter().copied().filter(|(_, pod)| pod.is_active() && pod.is_tracked)
    }

    /// The job is over: whoever still works is told to stop, and counted when it has.
    pub(super) fn stop_pods(&self, plan: &mut Plan) {
        for (key, _) in self.pods.iter().filter(|(_, pod)| pod.is_active()).take(BURST) {
            self.delete(key, plan);
        }
    }

    pub(super) fn manage(&self, count: &Count, plan: &mut Plan) {
        // Whose finalizer went before its end was let go on purpose.
        for (key, _) in self.pods.iter().filter(|(_, pod)| pod.is_active() && !pod.is_tracked) {
            self.delete(key, plan);
        }
        let active = self.active().count();
        let wanted = self.wanted(active, count);
        let doomed = self.surplus(wanted, count);
        for key in doomed.iter().take(BURST) {
            if let Some(object) = self.cluster.get(key) {
                plan.update((*key).clone(), untracked(&object), Part::Spec);
            }
        }
        if !doomed.is_empty() || self.is_suspended() {
            return;
        }
        let leaving = |pod: &Pod| pod.is_ending();
        let leaving =
            if self.awaits_failure() { self.pods.iter().filter(|(_, p)| leaving(p)).count() } else { 0 };
        let burst = burst(NAME, self.key, self.cluster);
        let missing = wanted.saturating_sub(active + leaving).min(burst);
        if missing == 0 {
            return;
        }
        match self.is_indexed() {
            true => self.create_indexed(missing, count, plan),
            false => self.create(missing, plan),
        }
    }

    /// How many pods should work now.
    fn wanted(&self, active: usize, count: &Count) -> usize {
        let parallelism = self.spec()["parallelism"].as_i64().unwrap_or(1);
        let left = match self.completions() {
            _ if self.is_suspended() => 0,
            None if count.all_succeeded() > 0 => {
                return active.min(usize::try_from(parallelism).unwrap_or(0));
            }
            None => parallelism,
            Some(completions) => completions - count.all_succeeded() - count.failed_indexes.len(),
        };
        usize::try_from(left.min(parallelism)).unwrap_or(0)
    }

    /// Pods for indexes that are not wanted or that another works on, and those beyond the number wanted: of these the
    /// ones first that are least far.
    fn surplus(&self, wanted: usize, count: &Count) -> Vec<&'a Key> {
        let mut active: Vec<(&Key, &Pod)> = self.active().collect();
        active.sort_by_key(|(key, pod)| {
            (
                Reverse(pod.is_ready()),
                Reverse(pod.phase),
                pod.node.is_none(),
                pod.ready_since,
                pod.created,
                *key,
            )
        });
        let mut doomed = Vec::new();
        if self.is_indexed() {
            let mut seen = BTreeSet::new();
            let is_wanted = |pod: &Pod| {
                index_of(pod).filter(|i| {
                    self.completions().is_some_and(|end| (0..end).contains(i))
                        && !count.completed.contains(*i)
                        && !count.failed_indexes.contains(*i)
                })
            };
            active.retain(|(key, pod)| {
                let kept = is_wanted(pod).is_some_and(|index| seen.insert(index));
                if !kept {
                    doomed.push(*key);
                }
                kept
            });
        }
        doomed.extend(active.into_iter().skip(wanted).map(|(key, _)| key));
        doomed
    }

    fn delete(&self, key: &Key, plan: &mut Plan) {
        let Some(uid) = self.cluster.uid(key) else { return };
        plan.delete_whatever(key.clone(), uid, None);
        plan.event(self.job, "Normal", "SuccessfulDelete", format!("Deleted pod: {}", key.name));
    }

    fn create(&self, missing: usize, plan: &mut Plan) {
        let ready_at = self.after_failures();
        if ready_at > self.now {
            return plan.check_again(ready_at);
        }
        for pod_name in Names::new(self.job, self.cluster).free(name(self.job), missing) {
            self.plan_pod(pod_from_template(self.job, &pod_name), &pod_name, plan);
        }
    }

    fn plan_pod(&self, mut pod: Value, pod_name: &str, plan: &mut Plan) {
        let mut finalizers = pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        finalizers.push(JOB_TRACKING.into());
        pod["metadata"]["finalizers"] = finalizers.into();
        plan.create(Key::new(PODS, self.key.namespace.clone(), pod_name), pod);
        plan.event(self.job, "Normal", "SuccessfulCreate", format!("Created pod: {pod_name}"));
    }

    /// When the pause after the failures since the last success is over.
    fn after_failures(&self) -> Timestamp {
        let ended = self.pods.iter().filter(|(_, pod)| pod.is_terminal());
        let mut ended: Vec<(Timestamp, bool)> = ended
            .filter_map(|(_, pod)| Some((pod.finished_at?, pod.phase == crate::pod::Phase::Succeeded)))
            .collect();
        ended.sort_unstable();
        let failures = ended.iter().rev().take_while(|(_, succeeded)| !succeeded);
        let Some((last, _)) = failures.clone().next() else { return self.now };
        later(*last, pause(failures.count() as i64))
    }

    fn create_indexed(&self, missing: usize, count: &Count, plan: &mut Plan) {
        let is_taken = |pod: &Pod| pod.is_active() || pod.is_ending() && self.awaits_failure();
        let taken: BTreeSet<i64> =
            self.pods.iter().filter(|(_, pod)| is_taken(pod)).filter_map(|(_, pod)| index_of(pod)).collect();
        let per_index = self.limit_per_index().is_some();
        let ready_at = self.after_failures();
        if !per_index && ready_at > self.now {
            return plan.check_again(ready_at);
        }
        let names = Names::new(self.job, self.cluster);
        let mut made = 0;
        for index in 0..self.completions().unwrap_or(0) {
            if made == missing {
                return;
            }
            if taken.contains(&index)
                || count.completed.contains(index)
                || count.failed_indexes.contains(index)
            {
                continue;
            }
            let failures = count.failures.get(&index).copied().unwrap_or_default();
            let pause = pause(failures.counted + failures.ignored);
            if let Some(at) = failures.last.map(|last| later(last, pause)).filter(|at| *at > self.now) {
                plan.check_again(at);
                continue;
            }
            // The index is kept whole in the name, however long the job's name is.
            let text = index.to_string();
            let short = name(self.job).get(..LONGEST_NAME - 1 - text.len()).unwrap_or(name(self.job));
            let prefix = format!("{short}-{text}");
            for pod_name in names.free(&prefix, 1) {
                let failures = per_index.then_some(failures);
                self.plan_pod(self.indexed_pod(index, &pod_name, &prefix, failures), &pod_name, plan);
            }
            made += 1;
        }
    }

    fn indexed_pod(
        &self,
        index: i64,
        pod_name: &str,
        prefix: &str,
        failures: Option<IndexFailures>,
    ) -> Value {
        let mut pod = pod_from_template(self.job, pod_name);
        pod["metadata"]["generateName"] = format!("{prefix}-").into();
        pod["metadata"]["labels"][INDEX] = index.to_string().into();
        annotations_mut(&mut pod).insert(INDEX.into(), index.to_string().into());
        if let Some(failures) = failures {
            failures.annotate(&mut pod["metadata"]);
        }
        pod["spec"]["hostname"] = format!("{}-{index}", name(self.job)).into();
        let source = json!({"fieldRef": {"fieldPath": format!("metadata.annotations['{INDEX}']")}});
        let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": source});
        for list in ["initContainers", "containers"] {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                let mut env = container["env"].as_array().cloned().unwrap_or_default();
                if !env.iter().any(|known| known["name"] == variable["name"]) {
                    env.push(variable.clone());
                }
                container["env"] = env.into();
            }
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_ten_minutes() {
        assert_eq!([0, 1, 2, 3, 6, 7, 1000].map(pause), [0, 10, 20, 40, 320, 600, 600]);
    }
}
