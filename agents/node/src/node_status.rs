//! The node as it tells itself: what it has, what it runs, how it is.
use crate::agent::{Agent, NODES};
use anyhow::Result;
use pilothouse_api::jiff::Timestamp;
use pilothouse_protocol::NodeMessage;
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kubernetes' default for pods on a node.
const MAX_PODS: u32 = 110;
const KUBELET_VERSION: &str = concat!("v1.36.0+pilothouse-", env!("CARGO_PKG_VERSION"));
/// How often the node looks at itself; a change is told at once.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often it is told without a change. Its Lease shows in between that the node lives.
const TELL_EVERY: Duration = Duration::from_secs(300);
/// How long a new node may take to learn its range and build its network.
const NETWORK_PATIENCE: Duration = Duration::from_secs(10);
/// Images told at most, the largest first (kubelet's `nodeStatusMaxImages`).
const MOST_IMAGES: usize = 50;

/// Kubelet's threshold: less available memory is pressure. The same is kept from pods.
const LEAST_MEMORY_BYTES: u64 = 100 << 20;
/// Less free disk is pressure. Kubernetes' own default, a tenth, is a lot of today's disks and taints most
/// laptops; k3s has this too.
const LEAST_DISK_PERCENT: u64 = 5;
const LEAST_INODES_PERCENT: u64 = 5;
const LEAST_PIDS_PERCENT: u64 = 10;

/// What the machine has left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Readings {
    memory_bytes: u64,
    memory_available_bytes: u64,
    disk_bytes: u64,
    disk_available_bytes: u64,
    inodes: u64,
    inodes_free: u64,
    pids: u64,
    pids_free: u64,
}

/// Looks at the node and keeps what is found.
pub async fn take(agent: &Agent) {
    let node = collect(agent, false).await;
    *agent.node_object.lock() = node;
}

/// Tells the node's status when it changes, and now and then. Runs for ever.
pub async fn follow(agent: Arc<Agent>) {
    let begun = Instant::now();
    let mut told_at = Instant::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let node = collect(&agent, begun.elapsed() > NETWORK_PATIENCE).await;
        let before = std::mem::replace(&mut *agent.node_object.lock(), node.clone());
        let changed = !same(&before["status"], &node["status"]);
        if changed || is_shown_otherwise(&agent, &node) || told_at.elapsed() >= TELL_EVERY {
            told_at = Instant::now();
            let status = node["status"].clone();
            agent.outbox.tell(&agent.node, NodeMessage::NodeStatus { status });
        }
    }
}

/// A server that did not hear of the node for a while takes it for lost, though its line may never have broken.
fn is_shown_otherwise(agent: &Agent, node: &Value) -> bool {
    let shown = agent.assigned.lock().get(NODES, "", &agent.node);
    shown.is_some_and(|shown| ready(&shown) != ready(node))
}

fn ready(node: &Value) -> Option<&str> {
    let conditions = node["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")?["status"].as_str()
}

/// Whether two statuses differ in the time of the look only.
fn same(before: &Value, after: &Value) -> bool {
    let timeless = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = Value::Null;
            condition["lastTransitionTime"] = Value::Null;
        }
        status
    };
    timeless(before) == timeless(after)
}

/// The Node object as it would be created now. `patient_no_more`: a network that is not there yet counts as
/// missing.
async fn collect(agent: &Agent, patient_no_more: bool) -> Value {
    let (name, data_dir) = (&agent.node, &agent.data_dir);
    let info = agent.runtime.info().await;
    let images = agent.runtime.images().await.unwrap_or_default();
    let readings = read(data_dir).unwrap_or_default();
    let runtime = info.as_ref().map(drop).map_err(|error| format!("container runtime is down: {error:#}"));
    let network = match agent.network.trouble.lock().clone() {
        Some(why) => Err(why),
        None if !agent.network.is_up() && patient_no_more => Err("the node has no pod range yet".to_owned()),
        None => Ok(()),
    };
    let network = network.map_err(|why| {
        format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{why}")
    });
    let info = info.unwrap_or_default();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let cpus =
        info.ncpu.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as i64));
    let kilobytes = |bytes: u64| format!("{}Ki", bytes / 1024);
    let resources = |memory: u64, disk: u64| {
        json!({"cpu": cpus.to_string(), "memory": kilobytes(memory), "ephemeral-storage": kilobytes(disk),
            "pods": MAX_PODS.to_string()})
    };
    let kept_disk = readings.disk_bytes / 100 * LEAST_DISK_PERCENT;
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch,
        }},
        "status": {
            "capacity": resources(readings.memory_bytes, readings.disk_bytes),
            "allocatable": resources(readings.memory_bytes.saturating_sub(LEAST_MEMORY_BYTES), readings.disk_bytes - kept_disk),
            "addresses": [{"type": "InternalIP", "address": agent.host_ip}, {"type": "Hostname", "address": name}],
            "conditions": conditions(&readings, runtime.and(network), Timestamp::now()),
            "nodeInfo": {
                "machineID": text("/etc/machine-id"), "systemUUID": text("/sys/class/dmi/id/product_uuid"),
                "bootID": text("/proc/sys/kernel/random/boot_id"), "kernelVersion": text("/proc/sys/kernel/osrelease"),
                "osImage": info.operating_system.unwrap_or_default(), "operatingSystem": "linux", "architecture": arch,
                "containerRuntimeVersion": format!("docker://{}", info.server_version.unwrap_or_default()),
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
            },
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "images": largest(images),
        },
    })
}

