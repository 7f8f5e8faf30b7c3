//! The controller: finds what an autoscaler scales and what its pods use, has the size decided and sets it.
use super::questions::{Question, questions_of};
use super::{Memory, Observed as Scene, Sample, Samples, Verdict, decide};
use crate::cluster::{Cluster, DEFINITIONS, HORIZONTAL_POD_AUTOSCALERS as AUTOSCALERS};
use crate::object::*;
use crate::pod::Pod;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::json_path::JsonPath;
use pilothouse_api::scale::{LabelSelectorSource, ScalePaths};
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed, Registry};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub struct HorizontalPodAutoscalers;

/// `--horizontal-pod-autoscaler-sync-period`.
const PERIOD_SECONDS: i64 = 15;

static BUILTIN: LazyLock<Registry> = LazyLock::new(Registry::builtin);

impl Controller for HorizontalPodAutoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    /// Loads are looked at by the clock, not by changes: an autoscaler that heard of its own deeds would hurry.
    fn keys(&self, change: &Observed, _: &Cluster) -> Vec<Key> {
        let spec = |object: &Option<Arc<Value>>| object.as_ref().map(|object| object["spec"].clone());
        let concerns = &*change.key.resource == AUTOSCALERS && spec(&change.object) != spec(&change.previous);
        if concerns { vec![change.key.clone()] } else { Vec::new() }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(AUTOSCALERS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(autoscaler) = cluster.get(key).filter(|autoscaler| !is_deleting(autoscaler)) else {
            return plan;
        };
        plan.check_again(later(now, PERIOD_SECONDS));
        let status = match scene(key, &autoscaler, cluster) {
            Err(Trouble { condition, reason, message }) => {
                let mut status = autoscaler["status"].clone();
                if !status.is_object() {
                    status = json!({});
                }
                let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
                set_condition(&mut conditions, condition, "False", reason, &message, now);
                status["conditions"] = conditions.into();
                status
            }
            Ok((target, verdict)) => {
                let verdict = verdict(now);
                rescale(&autoscaler, target, &verdict, &mut plan);
                plan.memory = Some(verdict.memory);
                verdict.status
            }
        };
        tell(&autoscaler, &status, &mut plan);
        if let Some(next) = with_status(&autoscaler, status) {
            plan.update(key.clone(), next, Part::Status);
        }
        plan
    }
}

/// What autoscalers ask of `custom.metrics.k8s.io` and `external.metrics.k8s.io` now: who feeds the view puts the answers
/// there.
pub fn questions(cluster: &Cluster) -> Vec<Question> {
    let all = cluster.all(AUTOSCALERS).flat_map(|(key, autoscaler)| {
        // Most ask nothing, and their targets need not be looked at.
        if questions_of(&key.namespace, &autoscaler, "").is_empty() {
            return Vec::new();
        }
        let selector = target(&key, &autoscaler, cluster).map(|target| target.selector).unwrap_or_default();
        questions_of(&key.namespace, &autoscaler, &selector)
    });
    all.collect()
}

fn rescale(autoscaler: &Value, target: Target, verdict: &Verdict, plan: &mut Plan) {
    if verdict.replicas == target.replicas {
        return;
    }
    let mut object = Value::clone(&target.object);
    target.paths.set_replicas(&mut object, verdict.replicas);
    plan.update(target.key, object, Part::Scale);
    let reason = verdict.reason.as_deref().unwrap_or_default();
    let message = format!("New size: {}; reason: {reason}", verdict.replicas);
    plan.event(autoscaler, "Normal", "SuccessfulRescale", message);
}

