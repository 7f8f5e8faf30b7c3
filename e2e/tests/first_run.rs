//! The first run, as a new user would try it: one command, then `kubectl`.
use anyhow::{Result, ensure};
use pilothouse_e2e::{Cluster, IMAGE, Namespace, cluster, eventually};
use std::io::{Read, Write};
use std::process::Command;
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
    containers_and_pods_come_back(&cluster)?;
    secrets_are_not_in_the_database_as_plain_text(&cluster)?;
    everything_survives_a_kill(&mut cluster)?;
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
