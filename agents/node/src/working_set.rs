//! What containers use, read from the kernel's own books (cgroups).
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// The directory of a process' control group that has a file; both versions of cgroups are looked at.
fn dir_of(pid: i64, controller: &str, file: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let base = match controllers {
            "" => Path::new(ROOT).to_owned(),
            many if many.split(',').any(|c| c == controller) => Path::new(ROOT).join(controller),
            _ => return None,
        };
        // Of a process outside our own cgroup namespace the path leads up first.
        Some(base.join(path.trim_start_matches('/'))).filter(|dir| dir.join(file).exists())
    })
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Bytes that a container uses and that cannot be dropped at once: its working set. None: it is not known.
pub fn bytes(pid: i64) -> Option<u64> {
    let (dir, file, inactive) = match dir_of(pid, "memory", "memory.current") {
        Some(dir) => (dir, "memory.current", "inactive_file "),
        None => {
            let dir = dir_of(pid, "memory", "memory.usage_in_bytes")?;
            (dir, "memory.usage_in_bytes", "total_inactive_file ")
        }
    };
    let all = number(&dir.join(file))?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)?.parse().ok()).unwrap_or(0);
    Some(all.saturating_sub(inactive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_there_uses_nothing_that_is_known() {
        assert_eq!(bytes(-1), None);
    }
}
