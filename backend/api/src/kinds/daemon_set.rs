//! DaemonSet: one pod of a template on every node that fits.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct DaemonSet;

impl Kind for DaemonSet {
    type Object = apps::DaemonSet;
    const SINGULAR: &'static str = "daemonset";
    const SHORT_NAMES: &'static [&'static str] = &["ds"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[status("apps", "v1", "DaemonSet")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "revisionHistoryLimit", 10);
        let strategy = child(spec, "updateStrategy");
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
        pod_spec::default_template(spec);
    }

    fn before_create(object: &mut Value) {
        let none = ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"];
        reset_status(object, none.iter().map(|field| ((*field).to_owned(), json!(0))).collect());
    }

    fn validate(object: &apps::DaemonSet, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        pod_validation::validate_selected_template(
            &spec.selector,
            &spec.template,
            &["Always"],
            &path,
            errors,
        );
        validate_count(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
        validate_count(spec.revision_history_limit, &path.child("revisionHistoryLimit"), errors);
        let strategy = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        one_of(strategy, &["OnDelete", "RollingUpdate"], &path.child("updateStrategy").child("type"), errors);
    }

    fn validate_update(object: &apps::DaemonSet, old: &apps::DaemonSet, errors: &mut FieldErrors) {
        let selector = |o: &apps::DaemonSet| o.spec.as_ref().map(|s| s.selector.clone());
        let changed = selector(object) != selector(old);
        validate_immutable(changed, &Path::new("spec").child("selector"), json!(selector(object)), errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            number("Desired"),
            number("Current"),
            number("Ready"),
            number("Up-to-date"),
            number("Available"),
            text("Node Selector"),
            text("Age"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(object: &apps::DaemonSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let pod = spec.template.spec.unwrap_or_default();
        let (names, images) = container_cells(&pod);
        vec![
            name_cell(&object.metadata),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or(0).into(),
            status.number_available.unwrap_or(0).into(),
            labels_cell(pod.node_selector.as_ref()),
            age_cell(&object.metadata, now),
            names,
            images,
            label_selector::cell(&spec.selector),
        ]
    }
}
