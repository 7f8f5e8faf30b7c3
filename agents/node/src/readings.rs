//! What the machine has left of memory, disk, inodes and processes.
use crate::eviction::thresholds::Signal;
use crate::eviction::{Reading, Readings};
use anyhow::Result;
use std::path::Path;

/// `data_dir` lies on the node's own file system, `image_dir` on that of images and containers. What cannot be read is not
/// in the answer.
pub fn read(data_dir: &Path, image_dir: Option<&Path>) -> Readings {
    let mut all = Readings::new();
    if let Ok(reading) = memory() {
        all.insert(Signal::MemoryAvailable, reading);
    }
    if let Ok(reading) = processes() {
        all.insert(Signal::PidAvailable, reading);
    }
    let file_systems = [
        (Some(data_dir), Signal::NodefsAvailable, Signal::NodefsInodesFree),
        (image_dir, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ];
    for (dir, bytes, inodes) in file_systems {
        let Some(Ok(found)) = dir.map(nix::sys::statvfs::statvfs) else { continue };
        let size = found.fragment_size();
        let space = Reading { capacity: found.blocks() * size, available: found.blocks_available() * size };
        all.insert(bytes, space);
        // File systems without a number of inodes say 0.
        if found.files() > 0 {
            all.insert(inodes, Reading { capacity: found.files(), available: found.files_available() });
        }
    }
    all
}

fn memory() -> Result<Reading> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kilobytes = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Ok(Reading { capacity: kilobytes("MemTotal") * 1024, available: kilobytes("MemAvailable") * 1024 })
}

fn processes() -> Result<Reading> {
    let number = |path: &str| -> Result<u64> { Ok(std::fs::read_to_string(path)?.trim().parse()?) };
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    // `0.10 0.20 0.30 2/480 12345`: running and all tasks.
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let tasks = load.split_whitespace().nth(3).and_then(|tasks| tasks.split_once('/')?.1.parse().ok());
    Ok(Reading { capacity: most, available: most.saturating_sub(tasks.unwrap_or(0)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_memory_disk_and_processes() {
        let all = read(Path::new("/"), None);
        for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::PidAvailable] {
            let reading = all[&signal];
            assert!(reading.available > 0 && reading.available <= reading.capacity, "{signal:?} {reading:?}");
        }
        assert!(!all.contains_key(&Signal::ImagefsAvailable), "what is not known is not told");
        assert!(!read(Path::new("/nowhere"), None).contains_key(&Signal::NodefsAvailable));
    }
}
