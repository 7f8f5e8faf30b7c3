//! The first run, as a new user would try it: one command, then `kubectl`.
use anyhow::{Result, ensure};
use pilothouse_e2e::{Cluster, IMAGE, Namespace, Running, cluster, eventually};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn build_image() -> Result<()> {
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    Ok(())
}

fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - name: web\n        \
         image: {IMAGE}\n        command: [httpd, -f, -p, '8080', -h, /www]\n        ports: [{{containerPort: 8080}}]\n"
    )
}

/// One cluster for the whole story: starting one costs more than all of it.
#[test]
fn a_new_user_deploys_scales_breaks_and_mends_an_application() -> Result<()> {
    build_image()?;
    let mut cluster = Cluster::start("first-run", &[])?;
    the_node_is_ready(&cluster)?;
    bad_input_is_refused_and_changes_nothing(&cluster)?;
    an_application_rolls_out_and_back(&cluster)?;
    parts_find_each_other(&cluster)?;
    typed_commands_make_what_they_say(&cluster)?;
    streams_carry_both_ways(&cluster)?;
    connections_reach_pods_from_everywhere(&cluster)?;
    containers_and_pods_come_back(&cluster)?;
    secrets_are_not_in_the_database_as_plain_text(&cluster)?;
    the_agent_comes_back_to_its_containers(&cluster)?;
    everything_survives_a_kill(&mut cluster)?;
    a_rollout_goes_on_after_a_kill(&mut cluster)?;
    Ok(())
}

fn the_node_is_ready(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.kubectl().ok(&["get", "nodes", "--no-headers"])?;
    ensure!(nodes.contains(" Ready "), "{nodes}");
    Ok(())
}

fn bad_input_is_refused_and_changes_nothing(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "bad-input")?;
    let good = deployment("web", 1);
    let rows = [
        (good.replace("replicas: 1", "replicaz: 1"), "unknown field \"spec.replicaz\""),
        (good.replace("replicas: 1", "replicas: many"), "cannot unmarshal string"),
        (good.replace(&format!("image: {IMAGE}"), "imagePullPolicy: Never"), "image: Required value"),
        (
            good.replace("matchLabels: {app: web}", "matchLabels: {app: other}"),
            "`selector` does not match template `labels`",
        ),
        (
            good.replace("metadata: {name: web}", &format!("metadata: {{name: {}}}", "x".repeat(300))),
            "must be no more than 253",
        ),
    ];
    for (manifest, expected) in rows {
        let said = ns.refused(&["apply", "-f", "-"], &manifest)?;
        ensure!(said.contains(expected), "expected {expected:?} in {said}");
    }
    let left = ns.run(&["get", "deployments"])?;
    ensure!(left.stderr.contains("No resources found"), "{left:?}");
    let forged = Command::new("kubectl")
        .args(["--server", &cluster.api()?, "--insecure-skip-tls-verify", "--token", "forged", "get", "pods"])
        .output()?;
    ensure!(!forged.status.success(), "a forged token was taken");
    Ok(())
}

fn an_application_rolls_out_and_back(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "rollout")?;
    let manifest = deployment("web", 2);
    ns.ok_with_input(&["apply", "-f", "-"], &manifest)?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let again = ns.ok_with_input(&["apply", "-f", "-"], &manifest)?;
    ensure!(again.contains("unchanged"), "{again}");
    ns.ok(&["scale", "deployment/web", "--replicas=3"])?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ns.ok(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let colour = ["exec", "deployment/web", "--", "sh", "-c", "echo $COLOUR"];
    ensure!(ns.ok(&colour)?.trim() == "blue");
    ns.ok(&["rollout", "undo", "deployment/web"])?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(ns.ok(&colour)?.trim().is_empty());
    let failed = ns.run(&["exec", "deployment/web", "--", "sh", "-c", "exit 3"])?;
    ensure!(failed.stderr.contains("exit code 3"), "{failed:?}");
    let described = ns.ok(&["describe", "deployment/web"])?;
    ensure!(described.contains("ScalingReplicaSet"), "{described}");
    Ok(())
}

