//! The node as it tells itself: what it has, what it runs, how it is.
use crate::agent::{Agent, NODES};
use crate::eviction::Readings;
use crate::eviction::thresholds::Signal;
use crate::image_disposal::Image;
use crate::settings::Settings;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::storage::LOCAL_VOLUMES;
use pilothouse_api::usage;
use pilothouse_protocol::NodeMessage;
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KUBELET_VERSION: &str = concat!("v1.36.0+pilothouse-", env!("CARGO_PKG_VERSION"));
/// How often the node looks at itself; a change is told at once.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often it is told without a change. Its Lease shows in between that the node lives.
const TELL_EVERY: Duration = Duration::from_secs(300);
/// How long a new node may take to learn its range and build its network.
const NETWORK_PATIENCE: Duration = Duration::from_secs(10);
/// Images told at most, the largest first (kubelet's `nodeStatusMaxImages`).
const MOST_IMAGES: usize = 50;

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
        tokio::select! {
            _ = look.tick() => {}
            () = agent.node_changed.notified() => {}
            () = agent.drivers.uses_changed.notified() => {}
        }
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
    shown.is_some_and(|shown| ready(&shown) != ready(node) || is_behind(&shown["status"]))
}

/// Others add resources to a node's capacity; what is allocatable of them follows with the node's next word.
fn is_behind(status: &Value) -> bool {
    let extended = |field: &str| -> Vec<(String, Value)> {
        let all = status[field].as_object().into_iter().flatten();
        all.filter(|(name, _)| name.contains('/'))
            .map(|(name, amount)| (name.clone(), amount.clone()))
            .collect()
    };
    extended("capacity") != extended("allocatable")
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
    let (name, settings) = (&agent.node, &agent.settings);
    let answer =
        async { Ok::<_, anyhow::Error>((agent.runtime.info().await?, agent.runtime.images().await?)) };
    let answer = answer.await.map_err(|error| format!("container runtime is down: {error:#}"));
    if let Err(why) = &answer {
        tracing::warn!("{why}");
    }
    let ((info, images), runtime) = agent.runtime_answered.lock().take(answer, Instant::now());
    let readings = agent.readings().await;
    let network = match agent.network.trouble.lock().clone() {
        Some(why) => Err(why),
        None if !agent.network.is_up() && patient_no_more => Err("the node has no pod range yet".to_owned()),
        None => Ok(()),
    };
    let network = network.map_err(|why| {
        format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{why}")
    });
    let staying = match agent.shutting_down.is_cancelled() {
        true => Err("node is shutting down".to_owned()),
        false => Ok(()),
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let cpus =
        info.ncpu.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as i64));
    let size = |signal| kilobytes(readings.get(&signal).map_or(0, |reading| reading.capacity));
    let capacity = json!({"cpu": cpus.to_string(), "memory": size(Signal::MemoryAvailable),
        "ephemeral-storage": size(Signal::NodefsAvailable), "pods": settings.max_pods.to_string()});
    let now = Timestamp::now();
    let short_of = |kind: &str| agent.pressure.lock().holds(&settings.eviction, kind, now);
    let mut labels = json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch,
    });
    for (key, value) in &settings.labels {
        labels[key] = value.as_str().into();
    }
    let spec = match settings.taints.as_slice() {
        [] => json!({}),
        taints => json!({"taints": taints}),
    };
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let local_volumes = std::path::absolute(&agent.data_dir).unwrap_or_else(|_| agent.data_dir.clone());
    let local_volumes = local_volumes.join("local-volumes");
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {LOCAL_VOLUMES: local_volumes.to_string_lossy()}},
        "spec": spec,
        "status": {
            "allocatable": allocatable(&capacity, settings, &readings), "capacity": capacity,
            "addresses": [{"type": "InternalIP", "address": agent.host_ip}, {"type": "Hostname", "address": name}],
            "conditions": conditions(short_of, staying.and(runtime).and(network), now),
            "nodeInfo": {
                "machineID": text("/etc/machine-id"), "systemUUID": text("/sys/class/dmi/id/product_uuid"),
                "bootID": text("/proc/sys/kernel/random/boot_id"), "kernelVersion": text("/proc/sys/kernel/osrelease"),
                "osImage": info.operating_system.unwrap_or_default(), "operatingSystem": "linux", "architecture": arch,
                "containerRuntimeVersion": format!("docker://{}", info.server_version.unwrap_or_default()),
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
            },
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "images": largest(images),
            "volumesInUse": agent.drivers.in_use(),
        },
    })
}

fn largest(mut images: Vec<Image>) -> Value {
    images.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.names.cmp(&b.names)));
    let told = images.iter().take(MOST_IMAGES);
    told.map(|image| json!({"names": image.names, "sizeBytes": image.bytes})).collect()
}

