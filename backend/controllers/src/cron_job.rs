//! CronJob: makes a Job whenever its schedule is due, and clears old ones away (`cronjob_controllerv2.go` of Kubernetes).
mod schedule;
#[cfg(test)]
mod tests;

use crate::cluster::{Cluster, JOBS};
use crate::object::*;
use crate::workload::owner_keys;
use crate::{Controller, Part, Plan};
use jiff::tz::TimeZone;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use schedule::Schedule;
use serde_json::{Value, json};
use std::sync::Arc;

pub struct CronJobs;

const CRON_JOBS: &str = "cronjobs.batch";
const KIND: &str = "CronJob";
/// On a job: the time it was due, which is told apart from when it was made.
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than these are worth a warning: a clock may have jumped.
const MANY_MISSED: usize = 100;

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            CRON_JOBS => vec![change.key.clone()],
            JOBS => owner_keys(change, KIND, CRON_JOBS, cluster),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(CRON_JOBS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(cron) = cluster.get(key).filter(|cron| !is_deleting(cron)) else { return plan };
        let owned = cluster.controlled(uid(&cron), JOBS);
        let jobs: Vec<Child> = owned.map(|(key, job)| Child { key: key.clone(), job }).collect();
        let run = Run { key, cron: &cron, cluster, now, jobs };
        let last = run.write_status(&mut plan);
        run.clean_up(&mut plan);
        if cron["spec"]["suspend"] != true {
            run.start(last, &mut plan);
        }
        plan
    }
}

/// A job of the cron job.
struct Child {
    key: Key,
    job: Arc<Value>,
}

impl Child {
    fn ended(&self, how: &str) -> bool {
        condition(&self.job, how).is_some_and(|c| c["status"] == "True")
    }

    fn is_active(&self) -> bool {
        // One made by hand (`kubectl create job --from`) is not the schedule's.
        !self.ended("Complete") && !self.ended("Failed") && self.due().is_some()
    }

    fn due(&self) -> Option<Timestamp> {
        due(&self.job)
    }
}

/// When the schedule wanted a job, if it was a schedule that did.
pub fn due(job: &Value) -> Option<Timestamp> {
    annotation(job, DUE)?.parse().ok()
}

/// Whether the cron job that made a job has taken note of it: until then the job must stay, or it would be made again.
pub fn is_noted(job: &Value, cluster: &Cluster) -> bool {
    let Some(due) = due(job) else { return true };
    let owner = controller_of(job).and_then(|owner| cluster.by_uid(text(owner, "uid")));
    let Some(cron) = owner.and_then(|key| cluster.get(key)) else { return true };
    time(&cron["status"]["lastScheduleTime"]).is_some_and(|last| last >= due)
}

struct Run<'a> {
    key: &'a Key,
    cron: &'a Value,
    cluster: &'a Cluster,
    now: Timestamp,
    jobs: Vec<Child>,
}