fn parts_find_each_other(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let example = cluster::checkout().join("examples/guestbook");
    kubectl.ok(&["apply", "-f", &example.to_string_lossy()])?;
    let ns = kubectl.in_namespace("guestbook");
    for part in ["store", "web"] {
        ns.ok(&["rollout", "status", &format!("deployment/{part}"), "--timeout=60s"])?;
    }
    // Through the NodePort to a web pod, from there by name and ClusterIP to the store.
    eventually("a signed guestbook", SOON, || {
        let page = fetch("127.0.0.1:30080", "/cgi-bin/index.cgi?ada")?;
        Ok((page.contains("Welcome aboard") && page.contains("ada was here")).then_some(()))
    })?;
    kubectl.ok(&["delete", "namespace", "guestbook", "--timeout=90s"])?;
    Ok(())
}

/// One HTTP request without a client's help: what is tested is the way to the pod.
fn fetch(address: &str, path: &str) -> Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// kubectl's typed commands send protobuf.
fn typed_commands_make_what_they_say(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.ok(&["create", "namespace", "typed"])?;
    let ns = kubectl.in_namespace("typed");
    ns.ok(&["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    ensure!(ns.ok(&["get", "configmap", "settings", "-o", "jsonpath={.data.colour}"])? == "blue");
    ns.ok(&["create", "secret", "generic", "key", "--from-literal=door=open sesame"])?;
    ensure!(
        ns.ok(&["get", "secret", "key", "-o", "go-template={{.data.door | base64decode}}"])? == "open sesame"
    );
    ns.ok(&["create", "role", "reader", "--verb=get,list", "--resource=pods"])?;
    ns.ok(&["create", "serviceaccount", "robot"])?;
    ns.ok(&["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=typed:robot"])?;
    let may = |verb: &str| {
        let robot = "system:serviceaccount:typed:robot";
        ns.run(&["auth", "can-i", verb, "pods", "--as", robot]).map(|said| said.stdout.trim() == "yes")
    };
    ensure!(may("list")? && !may("delete")?, "the role does not say what a user may");
    ns.ok(&["create", "deployment", "none", "--image", IMAGE, "--replicas=0"])?;
    let replicas = ["get", "deployment", "none", "-o", "jsonpath={.spec.replicas}"];
    ensure!(ns.ok(&replicas)? == "0", "an explicit zero was lost");
    kubectl.ok(&["delete", "namespace", "typed", "--timeout=60s"])?;
    Ok(())
}

fn streams_carry_both_ways(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "streams")?;
    let mut watch = ns.start(&["get", "pods", "-o", "wide", "--watch"])?;
    let seen = lines_of(&mut watch)?;
    let script = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done";
    ns.ok(&["run", "talker", "--image", IMAGE, "--restart=Never", "--", "sh", "-c", script])?;
    ns.ok(&["wait", "pod/talker", "--for=condition=Ready", "--timeout=60s"])?;
    wait_for_line(&seen, "1/1     Running")?;

    let mut follow = ns.start(&["logs", "--follow", "talker"])?;
    let lines = lines_of(&mut follow)?;
    wait_for_line(&lines, "line 1")?;
    wait_for_line(&lines, "line 8")?; // written after the reading began
    let mut attach = ns.start(&["attach", "talker"])?;
    wait_for_line(&lines_of(&mut attach)?, "line ")?;
    ensure!(ns.ok(&["logs", "talker", "--tail=2"])?.lines().count() == 2);

    // Over WebSockets, as kubectl does today, and over SPDY, as it did before 1.31 and other clients still do.
    for websockets in ["true", "false"] {
        let exec = |arguments: &[&str], input: &str| -> Result<String> {
            let mut all = vec!["exec"];
            all.extend(arguments);
            let mut command = ns.command(&all);
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            let output = feed(command, input)?;
            Ok(format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ))
        };
        ensure!(exec(&["-i", "talker", "--", "cat"], "over and out")? == "over and out");
        let said = exec(&["talker", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "")?;
        ensure!(said.contains("out\n") && said.contains("err\n") && said.contains("exit code 7"), "{said}");
        let big = exec(&["talker", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"], "")?;
        ensure!(big.len() == 3_000_000, "{} bytes of 3000000 came", big.len());
    }
    // A terminal of the test's own, with a size.
    let kubectl = ns.command(&["exec", "-it", "talker", "--", "sh", "-c", "tty; exit 4"]);
    let words: Vec<String> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    let output = feed(script, "")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("/dev/pts/") && output.status.code() == Some(4), "{said} {:?}", output.status);
    Ok(())
}

fn connections_reach_pods_from_everywhere(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "connections")?;
    ns.ok_with_input(&["apply", "-f", "-"], &deployment("web", 2))?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ns.ok(&["expose", "deployment/web", "--port=80", "--target-port=8080"])?;
    for websockets in ["true", "false"] {
        let mut command = ns.command(&["port-forward", "service/web", ":80", "--address=127.0.0.1"]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        let mut forward = ns.start_command(command)?;
        let line = wait_for_line(&lines_of(&mut forward)?, "Forwarding from ")?;
        let address =
            line.trim_start_matches("Forwarding from ").split(" -> ").next().unwrap_or_default().to_owned();
        for _ in 0..3 {
            let page = fetch(&address, "/")?;
            ensure!(page.starts_with("HTTP/1."), "{page}");
        }
    }
    // An answer of the pod's own web server, through the API.
    let missing =
        ns.refused(&["get", "--raw", "/api/v1/namespaces/connections/services/web:80/proxy/missing"], "")?;
    ensure!(missing.contains("404") || missing.contains("could not find"), "{missing}");
    // The other way round: the API, where pods look for it.
    let knock = ["exec", "deployment/web", "--", "nc", "-w", "5", "10.96.0.1", "443"];
    ns.ok(&knock)?;
    Ok(())
}

/// The lines of a command that goes on, as they come.
fn lines_of(running: &mut Running) -> Result<Receiver<String>> {
    let stdout = running.take_stdout().ok_or_else(|| anyhow::anyhow!("its output was taken before"))?;
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            let _ = sender.send(line); // read on when nobody listens: a full or closed pipe would stop the command
        }
    });
    Ok(lines)
}

