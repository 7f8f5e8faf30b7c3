//! How many events a node may write, so that one pod in trouble, or one node gone wild, does not fill the store.
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// About one object: as client-go's spam filter, 25 at once and one more every five minutes.
const OBJECT_BURST: f64 = 25.0;
const OBJECT_REFILL: Duration = Duration::from_secs(300);
/// Of one node.
const NODE_BURST: f64 = 500.0;
const NODE_REFILL: Duration = Duration::from_millis(50);
/// Objects remembered; forgetting one gives it a full bucket again.
const REMEMBERED: usize = 4096;

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(burst: f64, now: Instant) -> Self {
        Self { left: burst, at: now }
    }

    fn take(&mut self, burst: f64, refill: Duration, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() / refill.as_secs_f64();
        self.left = (self.left + grown).min(burst);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// What is left to one node's line.
pub struct EventBudget {
    node: Bucket,
    objects: HashMap<String, Bucket>,
}

impl EventBudget {
    pub fn new(now: Instant) -> Self {
        Self { node: Bucket::full(NODE_BURST, now), objects: HashMap::new() }
    }

    /// Whether one more event about an object may be written. `uid` is the object's.
    pub fn take(&mut self, uid: &str, now: Instant) -> bool {
        if self.objects.len() >= REMEMBERED && !self.objects.contains_key(uid) {
            self.objects.retain(|_, bucket| now.saturating_duration_since(bucket.at) < OBJECT_REFILL);
            if self.objects.len() >= REMEMBERED {
                self.objects.clear();
            }
        }
        let object = self.objects.entry(uid.to_owned()).or_insert(Bucket::full(OBJECT_BURST, now));
        object.take(OBJECT_BURST, OBJECT_REFILL, now) && self.node.take(NODE_BURST, NODE_REFILL, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_a_burst_and_then_an_event_every_five_minutes() {
        let start = Instant::now();
        let mut budget = EventBudget::new(start);
        let count =
            |budget: &mut EventBudget, uid: &str, now| (0..100).filter(|_| budget.take(uid, now)).count();
        assert_eq!(count(&mut budget, "a", start), 25);
        assert_eq!(count(&mut budget, "b", start), 25, "one does not take from the other");
        assert_eq!(count(&mut budget, "a", start + OBJECT_REFILL * 2), 2);
    }

    #[test]
    fn a_node_has_a_budget_too() {
        let start = Instant::now();
        let mut budget = EventBudget::new(start);
        let passed = (0..2000).filter(|i| budget.take(&format!("uid-{i}"), start)).count();
        assert_eq!(passed, NODE_BURST as usize);
    }
}
