//! Many seeds of the simulated cluster; `SIMULATION_SEEDS=100..200` tells other stories, and `./dev simulate 42` prints one.
use pilothouse_e2e::simulation;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Stories that once ended badly, a line each: they are told for ever.
const REMEMBERED: &str = include_str!("simulation_seeds.txt");
/// Besides those. A debug build tells few: it takes twenty times as long.
const SEEDS: Range<u64> = if cfg!(debug_assertions) { 0..40 } else { 0..10_000 };
/// So many failures are told at length; a mistake in what all stories share would tell thousands.
const FAILURES_TOLD: usize = 5;

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is no seed"))
}

fn remembered() -> Vec<u64> {
    let lines = REMEMBERED.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.filter(|seed| !seed.trim().is_empty()).map(number).collect()
}

fn seeds() -> Vec<u64> {
    match std::env::var("SIMULATION_SEEDS") {
        Err(_) => remembered().into_iter().chain(SEEDS).collect(),
        Ok(asked) => match asked.split_once("..") {
            Some((first, end)) => (number(first)..number(end)).collect(),
            None => vec![number(&asked)],
        },
    }
}

#[test]
fn every_story_ends_as_it_was_asked_for() {
    let (seeds, next) = (seeds(), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(seed) = seeds.get(at) else { return };
                    if let Err(failure) = simulation::run(*seed) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|failure| failure.seed);
    let all: Vec<u64> = failures.iter().map(|failure| failure.seed).collect();
    let in_short =
        failures.iter().skip(FAILURES_TOLD).map(|failure| format!("seed {}: {}", failure.seed, failure.what));
    let told: Vec<String> =
        failures.iter().take(FAILURES_TOLD).map(ToString::to_string).chain(in_short).collect();
    assert!(
        all.is_empty(),
        "{} stories of {} ended badly: {all:?}\n{}",
        all.len(),
        seeds.len(),
        told.join("\n")
    );
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let told = [simulation::run(7), simulation::run(7)]
        .map(|told| told.unwrap_or_else(|failure| panic!("{failure}")));
    assert_eq!(told[0], told[1]);
}
