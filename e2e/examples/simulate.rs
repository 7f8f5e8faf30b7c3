//! Prints the story of one seed of the simulated cluster: time, who did what, which fault struck, and how it ended.
use pilothouse_e2e::simulation;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(seed) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        let _ = writeln!(std::io::stderr(), "which seed? ./dev simulate 42");
        return ExitCode::from(2);
    };
    let (lines, outcome) = simulation::tell(seed);
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return ExitCode::SUCCESS; // whoever read has seen enough
        }
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            let _ = writeln!(out, "seed {seed} ended badly: {what}");
            ExitCode::FAILURE
        }
    }
}
