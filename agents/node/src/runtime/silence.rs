//! Whether the runtime is there: a node does not fall out over a slow answer or a restart of the daemon.
use std::time::{Duration, Instant};

/// How long a runtime may be silent before the node is not ready (kubelet's `maxWaitForContainerRuntime`).
const PATIENCE: Duration = Duration::from_secs(30);

/// What the runtime answered last.
#[derive(Debug, Default)]
pub struct LastAnswer<T> {
    at: Option<Instant>,
    said: T,
}

impl<T: Clone + Default> LastAnswer<T> {
    /// Takes what became of a question that was asked just now. What the runtime said last is good until it has been silent for
    /// too long; with the error, why.
    pub fn take(&mut self, answer: Result<T, String>, now: Instant) -> (T, Result<(), String>) {
        let outcome = match answer {
            Ok(said) => {
                *self = Self { at: Some(now), said };
                Ok(())
            }
            Err(_) if self.at.is_some_and(|at| now.duration_since(at) <= PATIENCE) => Ok(()),
            Err(why) => Err(why),
        };
        (self.said.clone(), outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_may_be_silent_for_half_a_minute() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let silent = || Err("no answer".to_owned());
        let gone = || Err("no answer".to_owned());
        let mut last = LastAnswer::<u32>::default();
        assert_eq!(last.take(silent(), at(0)), (0, gone()), "it never answered");
        assert_eq!(last.take(Ok(7), at(1)), (7, Ok(())));
        assert_eq!(last.take(silent(), at(12)), (7, Ok(())), "one slow answer");
        assert_eq!(last.take(silent(), at(31)), (7, Ok(())));
        assert_eq!(last.take(silent(), at(32)), (7, gone()), "what it said stays, that it is there does not");
        assert_eq!(last.take(Ok(8), at(33)), (8, Ok(())));
    }
}