/// What pods may be promised: all there is, less what is kept for the machine's own programs and for a shortage.
fn allocatable(capacity: &Value, settings: &Settings, readings: &Readings) -> Value {
    let mut left = capacity.clone();
    let kept_for_shortage = |resource: &str| {
        let signal = match resource {
            "memory" => Signal::MemoryAvailable,
            "ephemeral-storage" => Signal::NodefsAvailable,
            _ => return 0,
        };
        readings.get(&signal).map_or(0, |reading| settings.eviction.kept(signal, reading.capacity))
    };
    for (resource, amount) in usage::amounts(capacity) {
        let reserved = settings.reserved.get(&resource).copied().unwrap_or(Quantity::ZERO);
        left[&resource] = match resource.as_str() {
            "cpu" => Quantity::from_milli((amount.milli() - reserved.milli()).max(0)).to_string().into(),
            "memory" | "ephemeral-storage" => {
                let kept = i64::try_from(kept_for_shortage(&resource)).unwrap_or(i64::MAX);
                let bytes = amount.value().saturating_sub(reserved.value()).saturating_sub(kept).max(0);
                kilobytes(bytes.unsigned_abs()).into()
            }
            _ => continue,
        };
    }
    left
}

fn kilobytes(bytes: u64) -> String {
    format!("{}Ki", bytes / 1024)
}

/// The conditions of pressure: type, reason and message where it holds, reason and message where it does not.
const PRESSURES: [(&str, [&str; 2], [&str; 2]); 3] = [
    (
        "MemoryPressure",
        ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
        ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
    ),
    (
        "DiskPressure",
        ["KubeletHasDiskPressure", "kubelet has disk pressure"],
        ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
    ),
    (
        "PIDPressure",
        ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
        ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
    ),
];

fn conditions(short_of: impl Fn(&str) -> bool, ready: Result<(), String>, now: Timestamp) -> Value {
    let stamp = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": stamp, "lastTransitionTime": stamp})
    };
    let mut all: Vec<Value> = Vec::new();
    for (kind, if_so, if_not) in PRESSURES {
        let holds = short_of(kind);
        let [reason, message] = if holds { if_so } else { if_not };
        all.push(condition(kind, holds, reason, message));
    }
    all.push(match ready {
        Ok(()) => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Err(why) => condition("Ready", false, "KubeletNotReady", &why),
    });
    all.into()
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
    use crate::eviction::Reading;

    #[test]
    fn a_resource_that_others_added_is_behind_until_it_is_allocatable() {
        let of = |capacity: Value, allocatable: Value| {
            is_behind(&json!({"capacity": capacity, "allocatable": allocatable}))
        };
        assert!(!of(json!({"cpu": "2"}), json!({"cpu": "1"})));
        assert!(of(json!({"example.com/dongle": "5"}), json!({})));
        assert!(!of(json!({"example.com/dongle": "5"}), json!({"example.com/dongle": "5"})));
        assert!(of(json!({}), json!({"example.com/dongle": "5"})));
    }

    #[test]
    fn pressure_and_readiness_are_told_apart() {
        let statuses = |short: &'static str, ready| -> String {
            let all = conditions(|kind| kind == short, ready, Timestamp::UNIX_EPOCH);
            all.as_array().unwrap().iter().map(|c| &c["status"].as_str().unwrap()[..1]).collect()
        };
        assert_eq!(statuses("", Ok(())), "FFFT");
        assert_eq!(statuses("MemoryPressure", Ok(())), "TFFT");
        assert_eq!(statuses("DiskPressure", Err("no".into())), "FTFF");
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let at = |second: i64, ready: Result<(), String>| json!({"conditions": conditions(|_| false, ready, Timestamp::from_second(second).unwrap())});
        assert!(same(&at(1, Ok(())), &at(2, Ok(()))));
        assert!(!same(&at(1, Ok(())), &at(2, Err("down".into()))));
    }

    #[test]
    fn pods_are_promised_what_is_left_of_reserves_and_thresholds() {
        let reserved = crate::settings::reserved("cpu=500m,memory=1Gi").unwrap();
        let settings = Settings { reserved, ..Settings::default() };
        let disk = Reading { capacity: 1000 << 10, available: 500 << 10 };
        let readings = Readings::from([
            (Signal::MemoryAvailable, Reading { capacity: 4 << 30, available: 1 << 30 }),
            (Signal::NodefsAvailable, disk),
        ]);
        let capacity =
            json!({"cpu": "2", "memory": "4194304Ki", "ephemeral-storage": "1000Ki", "pods": "110"});
        let expected =
            json!({"cpu": "1500m", "memory": "3043328Ki", "ephemeral-storage": "900Ki", "pods": "110"});
        assert_eq!(allocatable(&capacity, &settings, &readings), expected);
    }
}
