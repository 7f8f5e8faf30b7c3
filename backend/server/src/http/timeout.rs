//! `?timeout=`: what a client may say of how long it waits.
use super::reply;
use super::resources::parse_query;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use pilothouse_api::Status;

/// Refuses a timeout that is none. One that is shortens nothing: every wait of ours has a bound of its own.
pub async fn check_timeout(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let named = query.contains("timeout=").then(|| parse_query(query)).into_iter().flatten();
    for (key, value) in named {
        if key == "timeout" && !value.is_empty() && !is_duration(&value) {
            let why =
                format!("invalid timeout specified in the request URL - time: invalid duration {value:?}");
            return reply::status(&Status::bad_request(why));
        }
    }
    next.run(request).await
}

/// Go's notation: `1m30s`, `500ms`, `0`.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut parts = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        if digits.parse::<f64>().is_err() || !UNITS.contains(&&after[..unit]) {
            return false;
        }
        rest = &after[unit..];
        parts += 1;
    }
    parts > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("10s", true),
            ("1m30s", true),
            ("1.5h", true),
            ("0", true),
            ("500ms", true),
            ("10", false),
            ("s", false),
            ("", false),
            ("invalid", false),
            ("1..s", false),
        ] {
            assert_eq!(is_duration(text), expected, "{text}");
        }
    }
}
