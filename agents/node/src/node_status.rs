//! The node as it introduces itself: what it has, what it runs, how it is.
use crate::runtime::docker::Docker;
use anyhow::Result;
use pilothouse_api::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::UdpSocket;

/// Kubernetes' default for pods on a node.
const MAX_PODS: u32 = 110;
const KUBELET_VERSION: &str = concat!("v1.36.0+pilothouse-", env!("CARGO_PKG_VERSION"));

/// The Node object for registration.
pub async fn collect(docker: &Docker, name: &str) -> Result<Value> {
    let info = docker.client.info().await?;
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let memory_bytes = info.mem_total.unwrap_or(0);
    let disk_bytes = nix::sys::statvfs::statvfs("/").map(|s| s.blocks() * s.fragment_size()).unwrap_or(0);
    let capacity = json!({
        "cpu": info.ncpu.unwrap_or(1).to_string(), "memory": format!("{}Ki", memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", disk_bytes / 1024), "pods": MAX_PODS.to_string(),
    });
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let address = host_address();
    Ok(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch,
        }},
        "status": {
            "capacity": capacity, "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "conditions": conditions(Timestamp::now()),
            "nodeInfo": {
                "machineID": read("/etc/machine-id"), "systemUUID": read("/sys/class/dmi/id/product_uuid"),
                "bootID": read("/proc/sys/kernel/random/boot_id"), "kernelVersion": info.kernel_version.unwrap_or_default(),
                "osImage": info.operating_system.unwrap_or_default(), "operatingSystem": "linux", "architecture": arch,
                "containerRuntimeVersion": format!("docker://{}", info.server_version.unwrap_or_default()),
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
            },
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        },
    }))
}

fn conditions(now: Timestamp) -> Value {
    let stamp = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": stamp, "lastTransitionTime": stamp})
    };
    json!([
        condition(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ])
}

/// The address that leads out of this machine. Nothing is sent: connecting a datagram socket only asks for the route.
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