/// People are told when something begins to fail.
fn tell(autoscaler: &Value, status: &Value, plan: &mut Plan) {
    let new = json!({"status": status});
    for r#type in ["AbleToScale", "ScalingActive"] {
        let Some(now) = condition(&new, r#type).filter(|c| c["status"] == "False") else { continue };
        let before = condition(autoscaler, r#type);
        let is_old = before.is_some_and(|b| ["status", "reason", "message"].iter().all(|f| b[f] == now[f]));
        let reason = match text(now, "reason") {
            "FailedGetScale" => "FailedGetScale",
            "InvalidSelector" => "InvalidSelector",
            "AmbiguousSelector" => "AmbiguousSelector",
            "ScalingDisabled" => continue,
            "FailedGetResourceMetric" => "FailedGetResourceMetric",
            "FailedGetContainerResourceMetric" => "FailedGetContainerResourceMetric",
            "FailedGetPodsMetric" => "FailedGetPodsMetric",
            "FailedGetObjectMetric" => "FailedGetObjectMetric",
            "FailedGetExternalMetric" => "FailedGetExternalMetric",
            _ => "FailedComputeMetricsReplicas",
        };
        if !is_old {
            plan.event(autoscaler, "Warning", reason, text(now, "message"));
        }
    }
}

/// Why nothing can be decided.
struct Trouble {
    condition: &'static str,
    reason: &'static str,
    message: String,
}

/// What is scaled.
struct Target {
    key: Key,
    object: Arc<Value>,
    paths: ScalePaths,
    replicas: i64,
    /// As the `scale` subresource tells it; empty: it has none.
    selector: String,
}

/// The target, and what is decided about it at a time.
#[allow(clippy::type_complexity)]
fn scene<'a>(
    key: &'a Key,
    autoscaler: &'a Value,
    cluster: &'a Cluster,
) -> Result<(Target, impl FnOnce(Timestamp) -> Verdict + use<'a>), Trouble> {
    let target = target(key, autoscaler, cluster).map_err(|why| Trouble {
        condition: "AbleToScale",
        reason: "FailedGetScale",
        message: format!("the HPA controller was unable to get the target's current scale: {why}"),
    })?;
    let inactive = |reason, message| Trouble { condition: "ScalingActive", reason, message };
    if target.selector.is_empty() {
        let message = "the HPA target's scale is missing a selector".to_owned();
        return Err(inactive("InvalidSelector", message));
    }
    let selector = LabelSelector::parse(&target.selector).map_err(|error| {
        let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
        inactive("InvalidSelector", why)
    })?;
    let pods = cluster.selected_pods(&key.namespace, &selector);
    let others = rivals(key, &target, &pods, cluster);
    if !others.is_empty() {
        let mut all: Vec<String> =
            others.iter().map(|other| format!("{}/{}", other.namespace, other.name)).collect();
        all.push(format!("{}/{}", key.namespace, key.name));
        all.sort();
        let message = format!(
            "pods by selector {} are controlled by multiple HPAs: [{}]",
            target.selector,
            all.join(" ")
        );
        return Err(inactive("AmbiguousSelector", message));
    }
    let metrics = metrics(autoscaler, &pods, cluster);
    let pods: Vec<Arc<Value>> = pods.iter().filter_map(|(key, _)| cluster.get(key)).collect();
    let (replicas, selector) = (target.replicas, target.selector.clone());
    let verdict = move |now| {
        let pods: Vec<&Value> = pods.iter().map(|pod| &**pod).collect();
        let none = Memory::default();
        decide(&Scene {
            autoscaler,
            replicas,
            pods: &pods,
            metrics: &metrics,
            selector: &selector,
            answers: &cluster.answers,
            memory: cluster.memory(key).unwrap_or(&none),
            now,
        })
    };
    Ok((target, verdict))
}

/// Other autoscalers that scale one of the pods: two would pull in two directions.
fn rivals(key: &Key, target: &Target, pods: &[(Key, &Pod)], cluster: &Cluster) -> Vec<Key> {
    let mut labels: Vec<&Arc<_>> = pods.iter().map(|(_, pod)| &pod.labels).collect();
    labels.dedup_by(|a, b| Arc::ptr_eq(a, b));
    let others = cluster.keys_in(AUTOSCALERS, &key.namespace).filter(|other| other != key);
    let scales_one = |other: &Key| {
        let Some(autoscaler) = cluster.get(other) else { return false };
        let Ok((scaled, _)) = place(other, &autoscaler, cluster) else { return false };
        scaled == target.key
            || cluster.selector(&scaled).is_some_and(|s| labels.iter().any(|labels| s.matches(labels)))
    };
    others.filter(scales_one).collect()
}

