//! A pod on real Docker, assigned by a server of a few lines: what it does, tells and leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use pilothouse_protocol::{LogOptions, StreamRequest, channel};
use serde_json::json;
use support::{FakeServer, IMAGE, docker};

#[test]
fn a_pod_runs_serves_survives_its_agent_and_leaves_nothing() {
    support::run(life());
}

async fn life() {
    let mut server = FakeServer::start("life").await;
    server.start_agent();
    server.registered().await;
    let pod = server.pod("web", json!({"containers": [{
        "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/busybox", "sh", "-c", "echo hello $NAME; mkdir -p /www; echo page >/www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www"],
        "env": [{"name": "NAME", "value": "world"}],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1},
    }]}));
    server.assign(&pod).await;
    let status = server.status(&pod, |s| s["containerStatuses"][0]["ready"] == true).await;
    assert_eq!(status["phase"], "Running");
    let address = status["podIP"].as_str().unwrap().to_owned();
    assert!(support::get(&format!("{address}:8080")).await.contains("page"));

    // A service leads to the pod, from the node and from the pod itself; and has a name.
    // (Debian's static busybox cannot resolve the names it connects to, so both are asked for apart.)
    server.service("web", "10.96.77.7", 80, 31777, &address, 8080).await;
    support::eventually(async || support::get("10.96.77.7:80").await.contains("page"), "the service answers")
        .await;
    support::eventually(
        async || support::get("127.0.0.1:31777").await.contains("page"),
        "the node port answers",
    )
    .await;
    let ask = r#"printf 'GET /index.html HTTP/1.0\r\n\r\n' | /bin/busybox nc -w 5 10.96.77.7 80; /bin/busybox nslookup -type=a web.default.svc.cluster.local"#;
    let exec = |command: &[&str]| StreamRequest::Exec {
        pod: support::reference(&pod),
        container: "main".into(),
        command: command.iter().map(|&c| c.into()).collect(),
        stdin: false,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let frames = server.stream(exec(&["/bin/busybox", "sh", "-c", ask])).await;
    let told = support::channel(&frames, channel::STDOUT);
    assert!(told.contains("page\n") && told.contains("Address: 10.96.77.7"), "{told}");
    assert!(support::channel(&frames, channel::ERROR).contains("Success"));
    let frames = server.stream(exec(&["/bin/busybox", "sh", "-c", "echo no >&2; exit 3"])).await;
    assert_eq!(support::channel(&frames, channel::STDERR), "no\n");
    assert!(
        support::channel(&frames, channel::ERROR).contains(r#"{"message":"3","reason":"ExitCode"}"#),
        "{frames:?}"
    );
    let logs = |previous| StreamRequest::Logs {
        pod: support::reference(&pod),
        container: "main".into(),
        options: LogOptions { previous, ..LogOptions::default() },
    };
    assert_eq!(support::text(&server.stream(logs(false)).await), "hello world\n");

    // Killed behind our back, it is started again; the agent's own end and return changes nothing.
    let first = status["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap()
        .trim_start_matches("docker://")
        .to_owned();
    docker(&["kill", &first]);
    let status = server
        .status(&pod, |s| {
            s["containerStatuses"][0]["restartCount"] == 1 && s["containerStatuses"][0]["ready"] == true
        })
        .await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(support::text(&server.stream(logs(true)).await), "hello world\n");
    let second = status["containerStatuses"][0]["containerID"].clone();
    server.stop_agent().await;
    server.start_agent();
    server.registered().await;
    let status = server.status(&pod, |s| s["containerStatuses"][0]["ready"] == true).await;
    assert_eq!(
        (&status["containerStatuses"][0]["containerID"], &status["podIP"]),
        (&second, &address.into())
    );

    server.delete(&pod, 1).await;
    server.terminated(&pod).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("label=io.kubernetes.pod.uid={uid}")]), "");
    server.stop_agent().await;
}

#[test]
fn a_pod_that_fails_says_why() {
    support::run(failures());
}

async fn failures() {
    let mut server = FakeServer::start("fail").await;
    server.start_agent();
    server.registered().await;
    let never = server.pod("never", json!({"containers": [{"name": "main", "image": "nowhere.example/none:1", "imagePullPolicy": "Never"}]}));
    let config = server.pod(
        "config",
        json!({"containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "true"],
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "a"}}}]}]}),
    );
    let job = server.pod("job", json!({"restartPolicy": "Never", "initContainers": [{"name": "first", "image": IMAGE,
        "command": ["/bin/busybox", "touch", "/data/made"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sh", "-c", "test -e /data/made && exit 4"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}], "volumes": [{"name": "data", "emptyDir": {}}]}));
    for pod in [&never, &config, &job] {
        server.assign(pod).await;
    }
    let reason = "ErrImageNeverPull";
    server.status(&never, |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == reason).await;
    let reason = "CreateContainerConfigError";
    server.status(&config, |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == reason).await;
    let status = server.status(&job, |s| s["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    for pod in [&never, &config, &job] {
        server.delete(pod, 0).await;
        server.terminated(pod).await;
    }
    server.stop_agent().await;
}
