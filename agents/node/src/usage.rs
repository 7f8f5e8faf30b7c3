//! What the machine and its containers use: one pass over the kernel's own counters, whatever the number of containers.
use crate::agent::Agent;
use crate::runtime::docker::Running;
use anyhow::{Context, Result};
use futures::StreamExt;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::metrics::{ContainerUsage, NodeUsage, PodUsage, Usage};
use pilothouse_protocol::NodeMessage;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(10);
const CGROUPS: &str = "/sys/fs/cgroup";
/// Containers asked of the runtime at the same time, where their cgroups cannot be read.
const ASKED_AT_ONCE: usize = 8;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
}

/// Where a container is accounted.
#[derive(Clone, Debug, PartialEq)]
enum Cgroup {
    /// The unified hierarchy.
    V2(PathBuf),
    V1 {
        cpu: PathBuf,
        memory: PathBuf,
    },
    /// Not in sight, as for an agent in a container of its own: the runtime is asked.
    Hidden,
}

/// Measures and tells, for ever.
pub async fn follow(agent: Arc<Agent>) {
    let mut meter = Meter::default();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match meter.look(&agent).await {
            Ok(Some(usage)) => agent.outbox.tell(&agent.node, NodeMessage::Usage(usage)),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "usage could not be measured"),
        }
    }
}

#[derive(Default)]
struct Meter {
    before: Option<Look>,
    cgroups: HashMap<String, Cgroup>,
}

/// Everything at one moment; containers by their id.
struct Look {
    at: Timestamp,
    node: Reading,
    containers: HashMap<String, Reading>,
}

impl Meter {
    /// None: there is nothing yet to compare with.
    async fn look(&mut self, agent: &Agent) -> Result<Option<NodeUsage>> {
        let running = agent.runtime.running(&agent.node).await?;
        let known: HashSet<&str> = running.iter().map(|container| container.id.as_str()).collect();
        self.cgroups.retain(|id, _| known.contains(id.as_str()));
        for container in &running {
            if !self.cgroups.contains_key(&container.id) {
                // One that has just ended is not found: it is none of those that run.
                let Ok(pid) = agent.runtime.process(&container.id).await else { continue };
                self.cgroups.insert(container.id.clone(), Cgroup::of(pid));
            }
        }
        let now = Look {
            at: Timestamp::now(),
            node: read_node(
                &std::fs::read_to_string("/proc/stat")?,
                &std::fs::read_to_string("/proc/meminfo")?,
            )
            .context("the machine's own usage cannot be read")?,
            containers: self.readings(agent, &running).await,
        };
        let told = self.before.as_ref().and_then(|before| usage(before, &now, &running));
        self.before = Some(now);
        Ok(told)
    }

    async fn readings(&self, agent: &Agent, running: &[Running]) -> HashMap<String, Reading> {
        let hidden = running.iter().filter(|c| self.cgroups.get(&c.id) == Some(&Cgroup::Hidden));
        let hidden: Vec<String> = hidden.map(|container| container.id.clone()).collect();
        let asked = futures::stream::iter(hidden).map(|id| {
            let runtime = agent.runtime.clone();
            async move {
                let reading = runtime.reading(&id).await.ok();
                (id, reading)
            }
        });
        let asked: Vec<(String, Option<Reading>)> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let mut all: HashMap<String, Reading> =
            asked.into_iter().filter_map(|(id, reading)| Some((id, reading?))).collect();
        let seen = self.cgroups.iter().filter_map(|(id, cgroup)| Some((id.clone(), cgroup.read()?)));
        all.extend(seen);
        all
    }
}

