//! Deployment: a template rolled out step by step, with its history.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct Deployment;

impl Kind for Deployment {
    type Object = apps::Deployment;
    const SINGULAR: &'static str = "deployment";
    const SHORT_NAMES: &'static [&'static str] = &["deploy"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[SCALE, status("apps", "v1", "Deployment")];
    const STATUS_KEEPS: &'static [&'static str] = &["labels"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        let strategy = child(spec, "strategy");
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
        pod_spec::default_template(spec);
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({}));
    }

    fn validate(object: &apps::Deployment, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        validate_count(spec.replicas, &path.child("replicas"), errors);
        validate_count(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
        validate_count(spec.revision_history_limit, &path.child("revisionHistoryLimit"), errors);
        pod_validation::validate_selected_template(
            &spec.selector,
            &spec.template,
            &["Always"],
            &path,
            errors,
        );
        deadline_beyond_readiness(spec, &path, errors);
        validate_strategy(spec, &path.child("strategy"), errors);
    }

    fn validate_update(object: &apps::Deployment, old: &apps::Deployment, errors: &mut FieldErrors) {
        let selector = |o: &apps::Deployment| o.spec.as_ref().map(|s| s.selector.clone());
        let changed = selector(object) != selector(old);
        validate_immutable(changed, &Path::new("spec").child("selector"), json!(selector(object)), errors);
    }

    fn columns() -> Vec<Column> {
        let wide = |name: &str| Column::new(name, "string").wide();
        vec![
            Column::new("Name", "string"),
            Column::new("Ready", "string"),
            Column::new("Up-to-date", "integer"),
            Column::new("Available", "integer"),
            Column::new("Age", "string"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(object: &apps::Deployment, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let (names, images) = container_cells(&spec.template.spec.unwrap_or_default());
        vec![
            name_cell(&object.metadata),
            format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(1)).into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
            age_cell(&object.metadata, now),
            names,
            images,
            label_selector::cell(&spec.selector),
        ]
    }
}

/// A deployment that waits longer for readiness than its deadline allows could never complete.
fn deadline_beyond_readiness(spec: &apps::DeploymentSpec, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("progressDeadlineSeconds");
    validate_count(spec.progress_deadline_seconds, &path, errors);
    if let Some(deadline) = spec.progress_deadline_seconds
        && deadline <= spec.min_ready_seconds.unwrap_or(0)
    {
        errors.invalid(&path, deadline, "must be greater than minReadySeconds");
    }
}

fn validate_strategy(spec: &apps::DeploymentSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(strategy) = &spec.strategy else { return };
    let kind = strategy.type_.as_deref().unwrap_or("RollingUpdate");
    if !matches!(kind, "Recreate" | "RollingUpdate") {
        errors.not_supported(&path.child("type"), kind, &["Recreate", "RollingUpdate"]);
    }
    let Some(rolling) = &strategy.rolling_update else {
        return;
    };
    let path = path.child("rollingUpdate");
    if kind == "Recreate" {
        errors.forbidden(&path, "may not be specified when strategy `type` is 'Recreate'");
        return;
    }
    let bounds = [("maxUnavailable", &rolling.max_unavailable), ("maxSurge", &rolling.max_surge)];
    let mut zero = 0;
    for (field, bound) in bounds {
        let path = path.child(field);
        match bound {
            Some(IntOrString::Int(n)) => {
                validate_count(Some(*n), &path, errors);
                zero += u8::from(*n == 0);
            }
            Some(IntOrString::String(text)) => match text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()) {
                Some(percent) => {
                    zero += u8::from(percent == 0);
                    if field == "maxUnavailable" && percent > 100 {
                        errors.invalid(&path, text.as_str(), "must not be greater than 100%");
                    }
                }
                None => errors.invalid(&path, text.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
            },
            None => {}
        }
    }
    if zero == 2 {
        errors.invalid(
            &path.child("maxUnavailable"),
            json!(rolling.max_unavailable),
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::FieldErrors;

    fn errors_of(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}});
        change(&mut object);
        Deployment::default(&mut object);
        let mut errors = FieldErrors::default();
        Deployment::validate(&serde_json::from_value(object).unwrap(), &mut errors);
        errors.as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wrong_fields_are_named_as_kubernetes_names_them() {
        assert_eq!(errors_of(|_| {}), Vec::<String>::new());
        assert_eq!(
            errors_of(|o| drop(
                o["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().remove("image")
            )),
            ["spec.template.spec.containers[0].image: Required value"]
        );
        assert_eq!(
            errors_of(|o| o["spec"]["selector"]["matchLabels"]["app"] = "other".into()),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            errors_of(|o| o["spec"]["replicas"] = (-1).into()),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
    }

    #[test]
    fn the_columns_tell_how_far_a_rollout_is() {
        let object = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2},
        });
        let now = "2026-01-01T00:05:30Z".parse().unwrap();
        let cells = Deployment::cells(&serde_json::from_value(object).unwrap(), now);
        assert_eq!(json!(cells), json!(["web", "2/3", 1, 2, "5m30s", "a,b", "x:1,y:2", "app=web"]));
    }

    #[test]
    fn the_selector_stays_as_it_was_made() {
        let of = |app: &str| {
            let object =
                json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"app": app}}, "template": {}}});
            serde_json::from_value(object).unwrap()
        };
        let mut errors = FieldErrors::default();
        Deployment::validate_update(&of("new"), &of("old"), &mut errors);
        let told = errors.as_slice()[0].to_string();
        assert_eq!(
            told,
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"new\"}}: field is immutable"
        );
    }
}
