//! CronJob: a Job made anew by a schedule.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct CronJob;

/// Its jobs are called after it, with eleven characters of time.
const MAX_NAME: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

impl Kind for CronJob {
    type Object = batch::CronJob;
    const SINGULAR: &'static str = "cronjob";
    const SHORT_NAMES: &'static [&'static str] = &["cj"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[status("batch", "v1", "CronJob")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        if spec["jobTemplate"]["spec"].is_object() {
            pod_spec::default_template(&mut spec["jobTemplate"]["spec"]);
        }
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({}));
    }

    fn validate_name(name: &str) -> Result<(), String> {
        crate::meta::dns_subdomain(name)?;
        match name.len() > MAX_NAME {
            true => Err("must be no more than 52 characters".into()),
            false => Ok(()),
        }
    }

    fn validate(object: &batch::CronJob, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &object.spec);
        match spec.schedule.as_str() {
            "" => errors.required(&path.child("schedule"), ""),
            text => {
                if let Err(why) = schedule(text) {
                    errors.invalid(&path.child("schedule"), text, why);
                }
            }
        }
        one_of(spec.concurrency_policy.as_deref(), POLICIES, &path.child("concurrencyPolicy"), errors);
        if let Some(seconds) = spec.starting_deadline_seconds.filter(|s| *s < 0) {
            let path = path.child("startingDeadlineSeconds");
            errors.invalid(&path, seconds, "must be greater than or equal to 0");
        }
        validate_count(spec.successful_jobs_history_limit, &path.child("successfulJobsHistoryLimit"), errors);
        validate_count(spec.failed_jobs_history_limit, &path.child("failedJobsHistoryLimit"), errors);
        if spec.time_zone.as_deref().is_some_and(str::is_empty) {
            errors.invalid(&path.child("timeZone"), "", "timeZone must be nil or non-empty string");
        }
        let path = path.child("jobTemplate").child("spec");
        let Some(job) = &spec.job_template.spec else {
            return errors.required(&path, "");
        };
        pod_validation::validate_template(
            &job.template,
            &["Always", "Never", "OnFailure"],
            &path.child("template"),
            errors,
        );
        super::job::validate_spec(job, &path, errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            text("Name"),
            text("Schedule"),
            text("Timezone"),
            Column::new("Suspend", "boolean"),
            number("Active"),
            text("Last Schedule"),
            text("Age"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(object: &batch::CronJob, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&object.spec, object.status.clone().unwrap_or_default());
        let job = spec.job_template.spec.clone().unwrap_or_default();
        let (names, images) = container_cells(&job.template.spec.unwrap_or_default());
        let last = since(status.last_schedule_time.map(|t| t.0), now);
        let suspended = if spec.suspend == Some(true) { "True" } else { "False" };
        vec![
            name_cell(&object.metadata),
            spec.schedule.clone().into(),
            text_or(spec.time_zone.as_deref(), "<none>"),
            suspended.into(),
            status.active.map_or(0, |a| a.len()).into(),
            text_or(Some(&last), "<none>"),
            age_cell(&object.metadata, now),
            names,
            images,
            label_selector::cell(&job.selector.unwrap_or_default()),
        ]
    }
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Name, least and greatest value, and the names of the values from the least on.
const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 6, DAYS),
];

/// The five fields of cron, or a word for them.
pub fn schedule(text: &str) -> Result<(), String> {
    if text.contains("TZ=") {
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".into());
    }
    if let Some(word) = text.strip_prefix('@') {
        let words = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        return match words.contains(&word) || word.starts_with("every ") {
            true => Ok(()),
            false => Err(format!("unrecognized descriptor: @{word}")),
        };
    }
    let given: Vec<&str> = text.split_whitespace().collect();
    if given.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", given.len(), given.join(" ")));
    }
    for (text, (name, least, greatest, names)) in given.iter().zip(FIELDS) {
        for part in text.split(',') {
            if !is_range(part, least, greatest, names) {
                return Err(format!("failed to parse {name}: {part} is not within {least}-{greatest}"));
            }
        }
    }
    Ok(())
}

/// `*`, `5`, `1-5`, each with a step: `*/15`.
fn is_range(part: &str, least: u32, greatest: u32, names: &[&str]) -> bool {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| !step.parse::<u32>().is_ok_and(|step| step > 0)) {
        return false;
    }
    if matches!(range, "*" | "?") {
        return true;
    }
    let value = |text: &str| {
        let named = names.iter().zip(least..).find(|(name, _)| text.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value).or_else(|| text.parse().ok()).filter(|v| (least..=greatest).contains(v))
    };
    match range.split_once('-') {
        Some((from, to)) => value(from).zip(value(to)).is_some_and(|(from, to)| from <= to),
        None => value(range).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_five_fields_or_a_word() {
        for good in ["* * * * *", "*/15 0-6 1,15 jan-mar mon", "@hourly", "@every 5m", "0 0 31 12 6"] {
            assert_eq!(schedule(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@often",
            "TZ=UTC * * * * *",
        ] {
            assert!(schedule(bad).is_err(), "{bad}");
        }
    }
}
