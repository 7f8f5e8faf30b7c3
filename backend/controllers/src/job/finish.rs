//! When a job is over: first it is told why (`SuccessCriteriaMet`, `FailureTarget`), then its pods end, then it is
//! `Complete` or `Failed`.
use super::counting::Count;
use super::policy::met_success_rule;
use super::{Run, is_true};
use crate::Plan;
use crate::object::*;
use crate::pod::Phase;

const SUCCESS: &str = "SuccessCriteriaMet";
const FAILURE: &str = "FailureTarget";

impl Run<'_> {
    /// It was decided before that the job is over; its pods are ending.
    pub(super) fn stopping(&self) -> bool {
        is_true(self.job, SUCCESS) || is_true(self.job, FAILURE)
    }

    /// Whether the job is over as of now: what was decided is in the conditions.
    pub(super) fn decide(&mut self, count: &Count, plan: &mut Plan) -> bool {
        let failure = self.failure(count, plan);
        if let Some((reason, message)) = failure {
            self.note(FAILURE, "True", reason, &message);
            return true;
        }
        if let Some(rule) = met_success_rule(self.job, &count.completed).filter(|_| self.is_indexed()) {
            self.note(SUCCESS, "True", "SuccessPolicy", &format!("Matched rules at index {rule}"));
            return true;
        }
        if self.is_complete(count) {
            self.note(SUCCESS, "True", "CompletionsReached", "Reached expected number of succeeded pods");
            return true;
        }
        false
    }

    fn failure(&self, count: &Count, plan: &mut Plan) -> Option<(&'static str, String)> {
        if let Some(message) = &count.fatal {
            return Some(("PodFailurePolicy", message.clone()));
        }
        let limit = self.spec()["backoffLimit"].as_i64().unwrap_or(6);
        if count.all_failed() > limit || self.restarts_exceed(limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
        }
        if self.is_past_deadline(plan) {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
        }
        self.limit_per_index()?;
        let failed = count.failed_indexes.len();
        if self.spec()["maxFailedIndexes"].as_i64().is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message.into()));
        }
        let is_done = self.completions().is_some_and(|all| count.completed.len() + failed >= all);
        (failed > 0 && is_done).then(|| ("FailedIndexes", "Job has failed indexes".into()))
    }

    /// With `restartPolicy: OnFailure` the restarts inside pods are the failures.
    fn restarts_exceed(&self, limit: i64) -> bool {
        if self.spec()["template"]["spec"]["restartPolicy"] != "OnFailure" {
            return false;
        }
        let runs = |phase: Phase| matches!(phase, Phase::Running | Phase::Pending);
        let pods = self.pods.iter().filter(|(_, pod)| pod.is_tracked && runs(pod.phase));
        let restarts: i64 = pods.map(|(_, pod)| i64::from(pod.restarts)).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn is_past_deadline(&self, plan: &mut Plan) -> bool {
        let Some(seconds) = self.spec()["activeDeadlineSeconds"].as_i64().filter(|_| !self.is_suspended())
        else {
            return false;
        };
        let deadline = later(time(&self.started()).unwrap_or(self.now), seconds);
        if deadline > self.now {
            plan.check_again(deadline);
        }
        deadline <= self.now
    }

    fn is_complete(&self, count: &Count) -> bool {
        let succeeded = count.all_succeeded();
        match self.completions() {
            Some(completions) => succeeded >= completions,
            // A work queue: one that succeeded says that there is no more work; those at it finish theirs.
            None => succeeded > 0 && !self.pods.iter().any(|(_, pod)| pod.is_active() && pod.is_tracked),
        }
    }

    /// The last word, once no pod is left running.
    pub(super) fn finish(&mut self, plan: &mut Plan) {
        let find = |kind: &str| {
            let held = self.conditions.iter().find(|c| c["type"] == kind && c["status"] == "True");
            held.map(|c| (text(c, "reason").to_owned(), text(c, "message").to_owned()))
        };
        if let Some((reason, message)) = find(FAILURE) {
            self.note("Failed", "True", &reason, &message);
            plan.event(self.job, "Warning", event_reason(&reason), message);
        } else if let Some((reason, message)) = find(SUCCESS) {
            self.note("Complete", "True", &reason, &message);
            plan.event(self.job, "Normal", "Completed", "Job completed");
        }
    }

    pub(super) fn tell_suspension(&mut self, plan: &mut Plan) {
        let was = is_true(self.job, "Suspended");
        match (was, self.is_suspended()) {
            (false, true) => {
                self.note("Suspended", "True", "JobSuspended", "Job suspended");
                plan.event(self.job, "Normal", "Suspended", "Job suspended");
            }
            (true, false) => {
                self.note("Suspended", "False", "JobResumed", "Job resumed");
                plan.event(self.job, "Normal", "Resumed", "Job resumed");
            }
            _ => {}
        }
    }
}

/// Events have reasons that are known beforehand.
fn event_reason(reason: &str) -> &'static str {
    let known = ["BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    known.into_iter().find(|known| *known == reason).unwrap_or("PodFailurePolicy")
}
