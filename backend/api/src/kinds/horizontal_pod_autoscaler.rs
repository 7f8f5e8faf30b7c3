//! HorizontalPodAutoscaler: as many replicas as the load asks for. autoscaling/v2 is stored; v1 is a view of it.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::autoscaling::{v1, v2};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct HorizontalPodAutoscaler;
pub struct HorizontalPodAutoscalerV1;

/// What v1 has no field for travels in annotations, so that a client of v1 loses nothing.
const KEPT: &[(&str, &str, &str)] = &[
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
];

impl Kind for HorizontalPodAutoscaler {
    type Object = v2::HorizontalPodAutoscaler;
    const SINGULAR: &'static str = "horizontalpodautoscaler";
    const SHORT_NAMES: &'static [&'static str] = &["hpa"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[status("autoscaling", "v2", "HorizontalPodAutoscaler")];

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "minReplicas", 1);
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        fill(spec, "metrics", cpu);
    }

    fn validate(object: &v2::HorizontalPodAutoscaler, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &object.spec);
        let target = &spec.scale_target_ref;
        validate_bounds(spec.min_replicas, spec.max_replicas, (&target.kind, &target.name), &path, errors);
        for (i, metric) in spec.metrics.iter().flatten().enumerate() {
            let path = path.child("metrics").index(i);
            let types = ["ContainerResource", "External", "Object", "Pods", "Resource"];
            one_of(Some(&metric.type_), &types, &path.child("type"), errors);
            if metric.type_ == "Resource" && metric.resource.is_none() {
                errors.required(
                    &path.child("resource"),
                    "must populate information for the given metric source",
                );
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Reference"),
            text("Targets"),
            text("MinPods"),
            text("MaxPods"),
            text("Replicas"),
            text("Age"),
        ]
    }

    fn cells(object: &v2::HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&object.spec, object.status.clone().unwrap_or_default());
        vec![
            name_cell(&object.metadata),
            format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
            targets(spec, &status).into(),
            spec.min_replicas.map_or("<unset>".into(), |n| n.to_string()).into(),
            spec.max_replicas.into(),
            status.current_replicas.unwrap_or(0).into(),
            age_cell(&object.metadata, now),
        ]
    }
}

