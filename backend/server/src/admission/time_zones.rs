//! A CronJob's time zone must be one that the server knows: its kind's own rules know none, since they run in browsers too.
use super::{Outcome, Request, Rule, done};
use pilothouse_api::jiff::tz::TimeZone;
use pilothouse_api::{FieldErrors, Path, Status};
use serde_json::Value;

pub struct TimeZones;

impl Rule for TimeZones {
    fn name(&self) -> &'static str {
        "TimeZones"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        let concerns = &*request.entry.resource == "cronjobs.batch" && request.subresource.is_empty();
        done(if concerns { judge(request.name, object, request.old) } else { Ok(()) })
    }
}

/// A zone that was let in once stays: another version of the server may know others.
fn judge(name: &str, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let zone = &object["spec"]["timeZone"];
    let Some(text) = zone.as_str().filter(|_| old.is_none_or(|old| old["spec"]["timeZone"] != *zone)) else {
        return Ok(());
    };
    let path = Path::new("spec").child("timeZone");
    let mut errors = FieldErrors::default();
    if text.eq_ignore_ascii_case("local") {
        errors.invalid(
            &path,
            text,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if TimeZone::get(text).is_err() {
        errors.invalid(&path, text, format!("unknown time zone {text}"));
    } else {
        return Ok(());
    }
    Err(Status::invalid("CronJob", "batch", name, &errors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_zones_that_there_are_come_in() {
        let cron = |zone: &str| json!({"spec": {"timeZone": zone}});
        assert!(judge("a", &cron("Europe/Copenhagen"), None).is_ok());
        assert!(judge("a", &json!({"spec": {}}), None).is_ok());
        let refused = judge("a", &cron("bad-time-zone"), None).unwrap_err();
        assert_eq!(
            refused.message,
            "CronJob.batch \"a\" is invalid: spec.timeZone: Invalid value: \"bad-time-zone\": unknown time zone bad-time-zone"
        );
        assert!(judge("a", &cron("Local"), None).is_err());
        assert!(judge("a", &cron("bad-time-zone"), Some(&cron("bad-time-zone"))).is_ok());
    }
}
