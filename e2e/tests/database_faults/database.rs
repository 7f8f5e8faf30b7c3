//! The processes of the private PostgreSQL, and signals to them.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Cluster, eventually};
use std::fs;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(20);

pub struct Database<'a> {
    cluster: &'a Cluster,
}

impl<'a> Database<'a> {
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    pub fn postmaster(&self) -> Result<u32> {
        self.cluster.postgres_pid()
    }

    /// The postmaster and all that it started.
    pub fn all(&self) -> Result<Vec<u32>> {
        let postmaster = self.postmaster()?;
        let mut all = vec![postmaster];
        all.extend(children(postmaster)?.into_iter().map(|child| child.pid));
        Ok(all)
    }

    /// The processes of connections, those first that worked most: the one that commits, usually.
    pub fn connections(&self) -> Result<Vec<u32>> {
        eventually("a connection", START, || {
            let mut connections = children(self.postmaster()?)?;
            connections.retain(|child| child.title.contains("[local]"));
            connections.sort_by_key(|child| std::cmp::Reverse(child.ticks));
            Ok(Some(connections.into_iter().map(|child| child.pid).collect())
                .filter(|pids: &Vec<u32>| !pids.is_empty()))
        })
    }

    pub fn busiest(&self) -> Result<u32> {
        self.connections()?.first().copied().context("no connection")
    }

    /// Sends a signal that ends a process, and waits for its end.
    pub fn end(&self, signal: &str, pid: u32) -> Result<()> {
        self.signal(signal, &[pid])?;
        let state = format!("/proc/{pid}/stat");
        eventually("the end of a process", START, || {
            let stat = fs::read_to_string(&state).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        })
    }

    pub fn signal(&self, name: &str, pids: &[u32]) -> Result<()> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let sent = Command::new("kill").arg(format!("-{name}")).args(&pids).status()?;
        ensure!(sent.success(), "kill -{name} {pids:?} failed");
        Ok(())
    }
}

struct Process {
    pid: u32,
    /// What PostgreSQL writes over its arguments: whom a connection serves and what it does.
    title: String,
    /// Processor time used.
    ticks: u64,
}

fn children(parent: u32) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().context("no stat")?.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // After the name: state, parent, …; the 12th and 13th are the time in user and kernel mode (proc(5)).
        if number(1) != u64::from(parent) {
            continue;
        }
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title).into_owned();
        found.push(Process { pid, title, ticks: number(11) + number(12) });
    }
    Ok(found)
}

/// Processes that are stopped, and go on whatever happens to the test.
pub struct Frozen<'a> {
    database: &'a Database<'a>,
    pids: Vec<u32>,
}

impl<'a> Frozen<'a> {
    pub fn new(database: &'a Database<'a>, pids: Vec<u32>) -> Result<Self> {
        let frozen = Self { database, pids };
        database.signal("STOP", &frozen.pids)?;
        Ok(frozen)
    }

    pub fn thaw(mut self) -> Result<()> {
        self.database.signal("CONT", &std::mem::take(&mut self.pids))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.pids.is_empty() {
            let _ = self.database.signal("CONT", &self.pids);
        }
    }
}
