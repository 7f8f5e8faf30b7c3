//! When a cron schedule comes due: five fields, in a time zone.
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A schedule that names no day there is (the 31st of February) is given up after so many years.
const HORIZON_YEARS: i64 = 5;
const DAY_SECONDS: i64 = 86_400;

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    Fields(Box<Fields>),
    /// `@every 90s`: so many seconds after the last time.
    Every(i64),
}

/// Each a set of the values at which the schedule is due, as bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are asked for: either is enough.
    either_day: bool,
}

impl Schedule {
    /// None for a text that the API should not have let in.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fields = match text.strip_prefix('@') {
            None => text,
            Some("yearly" | "annually") => "0 0 1 1 *",
            Some("monthly") => "0 0 1 * *",
            Some("weekly") => "0 0 * * 0",
            Some("daily" | "midnight") => "0 0 * * *",
            Some("hourly") => "0 * * * *",
            Some(word) => return duration(word.strip_prefix("every ")?.trim()).map(Self::Every),
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else { return None };
        let is_open = |field: &str| field.split(',').any(|part| matches!(part, "*" | "?" | "*/1" | "?/1"));
        Some(Self::Fields(Box::new(Fields {
            minutes: values(minute, 0, 59, &[])?,
            hours: values(hour, 0, 23, &[])?,
            days: values(day, 1, 31, &[])?,
            months: values(month, 1, 12, MONTHS)?,
            weekdays: values(weekday, 0, 6, DAYS)?,
            either_day: !is_open(day) && !is_open(weekday),
        })))
    }

    /// The first time after `after`. In the hour that a change of clocks leaves out nothing is due; in the one it repeats
    /// things are due twice.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => Timestamp::from_second(after.as_second() + seconds).ok(),
            Self::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time in `after..=until`, looked for from the end.
    pub fn last(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let windows = [3600, DAY_SECONDS, 32 * DAY_SECONDS, 366 * DAY_SECONDS, i64::MAX];
        if let Self::Every(seconds) = self {
            let times = (until.as_second() - after.as_second()).div_euclid(*seconds);
            return (times > 0).then(|| Timestamp::from_second(after.as_second() + times * seconds).ok())?;
        }
        windows.into_iter().find_map(|window| {
            let from = until.as_second().saturating_sub(window).max(after.as_second());
            let mut found = None;
            let mut at = Timestamp::from_second(from).ok()?;
            while let Some(next) = self.next(at, zone).filter(|next| *next <= until) {
                (found, at) = (Some(next), next);
            }
            found
        })
    }

    /// How often it was due in `after..=until`, counted up to `most`.
    pub fn count(&self, after: Timestamp, until: Timestamp, zone: &TimeZone, most: usize) -> usize {
        let step = |at: &Timestamp| self.next(*at, zone).filter(|next| *next <= until);
        std::iter::successors(step(&after), step).take(most).count()
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut at = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        let horizon = after.as_second() + HORIZON_YEARS * 366 * DAY_SECONDS;
        while at.as_second() <= horizon {
            let local = zone.to_datetime(at);
            let has = |set: u64, value: i8| set & (1 << value) != 0;
            let jump = match () {
                () if !has(self.months, local.month()) => {
                    midnight(local.first_of_month().checked_add(1.month()).ok()?, zone)?
                }
                () if !self.has_day(local) => midnight(local.checked_add(1.day()).ok()?, zone)?,
                () if !has(self.hours, local.hour()) => {
                    at.checked_add((60 - i64::from(local.minute())).minutes()).ok()?
                }
                () if !has(self.minutes, local.minute()) => at.checked_add(1.minute()).ok()?,
                () => return Some(at),
            };
            // Where clocks are set back over midnight, the new day begins before it is over.
            at = jump.max(at.checked_add(1.minute()).ok()?);
        }
        None
    }

    fn has_day(&self, local: DateTime) -> bool {
        let day = self.days & (1 << local.day()) != 0;
        let weekday = self.weekdays & (1 << local.weekday().to_sunday_zero_offset()) != 0;
        if self.either_day { day || weekday } else { day && weekday }
    }
}

fn midnight(day: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_timestamp(day.date().to_datetime(jiff::civil::Time::midnight())).compatible().ok()
}

fn values(field: &str, least: u32, greatest: u32, names: &[&str]) -> Option<u64> {
    let value = |text: &str| {
        let named = names.iter().zip(least..).find(|(name, _)| text.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value).or_else(|| text.parse().ok()).filter(|v| (least..=greatest).contains(v))
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (value(first)?, value(last)?),
            None if matches!(range, "*" | "?") => (least, greatest),
            // `5/15` means from 5 on.
            None => (value(range)?, if step.is_some() { greatest } else { value(range)? }),
        };
        let step = step.map_or(Some(1), |step| step.parse::<usize>().ok().filter(|step| *step > 0))?;
        (first..=last).step_by(step).for_each(|v| set |= 1_u64 << v);
    }
    Some(set)
}

/// `1h30m`, `90s`; in whole seconds, at least one.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut millis = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        millis += number
            * match &rest[end..unit_end] {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1000.0,
                "ms" => 1.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    let seconds = (millis / 1000.0) as i64;
    (!text.is_empty()).then_some(seconds.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn schedules_come_due() {
        let rows = [
            ("* * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "UTC", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "UTC", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
            ("0 9-17/4 * * mon-fri", "UTC", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // Both days asked for: either is enough. With a star, both must hold.
            ("0 0 13 * fri", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 * * fri", "UTC", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * *", "UTC", "2026-01-02T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("@monthly", "UTC", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("@every 1h30m", "UTC", "2026-01-01T00:10:00Z", "2026-01-01T01:40:00Z"),
            ("30 8 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", "2026-01-01T03:00:00Z"),
            // Clocks go forward: half past two is not there. They go back: it is there twice.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("0 0 * * *", "America/Havana", "2026-03-07T12:00:00Z", "2026-03-09T04:00:00Z"),
        ];
        for (text, zone, after, expected) in rows {
            let zone = TimeZone::get(zone).unwrap();
            let schedule = Schedule::parse(text).unwrap();
            assert_eq!(schedule.next(at(after), &zone), Some(at(expected)), "{text}");
            let until = at(expected).checked_add(59.seconds()).unwrap();
            assert_eq!(schedule.last(at(after), until, &zone), Some(at(expected)), "{text}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
        for bad in ["", "* * * *", "60 * * * *", "@often", "@every x", "a * * * *"] {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_of_many_missed_times_is_found_without_going_through_them() {
        let (from, until) = (at("2000-01-01T00:00:00Z"), at("2026-05-06T07:08:09Z"));
        let last = |text: &str| Schedule::parse(text).unwrap().last(from, until, &TimeZone::UTC);
        assert_eq!(last("* * * * *"), Some(at("2026-05-06T07:08:00Z")));
        assert_eq!(last("0 0 1 1 *"), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(last("0 0 29 2 *"), Some(at("2024-02-29T00:00:00Z")));
        assert_eq!(last("0 0 31 2 *"), None);
        assert_eq!(Schedule::parse("* * * * *").unwrap().count(from, until, &TimeZone::UTC, 101), 101);
    }
}