fn largest(mut images: Vec<(Vec<String>, i64)>) -> Value {
    images.sort_by(|(a, a_bytes), (b, b_bytes)| b_bytes.cmp(a_bytes).then_with(|| a.cmp(b)));
    images
        .iter()
        .take(MOST_IMAGES)
        .map(|(names, bytes)| json!({"names": names, "sizeBytes": bytes}))
        .collect()
}

fn read(data_dir: &Path) -> Result<Readings> {
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kilobytes = |name: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let disk = nix::sys::statvfs::statvfs(data_dir)?;
    let number = |path: &str| -> Result<u64> { Ok(std::fs::read_to_string(path)?.trim().parse()?) };
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    // `0.10 0.20 0.30 2/480 12345`: running and all tasks.
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let tasks = load.split_whitespace().nth(3).and_then(|tasks| tasks.split_once('/')?.1.parse().ok());
    Ok(Readings {
        memory_bytes: kilobytes("MemTotal") * 1024,
        memory_available_bytes: kilobytes("MemAvailable") * 1024,
        disk_bytes: disk.blocks() * disk.fragment_size(),
        disk_available_bytes: disk.blocks_available() * disk.fragment_size(),
        inodes: disk.files(),
        inodes_free: disk.files_available(),
        pids: most,
        pids_free: most.saturating_sub(tasks.unwrap_or(0)),
    })
}

fn conditions(readings: &Readings, ready: Result<(), String>, now: Timestamp) -> Value {
    let stamp = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": stamp, "lastTransitionTime": stamp})
    };
    // File systems without a number of inodes say 0.
    let short = |left: u64, all: u64, percent: u64| all > 0 && left < all / 100 * percent;
    let r = readings;
    let memory = r.memory_bytes > 0 && r.memory_available_bytes < LEAST_MEMORY_BYTES;
    let disk = short(r.disk_available_bytes, r.disk_bytes, LEAST_DISK_PERCENT)
        || short(r.inodes_free, r.inodes, LEAST_INODES_PERCENT);
    let pids = short(r.pids_free, r.pids, LEAST_PIDS_PERCENT);
    json!([
        match memory {
            true => condition(
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available"
            ),
            false => condition(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available"
            ),
        },
        match disk {
            true => condition("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure"),
            false =>
                condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        },
        match pids {
            true => condition(
                "PIDPressure",
                true,
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available"
            ),
            false => condition(
                "PIDPressure",
                false,
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available"
            ),
        },
        match ready {
            Ok(()) => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            Err(why) => condition("Ready", false, "KubeletNotReady", &why),
        },
    ])
}

/// The address that leads out of this machine. Nothing is sent: connecting a datagram socket only asks for
/// the route.
pub fn host_address() -> String {
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?; // a documentation address
        socket.local_addr()
    });
    match found {
        Ok(address) if !address.ip().is_unspecified() => address.ip().to_string(),
        _ => "127.0.0.1".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(readings: Readings, ready: Result<(), String>) -> String {
        let all = conditions(&readings, ready, Timestamp::UNIX_EPOCH);
        all.as_array().unwrap().iter().map(|c| &c["status"].as_str().unwrap()[..1]).collect()
    }

    #[test]
    fn pressure_is_told_by_what_is_left() {
        let fine = Readings {
            memory_bytes: 8 << 30,
            memory_available_bytes: 1 << 30,
            disk_bytes: 1000,
            disk_available_bytes: 500,
            inodes: 0,
            inodes_free: 0,
            pids: 1000,
            pids_free: 900,
        };
        assert_eq!(statuses(fine, Ok(())), "FFFT");
        assert_eq!(statuses(Readings { memory_available_bytes: 1 << 20, ..fine }, Ok(())), "TFFT");
        assert_eq!(statuses(Readings { disk_available_bytes: 40, ..fine }, Ok(())), "FTFT");
        assert_eq!(statuses(Readings { inodes: 1000, inodes_free: 10, ..fine }, Ok(())), "FTFT");
        assert_eq!(statuses(Readings { pids_free: 90, ..fine }, Ok(())), "FFTT");
        assert_eq!(statuses(Readings::default(), Err("no".into())), "FFFF", "not to know is no pressure");
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let at = |second: i64, ready: Result<(), String>| json!({"conditions": conditions(&Readings::default(), ready, Timestamp::from_second(second).unwrap())});
        assert!(same(&at(1, Ok(())), &at(2, Ok(()))));
        assert!(!same(&at(1, Ok(())), &at(2, Err("down".into()))));
    }
}
