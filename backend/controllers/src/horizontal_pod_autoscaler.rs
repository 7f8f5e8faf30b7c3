//! HorizontalPodAutoscaler: how many replicas the load asks for (`horizontal.go` and `replica_calculator.go` of
//! Kubernetes). Metrics and the memory of earlier decisions are given; what they come to is told, nothing is done.
mod acting;
mod behavior;
mod questions;
mod usage;

pub use acting::{HorizontalPodAutoscalers, questions};
pub use behavior::Memory;
pub use questions::{Answers, Question, Reading};
pub use usage::{Sample, Samples};

use crate::object::*;
use behavior::{Limits, Rules};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use questions::Room;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use usage::{PodUsage, Proposal, Target, propose};

/// What a run sees.
pub struct Observed<'a> {
    pub autoscaler: &'a Value,
    /// `spec.replicas` and `status.replicas` of what it scales.
    pub replicas: i64,
    /// The pods of that, parsed.
    pub pods: &'a [&'a Value],
    /// By metric (`cpu`; of one container `cpu/main`), what each pod uses. A metric that could not be had is missing.
    pub metrics: &'a BTreeMap<String, Samples>,
    /// The selector of these pods, as a text.
    pub selector: &'a str,
    /// What was answered to what its other metrics ask.
    pub answers: &'a Answers,
    pub memory: &'a Memory,
    pub now: Timestamp,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// The size the target should have: the one it has, where nothing is to change.
    pub replicas: i64,
    pub status: Value,
    /// To be given to the next run.
    pub memory: Memory,
    /// Why the size changes, for the event `SuccessfulRescale`.
    pub reason: Option<String>,
}

/// The size that the autoscaler wants now.
pub fn decide(observed: &Observed<'_>) -> Verdict {
    Run {
        observed,
        spec: &observed.autoscaler["spec"],
        conditions: observed.autoscaler["status"]["conditions"].as_array().cloned().unwrap_or_default(),
        current_metrics: Vec::new(),
        memory: observed.memory.clone(),
    }
    .run()
}

struct Run<'a> {
    observed: &'a Observed<'a>,
    spec: &'a Value,
    conditions: Vec<Value>,
    current_metrics: Vec<Value>,
    memory: Memory,
}

