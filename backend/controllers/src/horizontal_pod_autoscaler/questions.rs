//! Metrics that others measure (`custom.metrics.k8s.io`, `external.metrics.k8s.io`), and how many replicas they ask for.
use super::behavior::Rules;
use super::usage::{PodUsage, Proposal, Sample, Samples, Target, ceil, propose};
use crate::object::*;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::selector::LabelSelector;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What is asked of a metrics API. Selectors are texts, as URLs have them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// A metric of each of the pods.
    Pods { namespace: String, selector: String, metric: String, metric_selector: String },
    /// A metric of one object.
    Object {
        namespace: String,
        api_version: String,
        kind: String,
        name: String,
        metric: String,
        metric_selector: String,
    },
    /// A metric of something outside the cluster.
    External { namespace: String, metric: String, metric_selector: String },
}

impl Question {
    pub fn metric(&self) -> &str {
        match self {
            Self::Pods { metric, .. } | Self::Object { metric, .. } | Self::External { metric, .. } => metric,
        }
    }
}

/// One value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The described object's name; empty for external metrics.
    pub of: String,
    pub sample: Sample,
}

/// What was answered, or why nothing was. A question that is not there could not be asked.
pub type Answers = HashMap<Question, Result<Vec<Reading>, String>>;

/// Those of one autoscaler, in the order of its metrics; `pods` is its target's selector.
pub fn questions_of(namespace: &str, autoscaler: &Value, pods: &str) -> Vec<Question> {
    let metrics = autoscaler["spec"]["metrics"].as_array().into_iter().flatten();
    metrics.filter_map(|metric| question(namespace, metric, pods)).collect()
}

/// None: the metric is a resource's.
pub fn question(namespace: &str, metric: &Value, pods: &str) -> Option<Question> {
    let namespace = namespace.to_owned();
    let identity = |source: &Value| {
        let selector = LabelSelector::from_object(&source["metric"]["selector"]).unwrap_or_default();
        (text(&source["metric"], "name").to_owned(), selector.to_string())
    };
    match text(metric, "type") {
        "Pods" => {
            let (metric, metric_selector) = identity(&metric["pods"]);
            Some(Question::Pods { namespace, selector: pods.to_owned(), metric, metric_selector })
        }
        "Object" => {
            let object = &metric["object"]["describedObject"];
            let of = |field: &str| text(object, field).to_owned();
            let (api_version, kind, name) = (of("apiVersion"), of("kind"), of("name"));
            let (metric, metric_selector) = identity(&metric["object"]);
            Some(Question::Object { namespace, api_version, kind, name, metric, metric_selector })
        }
        "External" => {
            let (metric, metric_selector) = identity(&metric["external"]);
            Some(Question::External { namespace, metric, metric_selector })
        }
        _ => None,
    }
}

/// What a run knows of its pods.
pub struct Room<'a> {
    pub replicas: i64,
    pub pods: &'a [&'a Value],
    pub rules: &'a Rules,
    pub now: Timestamp,
}

/// What one metric asks for, as the status tells it, and its name.
pub struct Asked {
    pub proposal: Proposal,
    pub current: Value,
    pub name: String,
}

/// The size that a metric asks for whose readings are these.
pub fn propose_by(
    metric: &Value,
    question: &Question,
    readings: &[Reading],
    room: &Room<'_>,
) -> Result<Asked, String> {
    let (source, name, api) = match question {
        Question::Pods { metric, .. } => ("pods", format!("pods metric {metric}"), "pods"),
        Question::Object { kind, metric, .. } => ("object", format!("{kind} metric {metric}"), "object"),
        Question::External { metric, metric_selector, .. } => {
            ("external", format!("external metric {metric}({metric_selector})"), "external")
        }
    };
    let spec = &metric[source];
    let target = &spec["target"];
    let amount = |field: &str| target[field].as_str().and_then(Quantity::parse).map(Quantity::milli);
    if readings.is_empty() {
        return Err("no metrics returned".into());
    }
    let mut told = json!({"metric": spec["metric"]});
    if api == "object" {
        told["describedObject"] = spec["describedObject"].clone();
    }
    let printed = |milli: i64| Value::from(Quantity::from_milli(milli).to_string());
    let sum: i64 = readings.iter().map(|reading| reading.sample.milli).sum();
    let proposal = match (amount("value"), amount("averageValue")) {
        (_, Some(average)) if api == "pods" => {
            let samples: Samples = readings.iter().map(|r| (r.of.clone(), r.sample)).collect();
            let pods: Vec<PodUsage<'_>> =
                room.pods.iter().map(|pod| PodUsage::of(pod, "", Some(""), &samples)).collect();
            let target = Target::AverageMilli(average);
            let proposal = propose(room.replicas, target, false, &pods, room.rules.tolerance, room.now)?;
            told["current"] = json!({"averageValue": printed(proposal.average_milli)});
            proposal
        }
        (Some(value), _) if api != "pods" => {
            told["current"] = json!({"value": printed(sum)});
            let ratio = sum as f64 / value.max(1) as f64;
            let ready =
                i64::try_from(room.pods.iter().filter(|pod| is_ready(pod)).count()).unwrap_or(i64::MAX);
            let replicas = match () {
                () if room.replicas == 0 => ceil(ratio),
                () if room.rules.tolerance.covers(ratio) => room.replicas,
                () => ceil(ratio * ready as f64),
            };
            Proposal { replicas, utilization: None, average_milli: sum }
        }
        (None, Some(average)) => {
            let average = average.max(1);
            let each = sum / room.replicas.max(1);
            told["current"] = json!({"averageValue": printed(each)});
            let ratio = sum as f64 / (average as f64 * room.replicas.max(1) as f64);
            let is_near = room.replicas > 0 && room.rules.tolerance.covers(ratio);
            let replicas = if is_near { room.replicas } else { ceil(sum as f64 / average as f64) };
            Proposal { replicas, utilization: None, average_milli: each }
        }
        _ => return Err("the target has no value".into()),
    };
    Ok(Asked { proposal, current: json!({"type": metric["type"], source: told}), name })
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}