impl Run<'_> {
    /// What is told follows from the jobs that are seen: a job made right before the server died is not forgotten. The
    /// time of the last one.
    fn write_status(&self, plan: &mut Plan) -> Option<Timestamp> {
        let old = &self.cron["status"];
        let last = self.jobs.iter().filter_map(Child::due).chain(time(&old["lastScheduleTime"])).max();
        let completed = self.jobs.iter().filter(|child| child.ended("Complete"));
        let completed = completed.filter_map(|child| time(&child.job["status"]["completionTime"]));
        let succeeded = completed.chain(time(&old["lastSuccessfulTime"])).max();
        let reference = |child: &Child| {
            json!({
                "apiVersion": "batch/v1", "kind": "Job", "name": &*child.key.name,
                "namespace": &*child.key.namespace, "uid": uid(&child.job),
            })
        };
        let active: Vec<Value> = self.jobs.iter().filter(|child| child.is_active()).map(reference).collect();
        let listed = |child: &Child| {
            let before = old["active"].as_array().into_iter().flatten();
            before.into_iter().any(|entry| entry["uid"] == uid(&child.job))
        };
        let is_there = |entry: &Value| self.jobs.iter().any(|child| entry["uid"] == uid(&child.job));
        let before = old["active"].as_array().into_iter().flatten();
        for missing in before.filter(|entry| !is_there(entry)) {
            let message = format!("Active job went missing: {}", text(missing, "name"));
            plan.event(self.cron, "Warning", "MissingJob", message);
        }
        for child in self.jobs.iter().filter(|child| !child.is_active() && listed(child)) {
            let how = if child.ended("Complete") { "Complete" } else { "Failed" };
            let message = format!("Saw completed job: {}, condition: {how}", child.key.name);
            plan.event(self.cron, "Normal", "SawCompletedJob", message);
        }
        let mut status = json!({});
        if !active.is_empty() {
            status["active"] = active.into();
        }
        for (field, at) in [("lastScheduleTime", last), ("lastSuccessfulTime", succeeded)] {
            if let Some(at) = at {
                status[field] = stamp(at);
            }
        }
        if let Some(next) = with_status(self.cron, status) {
            plan.update(self.key.clone(), next, Part::Status);
        }
        last
    }

    /// Drops the oldest ended jobs beyond the limits.
    fn clean_up(&self, plan: &mut Plan) {
        for (how, limit) in [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")]
        {
            let Some(limit) = self.cron["spec"][limit].as_u64() else { continue };
            let mut ended: Vec<&Child> = self.jobs.iter().filter(|child| child.ended(how)).collect();
            ended.sort_by_key(|child| (time(&child.job["status"]["startTime"]), &child.key));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
            let oldest = ended.into_iter().take(surplus);
            for child in oldest.filter(|c| !is_deleting(&c.job) && is_noted(&c.job, self.cluster)) {
                plan.delete(child.key.clone(), &child.job);
                let message = format!("Deleted job {}", child.key.name);
                plan.event(self.cron, "Normal", "SuccessfulDelete", message);
            }
        }
    }

    fn start(&self, last: Option<Timestamp>, plan: &mut Plan) {
        let text = text(&self.cron["spec"], "schedule");
        let Some(schedule) = Schedule::parse(text) else {
            return plan.event(
                self.cron,
                "Warning",
                "UnparseableSchedule",
                format!("unparseable schedule: {text}"),
            );
        };
        let zone = match self.cron["spec"]["timeZone"].as_str() {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => {
                    let message = format!("invalid timeZone: {name:?}");
                    return plan.event(self.cron, "Warning", "UnknownTimeZone", message);
                }
            },
        };
        let created = time(&self.cron["metadata"]["creationTimestamp"]).unwrap_or(self.now);
        let since = last.unwrap_or(created);
        let deadline = self.cron["spec"]["startingDeadlineSeconds"].as_i64();
        let earliest = deadline.map_or(since, |seconds| since.max(later(self.now, -seconds)));
        let due = match &schedule {
            // Its times count from the last one, also when that is past the deadline.
            Schedule::Every(_) => schedule.last(since, self.now, &zone).filter(|due| *due >= earliest),
            Schedule::Fields(_) => schedule.last(earliest, self.now, &zone),
        };
        if let Some(next) = schedule.next(self.now.max(due.unwrap_or(since)), &zone) {
            plan.check_again(next);
        }
        match due {
            Some(due) => {
                if schedule.count(earliest, self.now, &zone, MANY_MISSED + 1) > MANY_MISSED {
                    let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                    plan.event(self.cron, "Warning", "TooManyMissedTimes", message);
                }
                self.make_job(due, &zone, plan);
            }
            None if deadline.is_some() => {
                if let Some(missed) = schedule.last(since, self.now, &zone).filter(|m| *m < earliest) {
                    let message = format!("Missed scheduled time to start a job: {missed}");
                    plan.event(self.cron, "Warning", "MissSchedule", message);
                }
            }
            None => {}
        }
    }

    fn make_job(&self, due: Timestamp, zone: &TimeZone, plan: &mut Plan) {
        // The same time has the same name: it is made once, whoever tries.
        let job_name = format!("{}-{}", self.key.name, due.as_second().div_euclid(60));
        let key = Key::new(JOBS, self.key.namespace.clone(), job_name.as_str());
        if self.cluster.contains(&key) {
            return;
        }
        let active: Vec<&Child> = self.jobs.iter().filter(|child| child.is_active()).collect();
        match text(&self.cron["spec"], "concurrencyPolicy") {
            "Forbid" if !active.is_empty() => {
                // When that has ended, this time may still be made up for.
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                return plan.event(self.cron, "Normal", "JobAlreadyActive", message);
            }
            "Replace" => {
                let mut running = active.iter().filter(|child| !is_deleting(&child.job)).peekable();
                // The next one is made once they are seen to go: the writes of a plan land in any order, and not all.
                let replaces = running.peek().is_some();
                for child in running {
                    plan.delete_whatever(child.key.clone(), uid(&child.job), None);
                    let message = format!("Deleted job {}", child.key.name);
                    plan.event(self.cron, "Normal", "SuccessfulDelete", message);
                }
                if replaces {
                    return;
                }
            }
            _ => {}
        }
        let template = &self.cron["spec"]["jobTemplate"];
        let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        let local = due.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        annotations.insert(DUE.into(), local.replace("+00:00", "Z").into());
        let mut metadata = json!({
            "name": job_name, "namespace": &*self.key.namespace, "annotations": annotations,
            "ownerReferences": [controller_reference(self.cron)],
        });
        if template["metadata"]["labels"].is_object() {
            metadata["labels"] = template["metadata"]["labels"].clone();
        }
        let job =
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]});
        plan.create(key, job);
        plan.event(self.cron, "Normal", "SuccessfulCreate", format!("Created job {job_name}"));
    }
}
