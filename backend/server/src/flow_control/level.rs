//! One priority level: which requests run now and which wait, by fair queueing among shuffle-sharded queues. Time is an
//! argument, and nothing here waits or locks. After
//! <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>.
use super::demand::Demand;
use std::collections::VecDeque;
use std::time::Duration;

/// What a request is taken to cost when it starts, in seconds of one seat; set right when it ends.
const ESTIMATE: f64 = 0.003;
/// Cards of the largest hand that validation lets through, and some.
const LARGEST_HAND: usize = 32;

/// How requests wait. One queue of length 0: none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queueing {
    pub queues: u32,
    pub hand_size: u32,
    pub length: u32,
}

impl Queueing {
    pub const REJECT: Self = Self { queues: 1, hand_size: 1, length: 0 };
}

/// What a request holds while it runs.
#[derive(Debug, PartialEq)]
pub struct Seats {
    pub width: u32,
    queue: usize,
    epoch: u32,
    since: Duration,
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    number: u64,
    queue: usize,
    epoch: u32,
}

#[derive(Debug, PartialEq)]
pub enum Arrival {
    Runs(Seats),
    Waits(Ticket),
    /// Its queue is full; or, where none waits, all seats are taken.
    Refused,
}

/// `W` is whatever is to be told when a waiting request may run.
pub struct Level<W> {
    seats: u32,
    in_use: u32,
    queueing: Queueing,
    /// Grows when the queues are made anew: seats of before belong to none of them.
    epoch: u32,
    queues: Vec<Queue<W>>,
    waiting: u32,
    /// Seats that those who wait want.
    wanted: u32,
    /// Queues with a request that waits or runs.
    active: u32,
    /// Seat-seconds that each active queue would have had by now, were all served at once and alike.
    virtual_now: f64,
    last: Duration,
    turn: usize,
    next_number: u64,
    demand: Demand,
}

struct Queue<W> {
    waiting: VecDeque<Waiting<W>>,
    wanted: u32,
    running: u32,
    in_use: u32,
    /// What it has had, on the scale of `virtual_now`: the queue that had least is served next.
    served: f64,
}

struct Waiting<W> {
    number: u64,
    flow: u64,
    width: u32,
    waiter: W,
}

impl<W> Queue<W> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), wanted: 0, running: 0, in_use: 0, served: 0.0 }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }
}

impl<W> Level<W> {
    pub fn new(seats: u32, queueing: Queueing, now: Duration) -> Self {
        Self {
            seats,
            in_use: 0,
            queueing,
            epoch: 0,
            queues: (0..queueing.queues.max(1)).map(|_| Queue::new()).collect(),
            waiting: 0,
            wanted: 0,
            active: 0,
            virtual_now: 0.0,
            last: now,
            turn: 0,
            next_number: 0,
            demand: Demand::new(now),
        }
    }

    pub fn seats(&self) -> u32 {
        self.seats
    }

    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    pub fn demand(&mut self) -> &mut Demand {
        &mut self.demand
    }

    /// A request of the flow with this hash wants `width` seats. `waiter` is asked for only if it has to wait.
    pub fn arrive(&mut self, now: Duration, flow: u64, width: u32, waiter: impl FnOnce() -> W) -> Arrival {
        self.advance(now);
        let queue = self.deal(flow);
        let arrival = if self.waiting == 0 && self.fits(width) {
            self.activate(queue);
            Arrival::Runs(self.start(now, queue, width))
        } else if self.queues[queue].waiting.len() >= self.queueing.length as usize {
            Arrival::Refused
        } else {
            let number = self.next_number;
            self.next_number += 1;
            self.push(queue, Waiting { number, flow, width, waiter: waiter() });
            Arrival::Waits(Ticket { number, queue, epoch: self.epoch })
        };
        self.note_demand(now);
        arrival
    }

    /// The next that may run; to be asked until there is none whenever seats have come free.
    pub fn next(&mut self, now: Duration) -> Option<(W, Seats)> {
        if self.waiting == 0 {
            return None;
        }
        self.advance(now);
        let queue = self.least_served()?;
        // A wide request at the head is waited for: narrow ones must not pass it for ever.
        let width = self.queues[queue].waiting.front()?.width;
        if !self.fits(width) {
            return None;
        }
        let head = self.pop(queue, 0)?;
        self.turn = queue + 1;
        let seats = self.start(now, queue, width);
        self.note_demand(now);
        Some((head.waiter, seats))
    }