impl Run<'_> {
    fn run(mut self) -> Verdict {
        let current = self.observed.replicas;
        let min = self.spec["minReplicas"].as_i64().unwrap_or(1);
        let max = count(&self.spec["maxReplicas"]);
        self.note(
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.note("ScalingActive", "False", "ScalingDisabled", message);
            return self.verdict(0, None);
        }
        if current > max {
            return self.verdict(max, Some("Current number of replicas above Spec.MaxReplicas".into()));
        }
        if current < min {
            return self.verdict(min, Some("Current number of replicas below Spec.MinReplicas".into()));
        }
        let rules = Rules::of(&self.spec["behavior"]);
        let Some((proposed, metric)) = self.propose(&rules) else {
            return self.verdict(current, None);
        };
        let limits = Limits { current, min, max };
        let limited = rules.limit(proposed, &limits, &mut self.memory, self.observed.now);
        if let Some((reason, message)) = limited.stabilized {
            self.note("AbleToScale", "True", reason, message);
        } else {
            self.note("AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size");
        }
        let (status, reason, message) = limited.limit;
        self.note("ScalingLimited", status, reason, message);
        let why = match limited.replicas.cmp(&current) {
            std::cmp::Ordering::Greater => Some(format!("{metric} above target")),
            std::cmp::Ordering::Less => Some("All metrics below target".to_owned()),
            std::cmp::Ordering::Equal => None,
        };
        self.verdict(limited.replicas, why)
    }

    /// The largest size that one of the metrics asks for, and which one it is. While one of them cannot be had, nothing
    /// is scaled down: it might be the one that is high.
    fn propose(&mut self, rules: &Rules) -> Option<(i64, String)> {
        let mut best: Option<(i64, String)> = None;
        let mut problem = None;
        for metric in self.spec["metrics"].as_array().into_iter().flatten() {
            match self.propose_by(metric, rules) {
                Ok((proposal, name)) => {
                    if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                        best = Some((proposal.replicas, name));
                    }
                }
                Err(why) => drop(problem.get_or_insert(why)),
            }
        }
        let fewer = best.as_ref().is_none_or(|(replicas, _)| *replicas < self.observed.replicas);
        if let Some((reason, message)) = problem.filter(|_| fewer) {
            let message = format!("the HPA was unable to compute the replica count: {message}");
            self.note("ScalingActive", "False", reason, &message);
            return None;
        }
        let (replicas, name) = best?;
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        self.note("ScalingActive", "True", "ValidMetricFound", &message);
        Some((replicas, name))
    }

    fn propose_by(
        &mut self,
        metric: &Value,
        rules: &Rules,
    ) -> Result<(Proposal, String), (&'static str, String)> {
        let (source, reason) = match text(metric, "type") {
            "Resource" => ("resource", "FailedGetResourceMetric"),
            "ContainerResource" => ("containerResource", "FailedGetContainerResourceMetric"),
            "Pods" => return self.propose_by_answer(metric, rules, "FailedGetPodsMetric"),
            "Object" => return self.propose_by_answer(metric, rules, "FailedGetObjectMetric"),
            "External" => return self.propose_by_answer(metric, rules, "FailedGetExternalMetric"),
            other => {
                return Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}")));
            }
        };
        let spec = &metric[source];
        let (resource, container) = (text(spec, "name"), spec["container"].as_str());
        let target = match text(&spec["target"], "type") {
            "Utilization" => Target::Utilization(count(&spec["target"]["averageUtilization"])),
            _ => {
                let value = spec["target"]["averageValue"].as_str().and_then(Quantity::parse);
                Target::AverageMilli(value.ok_or((reason, "the target has no value".to_owned()))?.milli())
            }
        };
        let wanted =
            container.map_or_else(|| resource.to_owned(), |container| format!("{resource}/{container}"));
        let samples = self.observed.metrics.get(&wanted).ok_or_else(|| {
            (
                reason,
                format!(
                    "failed to get {resource} utilization: unable to get metrics for resource {resource}: no metrics \
                     returned from resource metrics API"
                ),
            )
        })?;
        let pods: Vec<PodUsage<'_>> =
            self.observed.pods.iter().map(|pod| PodUsage::of(pod, resource, container, samples)).collect();
        let is_cpu = resource == "cpu";
        let proposal =
            propose(self.observed.replicas, target, is_cpu, &pods, rules.tolerance, self.observed.now)
                .map_err(|why| (reason, format!("failed to get {resource} utilization: {why}")))?;
        let average = match is_cpu {
            true => format!("{}m", proposal.average_milli),
            false => (proposal.average_milli / 1000).to_string(),
        };
        let mut current = json!({"averageValue": average});
        if let Some(percent) = proposal.utilization {
            current["averageUtilization"] = percent.into();
        }
        let mut told = json!({"name": resource, "current": current});
        if let Some(container) = container {
            told["container"] = container.into();
        }
        self.current_metrics.push(json!({"type": metric["type"], source: told}));
        let of = container.map(|container| format!("{resource} container resource ({container})"));
        let of = of.unwrap_or_else(|| format!("{resource} resource"));
        let name = match target {
            Target::Utilization(_) => format!("{of} utilization (percentage of request)"),
            Target::AverageMilli(_) => of,
        };
        Ok((proposal, name))
    }

    /// By a metric that others measure.
    fn propose_by_answer(
        &mut self,
        metric: &Value,
        rules: &Rules,
        reason: &'static str,
    ) -> Result<(Proposal, String), (&'static str, String)> {
        let what = text(metric, "type").to_lowercase();
        let failed = |why: String| (reason, format!("failed to get {what} metric value: {why}"));
        let namespace = text(&self.observed.autoscaler["metadata"], "namespace");
        let question = questions::question(namespace, metric, self.observed.selector);
        let question = question.ok_or_else(|| failed("it names no metric".into()))?;
        let readings = match self.observed.answers.get(&question) {
            Some(Ok(readings)) => readings,
            Some(Err(why)) => return Err(failed(why.clone())),
            None => {
                let api = if what == "external" { "external" } else { "custom" };
                let why = format!(
                    "unable to get metric {}: unable to fetch metrics from {api} metrics API: the server could not find the \
                     requested resource",
                    question.metric()
                );
                return Err(failed(why));
            }
        };
        let room = Room {
            replicas: self.observed.replicas,
            pods: self.observed.pods,
            rules,
            now: self.observed.now,
        };
        let asked = questions::propose_by(metric, &question, readings, &room).map_err(failed)?;
        self.current_metrics.push(asked.current);
        Ok((asked.proposal, asked.name))
    }

    fn note(&mut self, r#type: &str, status: &str, reason: &str, message: &str) {
        set_condition(&mut self.conditions, r#type, status, reason, message, self.observed.now);
    }

    fn verdict(mut self, replicas: i64, reason: Option<String>) -> Verdict {
        let (current, old) = (self.observed.replicas, &self.observed.autoscaler["status"]);
        let mut status = json!({"currentReplicas": current, "desiredReplicas": replicas});
        if self.observed.autoscaler["metadata"]["generation"].is_i64() {
            status["observedGeneration"] = self.observed.autoscaler["metadata"]["generation"].clone();
        }
        if replicas == current {
            status["lastScaleTime"] = old["lastScaleTime"].clone();
        } else {
            let message = format!("the HPA controller was able to update the target scale to {replicas}");
            self.note("AbleToScale", "True", "SucceededRescale", &message);
            status["lastScaleTime"] = stamp(self.observed.now);
            self.memory.note_change(current, replicas, self.observed.now);
        }
        if status["lastScaleTime"].is_null()
            && let Some(fields) = status.as_object_mut()
        {
            fields.remove("lastScaleTime");
        }
        if !self.current_metrics.is_empty() {
            status["currentMetrics"] = self.current_metrics.into();
        }
        status["conditions"] = self.conditions.into();
        Verdict { replicas, status, memory: self.memory, reason }
    }
}

#[cfg(test)]
mod tests;
