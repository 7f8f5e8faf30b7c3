//! Waiting for something to become true: polled, bounded, and telling what it saw last.
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(100);

/// Calls `observe` until it answers `Ok(Some(value))`. `Ok(None)` and errors are tried again until `timeout`.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut observe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match observe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("{what}: not within {timeout:?}; last seen: {last}");
        }
        std::thread::sleep(POLL);
    }
}