/// Rates between two looks. A pod is told once each of its containers was seen twice: half of it would mislead.
fn usage(before: &Look, now: &Look, running: &[Running]) -> Option<NodeUsage> {
    let window = now.at.duration_since(before.at).as_millis();
    let window = i64::try_from(window).ok().filter(|window| *window > 0)?;
    let used = |old: &Reading, new: &Reading| Usage {
        cpu_nanoseconds: new.cpu_nanoseconds,
        cpu_nanocores: new.cpu_nanoseconds.saturating_sub(old.cpu_nanoseconds).saturating_mul(1000)
            / window.unsigned_abs(),
        memory_bytes: new.memory_bytes,
    };
    let mut pods: BTreeMap<&str, Option<Vec<ContainerUsage>>> = BTreeMap::new();
    for container in running {
        let pod = pods.entry(&container.pod).or_insert_with(|| Some(Vec::new()));
        let readings = (before.containers.get(&container.id), now.containers.get(&container.id));
        match (readings, pod.as_mut()) {
            ((Some(old), Some(new)), Some(containers)) => {
                containers.push(ContainerUsage { name: container.name.clone(), usage: used(old, new) });
            }
            _ => *pod = None,
        }
    }
    let pods = pods.into_iter().filter_map(|(uid, containers)| {
        let mut containers = containers?;
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Some(PodUsage { uid: uid.into(), containers })
    });
    Some(NodeUsage {
        taken_at: now.at,
        window_milliseconds: window,
        node: used(&before.node, &now.node),
        pods: pods.collect(),
    })
}

/// From `/proc/stat` and `/proc/meminfo`: what all processors did but wait, and what is neither free nor a file that was
/// not used lately.
fn read_node(stat: &str, meminfo: &str) -> Option<Reading> {
    /// The kernel's unit here, whatever its own tick (`USER_HZ`).
    const NANOSECONDS_PER_TICK: u64 = 10_000_000;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user, nice, system, then idle and iowait, then irq, softirq, steal; guests are counted in user.
    let busy: u64 =
        ticks.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, t)| t).sum();
    let kilobytes = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let used = kilobytes("MemTotal")?.saturating_sub(kilobytes("MemFree")?);
    let idle_files = kilobytes("Inactive(file)").unwrap_or(0);
    Some(Reading {
        cpu_nanoseconds: busy * NANOSECONDS_PER_TICK,
        memory_bytes: used.saturating_sub(idle_files) * 1024,
    })
}

/// Bytes that a container uses and that cannot be dropped at once, by its first process. None: it is not known.
pub fn memory_bytes(pid: i64) -> Option<u64> {
    Some(Cgroup::of(pid).read()?.memory_bytes)
}

/// Processes and threads of a container, by its first process. None: it is not known.
pub fn processes(pid: i64) -> Option<u64> {
    let told = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut groups = told.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    groups.find_map(|(controllers, path)| {
        let mount = if controllers.split(',').any(|c| c == "pids") { "pids" } else { "" };
        let file = Path::new(CGROUPS).join(mount).join(path.trim_start_matches('/')).join("pids.current");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    })
}

impl Cgroup {
    fn of(pid: i64) -> Self {
        let told = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Self::find(Path::new(CGROUPS), &told)
    }

