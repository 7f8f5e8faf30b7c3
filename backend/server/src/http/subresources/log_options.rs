//! `PodLogOptions`: what the query of a log request says, held to Kubernetes' rules.
use super::super::resources::Call;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{FieldErrors, Path, Status};
use pilothouse_protocol::LogOptions;

pub fn of(call: &Call) -> Result<LogOptions, Status> {
    parse(&call.name, |name| call.param(name), |name| call.flag(name))
}

fn parse<'a>(
    pod: &str,
    param: impl Fn(&str) -> Option<&'a str>,
    flag: impl Fn(&str) -> bool,
) -> Result<LogOptions, Status> {
    let number = |name: &str| {
        let parsed = param(name).map(|text| text.parse::<i64>().map_err(|_| text)).transpose();
        parsed.map_err(|text| {
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })
    };
    let options = LogOptions {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        since_seconds: number("sinceSeconds")?,
        since_time: param("sinceTime").map(str::to_owned),
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
    };
    if let Some(text) = options.since_time.as_deref().filter(|text| text.parse::<Timestamp>().is_err()) {
        return Err(Status::bad_request(format!("parsing time {text:?} as RFC 3339: cannot parse")));
    }
    let mut errors = FieldErrors::default();
    if options.tail_lines.is_some_and(|lines| lines < 0) {
        errors.invalid(&Path::new("tailLines"), options.tail_lines, "must be greater than or equal to 0");
    }
    if options.limit_bytes.is_some_and(|bytes| bytes < 1) {
        errors.invalid(&Path::new("limitBytes"), options.limit_bytes, "must be greater than 0");
    }
    match (options.since_seconds, &options.since_time) {
        (Some(_), Some(_)) => {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.forbidden(&Path::new(""), detail);
        }
        (Some(seconds), None) if seconds < 1 => {
            errors.invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0");
        }
        _ => {}
    }
    match errors.is_empty() {
        true => Ok(options),
        false => Err(Status::invalid("PodLogOptions", "", pod, &errors)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        type Query = &'static [(&'static str, &'static str)];
        let ask = |query: Query| {
            let param = |name: &str| query.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            parse("web", param, |_| false).map_err(|status| (status.code(), status.message))
        };
        let good = ask(&[("tailLines", "0"), ("sinceTime", "2026-01-01T00:00:00Z")]).unwrap();
        assert_eq!((good.tail_lines, good.limit_bytes), (Some(0), None));
        let rows: [(Query, u16, &str); 5] = [
            (&[("tailLines", "abc")], 400, "parsing \"abc\": invalid syntax"),
            (&[("tailLines", "-1")], 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
            (&[("limitBytes", "0")], 422, "limitBytes: Invalid value: 0: must be greater than 0"),
            (
                &[("sinceSeconds", "5"), ("sinceTime", "2026-01-01T00:00:00Z")],
                422,
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            (&[("sinceTime", "yesterday")], 400, "cannot parse"),
        ];
        for (query, code, words) in rows {
            let (got, message) = ask(query).unwrap_err();
            assert_eq!(got, code, "{message}");
            assert!(message.contains(words), "{message}");
        }
    }
}
