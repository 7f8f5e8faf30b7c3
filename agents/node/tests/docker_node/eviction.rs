//! A node that is short of disk, and pods that store more than they may.
use crate::support::{self, FakeServer, IMAGE, docker};
use crate::{container_id, runs};
use pilothouse_node::settings::{EvictionRules, Settings};
use serde_json::json;

#[test]
fn a_node_short_of_disk_says_so_frees_what_it_can_and_evicts_who_stores_most() {
    support::run(short_of_disk());
}

async fn short_of_disk() {
    let mut server = FakeServer::start("evict").await;
    server.start_agent();
    server.registered().await;
    let image = format!("{IMAGE}-evict");
    docker(&["tag", IMAGE, &image]);
    let spec = |priority: i64, script: &str| {
        json!({"priority": priority, "terminationGracePeriodSeconds": 600, "containers": [{
            "name": "main", "image": image, "command": ["/bin/busybox", "sh", "-c", format!("{script}; exec /bin/busybox sleep 3600")]}]})
    };
    let write = "/bin/busybox dd if=/dev/zero of=/data bs=1M count=8";
    let large = server.pod("large", spec(0, write));
    let small = server.pod("small", spec(0, "true"));
    let dear = server.pod("dear", spec(1000, write));
    let system = server.pod("system", spec(2_000_001_000, write));
    for pod in [&large, &small, &dear, &system] {
        server.assign(pod).await;
        let status = server.status(pod, runs).await;
        let id = container_id(&status);
        if *pod != small {
            let size = || docker(&["exec", &id, "/bin/busybox", "wc", "-c", "/data"]);
            support::eventually(async || size().starts_with("8388608"), "the file is written").await;
        }
    }
    server.stop_agent().await;

    // As with `--eviction-hard`, for a disk that is never so empty.
    let eviction = EvictionRules::parse("nodefs.available<99.9%", "", "", "").unwrap();
    server.start_agent_with(Settings { eviction, ..Settings::default() });
    server.registered().await;
    let status = server.status(&large, |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "Evicted");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "),
        "{message}"
    );
    assert!(message.contains("Container main was using 8"), "{message}");
    let conditions = status["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    assert_eq!(server.event("EvictionThresholdMet").await, "Attempting to reclaim ephemeral-storage");
    let short = |node: &serde_json::Value| {
        node["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "DiskPressure" && c["status"] == "True"))
    };
    server.node_status(short).await;

    // What comes now is refused; the important pod goes last, and the system's own not at all.
    let late = server.pod("late", spec(0, "true"));
    server.assign(&late).await;
    let status = server.status(&late, |s| s["phase"] == "Failed").await;
    assert_eq!(status["message"], "The node had condition: [DiskPressure]. ");
    server.status(&small, |s| s["phase"] == "Failed").await;
    server.status(&dear, |s| s["reason"] == "Evicted").await;
    assert_eq!(server.status(&system, runs).await["phase"], "Running");
    // An image that nobody needs any more stays: this node did not pull it, and could not get it back.
    assert!(!docker(&["images", "-q", &image]).is_empty());
    for pod in [&large, &small, &dear, &late, &system] {
        server.delete(pod, 1).await;
        server.terminated(pod).await;
    }
    docker(&["rmi", &image]);
    server.stop_agent().await;
}

#[test]
fn a_container_that_stores_more_than_its_limit_ends_its_pod() {
    support::run(storage_limit());
}

async fn storage_limit() {
    let mut server = FakeServer::start("limit").await;
    server.start_agent();
    server.registered().await;
    let pod = server.pod("full", json!({"containers": [{"name": "main", "image": IMAGE,
        "resources": {"limits": {"ephemeral-storage": "1Mi"}},
        "command": ["/bin/busybox", "sh", "-c", "/bin/busybox dd if=/dev/zero of=/data bs=1M count=4; exec /bin/busybox sleep 3600"]}]}));
    server.assign(&pod).await;
    let status = server.status(&pod, |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "Evicted");
    assert_eq!(
        status["message"],
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
    );
    server.delete(&pod, 1).await;
    server.terminated(&pod).await;
    server.stop_agent().await;
}