    /// By what `/proc/<pid>/cgroup` says.
    fn find(root: &Path, told: &str) -> Self {
        let path_of = |controller: &str| {
            let mut lines = told.lines().filter_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                Some((controllers, path.trim_start_matches('/')))
            });
            let found = lines.find(|(controllers, _)| controllers.split(',').any(|c| c == controller));
            found.map(|(controllers, path)| (controllers.to_owned(), path.to_owned()))
        };
        // Where the two hierarchies are both there, the older one has the controllers.
        if let (Some((controllers, cpu)), Some((_, memory))) = (path_of("cpuacct"), path_of("memory")) {
            let mounts = ["cpuacct", controllers.as_str(), "cpu,cpuacct"];
            let cpu = mounts.iter().map(|mount| root.join(mount).join(&cpu)).find(|dir| dir.is_dir());
            let memory = root.join("memory").join(memory);
            if let Some(cpu) = cpu.filter(|_| memory.is_dir()) {
                return Self::V1 { cpu, memory };
            }
        }
        match path_of("") {
            Some((_, path)) if root.join(&path).join("memory.current").is_file() => Self::V2(root.join(path)),
            _ => Self::Hidden,
        }
    }

    fn read(&self) -> Option<Reading> {
        let text = |dir: &Path, file: &str| std::fs::read_to_string(dir.join(file)).ok();
        let number = |text: String| text.trim().parse::<u64>().ok();
        let field = |text: &str, name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        };
        let (cpu_nanoseconds, used, idle_files) = match self {
            Self::V2(dir) => (
                field(&text(dir, "cpu.stat")?, "usage_usec")? * 1000,
                number(text(dir, "memory.current")?)?,
                field(&text(dir, "memory.stat")?, "inactive_file"),
            ),
            Self::V1 { cpu, memory } => (
                number(text(cpu, "cpuacct.usage")?)?,
                number(text(memory, "memory.usage_in_bytes")?)?,
                field(&text(memory, "memory.stat")?, "total_inactive_file"),
            ),
            Self::Hidden => return None,
        };
        Some(Reading { cpu_nanoseconds, memory_bytes: used.saturating_sub(idle_files.unwrap_or(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("pilothouse-usage-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn both_generations_of_cgroups_are_read() {
        let root = tree(
            "v2",
            &[
                ("system.slice/docker-1.scope/cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
                ("system.slice/docker-1.scope/memory.current", "9000\n"),
                ("system.slice/docker-1.scope/memory.stat", "anon 5000\ninactive_file 1000\n"),
            ],
        );
        let found = Cgroup::find(&root, "0::/system.slice/docker-1.scope\n");
        let expected = Reading { cpu_nanoseconds: 1_500_000, memory_bytes: 8000 };
        assert_eq!(found.read(), Some(expected), "{found:?}");
        std::fs::remove_dir_all(root).unwrap();

        let root = tree(
            "v1",
            &[
                ("cpu,cpuacct/docker/1/cpuacct.usage", "77\n"),
                ("memory/docker/1/memory.usage_in_bytes", "9000\n"),
                ("memory/docker/1/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n"),
            ],
        );
        let told = "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n0::/docker/1\n";
        let found = Cgroup::find(&root, told);
        assert_eq!(found.read(), Some(Reading { cpu_nanoseconds: 77, memory_bytes: 7000 }), "{found:?}");
        assert_eq!(Cgroup::find(&root, "0::/../elsewhere\n"), Cgroup::Hidden);
        assert_eq!(Cgroup::find(&root, ""), Cgroup::Hidden);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_machine_is_busy_but_when_it_waits() {
        let stat = "cpu  100 10 50 9000 700 5 5 1 40 0\ncpu0 1 1 1 1\n";
        let meminfo = "MemTotal:  1000 kB\nMemFree:  300 kB\nActive(file): 100 kB\nInactive(file):  200 kB\n";
        let expected = Reading { cpu_nanoseconds: 1_710_000_000, memory_bytes: 500 * 1024 };
        assert_eq!(read_node(stat, meminfo), Some(expected));
        assert_eq!(read_node("", meminfo), None);
    }

    #[test]
    fn rates_are_told_of_pods_whose_containers_were_all_seen_twice() {
        let running =
            |id: &str, pod: &str, name: &str| Running { id: id.into(), pod: pod.into(), name: name.into() };
        let all = [running("1", "b", "main"), running("2", "b", "log"), running("3", "a", "main")];
        let look = |seconds: i64, cpu: &[(&str, u64)]| Look {
            at: Timestamp::from_second(seconds).unwrap(),
            node: Reading { cpu_nanoseconds: seconds.unsigned_abs() * 500_000_000, memory_bytes: 9 },
            containers: cpu
                .iter()
                .map(|(id, cpu)| ((*id).to_owned(), Reading { cpu_nanoseconds: *cpu, memory_bytes: 5 }))
                .collect(),
        };
        let first = look(100, &[("1", 0), ("3", 0)]);
        let second = look(110, &[("1", 1_000_000_000), ("2", 7), ("3", 2_000_000_000)]);
        let told = usage(&first, &second, &all).unwrap();
        assert_eq!((told.window_milliseconds, told.node.cpu_nanocores), (10_000, 500_000_000));
        let uids: Vec<&str> = told.pods.iter().map(|pod| &*pod.uid).collect();
        assert_eq!(uids, ["a"], "a container of b is new");
        assert_eq!(told.pods[0].containers[0].usage.cpu_nanocores, 200_000_000);
        let third = look(120, &[("1", 1_000_000_000), ("2", 7), ("3", 2_000_000_000)]);
        let told = usage(&second, &third, &all).unwrap();
        let names: Vec<&str> = told.pods[1].containers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["log", "main"]);
        assert_eq!(usage(&third, &third, &all), None, "a clock that stands still has no rates");
    }
}