fn validate_bounds(min: Option<i32>, max: i32, target: (&str, &str), path: &Path, errors: &mut FieldErrors) {
    if let Some(min) = min.filter(|m| *m < 1) {
        errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    if max < 1 {
        errors.invalid(&path.child("maxReplicas"), max, "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(&path.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    let path = path.child("scaleTargetRef");
    validate_required(Some(target.0), &path.child("kind"), errors);
    validate_required(Some(target.1), &path.child("name"), errors);
}

/// `cpu: 20%/80%, memory: <unknown>/1Gi`, the first two of them.
fn targets(spec: &v2::HorizontalPodAutoscalerSpec, status: &v2::HorizontalPodAutoscalerStatus) -> String {
    const SHOWN: usize = 2;
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let mut words = Vec::new();
    for (i, metric) in metrics.iter().enumerate().take(SHOWN) {
        let current = status.current_metrics.as_deref().unwrap_or_default().get(i);
        let current = json!(current.map(|c| json!(c)).unwrap_or_default());
        let metric = json!(metric);
        let source = match metric["type"].as_str().unwrap_or_default() {
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            "Pods" => "pods",
            "Object" => "object",
            _ => "external",
        };
        let (target, now) = (&metric[source]["target"], &current[source]["current"]);
        let of = |value: &Value| match value["averageUtilization"].as_i64() {
            Some(percent) => Some(format!("{percent}%")),
            None => ["averageValue", "value"].iter().find_map(|f| value[f].as_str().map(str::to_owned)),
        };
        let amounts = format!(
            "{}/{}",
            of(now).unwrap_or_else(|| "<unknown>".into()),
            of(target).unwrap_or_else(|| "<auto>".into())
        );
        words.push(match metric[source]["name"].as_str() {
            Some(name) => format!("{name}: {amounts}"),
            None => amounts,
        });
    }
    match metrics.len() {
        0 => "<none>".into(),
        count if count > SHOWN => format!("{} + {} more...", words.join(", "), count - SHOWN),
        _ => words.join(", "),
    }
}

impl Kind for HorizontalPodAutoscalerV1 {
    type Object = v1::HorizontalPodAutoscaler;
    const SINGULAR: &'static str = "horizontalpodautoscaler";
    const SHORT_NAMES: &'static [&'static str] = &["hpa"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[status("autoscaling", "v1", "HorizontalPodAutoscaler")];

    fn default(object: &mut Value) {
        fill(child(object, "spec"), "minReplicas", 1);
    }

    fn validate(object: &v1::HorizontalPodAutoscaler, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &object.spec);
        let target = &spec.scale_target_ref;
        validate_bounds(spec.min_replicas, spec.max_replicas, (&target.kind, &target.name), &path, errors);
        if let Some(percent) = spec.target_cpu_utilization_percentage.filter(|p| *p < 1) {
            errors.invalid(&path.child("targetCPUUtilizationPercentage"), percent, "must be greater than 0");
        }
    }

    fn columns() -> Vec<Column> {
        HorizontalPodAutoscaler::columns()
    }

    fn cells(object: &v1::HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        let mut value = json!(object);
        Self::to_stored(&mut value);
        match serde_json::from_value(value) {
            Ok(stored) => HorizontalPodAutoscaler::cells(&stored, now),
            Err(_) => vec![Value::Null; Self::columns().len()],
        }
    }

    fn to_stored(object: &mut Value) {
        for (section, field, annotation) in KEPT {
            let kept = taken(&mut object["metadata"], "annotations", annotation);
            if let Some(value) = kept.and_then(|text| serde_json::from_str(text.as_str()?).ok()) {
                child(object, section)[*field] = value;
            }
        }
        if let Some(percent) = taken(object, "spec", "targetCPUUtilizationPercentage") {
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}});
            put_cpu(child(object, "spec"), "metrics", cpu);
        }
        if let Some(percent) = taken(object, "status", "currentCPUUtilizationPercentage") {
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}});
            put_cpu(child(object, "status"), "currentMetrics", cpu);
        }
        object["apiVersion"] = "autoscaling/v2".into();
    }

    fn from_stored(object: &mut Value) {
        for (section, field, short, amount) in [
            ("spec", "metrics", "targetCPUUtilizationPercentage", "target"),
            ("status", "currentMetrics", "currentCPUUtilizationPercentage", "current"),
        ] {
            let list = object.get_mut(section).and_then(|s| s.get_mut(field)).and_then(Value::as_array_mut);
            let Some(list) = list else { continue };
            let Some(at) = list.iter().position(is_cpu) else {
                continue;
            };
            let percent = list.remove(at)["resource"][amount]["averageUtilization"].clone();
            object[section][short] = percent;
        }
        for (section, field, annotation) in KEPT {
            let Some(value) = taken(object, section, field) else {
                continue;
            };
            if value.as_array().is_none_or(|list| !list.is_empty()) {
                child(child(object, "metadata"), "annotations")[*annotation] = value.to_string().into();
            }
        }
        object["apiVersion"] = "autoscaling/v1".into();
    }
}

fn taken(object: &mut Value, section: &str, field: &str) -> Option<Value> {
    object.get_mut(section)?.as_object_mut()?.remove(field)
}

/// A metric that v1 has a field for: the utilization of the CPU.
fn is_cpu(metric: &Value) -> bool {
    let utilization = |amount: &str| metric["resource"][amount]["averageUtilization"].is_number();
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && (utilization("target") || utilization("current"))
}

fn put_cpu(section: &mut Value, field: &str, metric: Value) {
    match &mut section[field] {
        Value::Array(list) => list.insert(0, metric),
        slot => *slot = json!([metric]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_through_v1_loses_nothing() {
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web", "annotations": {"a": "b"}},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]}});
        let mut seen = stored.clone();
        HorizontalPodAutoscalerV1::from_stored(&mut seen);
        assert_eq!(seen["spec"]["targetCPUUtilizationPercentage"], 80);
        assert!(seen["spec"].get("metrics").is_none());
        HorizontalPodAutoscalerV1::to_stored(&mut seen);
        assert_eq!(seen, stored);
        let typed = serde_json::from_value(stored).unwrap();
        let cells = HorizontalPodAutoscaler::cells(&typed, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], ["Deployment/web", "cpu: <unknown>/80%, memory: <unknown>/1Gi"]);
    }
}
