//! One story: people change things, faults happen, and in the end everything must be as it was asked for.
use super::api::Api;
use super::expectations;
use super::faults::Faults;
use super::invariants::Invariants;
use super::machine::{Did, Machine};
use super::people::{self, People};
use super::random::Random;
use super::server::Server;
use super::workloads;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_hollow::Behavior;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Steps of trouble; each is one write, one observation, or one event.
const TROUBLED_STEPS: (i64, i64) = (200, 1200);
/// Virtual time until all must be well again: twice the longest back-off, and what evictions and node deadlines take.
const QUIET_SECONDS: i64 = 3600;
/// So long nothing may be written once all is well.
const STILL_SECONDS: i64 = 60;
/// The longest leap of time while nobody has anything to do: shorter than it takes to give a node up.
const LEAP_MILLIS: i64 = 30_000;
/// What a failing seed tells: the last lines before the end.
const LINES_TOLD: usize = 120;

/// A seed that did not end well, and how it came to that.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Tells the story of a seed; a fingerprint of it, by which two tellings are compared.
///
/// # Errors
/// What did not hold, with the last lines of the story.
pub fn run(seed: u64) -> Result<u64, Failure> {
    let mut story = Story::new(seed, LINES_TOLD);
    match story.tell() {
        Ok(()) => Ok(story.fingerprint),
        Err(what) => Err(Failure { seed, what, story: story.lines.into() }),
    }
}

/// The whole story of a seed, line by line, with how it ended.
pub fn tell(seed: u64) -> (Vec<String>, Result<(), String>) {
    let mut story = Story::new(seed, usize::MAX);
    let outcome = story.tell();
    (story.lines.into(), outcome)
}

pub struct Story {
    pub random: Random,
    pub api: Api,
    pub server: Server,
    pub machines: Vec<Machine>,
    /// Steps during which the controllers' watch is slow: they see a change now and then, in the middle of others.
    pub slow_steps: usize,
    invariants: Invariants,
    people: People,
    faults: Faults,
    begun: Timestamp,
    lines: VecDeque<String>,
    lines_kept: usize,
    fingerprint: u64,
}