    /// A request ended: its seats are free.
    pub fn finish(&mut self, now: Duration, seats: Seats) {
        self.advance(now);
        self.in_use -= seats.width;
        if seats.epoch == self.epoch {
            let queue = &mut self.queues[seats.queue];
            queue.running -= 1;
            queue.in_use -= seats.width;
            let took = now.saturating_sub(seats.since).as_secs_f64();
            queue.served += f64::from(seats.width) * (took - ESTIMATE);
            self.active -= u32::from(queue.is_idle());
        }
        self.note_demand(now);
    }

    /// Who waited has gone. False: it runs already.
    pub fn give_up(&mut self, now: Duration, ticket: Ticket) -> bool {
        self.advance(now);
        let places = match ticket.epoch == self.epoch {
            true => ticket.queue..ticket.queue + 1,
            false => 0..self.queues.len(),
        };
        let place = places.into_iter().find_map(|queue| {
            let at = self.queues[queue].waiting.iter().position(|w| w.number == ticket.number)?;
            Some((queue, at))
        });
        let Some((queue, at)) = place else { return false };
        self.pop(queue, at);
        self.active -= u32::from(self.queues[queue].is_idle());
        self.note_demand(now);
        true
    }

    /// From now on so many run at once. Those above it go on to their end.
    pub fn set_seats(&mut self, now: Duration, seats: u32) {
        self.advance(now);
        self.seats = seats;
    }

    /// Other queues: who waits is dealt anew, in the order of arrival and whatever the new length.
    pub fn set_queueing(&mut self, now: Duration, queueing: Queueing) {
        if queueing == self.queueing {
            return;
        }
        self.advance(now);
        let mut all: Vec<Waiting<W>> = self.queues.drain(..).flat_map(|queue| queue.waiting).collect();
        all.sort_by_key(|waiting| waiting.number);
        self.queues = (0..queueing.queues.max(1)).map(|_| Queue::new()).collect();
        (self.queueing, self.epoch) = (queueing, self.epoch.wrapping_add(1));
        (self.active, self.waiting, self.wanted, self.turn) = (0, 0, 0, 0);
        for waiting in all {
            let queue = self.deal(waiting.flow);
            self.push(queue, waiting);
        }
    }

    /// No request is wider than the level: a wider one would wait for ever.
    fn fits(&self, width: u32) -> bool {
        self.seats > 0 && self.in_use + width.min(self.seats) <= self.seats
    }

    /// In a queue that is active.
    fn start(&mut self, now: Duration, index: usize, width: u32) -> Seats {
        let width = width.min(self.seats);
        let queue = &mut self.queues[index];
        queue.running += 1;
        queue.in_use += width;
        queue.served += f64::from(width) * ESTIMATE;
        self.in_use += width;
        Seats { width, queue: index, epoch: self.epoch, since: now }
    }

    fn push(&mut self, queue: usize, waiting: Waiting<W>) {
        self.activate(queue);
        let queue = &mut self.queues[queue];
        queue.wanted += waiting.width;
        self.wanted += waiting.width;
        self.waiting += 1;
        queue.waiting.push_back(waiting);
    }

    /// The queue may be idle after this.
    fn pop(&mut self, queue: usize, at: usize) -> Option<Waiting<W>> {
        let queue = &mut self.queues[queue];
        let waiting = queue.waiting.remove(at)?;
        queue.wanted -= waiting.width;
        self.wanted -= waiting.width;
        self.waiting -= 1;
        Some(waiting)
    }

    /// A queue that comes back has saved nothing up, and owes nothing.
    fn activate(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if queue.is_idle() {
            queue.served = self.virtual_now;
            self.active += 1;
        }
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        if self.active > 0 {
            let busy = (self.in_use + self.wanted).min(self.seats);
            self.virtual_now += passed * f64::from(busy) / f64::from(self.active);
        }
    }

    /// Of the queues in which somebody waits; equals take turns.
    fn least_served(&self) -> Option<usize> {
        let count = self.queues.len();
        let mut best: Option<(usize, f64)> = None;
        for i in 0..count {
            let index = (self.turn + i) % count;
            let queue = &self.queues[index];
            let Some(head) = queue.waiting.front() else { continue };
            let end = queue.served + f64::from(head.width) * ESTIMATE;
            if best.is_none_or(|(_, least)| end < least) {
                best = Some((index, end));
            }
        }
        best.map(|(index, _)| index)
    }