fn target(key: &Key, autoscaler: &Value, cluster: &Cluster) -> Result<Target, String> {
    let (place, paths) = place(key, autoscaler, cluster)?;
    let object =
        cluster.get(&place).ok_or_else(|| format!("{} {:?} not found", place.resource, &*place.name))?;
    let scale = paths.scale_of(&object);
    let replicas = scale["spec"]["replicas"].as_i64();
    let replicas = replicas.ok_or_else(|| "the target's spec has no number of replicas".to_owned())?;
    let selector = text(&scale["status"], "selector").to_owned();
    Ok(Target { key: place, object, paths, replicas, selector })
}

/// Where what an autoscaler names stands, and its replicas in there. Any version of the group will do.
fn place(key: &Key, autoscaler: &Value, cluster: &Cluster) -> Result<(Key, ScalePaths), String> {
    let reference = &autoscaler["spec"]["scaleTargetRef"];
    let (version, kind) = (text(reference, "apiVersion"), text(reference, "kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let at = |resource: Arc<str>| Key::new(resource, key.namespace.clone(), text(reference, "name"));
    let mut of_kind = BUILTIN.entries().iter().filter(|entry| entry.group == group && entry.kind == kind);
    if let Some(entry) = of_kind.next() {
        let paths = entry.scale.clone();
        let paths =
            paths.ok_or_else(|| format!("the server does not allow scaling of {}", entry.resource))?;
        return Ok((at(entry.stored_as.clone()), paths));
    }
    // Definitions are named by plural and group, so that few have to be looked into.
    let of_group =
        cluster.keys(DEFINITIONS).filter(|key| key.name.split_once('.').is_some_and(|(_, g)| g == group));
    let mut definitions = of_group.filter_map(|key| Some((key.clone(), cluster.get(&key)?)));
    let found = definitions.find(|(_, definition)| definition["spec"]["names"]["kind"] == kind);
    let (definition_key, definition) =
        found.ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))?;
    let versions = definition["spec"]["versions"].as_array();
    let mut scales = versions.into_iter().flatten().map(|version| &version["subresources"]["scale"]);
    let scale = scales.find(|scale| scale.is_object());
    let paths = scale.and_then(custom_paths);
    let paths =
        paths.ok_or_else(|| format!("the server does not allow scaling of {}", definition_key.name))?;
    Ok((at(definition_key.name), paths))
}

fn custom_paths(scale: &Value) -> Option<ScalePaths> {
    let path = |field: &str| JsonPath::parse(scale[field].as_str()?).ok();
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        label_selector: path("labelSelectorPath")
            .map_or(LabelSelectorSource::None, LabelSelectorSource::Text),
    })
}

/// What the pods use of each resource that the autoscaler goes by.
fn metrics(autoscaler: &Value, pods: &[(Key, &Pod)], cluster: &Cluster) -> BTreeMap<String, Samples> {
    let mut all = BTreeMap::new();
    for metric in autoscaler["spec"]["metrics"].as_array().into_iter().flatten() {
        let source = match text(metric, "type") {
            "Resource" => &metric["resource"],
            "ContainerResource" => &metric["containerResource"],
            _ => continue,
        };
        let (resource, container) = (text(source, "name"), source["container"].as_str());
        let samples: Samples = pods
            .iter()
            .filter_map(|(key, pod)| {
                Some((key.name.to_string(), sample(key, pod, resource, container, cluster)?))
            })
            .collect();
        let name =
            container.map_or_else(|| resource.to_owned(), |container| format!("{resource}/{container}"));
        if !samples.is_empty() {
            all.insert(name, samples);
        }
    }
    all
}

fn sample(
    key: &Key,
    pod: &Pod,
    resource: &str,
    container: Option<&str>,
    cluster: &Cluster,
) -> Option<Sample> {
    let look = cluster.measured(pod.node.as_ref()?)?;
    let usage = look.pod(cluster.uid(key)?)?.of(container)?;
    let milli = match resource {
        // Rounded up, as Kubernetes reads quantities.
        "cpu" => usage.cpu_nanocores.div_ceil(1_000_000),
        "memory" => usage.memory_bytes.saturating_mul(1000),
        _ => return None,
    };
    let milli = i64::try_from(milli).unwrap_or(i64::MAX);
    Some(Sample { milli, taken_at: look.taken_at, window_seconds: look.window_milliseconds / 1000 })
}
