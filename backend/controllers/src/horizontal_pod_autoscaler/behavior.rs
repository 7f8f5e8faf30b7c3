//! How fast a size may follow the load, and how long a decision is slept on (`spec.behavior`).
use super::usage::Tolerance;
use crate::object::*;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use serde_json::Value;

/// `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWN_STABILIZATION_SECONDS: i64 = 300;
/// `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;
/// The longest window or period that a behavior may name.
const LONGEST_SECONDS: i64 = 3600;

/// What was recommended and done lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    recommendations: Vec<(Timestamp, i64)>,
    /// Replicas added (or taken, where negative).
    changes: Vec<(Timestamp, i64)>,
}

impl Memory {
    pub(super) fn note_change(&mut self, from: i64, to: i64, now: Timestamp) {
        self.changes.push((now, to - from));
    }

    fn forget(&mut self, now: Timestamp) {
        let recent = |(at, _): &(Timestamp, i64)| later(*at, LONGEST_SECONDS) > now;
        self.recommendations.retain(recent);
        self.changes.retain(recent);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Pods(i64),
    Percent(i64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Select {
    Max,
    Min,
    Disabled,
}

/// One direction.
#[derive(Debug, PartialEq)]
struct Scaling {
    window_seconds: i64,
    select: Select,
    policies: Vec<(Amount, i64)>,
}

#[derive(Debug, PartialEq)]
pub struct Rules {
    up: Scaling,
    down: Scaling,
    pub tolerance: Tolerance,
}

pub struct Limits {
    pub current: i64,
    pub min: i64,
    pub max: i64,
}

/// A size that may be had now.
pub struct Limited {
    pub replicas: i64,
    pub stabilized: Option<(&'static str, &'static str)>,
    /// Status, reason and message of `ScalingLimited`.
    pub limit: (&'static str, &'static str, &'static str),
}

impl Rules {
    /// What a behavior leaves out is as Kubernetes fills it in.
    pub fn of(behavior: &Value) -> Self {
        let up = vec![(Amount::Pods(4), 15), (Amount::Percent(100), 15)];
        let down = vec![(Amount::Percent(100), 15)];
        let tolerance = |direction: &str| {
            let given = behavior[direction]["tolerance"].as_str().and_then(Quantity::parse);
            given.map_or(TOLERANCE, |quantity| quantity.milli() as f64 / 1000.0)
        };
        Self {
            up: Scaling::of(&behavior["scaleUp"], 0, up),
            down: Scaling::of(&behavior["scaleDown"], DOWN_STABILIZATION_SECONDS, down),
            tolerance: Tolerance { up: tolerance("scaleUp"), down: tolerance("scaleDown") },
        }
    }

    pub fn limit(&self, proposed: i64, limits: &Limits, memory: &mut Memory, now: Timestamp) -> Limited {
        memory.forget(now);
        if memory.recommendations.is_empty() {
            // What runs when nothing is known yet was somebody's decision, too: it is not undone at once.
            memory.recommendations.push((now, limits.current));
        }
        let (stable, stabilized) = self.stabilize(proposed, limits.current, memory, now);
        let (most, most_by_rate) = self.most(limits, memory, now);
        let (fewest, fewest_by_rate) = self.fewest(limits, memory, now);
        let (replicas, limit) = match () {
            () if stable > limits.current && stable > most && most_by_rate => (
                most,
                (
                    "True",
                    "ScaleUpLimit",
                    "the desired replica count is increasing faster than the maximum scale rate",
                ),
            ),
            () if stable > limits.max => (
                limits.max,
                (
                    "True",
                    "TooManyReplicas",
                    "the desired replica count is more than the maximum replica count",
                ),
            ),
            () if stable < limits.current && stable < fewest && fewest_by_rate => (
                fewest,
                (
                    "True",
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                ),
            ),
            () if stable < limits.min => (
                limits.min,
                (
                    "True",
                    "TooFewReplicas",
                    "the desired replica count is less than the minimum replica count",
                ),
            ),
            () => {
                (stable, ("False", "DesiredWithinRange", "the desired count is within the acceptable range"))
            }
        };
        Limited { replicas, stabilized, limit }
    }

    /// Down only to the highest, up only to the lowest that was recommended within the window.
    fn stabilize(
        &self,
        proposed: i64,
        current: i64,
        memory: &mut Memory,
        now: Timestamp,
    ) -> (i64, Option<(&'static str, &'static str)>) {
        let within = |seconds: i64| {
            memory
                .recommendations
                .iter()
                .filter(move |(at, _)| later(*at, seconds) > now)
                .map(|(_, size)| *size)
        };
        let lowest = within(self.up.window_seconds).min().map_or(proposed, |low| low.min(proposed));
        let highest = within(self.down.window_seconds).max().map_or(proposed, |high| high.max(proposed));
        memory.recommendations.push((now, proposed));
        let stable = current.max(lowest).min(highest);
        let why = match () {
            () if stable == proposed => None,
            () if proposed < current => Some((
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )),
            () => Some((
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )),
        };
        (stable, why)
    }

    /// The most that may be had now, and whether it is the rate that says so.
    fn most(&self, limits: &Limits, memory: &Memory, now: Timestamp) -> (i64, bool) {
        let after = |(amount, seconds): &(Amount, i64)| {
            let start = limits.current - changed_since(memory, *seconds, now);
            match amount {
                Amount::Pods(pods) => start + pods,
                Amount::Percent(percent) => (start * (100 + percent) + 99) / 100,
            }
        };
        let sizes = self.up.policies.iter().map(after);
        let by_rate = match self.up.select {
            Select::Disabled => limits.current,
            Select::Max => sizes.max().unwrap_or(limits.current),
            Select::Min => sizes.min().unwrap_or(limits.current),
        };
        let by_rate = by_rate.max(limits.current);
        (by_rate.min(limits.max), by_rate < limits.max)
    }

    fn fewest(&self, limits: &Limits, memory: &Memory, now: Timestamp) -> (i64, bool) {
        let after = |(amount, seconds): &(Amount, i64)| {
            let start = limits.current - changed_since(memory, *seconds, now);
            match amount {
                Amount::Pods(pods) => start - pods,
                Amount::Percent(percent) => start * (100 - percent) / 100,
            }
        };
        let sizes = self.down.policies.iter().map(after);
        // The policy that allows the most change leaves the fewest.
        let by_rate = match self.down.select {
            Select::Disabled => limits.current,
            Select::Max => sizes.min().unwrap_or(limits.current),
            Select::Min => sizes.max().unwrap_or(limits.current),
        };
        let by_rate = by_rate.min(limits.current);
        (by_rate.max(limits.min), by_rate > limits.min)
    }
}

fn changed_since(memory: &Memory, seconds: i64, now: Timestamp) -> i64 {
    memory.changes.iter().filter(|(at, _)| later(*at, seconds) > now).map(|(_, by)| by).sum()
}

impl Scaling {
    fn of(given: &Value, window_seconds: i64, policies: Vec<(Amount, i64)>) -> Self {
        let read = |policy: &Value| {
            let value = count(&policy["value"]);
            let amount = if policy["type"] == "Pods" { Amount::Pods(value) } else { Amount::Percent(value) };
            (amount, count(&policy["periodSeconds"]))
        };
        Self {
            window_seconds: given["stabilizationWindowSeconds"].as_i64().unwrap_or(window_seconds),
            select: match text(given, "selectPolicy") {
                "Min" => Select::Min,
                "Disabled" => Select::Disabled,
                _ => Select::Max,
            },
            policies: given["policies"].as_array().map_or(policies, |all| all.iter().map(read).collect()),
        }
    }
}