impl Story {
    fn new(seed: u64, lines_kept: usize) -> Self {
        let mut random = Random::new(seed);
        let api = Api::new();
        let count = random.below(4) + 2;
        let behavior = Arc::new(Behavior {
            seed,
            ready_seconds: 0..=8,
            run_seconds: 2..=40,
            failures: [0, 100, 300][random.below(3)],
            stop_seconds: 0..=5,
            ..Behavior::default()
        });
        let machines = (1..=count).map(|number| Machine::new(number, &behavior)).collect();
        let server = Server::new(&api);
        let faults = Faults::some(&mut random);
        Self {
            random,
            begun: api.now,
            api,
            server,
            machines,
            slow_steps: 0,
            invariants: Invariants::new(),
            people: People::default(),
            faults,
            lines: VecDeque::new(),
            lines_kept,
            fingerprint: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn note(&mut self, line: impl Into<String>) {
        let line = line.into();
        if line.is_empty() {
            return;
        }
        let millis = self.api.now.as_millisecond() - self.begun.as_millisecond();
        let line = format!("{:>5}.{:03} s  {line}", millis / 1000, millis % 1000);
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.fingerprint = line.bytes().fold(self.fingerprint, mix);
        if self.lines.len() >= self.lines_kept {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn note_did(&mut self, did: Did) -> Result<(), String> {
        self.note(did.line.unwrap_or_default());
        if did.started { self.invariants.runs_once(&self.machines) } else { Ok(()) }
    }

    fn tell(&mut self) -> Result<(), String> {
        let may = format!("{} nodes; what may happen: {}", self.machines.len(), self.faults);
        self.note(may);
        for object in workloads::some(&mut self.random) {
            self.note(format!(
                "someone creates {} {}: {}",
                object["kind"], object["metadata"]["name"], object["spec"]
            ));
            self.api.create(object).map_err(|status| status.message)?;
        }
        let (shortest, longest) = TROUBLED_STEPS;
        for _ in 0..self.random.between(shortest, longest) {
            match self.random.below(100) {
                0..3 => {
                    let line = self.people.act(&mut self.api, &mut self.invariants, &mut self.random)?;
                    self.note(line);
                }
                3..6 => {
                    if let Some(fault) = self.faults.next(&mut self.random) {
                        let line = fault.strike(self);
                        self.note(line);
                    }
                }
                _ => self.work()?,
            }
            self.invariants.check(&self.api)?;
        }
        self.note("all is quiet from here on");
        self.calm_down();
        self.settle(|story| expectations::all_is_as_asked_for(&story.api, &story.server, &story.machines))?;
        self.note("all is as it was asked for; now everything is deleted");
        for key in expectations::owners(&self.api) {
            let _ = self.api.delete(&key, &DeleteOptions::default());
        }
        self.settle(|story| expectations::nothing_is_left(&story.api, &story.machines))?;
        self.note("nothing is left");
        Ok(())
    }

    /// One step of somebody who does their work.
    fn work(&mut self) -> Result<(), String> {
        match self.random.below(14) {
            0..3 => {
                self.slow_steps = self.slow_steps.saturating_sub(1);
                if self.slow_steps == 0 || self.random.chance(100) {
                    self.server.observe(&self.api, 1);
                }
            }
            3..5 => {
                let line = self.server.decide(&self.api)?;
                self.note(line.unwrap_or_default());
            }
            5..8 => {
                let line = self.server.write(&mut self.api, &mut self.random).unwrap_or_default();
                self.note(line);
            }
            8 => drop(self.server.schedule_observes(&self.api, 1)),
            9 => {
                let line = self.server.schedule(&mut self.api).unwrap_or_default();
                self.note(line);
            }
            10..13 => {
                let at = self.random.below(self.machines.len());
                let did = self.machines[at].work(&mut self.api, &mut self.random);
                self.note_did(did)?;
            }
            _ => {
                let millis = self.random.between(1, 2500);
                self.api.pass(millis);
            }
        }
        Ok(())
    }

    /// From here on nothing goes wrong any more, and nobody asks for anything else.
    fn calm_down(&mut self) {
        self.api.refusals = None;
        self.slow_steps = 0;
        self.machines.iter_mut().for_each(|machine| machine.is_connected = true);
        people::calm_down(&mut self.api);
    }

    /// Everybody works until nobody has anything to do and all is as it is to be, in bounded time.
    fn settle(&mut self, is_well: impl Fn(&Self) -> Result<(), String>) -> Result<(), String> {
        let start = self.api.now.as_second();
        let mut still_since = start;
        let mut why = None;
        loop {
            let wrote = self.everybody_works()?;
            let now = self.api.now.as_second();
            if wrote || !self.server.is_quiet() {
                still_since = now;
            }
            if now - still_since > STILL_SECONDS {
                match is_well(self) {
                    Ok(()) => return Ok(()),
                    Err(not) => why = Some(not),
                }
            }
            if now - start > QUIET_SECONDS {
                let busy = self.server.busy_with();
                return Err(why.unwrap_or_else(|| format!("it does not come to rest: {busy:?}")));
            }
            let due = self.machines.iter().filter_map(Machine::next_at).chain(self.server.next_at()).min();
            let wait = due.map_or(LEAP_MILLIS, |at| at.as_millisecond() - self.api.now.as_millisecond());
            // A heartbeat is due every ten seconds, and nothing takes no time at all.
            self.api.pass(wait.clamp(1, LEAP_MILLIS));
        }
    }

    /// Whether anything but a heartbeat was written.
    fn everybody_works(&mut self) -> Result<bool, String> {
        let heartbeats = self.api.heartbeats;
        let before = self.api.end_of_log();
        while self.server.observe(&self.api, 1) {}
        while let Some(line) = self.server.decide(&self.api)? {
            self.note(line);
        }
        while let Some(line) = self.server.write(&mut self.api, &mut self.random) {
            self.note(line);
            self.invariants.check(&self.api)?;
        }
        while self.server.schedule_observes(&self.api, 1) {}
        while let Some(line) = self.server.schedule(&mut self.api) {
            self.note(line);
        }
        for at in 0..self.machines.len() {
            for did in self.machines[at].work_off(&mut self.api, &mut self.random) {
                self.note_did(did)?;
            }
        }
        self.invariants.check(&self.api)?;
        Ok(self.api.end_of_log() - before > self.api.heartbeats - heartbeats)
    }
}
