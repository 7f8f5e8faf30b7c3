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
    let hardware = server.sh(&pod, "cat /sys/class/net/eth0/address").await;
    let octets = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let expected: Vec<String> = [0x0a, 0x58].into_iter().chain(octets).map(|b| format!("{b:02x}")).collect();
    assert_eq!(hardware.trim(), expected.join(":"), "a later pod with the address is reached at once");

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

#[test]
fn volumes_hold_what_the_pod_names_and_follow_it() {
    support::run(volumes());
}

async fn volumes() {
    let mut server = FakeServer::start("volumes").await;
    server.give_short_tokens(10);
    server.start_agent();
    server.registered().await;
    let map = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "default"},
            "data": {"a": text, "b": "second"}})
    };
    server.put("configmaps", &map("one")).await;
    let pod = server.pod("volumes", json!({
        "securityContext": {"fsGroup": 4321, "runAsUser": 1234, "runAsGroup": 1234},
        "hostname": "own", "subdomain": "sub", "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["alias"]}],
        "containers": [{
            "name": "main", "image": IMAGE, "command": ["/bin/busybox", "sleep", "600"],
            "volumeMounts": [
                {"name": "map", "mountPath": "/map"}, {"name": "map", "mountPath": "/one", "subPath": "sub/b"},
                {"name": "kube", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
                {"name": "fast", "mountPath": "/fast"}, {"name": "disk", "mountPath": "/disk", "subPathExpr": "$(NAME)/x"},
            ],
            "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        }],
        "volumes": [
            {"name": "map", "configMap": {"name": "settings", "defaultMode": 0o440, "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "sub/b", "mode": 0o400}]}},
            {"name": "kube", "projected": {"defaultMode": 0o644, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "settings", "items": [{"key": "b", "path": "ca.crt"}]}},
                {"configMap": {"name": "none", "optional": true}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "disk", "emptyDir": {}},
        ],
    }));
    server.assign(&pod).await;
    server.status(&pod, |s| s["containerStatuses"][0]["ready"] == true).await;
    let sh = async |script: &str| server.sh(&pod, script).await;
    assert_eq!(
        sh("cat /map/a /one /var/run/secrets/kubernetes.io/serviceaccount/ca.crt").await,
        "onesecondsecond"
    );
    assert_eq!(sh("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace").await, "default");
    assert_eq!(sh("cat /var/run/secrets/kubernetes.io/serviceaccount/token").await, "token-1-volumes");
    // The files are the one user's, and the group reads them; a directory that pods write to is the group's for good.
    let stat = "/bin/busybox stat -L -c '%u:%g:%a'";
    assert_eq!(
        sh(&format!("{stat} /map/a /map/sub/b /disk")).await,
        "1234:4321:440\n1234:4321:440\n0:4321:2777\n"
    );
    assert_eq!(
        sh(&format!("{stat} /var/run/secrets/kubernetes.io/serviceaccount/token")).await,
        "1234:4321:640\n"
    );
    // The kernel makes file systems in memory sticky.
    assert_eq!(sh(&format!("{stat} /fast; id -G")).await, "0:4321:3777\n1234 4321\n");
    assert!(sh("touch /map/new 2>&1").await.contains("Read-only"));
    let full = sh("df -k /fast | tail -1; dd if=/dev/zero of=/fast/x bs=1k count=2000 2>&1 | tail -1").await;
    assert!(full.contains("tmpfs") && full.contains("1024+0 records out"), "{full}");
    assert_eq!(sh("hostname; cat /etc/hostname").await, "own\nown\n");
    assert_eq!(sh("cat /proc/net/if_inet6 2>/dev/null").await, "", "no IPv6 address that nobody gave");
    let hosts = sh("cat /etc/hosts").await;
    assert!(
        hosts.contains("own.sub.default.svc.cluster.local\town\n") && hosts.contains("192.0.2.9\talias\n"),
        "{hosts}"
    );

    server.put("configmaps", &map("two")).await;
    support::eventually(async || sh("cat /map/a").await == "two", "the file follows its object").await;
    support::eventually(
        async || sh("cat /var/run/secrets/kubernetes.io/serviceaccount/token").await != "token-1-volumes",
        "the token is renewed",
    )
    .await;
    assert_eq!(sh("cat /one").await, "second");

    // What is missing keeps the pod waiting, and is said.
    let waits = server.pod(
        "waits",
        json!({"containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sleep", "600"]}],
        "volumes": [{"name": "s", "secret": {"secretName": "late"}}]}),
    );
    server.assign(&waits).await;
    assert_eq!(
        server.event("FailedMount").await,
        "MountVolume.SetUp failed for volume \"s\" : secret \"late\" not found"
    );
    server.put("secrets", &json!({"metadata": {"name": "late", "namespace": "default"}, "data": {}})).await;
    server.status(&waits, |s| s["phase"] == "Running").await;
    for pod in [&pod, &waits] {
        server.delete(pod, 0).await;
        server.terminated(pod).await;
    }
    assert!(!server.pod_dir(&pod).exists(), "nothing of it is left on disk or mounted");
    server.stop_agent().await;
}

#[test]
fn containers_start_and_end_with_their_hooks_and_say_their_last_words() {
    support::run(hooks());
}

async fn hooks() {
    let mut server = FakeServer::start("hooks").await;
    server.start_agent();
    server.registered().await;
    let shared = std::env::temp_dir().join(format!("pilothouse-hooks-{}", std::process::id()));
    std::fs::create_dir_all(&shared).unwrap();
    let noted = || std::fs::read_to_string(shared.join("log")).unwrap_or_default();
    let note = |word: &str| json!({"exec": {"command": ["/bin/busybox", "sh", "-c", format!("echo {word} >>/shared/log")]}});
    let pod = server.pod("hooks", json!({
        "terminationGracePeriodSeconds": 20,
        "initContainers": [{"name": "beside", "image": IMAGE, "restartPolicy": "Always",
            "command": ["/bin/busybox", "sh", "-c", "trap 'echo beside >>/shared/log; exit 0' TERM; while true; do sleep 0.1; done"],
            "startupProbe": {"exec": {"command": ["/bin/busybox", "true"]}, "periodSeconds": 1},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "containers": [{"name": "main", "image": IMAGE,
            "command": ["/bin/busybox", "sh", "-c", "trap 'echo term >>/shared/log; echo bye >/dev/termination-log; exit 3' TERM; while true; do sleep 0.1; done"],
            "lifecycle": {"postStart": note("started"), "preStop": note("stopping")},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "volumes": [{"name": "shared", "hostPath": {"path": shared.to_string_lossy(), "type": "Directory"}}],
    }));
    server.assign(&pod).await;
    server.status(&pod, |s| s["containerStatuses"][0]["ready"] == true).await;
    support::eventually(async || noted() == "started\n", "the hook has run").await;
    server.delete(&pod, 20).await;
    server.terminated(&pod).await;
    assert_eq!(noted(), "started\nstopping\nterm\nbeside\n");
    let status = server.status(&pod, |s| s["phase"] == "Failed").await;
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(3), &json!("bye\n")));

    let rows = [
        // From the log, where the file is empty and the container failed.
        (
            json!({"command": ["/bin/busybox", "sh", "-c", "echo last line; exit 1"], "terminationMessagePolicy": "FallbackToLogsOnError"}),
            "Error",
            "last line\n",
        ),
        (
            json!({"command": ["/bin/busybox", "sh", "-c", "x=$(/bin/busybox head -c 200000000 /dev/zero | /bin/busybox tr '\\0' a); echo $x"],
            "resources": {"limits": {"memory": "16Mi"}}}),
            "OOMKilled",
            "",
        ),
    ];
    for (i, (mut container, reason, message)) in rows.into_iter().enumerate() {
        (container["name"], container["image"]) = ("main".into(), IMAGE.into());
        let pod =
            server.pod(&format!("row-{i}"), json!({"restartPolicy": "Never", "containers": [container]}));
        server.assign(&pod).await;
        let status = server.status(&pod, |s| s["phase"] == "Failed").await;
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["reason"], reason, "{status}");
        assert_eq!(ended["message"].as_str().unwrap_or_default(), message, "{status}");
        server.delete(&pod, 0).await;
        server.terminated(&pod).await;
    }
    // A hook that fails ends its container.
    let failing = server.pod("failing", json!({"containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sleep", "600"],
        "lifecycle": {"postStart": {"exec": {"command": ["/bin/busybox", "sh", "-c", "echo broken; exit 1"]}}}}]}));
    server.assign(&failing).await;
    assert_eq!(server.event("FailedPostStartHook").await, "PostStartHook failed: broken");
    server.status(&failing, |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    server.delete(&failing, 0).await;
    server.terminated(&failing).await;
    std::fs::remove_dir_all(shared).unwrap();
    server.stop_agent().await;
}

