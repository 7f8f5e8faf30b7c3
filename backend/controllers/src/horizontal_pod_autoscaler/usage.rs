//! From what pods use to how many there should be.
use crate::object::*;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// A pod's CPU means nothing yet while it starts (`--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION_SECONDS: i64 = 300;
/// A pod that became unready so soon after its start never was ready (`…-initial-readiness-delay`).
const INITIAL_READINESS_SECONDS: i64 = 30;

/// What one pod uses, in thousandths of the resource's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub milli: i64,
    pub taken_at: Timestamp,
    /// The time that the value is the average of, in seconds.
    pub window_seconds: i64,
}

/// By the name of the pod.
pub type Samples = BTreeMap<String, Sample>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Percent of what the pods request.
    Utilization(i64),
    AverageMilli(i64),
}

/// By how much the ratio may differ from 1 before anything is done, up and down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    pub fn covers(self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down - f64::EPSILON && ratio <= 1.0 + self.up + f64::EPSILON
    }
}

/// What of a pod decides.
pub struct PodUsage<'a> {
    name: &'a str,
    is_ignored: bool,
    is_pending: bool,
    /// The status of condition Ready, and since when.
    ready: Option<(bool, Timestamp)>,
    started: Option<Timestamp>,
    /// None: a container that counts requests nothing.
    request_milli: Result<i64, &'a str>,
    sample: Option<Sample>,
}

impl<'a> PodUsage<'a> {
    /// Of `resource`, of one container where that is named.
    pub fn of(pod: &'a Value, resource: &str, container: Option<&str>, samples: &Samples) -> Self {
        let ready = condition(pod, "Ready")
            .and_then(|c| Some((c["status"] == "True", time(&c["lastTransitionTime"])?)));
        let sidecars = pod["spec"]["initContainers"].as_array().into_iter().flatten();
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let all = containers.chain(sidecars.filter(|c| c["restartPolicy"] == "Always"));
        let counted = all.filter(|c| container.is_none_or(|wanted| c["name"] == wanted));
        let request = |c: &'a Value| {
            let amount = c["resources"]["requests"][resource].as_str().and_then(Quantity::parse);
            amount.map(Quantity::milli).ok_or(text(c, "name"))
        };
        Self {
            name: name(pod),
            is_ignored: is_deleting(pod) || is_terminal(pod),
            is_pending: pod["status"]["phase"] == "Pending",
            ready,
            started: time(&pod["status"]["startTime"]),
            request_milli: counted.map(request).sum(),
            sample: samples.get(name(pod)).copied(),
        }
    }

    /// Its CPU does not tell yet what it will need.
    fn is_starting(&self, sample: Sample, now: Timestamp) -> bool {
        let (Some((ready, since)), Some(started)) = (self.ready, self.started) else { return true };
        if later(started, CPU_INITIALIZATION_SECONDS) > now {
            return !ready || sample.taken_at < later(since, sample.window_seconds);
        }
        !ready && later(started, INITIAL_READINESS_SECONDS) > since
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    pub replicas: i64,
    pub utilization: Option<i64>,
    pub average_milli: i64,
}

/// Pods whose metric is missing are taken for idle when that speaks against growing, and for busy when it speaks against
/// shrinking; pods that start count as idle when the load asks for more.
pub fn propose(
    current: i64,
    target: Target,
    is_cpu: bool,
    pods: &[PodUsage<'_>],
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let (mut measured, mut missing, mut starting) = (Vec::new(), Vec::new(), Vec::new());
    for pod in pods.iter().filter(|pod| !pod.is_ignored) {
        match pod.sample {
            _ if pod.is_pending => starting.push(pod),
            None => missing.push(pod),
            Some(sample) if is_cpu && pod.is_starting(sample, now) => starting.push(pod),
            Some(sample) => measured.push((pod, sample.milli)),
        }
    }
    if measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let request = |pod: &PodUsage<'_>| match target {
        Target::AverageMilli(_) => Ok(0),
        Target::Utilization(_) => pod
            .request_milli
            .map_err(|container| format!("missing request in container {container} of Pod {}", pod.name)),
    };
    let ratio_of = |measured: &[(&PodUsage<'_>, i64)]| -> Result<(f64, Option<i64>), String> {
        let used: i64 = measured.iter().map(|(_, milli)| milli).sum();
        match target {
            Target::AverageMilli(wanted) => {
                Ok((used as f64 / measured.len() as f64 / wanted.max(1) as f64, None))
            }
            Target::Utilization(wanted) => {
                let requested: i64 =
                    measured.iter().map(|(pod, _)| request(pod)).sum::<Result<i64, String>>()?;
                let percent = used * 100 / requested.max(1);
                Ok((percent as f64 / wanted.max(1) as f64, Some(percent)))
            }
        }
    };
    let (ratio, utilization) = ratio_of(&measured)?;
    let used: i64 = measured.iter().map(|(_, milli)| milli).sum();
    let average_milli = used / measured.len() as i64;
    let proposal = |replicas: i64| Proposal { replicas, utilization, average_milli };
    let grows_while_some_start = !starting.is_empty() && ratio > 1.0;
    if missing.is_empty() && !grows_while_some_start {
        let replicas = if tolerance.covers(ratio) { current } else { ceil(ratio * measured.len() as f64) };
        return Ok(proposal(replicas));
    }
    let mut rebalanced = measured.clone();
    for pod in missing {
        let assumed = match target {
            _ if ratio > 1.0 => 0,
            Target::AverageMilli(wanted) => wanted,
            Target::Utilization(wanted) => request(pod)? * wanted.max(100) / 100,
        };
        rebalanced.push((pod, assumed));
    }
    if grows_while_some_start {
        rebalanced.extend(starting.iter().map(|pod| (*pod, 0)));
    }
    let (new_ratio, _) = ratio_of(&rebalanced)?;
    let turned = ratio < 1.0 && new_ratio > 1.0 || ratio > 1.0 && new_ratio < 1.0;
    if tolerance.covers(new_ratio) || turned {
        return Ok(proposal(current));
    }
    let replicas = ceil(new_ratio * rebalanced.len() as f64);
    let against = new_ratio < 1.0 && replicas > current || new_ratio > 1.0 && replicas < current;
    Ok(proposal(if against { current } else { replicas }))
}

/// Rounding errors of the division must not cost a replica.
pub fn ceil(value: f64) -> i64 {
    (value - 1e-9).ceil() as i64
}
