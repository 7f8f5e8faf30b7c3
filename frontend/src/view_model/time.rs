//! Times as people read them.

/// Milliseconds since 1970 of a Kubernetes time (`2026-01-02T03:04:05Z`, fraction optional).
pub fn parse(text: &str) -> Option<i64> {
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    if !(1..=12).contains(&month) || !text.ends_with('Z') {
        return None;
    }
    let fraction = text.get(19..).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
    let millis: i64 = format!("{:0<3.3}", fraction.trim_end_matches('Z')).parse().unwrap_or(0);
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1000 + millis)
}

/// Of the Gregorian calendar; counts in years that begin in March, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A span as `kubectl get` prints ages: `45s`, `3m20s`, `5h`, `2d4h`, `12d`, `1y20d`.
pub fn human_span(millis: i64) -> String {
    let seconds = (millis / 1000).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: &str, rest: i64, rest_unit: &str| match rest {
        0 => format!("{big}{unit}"),
        rest => format!("{big}{unit}{rest}{rest_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_times_are_read() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2000-03-01T00:00:00Z"), Some(951_868_800_000));
        assert_eq!(parse("2024-02-29T12:30:45.250000Z"), Some(1_709_209_845_250));
        assert_eq!(parse("1969-12-31T23:59:59Z"), Some(-1000));
        for bad in ["", "soon", "2024-02-29", "2024-13-01T00:00:00Z", "2024-02-29T12:30:45"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ages_print_as_kubectl_prints_them() {
        let (minute, hour, day) = (60_000, 3_600_000, 86_400_000);
        for (millis, expected) in [
            (-5, "0s"),
            (119_999, "119s"),
            (2 * minute, "2m"),
            (3 * minute + 20_000, "3m20s"),
            (179 * minute, "179m"),
            (3 * hour, "3h"),
            (7 * hour + 5 * minute, "7h5m"),
            (47 * hour, "47h"),
            (2 * day + 4 * hour, "2d4h"),
            (12 * day, "12d"),
            (800 * day, "2y70d"),
            (3000 * day, "8y"),
        ] {
            assert_eq!(human_span(millis), expected);
        }
    }
}