fn wait_for_line(lines: &Receiver<String>, wanted: &str) -> Result<String> {
    let mut before = String::new();
    loop {
        match lines.recv_timeout(SOON) {
            Ok(line) if line.contains(wanted) => return Ok(line),
            Ok(line) => before.push_str(&format!("{line}\n")),
            Err(_) => anyhow::bail!("no line with {wanted:?} came, but:\n{before}"),
        }
    }
}

/// Runs a command to its end with `input`.
fn feed(mut command: Command, input: &str) -> Result<std::process::Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()); // it may end before it reads
    }
    Ok(child.wait_with_output()?)
}

fn the_agent_comes_back_to_its_containers(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "agent")?;
    ns.ok_with_input(&["apply", "-f", "-"], &deployment("web", 2))?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let mut before = cluster.containers("agent")?;
    before.sort();
    let first = cluster.agent_pid()?;
    ensure!(Command::new("kill").args(["-9", &first.to_string()]).status()?.success());
    eventually("another agent", SOON, || Ok(cluster.agent_pid().ok().filter(|pid| *pid != first)))?;
    // It works again when it carries out something new.
    ns.ok(&["scale", "deployment/web", "--replicas=3"])?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let after = cluster.containers("agent")?;
    ensure!(before.iter().all(|c| after.contains(c)), "{before:?} became {after:?}");
    ensure!(
        ns.ok(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"])?
            == "0 0 0"
    );
    Ok(())
}

/// Killed between the first and the last pod of a rollout, right after writes that were acknowledged.
fn a_rollout_goes_on_after_a_kill(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.ok(&["create", "namespace", "midway"])?;
    let ns = kubectl.in_namespace("midway");
    ns.ok_with_input(&["apply", "-f", "-"], &deployment("web", 4))?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ns.ok(&["set", "env", "deployment/web", "COLOUR=green"])?;
    for i in 0..10 {
        ns.ok(&["create", "configmap", &format!("written-{i}")])?;
    }
    cluster.kill()?;
    cluster.resume()?;
    let ns = cluster.kubectl().in_namespace("midway");
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let written = ns.ok(&["get", "configmaps", "-o", "name"])?;
    ensure!(
        (0..10).all(|i| written.lines().any(|line| line == format!("configmap/written-{i}"))),
        "{written}"
    );
    eventually("four pods of the new revision and no other", SOON, || {
        let path = "jsonpath={.items[*].spec.containers[0].env[0].value}";
        Ok((ns.ok(&["get", "pods", "-o", path])? == "green green green green").then_some(()))
    })?;
    cluster.kubectl().ok(&["delete", "namespace", "midway", "--timeout=90s"])?;
    Ok(())
}

