//! Many seeds of the simulated cluster; `SIMULATION_SEEDS=100..200` tells other stories, `SIMULATION_SEEDS=42` one.
use pilothouse_e2e::simulation;

/// Stories that once ended badly: they are told for ever.
const REMEMBERED: &[u64] = &[];
/// Besides those.
const SEEDS: std::ops::Range<u64> = 0..8;

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("SIMULATION_SEEDS") else {
        return REMEMBERED.iter().copied().chain(SEEDS).collect();
    };
    let number =
        |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("SIMULATION_SEEDS: {text} is no seed"));
    match asked.split_once("..") {
        Some((first, end)) => (number(first)..number(end)).collect(),
        None => vec![number(&asked)],
    }
}

#[test]
fn every_story_ends_as_it_was_asked_for() {
    let failures: Vec<String> =
        seeds().into_iter().filter_map(|seed| simulation::run(seed).err()).map(|f| f.to_string()).collect();
    assert!(failures.is_empty(), "{} stories ended badly:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let told = [simulation::run(7), simulation::run(7)]
        .map(|told| told.unwrap_or_else(|failure| panic!("{failure}")));
    assert_eq!(told[0], told[1]);
}
