//! Pods whose resources change while they run.
use crate::support::{self, FakeServer, IMAGE, docker};
use crate::{container_id, runs};
use serde_json::{Value, json};

fn pending(status: &Value) -> Option<(&str, &str)> {
    let all = status["conditions"].as_array()?;
    let condition = all.iter().find(|c| c["type"] == "PodResizePending")?;
    Some((condition["reason"].as_str()?, condition["message"].as_str()?))
}

#[test]
fn a_running_pod_is_resized_and_starts_anew_only_where_it_asks_for_that() {
    support::run(resizes());
}

async fn resizes() {
    let mut server = FakeServer::start("resize").await;
    server.start_agent();
    server.registered().await;
    let sized = |pod: &Value, cpu: &str, memory: &str| {
        let mut pod = pod.clone();
        let resources =
            json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
        pod["spec"]["containers"][0]["resources"] = resources;
        pod
    };
    let pod = server.pod(
        "sized",
        json!({"containers": [{
            "name": "main", "image": IMAGE, "command": ["/bin/busybox", "sleep", "3600"],
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
        }]}),
    );
    let first = sized(&pod, "100m", "64Mi");
    server.assign(&first).await;
    let id = container_id(&server.status(&pod, runs).await);
    let inspected =
        |field: &str, id: &str| docker(&["inspect", "-f", &format!("{{{{.HostConfig.{field}}}}}"), id]);
    assert_eq!(inspected("CpuQuota", &id), "10000");

    let in_force = |status: &Value, resource: &str| {
        let container = &status["containerStatuses"][0];
        (
            container["resources"]["limits"][resource].clone(),
            container["allocatedResources"][resource].clone(),
        )
    };
    server.assign(&sized(&pod, "200m", "64Mi")).await;
    let both = |amount: &str| (json!(amount), json!(amount));
    let status = server.status(&pod, |s| in_force(s, "cpu") == both("200m")).await;
    assert_eq!(
        (container_id(&status), &status["containerStatuses"][0]["restartCount"]),
        (id.clone(), &json!(0))
    );
    assert_eq!((inspected("CpuQuota", &id), inspected("CpuShares", &id)), ("20000".into(), "204".into()));

    // More than the node has, now and ever: the pod goes on as it was, and says so; a restarted agent knows it still.
    server.assign(&sized(&pod, "1000", "64Mi")).await;
    let status = server.status(&pod, |s| pending(s).is_some()).await;
    let (reason, message) = pending(&status).unwrap();
    assert_eq!(reason, "Infeasible");
    assert!(
        message.starts_with("Node didn't have enough capacity: cpu, requested: 1000000, capacity: "),
        "{message}"
    );
    assert_eq!(in_force(&status, "cpu"), both("200m"));
    server.stop_agent().await;
    server.start_agent();
    server.registered().await;
    let status = server.status(&pod, |s| pending(s).is_some() && runs(s)).await;
    assert_eq!((in_force(&status, "cpu"), container_id(&status)), (both("200m"), id.clone()));

    // Memory asks for a restart here.
    server.assign(&sized(&pod, "200m", "96Mi")).await;
    let status = server.status(&pod, |s| s["containerStatuses"][0]["restartCount"] == 1 && runs(s)).await;
    assert_eq!((pending(&status), in_force(&status, "memory")), (None, both("96Mi")));
    assert_eq!(inspected("Memory", &container_id(&status)), (96 << 20).to_string());
    server.delete(&pod, 1).await;
    server.terminated(&pod).await;
    server.stop_agent().await;
}
