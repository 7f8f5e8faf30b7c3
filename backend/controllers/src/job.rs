//! Job: pods that run until so many have succeeded, each counted exactly once (`job_controller.go` of Kubernetes).
//!
//! A pod carries a finalizer until it is counted. What ended is first written into `status.uncountedTerminatedPods`; once
//! that is seen, the finalizer goes; once that is seen, the count moves. Each step follows from what is seen alone, so a
//! server may die between any two. A pod without the finalizer counts no more: that is how surplus pods are let go.
mod counting;
mod finish;
mod indexes;
mod pods;
mod policy;
#[cfg(test)]
mod tests;

use crate::cluster::{Cluster, JOBS, PODS};
use crate::object::*;
use crate::pod::{JOB_TRACKING, Pod};
use crate::workload::{Pods, claim, owner_keys};
use crate::{Action, Controller, Part, Plan};
use counting::Count;
use indexes::Indexes;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct Jobs;

const NAME: &str = "job-controller";
const KIND: &str = "Job";
/// `spec.managedBy` of the jobs that are ours; so are those without.
const OURS: &str = "kubernetes.io/job-controller";
/// The label and the annotation of a pod that tell which index it works on.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Keys are jobs, and pods that their job left behind uncounted.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            JOBS => {
                let gone = change.previous.as_deref().filter(|_| change.object.is_none());
                let left = gone.into_iter().flat_map(|job| cluster.dependents(uid(job)));
                let left = left.filter(|key| is_left_behind(key, cluster)).cloned();
                left.chain([change.key.clone()]).collect()
            }
            PODS => {
                let mut keys = owner_keys(change, KIND, JOBS, cluster);
                keys.extend(Some(change.key.clone()).filter(|key| is_left_behind(key, cluster)));
                keys
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let tracked = cluster.pods().filter(|(_, pod)| pod.is_tracked).map(|(key, _)| key);
        cluster.keys(JOBS).chain(tracked.filter(|key| is_left_behind(key, cluster))).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(object) = cluster.get(key) else { return plan };
        if &*key.resource == PODS {
            if is_left_behind(key, cluster) {
                plan.update(key.clone(), untracked(&object), Part::Spec);
            }
            return plan;
        }
        let job = object;
        let Some(selector) = cluster.selector(key) else { return plan };
        if job["spec"]["managedBy"].as_str().is_some_and(|by| by != OURS) {
            return plan;
        }
        let pods = claim(&job, selector, cluster, &mut plan, |_, _| true);
        if !plan.is_empty() {
            track_as_owned(&mut plan, uid(&job));
            return plan;
        }
        Run::new(key, &job, cluster, now, pods).run(&mut plan);
        plan
    }
}

/// A pod that waits to be counted by a job that is no more.
fn is_left_behind(key: &Key, cluster: &Cluster) -> bool {
    cluster.pod(key).is_some_and(|pod| {
        let owner = pod.controller.as_ref();
        pod.is_tracked && owner.is_none_or(|o| &*o.kind == KIND && cluster.by_uid(&o.uid).is_none())
    })
}

fn untracked(pod: &Value) -> Value {
    let mut next = pod.clone();
    if let Some(finalizers) = next["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != JOB_TRACKING);
    }
    next
}