#[test]
fn containers_may_do_what_they_are_allowed() {
    support::run(security());
}

async fn security() {
    let mut server = FakeServer::start("security").await;
    server.start_agent();
    server.registered().await;
    let ready = |node: &serde_json::Value| {
        let conditions = node["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().map(|c| c["status"] == "True").collect::<Vec<_>>() == [false, false, false, true]
    };
    let node = server.node_status(ready).await;
    let named = |names: &serde_json::Value| names.as_array().is_some_and(|n| n.contains(&json!(IMAGE)));
    assert!(node["images"].as_array().unwrap().iter().any(|image| named(&image["names"])), "{node}");
    let sleep = json!({"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sleep", "600"]});
    let with = |name: &str, more: serde_json::Value| {
        let mut container = sleep.clone();
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container["name"] = name.into();
        container
    };
    let pod = server.pod("limits", json!({
        "shareProcessNamespace": true,
        "securityContext": {"supplementalGroups": [77], "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "90"}]},
        "containers": [
            with("main", json!({"securityContext": {"runAsUser": 5, "runAsGroup": 6, "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})),
            with("other", json!({"command": ["/bin/busybox", "sleep", "601"]})),
        ],
    }));
    server.assign(&pod).await;
    server.status(&pod, |s| s["phase"] == "Running" && s["containerStatuses"][1]["ready"] == true).await;
    let sh = async |script: &str| server.sh(&pod, script).await;
    assert_eq!(sh("id -u; id -g; id -G").await, "5\n6\n6 77\n");
    assert!(sh("touch /x 2>&1").await.contains("Read-only file system"));
    assert_eq!(
        sh("grep -E 'CapEff|NoNewPrivs' /proc/self/status").await,
        "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
    );
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await, "90\n");
    let processes = sh("cat /proc/[0-9]*/cmdline | /bin/busybox tr '\\0' ' '").await;
    assert!(processes.contains("/pause") && processes.contains("sleep 601"), "{processes}");

    let refused = server.pod(
        "refused",
        json!({"containers": [with("main", json!({"securityContext": {"runAsNonRoot": true}}))]}),
    );
    server.assign(&refused).await;
    let status = server
        .status(&refused, |s| {
            s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    let why = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(why.starts_with("container has runAsNonRoot and image will run as root"), "{why}");

    // A debugger joins, sees its target's processes, and does not come back.
    let mut debugged = pod.clone();
    debugged["spec"]["ephemeralContainers"] = json!([with(
        "debug",
        json!({"targetContainerName": "other",
        "command": ["/bin/busybox", "sh", "-c", "cat /proc/[0-9]*/cmdline"]})
    )]);
    server.assign(&debugged).await;
    let status = server
        .status(&pod, |s| s["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0)
        .await;
    assert_eq!(status["phase"], "Running");

    // A liveness probe that fails restarts its container.
    let sick = server.pod("sick", json!({"containers": [with("main", json!({
        "livenessProbe": {"exec": {"command": ["/bin/busybox", "false"]}, "periodSeconds": 1, "failureThreshold": 2,
            "terminationGracePeriodSeconds": 1}}))]}));
    server.assign(&sick).await;
    server.status(&sick, |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(server.event("Killing").await, "Container main failed liveness probe, will be restarted");
    for pod in [&pod, &refused, &sick] {
        server.delete(pod, 0).await;
        server.terminated(pod).await;
    }
    server.stop_agent().await;
}

#[test]
fn services_stick_stay_local_have_names_and_come_back() {
    support::run(network());
}

async fn network() {
    let mut server = FakeServer::start("network").await;
    server.start_agent();
    server.registered().await;
    let mut addresses = Vec::new();
    let mut pods = Vec::new();
    for name in ["web-0", "web-1", "web-2"] {
        let script = format!(
            "mkdir -p /www; echo {name} >/www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www"
        );
        let pod = server.pod(
            name,
            json!({"hostname": name, "subdomain": "web", "containers": [{
            "name": "main", "image": IMAGE, "command": ["/bin/busybox", "sh", "-c", script],
            "ports": [{"containerPort": 8080, "hostPort": 18000 + u16::from(name.as_bytes()[4])}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}),
        );
        server.assign(&pod).await;
        let status = server.status(&pod, |s| s["containerStatuses"][0]["ready"] == true).await;
        addresses.push(status["podIP"].as_str().unwrap().to_owned());
        pods.push(pod);
    }
    let endpoints = |node: &str, names: &[&str]| -> serde_json::Value {
        let all = names.iter().zip(&addresses);
        all.map(|(name, ip)| json!({"addresses": [ip], "hostname": name, "nodeName": node, "conditions": {"ready": true}})).collect()
    };
    let names = ["web-0", "web-1", "web-2"];
    let slice = |service: &str, endpoints: serde_json::Value| {
        json!({"metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    };
    let service = |name: &str, ip: &str, node_port: u16, more: serde_json::Value| {
        let mut spec =
            json!({"clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP", "nodePort": node_port}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    let own = server.node().to_owned();
    for (name, ip, port, node, more) in [
        ("web", "None", 0, own.as_str(), json!({})),
        ("sticky", "10.96.77.8", 0, own.as_str(), json!({"sessionAffinity": "ClientIP"})),
        ("here", "10.96.77.9", 31701, own.as_str(), json!({"externalTrafficPolicy": "Local"})),
        ("away", "10.96.77.10", 31702, "elsewhere", json!({"internalTrafficPolicy": "Local"})),
    ] {
        server.put("endpointslices.discovery.k8s.io", &slice(name, endpoints(node, &names))).await;
        server.put("services", &service(name, ip, port, more)).await;
    }
    let get = async |address: &str| support::get(address).await.lines().last().unwrap_or_default().to_owned();
    support::eventually(async || get("10.96.77.8:80").await.contains("web-"), "the sticky service answers")
        .await;
    let first = get("10.96.77.8:80").await;
    for _ in 0..8 {
        assert_eq!(get("10.96.77.8:80").await, first, "the same pod each time");
    }
    assert!(get("10.96.77.9:80").await.contains("web-") && get("127.0.0.1:31701").await.contains("web-"));
    assert_eq!(get("10.96.77.10:80").await, "", "its pods are not here");

    // `0` is 48.
    assert_eq!(get("127.0.0.1:18048").await, "web-0", "a port of the node leads to its pod");
    assert_eq!(get("127.0.0.1:18049").await, "web-1");

    // Another service comes; who came before is still remembered.
    server.put("services", &service("more", "10.96.77.11", 0, json!({}))).await;
    support::eventually(async || support::refused("10.96.77.11:80").await, "nobody is behind the new one")
        .await;
    assert_eq!(get("10.96.77.8:80").await, first);

    let look = "/bin/busybox nslookup web-1.web.default.svc.cluster.local; /bin/busybox nslookup $IP; /bin/busybox nslookup -type=a web.default.svc.cluster.local";
    let told = server.sh(&pods[0], &look.replace("$IP", &addresses[2])).await;
    assert!(told.contains(&format!("Address: {}", addresses[1])), "{told}");
    assert!(told.contains("name = web-2.web.default.svc.cluster.local"), "{told}");
    assert!(addresses.iter().all(|ip| told.contains(&format!("Address: {ip}"))), "{told}");

    let flushed = std::process::Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
    assert!(flushed.success() && get("10.96.77.8:80").await.is_empty());
    support::eventually(async || get("10.96.77.8:80").await.contains("web-"), "the rules come back").await;
    for pod in &pods {
        server.delete(pod, 0).await;
        server.terminated(pod).await;
    }
    server.stop_agent().await;
}

#[test]
fn images_are_pulled_with_the_pods_own_credentials() {
    support::ensure_image();
    // user:secret
    let registry = support::registry::serve(IMAGE, "Basic dXNlcjpzZWNyZXQ=");
    support::run(pulls(registry));
}

async fn pulls(registry: String) {
    let mut server = FakeServer::start("pulls").await;
    server.start_agent();
    server.registered().await;
    let image = format!("{registry}/app:1");
    let spec = |secrets: serde_json::Value| {
        json!({"imagePullSecrets": secrets, "containers": [{"name": "main", "image": image, "imagePullPolicy": "Always",
            "command": ["/bin/busybox", "sleep", "600"]}]})
    };
    let stranger = server.pod("stranger", spec(json!([])));
    server.assign(&stranger).await;
    let waits = |reason: &'static str| {
        move |s: &serde_json::Value| s["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    server.status(&stranger, waits("ErrImagePull")).await;
    let status = server.status(&stranger, waits("ImagePullBackOff")).await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("Back-off pulling image {image:?}: ErrImagePull: ")), "{message}");
    assert!(server.event("Failed").await.contains("Error response from daemon"));

    let config =
        json!({"auths": {(registry.as_str()): {"username": "user", "password": "secret"}}}).to_string();
    let secret = json!({"metadata": {"name": "pull", "namespace": "default"},
        "data": {".dockerconfigjson": support::base64(&config)}});
    server.put("secrets", &secret).await;
    let known = server.pod("known", spec(json!([{"name": "pull"}])));
    server.assign(&known).await;
    server.status(&known, |s| s["phase"] == "Running").await;
    assert!(server.event("Pulled").await.starts_with(&format!("Successfully pulled image {image:?} in ")));
    for pod in [&stranger, &known] {
        server.delete(pod, 0).await;
        server.terminated(pod).await;
    }
    docker(&["rmi", &image]);
    server.stop_agent().await;
}