fn containers_and_pods_come_back(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "healing")?;
    ns.ok_with_input(&["apply", "-f", "-"], &deployment("web", 1))?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let containers = cluster.containers("healing")?;
    let web = containers.iter().find(|(_, name)| name.starts_with("k8s_web_"));
    let (id, _) = web.ok_or_else(|| anyhow::anyhow!("no container of the pod: {containers:?}"))?;
    ensure!(Command::new("docker").args(["kill", id]).output()?.status.success());
    eventually("a restart that is counted", SOON, || {
        let restarts =
            ns.ok(&["get", "pods", "-o", "jsonpath={.items[0].status.containerStatuses[0].restartCount}"])?;
        Ok((restarts == "1").then_some(()))
    })?;
    let first = ns.ok(&["get", "pods", "-o", "name"])?;
    ns.ok(&["delete", first.trim(), "--wait=false"])?;
    eventually("a pod in its place", SOON, || {
        let now = ns.ok(&["get", "pods", "--field-selector=status.phase=Running", "-o", "name"])?;
        Ok((!now.trim().is_empty() && !now.contains(first.trim())).then_some(()))
    })
}

fn secrets_are_not_in_the_database_as_plain_text(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "sealed")?;
    let encoded = "dW5kZXItdGhlLXRoaXJkLXBhbG0=";
    let manifest =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: treasure}}\ndata: {{place: {encoded}}}\n");
    // Server-side: the client-side way keeps a plain copy in an annotation, which lies in the sealed body too.
    ns.ok_with_input(&["apply", "--server-side", "-f", "-"], &manifest)?;
    ensure!(
        ns.ok(&["get", "secret", "treasure", "-o", "yaml"])?.contains(encoded),
        "the secret cannot be read back"
    );
    // Everything PostgreSQL has written, the write-ahead log included.
    let found =
        Command::new("grep").args(["-r", "-l", encoded]).arg(cluster.dir().join("data/postgres")).output()?;
    ensure!(found.stdout.is_empty(), "plain text in {}", String::from_utf8_lossy(&found.stdout));
    Ok(())
}

fn everything_survives_a_kill(cluster: &mut Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "survival")?;
    ns.ok_with_input(&["apply", "-f", "-"], &deployment("web", 2))?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let mut before = cluster.containers("survival")?;
    before.sort();
    cluster.kill()?;
    cluster.resume()?;
    let ns = cluster.kubectl().in_namespace("survival");
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let mut after = cluster.containers("survival")?;
    after.sort();
    ensure!(before == after, "containers were touched: {before:?} became {after:?}");
    ns.ok(&["scale", "deployment/web", "--replicas=1"])?;
    eventually("one pod", SOON, || {
        let pods = ns.ok(&["get", "pods", "-o", "name"])?;
        Ok((pods.lines().count() == 1).then_some(()))
    })?;
    cluster.kubectl().ok(&["delete", "namespace", "survival", "--timeout=90s"])?;
    Ok(())
}

#[test]
fn what_is_missing_is_said_in_one_line() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("pilothouse-e2e-missing-{}", std::process::id()));
    let up = |arguments: &[&str]| -> Result<(bool, String)> {
        let output =
            Command::new(cluster::binary()).arg("up").arg("--data-dir").arg(&dir).args(arguments).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (success, said) = up(&["--docker-host", "unix:///nowhere/docker.sock"])?;
    ensure!(!success && said.lines().count() == 1 && said.contains("no container runtime"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let (success, said) = up(&["--no-agent", "--listen", &address])?;
    ensure!(!success && said.lines().count() == 1 && said.contains("is in use"), "{said}");

    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("version"), "99\n")?;
    let (success, said) = up(&["--no-agent"])?;
    ensure!(!success && said.lines().count() == 1 && said.contains("newer pilothouse"), "{said}");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
