//! How many seats the requests of a level want over a while, and how the levels share what some do not use. After the
//! borrowing of KEP-1040.
use std::time::Duration;

/// How much of the former demand a period keeps: demand is believed at once when it rises, and slowly when it falls.
const KEPT: f64 = 0.977;

/// The seats that running and waiting requests want, since the last look.
#[derive(Clone, Debug)]
pub struct Demand {
    now: u32,
    highest: u32,
    sum: f64,
    squares: f64,
    begun: Duration,
    last: Duration,
    smooth: f64,
}

/// What was wanted in a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    pub highest: u32,
    pub smooth: f64,
}

impl Demand {
    pub fn new(now: Duration) -> Self {
        Self { now: 0, highest: 0, sum: 0.0, squares: 0.0, begun: now, last: now, smooth: 0.0 }
    }

    pub fn note(&mut self, now: Duration, seats: u32) {
        self.count_to(now);
        self.now = seats;
        self.highest = self.highest.max(seats);
    }

    /// Of the time since the last look; the next period begins.
    pub fn take(&mut self, now: Duration) -> Wanted {
        self.count_to(now);
        let seconds = now.saturating_sub(self.begun).as_secs_f64();
        let (mean, squares) = match seconds > 0.0 {
            true => (self.sum / seconds, self.squares / seconds),
            false => (f64::from(self.now), f64::from(self.now).powi(2)),
        };
        let envelope = mean + (squares - mean * mean).max(0.0).sqrt();
        let smooth = envelope.max(KEPT * self.smooth + (1.0 - KEPT) * envelope);
        let wanted = Wanted { highest: self.highest, smooth };
        *self = Self { now: self.now, highest: self.now, smooth, ..Self::new(now) };
        wanted
    }

    fn count_to(&mut self, now: Duration) {
        let (passed, seats) = (now.saturating_sub(self.last).as_secs_f64(), f64::from(self.now));
        self.sum += passed * seats;
        self.squares += passed * seats * seats;
        self.last = self.last.max(now);
    }
}

/// What one level brings into the sharing, in seats.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub nominal: u32,
    /// What it keeps whatever the others want.
    pub least: u32,
    /// What it may have at most.
    pub most: u32,
    pub wanted: Wanted,
}

impl Share {
    fn floor(&self) -> f64 {
        f64::from(self.least.max(self.nominal.min(self.wanted.highest)))
    }

    fn target(&self) -> f64 {
        self.floor().max(self.wanted.smooth)
    }

    fn at(&self, fraction: f64) -> f64 {
        (fraction * self.target()).max(self.floor()).min(f64::from(self.most).max(self.floor()))
    }
}

/// The seats of each level: all of `total` that may be had, in proportion to what is wanted, none below what is its own.
pub fn share_out(total: u32, shares: &[Share]) -> Vec<u32> {
    let total = f64::from(total);
    let given = |fraction: f64| shares.iter().map(|share| share.at(fraction)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    // Beyond this fraction every level has its most, or wants nothing at all.
    while given(high) < total && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match given(middle) > total {
            true => high = middle,
            false => low = middle,
        }
    }
    // At least one seat for whoever has one by right: a level that nobody used must not turn away the first that comes.
    let seats = |share: &Share| (share.at(low).round() as u32).max(u32::from(share.nominal > 0));
    shares.iter().map(seats).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(nominal: u32, lendable_percent: u32, highest: u32) -> Share {
        let least = nominal - nominal * lendable_percent / 100;
        let wanted = Wanted { highest, smooth: f64::from(highest) };
        Share { nominal, least, most: 600, wanted }
    }

    #[test]
    fn a_busy_level_borrows_what_idle_ones_lend() {
        let seats = share_out(300, &[share(100, 50, 0), share(100, 90, 0), share(100, 0, 500)]);
        assert_eq!(seats, [50, 10, 240]);
    }

    #[test]
    fn who_lent_has_its_own_again_when_it_wants_it() {
        let seats = share_out(300, &[share(100, 90, 100), share(100, 90, 100), share(100, 90, 500)]);
        assert_eq!(seats, [100, 100, 100]);
    }

    #[test]
    fn demand_falls_slowly() {
        let second = Duration::from_secs(1);
        let mut demand = Demand::new(Duration::ZERO);
        demand.note(Duration::ZERO, 40);
        let wanted = demand.take(second * 10);
        assert_eq!((wanted.highest, wanted.smooth), (40, 40.0));
        demand.note(second * 10, 0);
        let wanted = demand.take(second * 20);
        assert_eq!(wanted.highest, 40);
        assert!((wanted.smooth - 39.08).abs() < 0.01, "{}", wanted.smooth);
        assert_eq!(demand.take(second * 30).highest, 0);
    }

    proptest! {
        #[test]
        fn everyone_keeps_what_is_its_own_and_no_more_is_given_than_there_is(
            levels in proptest::collection::vec((1..200_u32, 0..=100_u32, 0..1_000_u32), 1..12),
        ) {
            let total: u32 = levels.iter().map(|(nominal, ..)| nominal).sum();
            let shares: Vec<Share> = levels.iter().map(|(n, lendable, highest)| share(*n, *lendable, *highest)).collect();
            let seats = share_out(total, &shares);
            for (seats, share) in seats.iter().zip(&shares) {
                prop_assert!(*seats >= share.least && *seats >= 1);
                prop_assert!(*seats >= share.nominal.min(share.wanted.highest));
            }
            // Rounding, and the one seat that everybody has.
            prop_assert!(seats.iter().sum::<u32>() <= total + shares.len() as u32);
        }
    }
}
