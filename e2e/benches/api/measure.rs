//! Figures: how long requests took, what processes use.
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Sorted once, asked often.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds; `share` of 0.99 is the 99th percentile.
    pub fn at(&self, share: f64) -> f64 {
        let place = (self.0.len() as f64 * share) as usize;
        self.0.get(place.min(self.0.len().saturating_sub(1))).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.at(share));
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
    }
}

/// A process and all below it: the server and its PostgreSQL.
pub struct Processes(Vec<u32>);

impl Processes {
    pub fn below(root: u32) -> Result<Self> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // The name in parentheses may hold anything.
            let parent =
                stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            parents.push((pid, parent.unwrap_or(0)));
        }
        let mut all = vec![root];
        let mut next = 0;
        while let Some(&pid) = all.get(next) {
            all.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
            next += 1;
        }
        Ok(Self(all))
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Proportional set size in MB: shared pages count once. Of the first process, and of all.
    pub fn memory_mb(&self) -> Result<(f64, f64)> {
        let pss = |pid: &u32| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
        };
        let all: Vec<f64> = self.0.iter().filter_map(pss).collect();
        Ok((*all.first().context("the server is gone")?, all.iter().sum()))
    }

    /// Processor time used so far. Of the first process, and of all.
    pub fn cpu(&self) -> (Duration, Duration) {
        const TICKS_PER_SECOND: f64 = 100.0; // the kernel's USER_HZ, the same everywhere
        let ticks = |pid: &u32| -> Option<u64> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        let of = |pids: &[u32]| {
            let ticks: u64 = pids.iter().filter_map(ticks).sum();
            Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
        };
        (of(&self.0[..1]), of(&self.0))
    }
}

/// What the figures were measured on.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{cores} cores ({model}), Linux {}, load average before: {load}", kernel.trim())
}
