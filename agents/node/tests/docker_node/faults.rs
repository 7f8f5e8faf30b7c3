//! The agent dies in the middle of each of its actions, and the next one finishes them: nothing is started twice, nothing is
//! left behind.
use crate::support::{self, FakeServer, IMAGE, docker};
use crate::{container_id, runs};
use pilothouse_node::fault::Point;
use serde_json::{Value, json};

/// Not a test of its own: the process that the others kill.
#[test]
fn the_agent_of_the_other_tests() {
    support::be_the_agent();
}

#[test]
fn an_agent_killed_at_any_point_of_a_pods_life_is_followed_by_one_that_finishes_it() {
    support::run(every_point());
}

fn containers_of(pod: &Value) -> Vec<String> {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let filter = format!("label=io.kubernetes.pod.uid={uid}");
    docker(&["ps", "-aq", "--filter", &filter]).lines().map(str::to_owned).collect()
}

async fn every_point() {
    let mut server = FakeServer::start("faults").await;
    let starts = std::env::temp_dir().join(format!("{}-starts", server.node()));
    std::fs::create_dir_all(&starts).unwrap();
    for point in Point::ALL {
        let name = point.name().to_lowercase();
        let mark = starts.join(&name);
        let script = format!(
            "echo started >>/starts/{name}; trap 'exit 0' TERM; while :; do /bin/busybox sleep 1; done"
        );
        let pod = server.pod(&name, json!({
            "containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sh", "-c", script],
                "resources": {"requests": {"cpu": "10m"}}, "volumeMounts": [{"name": "starts", "mountPath": "/starts"}]}],
            "volumes": [{"name": "starts", "hostPath": {"path": starts}}], "terminationGracePeriodSeconds": 5}));
        let mut resized = pod.clone();
        resized["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "20m".into();
        let shares =
            |status: &Value| docker(&["inspect", "-f", "{{.HostConfig.CpuShares}}", &container_id(status)]);

        // Through its whole life, until it meets its death; then another goes on from wherever that was.
        let mut agent = server.agent_process(Some(point));
        server.assign(&pod).await;
        let mut died = server.until_dead_or(&mut agent, &pod, runs).await;
        if !died {
            server.assign(&resized).await;
            died = server
                .until_dead_or(&mut agent, &pod, |s| {
                    s["containerStatuses"][0]["allocatedResources"]["cpu"] == "20m"
                })
                .await;
        }
        let ends = matches!(
            point,
            Point::ContainerSignalled
                | Point::SandboxRemoved
                | Point::ContainerRemoved
                | Point::EndTold
                | Point::FilesRemoved
        );
        assert_eq!(died, !ends, "{point:?}");
        if ends {
            server.delete(&pod, 5).await;
            server.until_dead(&mut agent).await;
        }
        let mut agent = server.agent_process(None);
        if !ends {
            server.assign(&resized).await;
            let status = server.status(&pod, |s| runs(s) && s["containerStatuses"][0]["ready"] == true).await;
            assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "{point:?}");
            support::eventually(async || shares(&status) == "20", "it has what it was promised").await;
            assert_eq!(containers_of(&pod).len(), 2, "{point:?}: a sandbox and a container");
            server.delete(&pod, 5).await;
        }
        server.terminated(&pod).await;
        support::eventually(async || containers_of(&pod).is_empty(), "no container is left").await;
        support::eventually(async || !server.pod_dir(&pod).exists(), "no file is left").await;
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "started\n", "{point:?}: started once");
        server.end(&mut agent);
    }
    std::fs::remove_dir_all(starts).unwrap();
}