    /// The flow's queue: of the hand that its hash deals, the one with least in it. A greedy flow fills its own hand, and
    /// hardly another has all of its cards there.
    fn deal(&self, flow: u64) -> usize {
        let deck = self.queues.len() as u64;
        let size = (self.queueing.hand_size as usize).clamp(1, LARGEST_HAND).min(self.queues.len());
        let mut hand = [0usize; LARGEST_HAND];
        let (mut rest, mut best, mut least) = (flow, 0, u32::MAX);
        for dealt in 0..size {
            let left = deck - dealt as u64;
            let mut card = (rest % left) as usize;
            rest /= left;
            // Cards dealt before are no longer in the deck; `hand` is kept in order.
            let mut place = 0;
            while place < dealt && card >= hand[place] {
                card += 1;
                place += 1;
            }
            hand.copy_within(place..dealt, place + 1);
            hand[place] = card;
            let queue = &self.queues[card];
            let work = queue.wanted + queue.in_use;
            if work < least {
                (best, least) = (card, work);
            }
            if least == 0 {
                break;
            }
        }
        best
    }

    fn note_demand(&mut self, now: Duration) {
        self.demand.note(now, self.in_use + self.wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const QUEUES: Queueing = Queueing { queues: 16, hand_size: 4, length: 5 };

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn requests_run_up_to_the_seats_then_wait_then_are_refused() {
        let one = Queueing { queues: 1, hand_size: 1, length: 1 };
        let mut level = Level::new(2, one, at(0));
        let Arrival::Runs(first) = level.arrive(at(0), 7, 1, || "a") else { panic!("free seats") };
        assert!(matches!(level.arrive(at(0), 7, 1, || "b"), Arrival::Runs(_)));
        assert!(matches!(level.arrive(at(0), 7, 1, || "c"), Arrival::Waits(_)));
        assert_eq!(level.arrive(at(0), 8, 1, || "d"), Arrival::Refused);
        assert!(level.next(at(1)).is_none());
        level.finish(at(2), first);
        assert_eq!(level.next(at(2)).map(|(who, _)| who), Some("c"));
        assert!(level.next(at(2)).is_none());
    }

    #[test]
    fn where_none_waits_the_next_is_refused() {
        let mut level = Level::new(1, Queueing::REJECT, at(0));
        assert!(matches!(level.arrive(at(0), 1, 1, || ()), Arrival::Runs(_)));
        assert_eq!(level.arrive(at(0), 2, 1, || ()), Arrival::Refused);
    }

    #[test]
    fn a_wide_request_takes_no_more_than_the_level_has_and_is_not_passed_by_narrow_ones() {
        let mut level = Level::new(3, QUEUES, at(0));
        let Arrival::Runs(narrow) = level.arrive(at(0), 1, 1, || "narrow") else { panic!("free seats") };
        assert!(matches!(level.arrive(at(0), 2, 10, || "wide"), Arrival::Waits(_)));
        assert!(matches!(level.arrive(at(0), 3, 1, || "later"), Arrival::Waits(_)));
        level.finish(at(1), narrow);
        // The narrow one of another queue is due first, then the wide one is waited for.
        let (who, later) = level.next(at(1)).unwrap();
        assert_eq!(who, "later");
        assert!(level.next(at(1)).is_none());
        level.finish(at(2), later);
        let (who, seats) = level.next(at(2)).unwrap();
        assert_eq!((who, seats.width), ("wide", 3));
    }

    /// Two users keep a level of four seats busy for a minute; what each asks for takes 10 ms.
    #[test]
    fn a_greedy_client_leaves_a_modest_one_its_share() {
        let mut level = Level::new(4, Queueing { queues: 64, hand_size: 6, length: 50 }, at(0));
        let (greedy, modest) = (0x9e37_79b9_7f4a_7c15_u64, 0x1234_5678_9abc_def0_u64);
        let mut running: BTreeMap<u64, Vec<(u64, Seats)>> = BTreeMap::new();
        let (mut done, mut refused) = (BTreeMap::<u64, u32>::new(), 0);
        for now in 0..60_000_u64 {
            for (flow, seats) in running.remove(&now).unwrap_or_default() {
                level.finish(at(now), seats);
                *done.entry(flow).or_default() += 1;
            }
            let mut started = Vec::new();
            while let Some(next) = level.next(at(now)) {
                started.push(next);
            }
            // A thousand a second want in; one every 20 ms is a quarter of what the level can do at all.
            for flow in std::iter::once(greedy).chain((now % 20 == 0).then_some(modest)) {
                match level.arrive(at(now), flow, 1, || flow) {
                    Arrival::Runs(seats) => started.push((flow, seats)),
                    Arrival::Waits(_) => {}
                    Arrival::Refused => {
                        assert_eq!(flow, greedy, "at {now}");
                        refused += 1;
                    }
                }
            }
            running.entry(now + 10).or_default().extend(started);
        }
        let (greedy, modest) = (done[&greedy], done[&modest]);
        assert!(modest >= 2_990, "{modest} of 3000");
        assert!(greedy > 20_000 && refused > 0, "{greedy} done, {refused} refused");
    }

    #[test]
    fn a_hand_has_no_card_twice_and_flows_have_different_hands() {
        let mut seen = BTreeSet::new();
        for flow in 0..2_000_u64 {
            let mut level = Level::new(1, QUEUES, at(0));
            assert!(matches!(level.arrive(at(0), flow, 1, || ()), Arrival::Runs(_)));
            // Each of the hand's queues takes `length`, the running one's too.
            let hash = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut taken = 0;
            while matches!(level.arrive(at(0), hash, 1, || ()), Arrival::Waits(_)) {
                taken += 1;
            }
            let all = QUEUES.hand_size * QUEUES.length;
            assert!(taken == all || taken + 1 == all, "flow {flow}: {taken}");
            let hand: Vec<usize> = (0..16).filter(|i| !level.queues[*i].waiting.is_empty()).collect();
            assert_eq!(hand.len(), QUEUES.hand_size as usize);
            seen.insert(hand);
        }
        // 16 choose 4 is 1820.
        assert!(seen.len() > 1_000, "{} hands", seen.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arrive { flow: u64, width: u32 },
        Finish(usize),
        GiveUp(usize),
        Seats(u32),
        Queues(u32, u32, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
        let step = prop_oneof![
            8 => (any::<u64>(), 1..5_u32).prop_map(|(flow, width)| Step::Arrive { flow, width }),
            6 => any::<usize>().prop_map(Step::Finish),
            2 => any::<usize>().prop_map(Step::GiveUp),
            1 => (0..8_u32).prop_map(Step::Seats),
            1 => (1..20_u32, 1..6_u32, 0..6_u32).prop_map(|(q, h, l)| Step::Queues(q, h, l)),
        ];
        proptest::collection::vec((0..50_u64, step), 1..200)
    }

    proptest! {
        #[test]
        fn seats_are_never_exceeded_and_nobody_is_lost(steps in steps()) {
            let mut level = Level::new(4, QUEUES, at(0));
            let (mut now, mut next) = (0, 0_u64);
            let mut running: Vec<(u64, Seats)> = Vec::new();
            let mut waiting: Vec<(u64, Ticket)> = Vec::new();
            let start = |level: &mut Level<u64>, now, running: &mut Vec<(u64, Seats)>, waiting: &mut Vec<(u64, Ticket)>| {
                while let Some((who, seats)) = level.next(at(now)) {
                    assert!(level.in_use() <= level.seats());
                    let place = waiting.iter().position(|(waits, _)| *waits == who);
                    waiting.remove(place.expect("nobody runs who does not wait"));
                    running.push((who, seats));
                }
            };
            for (passed, step) in steps {
                now += passed;
                match step {
                    Step::Arrive { flow, width } => {
                        match level.arrive(at(now), flow, width, || next) {
                            Arrival::Runs(seats) => {
                                prop_assert!(level.in_use() <= level.seats());
                                running.push((next, seats));
                            }
                            Arrival::Waits(ticket) => waiting.push((next, ticket)),
                            Arrival::Refused => {}
                        }
                        next += 1;
                    }
                    Step::Finish(which) if !running.is_empty() => {
                        let (_, seats) = running.swap_remove(which % running.len());
                        level.finish(at(now), seats);
                    }
                    Step::GiveUp(which) if !waiting.is_empty() => {
                        let (_, ticket) = waiting.remove(which % waiting.len());
                        prop_assert!(level.give_up(at(now), ticket));
                        prop_assert!(!level.give_up(at(now), ticket), "it is gone");
                    }
                    Step::Seats(seats) => level.set_seats(at(now), seats),
                    Step::Queues(queues, hand_size, length) => {
                        level.set_queueing(at(now), Queueing { queues, hand_size: hand_size.min(queues), length });
                    }
                    Step::Finish(_) | Step::GiveUp(_) => {}
                }
                start(&mut level, now, &mut running, &mut waiting);
                prop_assert_eq!(level.in_use(), running.iter().map(|(_, seats)| seats.width).sum::<u32>());
                prop_assert_eq!(level.waiting() as usize, waiting.len());
                let idle = level.queues.iter().filter(|queue| !queue.is_idle()).count();
                prop_assert_eq!(level.active as usize, idle);
            }
            // With seats and time everybody's turn comes.
            level.set_seats(at(now), 4);
            for _ in 0..=waiting.len() + running.len() {
                now += 10;
                for (_, seats) in running.drain(..) {
                    level.finish(at(now), seats);
                }
                start(&mut level, now, &mut running, &mut waiting);
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
