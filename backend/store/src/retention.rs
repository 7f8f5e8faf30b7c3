//! How long things are kept: which revision was reached by when, and what is too old by that.
use jiff::{SignedDuration, Timestamp};
use pilothouse_api::Revision;
use std::collections::VecDeque;
use std::sync::Arc;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The log is kept this long at least, for watches that resume after a restart.
pub const LOG: SignedDuration = SignedDuration::from_secs(600);
/// Kubernetes' `--event-ttl`: an event that was not written for this long goes.
pub const EVENTS: SignedDuration = SignedDuration::from_secs(3600);
/// How finely time is told apart, and how often something is looked for to forget.
pub const STEP: SignedDuration = SignedDuration::from_secs(60);

/// A revision that was reached by a time: what was written up to it is at least that old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at: Timestamp,
    pub revision: Revision,
}

/// Marks in the order of time. They are stored, so that a restart makes nothing young again.
#[derive(Default)]
pub struct Marks(VecDeque<Mark>);

impl Marks {
    pub fn new(marks: impl IntoIterator<Item = Mark>) -> Self {
        Self(marks.into_iter().collect())
    }

    /// Sets a mark, unless there is one of almost now. A clock that was set back starts anew: too long is safe.
    pub fn set(&mut self, now: Timestamp, revision: Revision) -> Option<Mark> {
        if self.0.back().is_some_and(|last| last.at > now) {
            self.0.clear();
        }
        if self.0.back().is_some_and(|last| now.duration_since(last.at) < STEP) {
            return None;
        }
        let mark = Mark { at: now, revision };
        self.0.push_back(mark);
        Some(mark)
    }

    /// The newest revision whose changes are all older than `age`.
    pub fn older_than(&self, now: Timestamp, age: SignedDuration) -> Option<Revision> {
        let old = self.0.iter().take_while(|mark| now.duration_since(mark.at) >= age);
        old.last().map(|mark| mark.revision)
    }

    /// Forgets the marks that no question will ask for again. Gives the time before which they are.
    pub fn forget(&mut self, now: Timestamp) -> Option<Timestamp> {
        while self.0.get(1).is_some_and(|second| now.duration_since(second.at) >= EVENTS) {
            self.0.pop_front();
        }
        self.0.front().map(|mark| mark.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minute * 60).unwrap()
    }

    #[test]
    fn a_revision_is_as_old_as_the_newest_mark_that_had_reached_it() {
        let mut marks = Marks::default();
        for (minute, revision) in [(0, 10), (5, 20), (9, 30), (70, 40)] {
            assert!(marks.set(at(minute), revision).is_some());
        }
        let rows =
            [(9, None), (10, Some(10)), (14, Some(10)), (15, Some(20)), (60, Some(30)), (80, Some(40))];
        for (minute, expected) in rows {
            assert_eq!(marks.older_than(at(minute), LOG), expected, "minute {minute}");
        }
        assert_eq!(marks.older_than(at(66), EVENTS), Some(20));
    }

    #[test]
    fn marks_are_few_and_a_clock_set_back_forgets_nothing_too_early() {
        let mut marks = Marks::default();
        for minute in 0..600 {
            marks.set(at(minute), 1 + minute as u64);
            assert_eq!(marks.set(at(minute), 1000), None);
            marks.forget(at(minute));
            assert!(marks.0.len() <= 62, "{}", marks.0.len());
        }
        marks.set(at(-1000), 700);
        assert_eq!(marks.older_than(at(-995), LOG), None);
        assert_eq!(marks.older_than(at(-990), LOG), Some(700));
    }
}
