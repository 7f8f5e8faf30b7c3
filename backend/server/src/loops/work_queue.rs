//! Which keys are due: each at most once, never twice at a time, later and later while it fails.
use pilothouse_api::Key;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

const FIRST_PAUSE_MILLIS: i64 = 20;
const LONGEST_PAUSE_MILLIS: i64 = 60_000;
/// 20 ms doubled so often is past the longest pause.
const LARGEST_SHIFT: u32 = 16;

/// A controller (by its place in the list) and one of its keys.
pub type Task = (usize, Key);

#[derive(Default)]
pub struct WorkQueue {
    due: VecDeque<Task>,
    queued: HashSet<Task>,
    running: HashSet<Task>,
    /// Asked for while running.
    again: HashSet<Task>,
    timers: BTreeSet<(Timestamp, usize, Key)>,
    timer_of: HashMap<Task, Timestamp>,
    failures: HashMap<Task, u32>,
}

impl WorkQueue {
    pub fn add(&mut self, task: Task) {
        if self.running.contains(&task) {
            self.again.insert(task);
        } else if self.queued.insert(task.clone()) {
            self.due.push_back(task);
        }
    }

    /// Due at `at`, or earlier if it is so already.
    pub fn add_at(&mut self, task: Task, at: Timestamp) {
        match self.timer_of.get(&task) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => drop(self.timers.remove(&(*later, task.0, task.1.clone()))),
            None => {}
        }
        self.timers.insert((at, task.0, task.1.clone()));
        self.timer_of.insert(task, at);
    }

    /// The next task, which is then running until [`WorkQueue::done`].
    pub fn next(&mut self, now: Timestamp) -> Option<Task> {
        while let Some((at, controller, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.timer_of.remove(&(controller, key.clone()));
            self.add((controller, key));
        }
        let task = self.due.pop_front()?;
        self.queued.remove(&task);
        self.running.insert(task.clone());
        Some(task)
    }

    /// When a timer makes the next task due.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _, _)| *at)
    }

    pub fn done(&mut self, task: &Task, failed: bool, now: Timestamp) {
        self.running.remove(task);
        let again = self.again.remove(task);
        if failed {
            let failures = self.failures.entry(task.clone()).or_default();
            *failures = failures.saturating_add(1);
            // The exponent is bounded: a shift into the sign bit once gave a pause that jiff panics on.
            let pause = FIRST_PAUSE_MILLIS << (*failures - 1).min(LARGEST_SHIFT);
            let at = now.checked_add(pause.min(LONGEST_PAUSE_MILLIS).milliseconds()).unwrap_or(now);
            self.add_at(task.clone(), at);
            return;
        }
        self.failures.remove(task);
        if again {
            self.add(task.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> Task {
        (0, Key::new("pods", "", name))
    }

    #[test]
    fn a_key_runs_once_at_a_time_and_again_when_it_was_asked_for_meanwhile() {
        let now = Timestamp::UNIX_EPOCH;
        let mut queue = WorkQueue::default();
        queue.add(task("a"));
        queue.add(task("a"));
        assert_eq!(queue.next(now), Some(task("a")));
        queue.add(task("a"));
        assert_eq!(queue.next(now), None);
        queue.done(&task("a"), false, now);
        assert_eq!(queue.next(now), Some(task("a")));
    }

    #[test]
    fn a_failing_key_comes_again_ever_later() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut queue = WorkQueue::default();
        queue.add(task("a"));
        let mut pauses = Vec::new();
        for _ in 0..4 {
            queue.next(now).unwrap();
            queue.done(&task("a"), true, now);
            assert_eq!(queue.next(now), None);
            let at = queue.next_at().unwrap();
            pauses.push(at.as_millisecond() - now.as_millisecond());
            now = at;
        }
        assert_eq!(pauses, [20, 40, 80, 160]);
    }

    #[test]
    fn a_key_that_fails_for_hours_keeps_the_longest_pause() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut queue = WorkQueue::default();
        queue.add(task("a"));
        for failure in 1..=200 {
            queue.next(now).unwrap();
            queue.done(&task("a"), true, now);
            let at = queue.next_at().unwrap();
            let pause = at.as_millisecond() - now.as_millisecond();
            assert!(failure < 13 || pause == LONGEST_PAUSE_MILLIS, "failure {failure}: {pause} ms");
            now = at;
        }
    }
}
