//! Job: pods that run until so many of them have succeeded.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct Job;

const ENDING_POLICIES: &[&str] = &["OnFailure", "Never"];
/// Any policy is judged by [`validate_spec`], which words it as Kubernetes does for jobs.
const ALL_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];

impl Kind for Job {
    type Object = batch::Job;
    const SINGULAR: &'static str = "job";
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[status("batch", "v1", "Job")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            fill(spec, "completions", 1);
        }
        fill(spec, "parallelism", 1);
        // With a limit for each index, the whole has none.
        let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
        fill(spec, "backoffLimit", limit);
        fill(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        fill(spec, "manualSelector", false);
        let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
        fill(spec, "podReplacementPolicy", replacement);
        pod_spec::default_template(spec);
    }

    fn before_create(object: &mut Value) {
        if object["spec"]["manualSelector"] == true {
            return;
        }
        let (uid, name) = (object["metadata"]["uid"].clone(), object["metadata"]["name"].clone());
        let spec = child(object, "spec");
        let labels = child(child(child(spec, "template"), "metadata"), "labels");
        fill(labels, "batch.kubernetes.io/controller-uid", uid.clone());
        fill(labels, "batch.kubernetes.io/job-name", name.clone());
        fill(labels, "controller-uid", uid.clone());
        fill(labels, "job-name", name);
        fill(child(child(spec, "selector"), "matchLabels"), "batch.kubernetes.io/controller-uid", uid);
    }

    fn validate(object: &batch::Job, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        match &spec.selector {
            Some(selector) => {
                pod_validation::validate_selected_template(
                    selector,
                    &spec.template,
                    ALL_POLICIES,
                    &path,
                    errors,
                );
            }
            None => errors.required(&path.child("selector"), ""),
        }
        validate_spec(spec, &path, errors);
    }

    fn validate_update(object: &batch::Job, old: &batch::Job, errors: &mut FieldErrors) {
        let (Some(new), Some(before)) = (&object.spec, &old.spec) else {
            return;
        };
        let path = Path::new("spec");
        let indexed = new.completion_mode.as_deref() == Some("Indexed");
        let elastic = indexed && new.completions == new.parallelism;
        let changed = new.completions != before.completions && !elastic;
        validate_immutable(changed, &path.child("completions"), json!(new.completions), errors);
        validate_immutable(
            new.selector != before.selector,
            &path.child("selector"),
            json!(new.selector),
            errors,
        );
        // A job that waits may still be told where its pods go.
        let waits =
            before.suspend == Some(true) && old.status.as_ref().is_none_or(|s| s.start_time.is_none());
        let changed = new.template != before.template && !waits;
        validate_immutable(changed, &path.child("template"), json!(new.template), errors);
        let changed = new.completion_mode != before.completion_mode;
        validate_immutable(changed, &path.child("completionMode"), json!(new.completion_mode), errors);
        let changed = new.pod_failure_policy != before.pod_failure_policy;
        validate_immutable(changed, &path.child("podFailurePolicy"), json!(new.pod_failure_policy), errors);
        let changed = new.backoff_limit_per_index != before.backoff_limit_per_index;
        validate_immutable(
            changed,
            &path.child("backoffLimitPerIndex"),
            json!(new.backoff_limit_per_index),
            errors,
        );
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", object["status"]["succeeded"].as_i64().unwrap_or(0).to_string())]
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Status"),
            text("Completions"),
            text("Duration"),
            text("Age"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(object: &batch::Job, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let succeeded = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
            (Some(completions), _) => format!("{succeeded}/{completions}"),
            (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let (names, images) = container_cells(&spec.template.spec.unwrap_or_default());
        vec![
            name_cell(&object.metadata),
            condition(object).into(),
            completions.into(),
            since(status.start_time.map(|t| t.0), status.completion_time.map_or(now, |t| t.0)).into(),
            age_cell(&object.metadata, now),
            names,
            images,
            label_selector::cell(&spec.selector.unwrap_or_default()),
        ]
    }
}

fn condition(job: &batch::Job) -> &'static str {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let holds = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let ended = ["Complete", "Failed"].into_iter().find(|kind| holds(kind));
    let deleted = job.metadata.deletion_timestamp.is_some().then_some("Terminating");
    let stopped = ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| holds(kind));
    ended.or(deleted).or(stopped).unwrap_or("Running")
}

/// Also of a CronJob's template, which has no selector.
pub fn validate_spec(spec: &batch::JobSpec, path: &Path, errors: &mut FieldErrors) {
    let counts = [
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("backoffLimit", spec.backoff_limit),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
    ];
    for (field, value) in counts {
        validate_count(value, &path.child(field), errors);
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| *s < 0) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be greater than or equal to 0");
    }
    let modes = ["Indexed", "NonIndexed"];
    one_of(spec.completion_mode.as_deref(), &modes, &path.child("completionMode"), errors);
    if spec.completion_mode.as_deref() == Some("Indexed") && spec.completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let replacements = ["Failed", "TerminatingOrFailed"];
    one_of(
        spec.pod_replacement_policy.as_deref(),
        &replacements,
        &path.child("podReplacementPolicy"),
        errors,
    );
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or_default();
    if !ENDING_POLICIES.contains(&policy) {
        let path = path.child("template").child("spec").child("restartPolicy");
        errors.required(&path, "valid values: \"OnFailure\", \"Never\"");
    }
}