/// A pod that is taken over is tracked from then on, one that is let go no longer.
fn track_as_owned(plan: &mut Plan, job: &str) {
    for action in &mut plan.actions {
        let Action::Update { object, .. } = action else { continue };
        let mut next = untracked(object);
        if controller_of(&next).is_some_and(|owner| owner["uid"] == job) {
            let mut finalizers = next["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.push(JOB_TRACKING.into());
            next["metadata"]["finalizers"] = finalizers.into();
        }
        *object = next;
    }
}

fn is_true(job: &Value, r#type: &str) -> bool {
    condition(job, r#type).is_some_and(|c| c["status"] == "True")
}

fn index_of(pod: &Pod) -> Option<i64> {
    pod.labels.get(INDEX)?.parse().ok()
}

struct Run<'a> {
    key: &'a Key,
    job: &'a Value,
    cluster: &'a Cluster,
    now: Timestamp,
    pods: Pods<'a>,
    conditions: Vec<Value>,
}

impl<'a> Run<'a> {
    fn new(key: &'a Key, job: &'a Value, cluster: &'a Cluster, now: Timestamp, pods: Pods<'a>) -> Self {
        let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Self { key, job, cluster, now, pods, conditions }
    }

    fn spec(&self) -> &'a Value {
        &self.job["spec"]
    }

    fn completions(&self) -> Option<i64> {
        self.spec()["completions"].as_i64()
    }

    fn is_indexed(&self) -> bool {
        self.spec()["completionMode"] == "Indexed"
    }

    fn is_suspended(&self) -> bool {
        self.spec()["suspend"] == true
    }

    fn limit_per_index(&self) -> Option<i64> {
        self.spec()["backoffLimitPerIndex"].as_i64()
    }

    /// A pod is replaced only when it has failed, not already when it is on its way out.
    fn awaits_failure(&self) -> bool {
        self.spec()["podReplacementPolicy"] == "Failed" || !self.spec()["podFailurePolicy"].is_null()
    }

    fn run(mut self, plan: &mut Plan) {
        if is_true(self.job, "Complete") || is_true(self.job, "Failed") {
            return self.let_go_of_all(plan);
        }
        let count = self.count();
        let stopping = self.stopping() || self.decide(&count, plan);
        let started = self.started();
        if is_deleting(self.job) {
            // Its pods are garbage collection's; they are counted so that they may go.
        } else if stopping {
            self.stop_pods(plan);
        } else {
            self.manage(&count, plan);
        }
        self.release(&count, stopping, plan);
        self.write_status(&count, started, stopping, plan);
    }

    /// The job is over: nothing holds its pods any more.
    fn let_go_of_all(&self, plan: &mut Plan) {
        for (key, _) in self.pods.iter().filter(|(_, pod)| pod.is_tracked) {
            if let Some(object) = self.cluster.get(key) {
                plan.update((*key).clone(), untracked(&object), Part::Spec);
            }
        }
    }

    /// `status.startTime`: since when it runs, from anew after a pause.
    fn started(&self) -> Value {
        let resumed = !self.is_suspended() && is_true(self.job, "Suspended");
        match &self.job["status"]["startTime"] {
            Value::Null if self.is_suspended() => Value::Null,
            told if told.is_null() || resumed => stamp(self.now),
            told => told.clone(),
        }
    }

    fn note(&mut self, r#type: &str, status: &str, reason: &str, message: &str) {
        let mut conditions = std::mem::take(&mut self.conditions);
        let before = conditions.iter().find(|c| c["type"] == r#type).map(|c| c["status"].clone());
        set_condition(&mut conditions, r#type, status, reason, message, self.now);
        if before.as_ref().is_none_or(|before| *before != status)
            && let Some(condition) = conditions.iter_mut().find(|c| c["type"] == r#type)
        {
            condition["lastProbeTime"] = stamp(self.now);
        }
        self.conditions = conditions;
    }

    fn write_status(&mut self, count: &Count, started: Value, stopping: bool, plan: &mut Plan) {
        if !stopping && !is_deleting(self.job) {
            self.tell_suspension(plan);
        }
        let is_over = stopping
            && count.is_settled()
            && self.pods.iter().all(|(_, pod)| !pod.is_tracked && pod.is_terminal());
        if is_over {
            self.finish(plan);
        }
        let mut status = self.job["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        let Some(fields) = status.as_object_mut() else { return };
        let unfinished = self.pods.iter().filter(|(_, pod)| !pod.is_terminal());
        let terminating = unfinished.clone().filter(|(_, pod)| pod.is_deleting).count();
        let active = unfinished.clone().filter(|(_, pod)| !pod.is_deleting && pod.is_tracked).count();
        let ready =
            unfinished.filter(|(_, pod)| !pod.is_deleting && pod.is_tracked && pod.is_ready()).count();
        for (field, value) in
            [("active", active as i64), ("succeeded", count.succeeded), ("failed", count.failed)]
        {
            match value {
                0 => drop(fields.remove(field)),
                value => drop(fields.insert(field.into(), value.into())),
            }
        }
        fields.insert("ready".into(), ready.into());
        fields.insert("terminating".into(), terminating.into());
        fields.insert("uncountedTerminatedPods".into(), count.uncounted());
        if self.is_indexed() && !count.completed.is_empty() {
            fields.insert("completedIndexes".into(), count.completed.to_string().into());
        } else {
            fields.remove("completedIndexes");
        }
        if self.limit_per_index().is_some() {
            fields.insert("failedIndexes".into(), count.failed_indexes.to_string().into());
        }
        if started.is_null() {
            fields.remove("startTime")
        } else {
            fields.insert("startTime".into(), started)
        };
        if !self.conditions.is_empty() {
            fields.insert("conditions".into(), std::mem::take(&mut self.conditions).into());
        }
        if is_over && is_true(&json!({"status": fields}), "Complete") {
            fields.insert("completionTime".into(), stamp(self.now));
        }
        if let Some(next) = with_status(self.job, status) {
            plan.update(self.key.clone(), next, Part::Status);
        }
    }
}
