//! Clients that teams have already, unmodified: Helm, Python's `kubernetes` and kube-rs.
#[path = "clients/kube_rs.rs"]
mod kube_rs;

use anyhow::{Result, ensure};
use pilothouse_e2e::{Cluster, cluster, eventually};
use std::process::Command;
use std::time::Duration;

/// Runs to the end; what was printed, or all of it as the error.
fn ok(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} failed: {said}{wrong}");
    Ok(said.into_owned())
}

#[test]
fn helm_python_and_rust_work_as_they_are() -> Result<()> {
    ok(&mut Command::new(cluster::checkout().join("examples/build-images.sh")))?;
    let cluster = Cluster::start("clients", &[])?;
    helm_installs_upgrades_rolls_back_and_uninstalls(&cluster)?;
    python_creates_watches_executes_and_deletes(&cluster)?;
    kube_rs::logs_and_executes(&cluster)
}

#[test]
fn rust_programs_watch_through_a_restart() -> Result<()> {
    let mut cluster = Cluster::start("kube-rs", &["--no-agent"])?;
    kube_rs::reads_writes_and_watches(&mut cluster)
}

fn helm_installs_upgrades_rolls_back_and_uninstalls(cluster: &Cluster) -> Result<()> {
    let chart = cluster::checkout().join("e2e/charts/greeter");
    let helm = |arguments: &[&str]| {
        let mut command = Command::new("helm");
        command.arg("--kubeconfig").arg(cluster.dir().join("data/kubeconfig"));
        command.args(["--namespace", "charts"]).args(arguments);
        // Helm keeps its caches below these.
        command.env("HOME", cluster.dir()).env("XDG_CACHE_HOME", cluster.dir().join("cache"));
        ok(&mut command)
    };
    let chart = chart.to_string_lossy();
    let ns = cluster.kubectl().in_namespace("charts");
    helm(&["install", "greeter", &chart, "--create-namespace", "--wait", "--timeout=90s"])?;
    let hook = ns.ok(&["logs", "job/greeter-prepare"])?;
    ensure!(hook.contains("prepared revision 1"), "{hook}");
    helm(&["test", "greeter", "--timeout=60s"])?;

    helm(&["upgrade", "greeter", &chart, "--set=replicas=2,greeting=ahoy", "--wait", "--timeout=90s"])?;
    let state = [
        "get",
        "deployment",
        "greeter",
        "-o",
        "jsonpath={.status.readyReplicas} {.spec.template.metadata.annotations.greeting}",
    ];
    ensure!(ns.ok(&state)? == "2 ahoy", "{}", ns.ok(&state)?);
    helm(&["rollback", "greeter", "1", "--wait", "--timeout=90s"])?;
    ensure!(ns.ok(&state)? == "1 hello", "{}", ns.ok(&state)?);
    let history = helm(&["history", "greeter"])?;
    ensure!(history.contains("Rollback to 1"), "{history}");
    helm(&["uninstall", "greeter", "--wait", "--timeout=90s"])?;
    // Pods go in the background, as with any garbage collection.
    eventually("an empty namespace", Duration::from_secs(60), || {
        let left = ns.ok(&["get", "deployments,services,pods", "-l", "app=greeter", "-o", "name"])?;
        Ok(left.trim().is_empty().then_some(()))
    })
}

fn python_creates_watches_executes_and_deletes(cluster: &Cluster) -> Result<()> {
    let script = cluster::checkout().join("e2e/tests/clients.py");
    let mut command = Command::new("python3");
    command.arg(script).env("KUBECONFIG", cluster.dir().join("data/kubeconfig"));
    // Where ./dev puts the client, unless the machine has it.
    command.env("PYTHONPATH", cluster::checkout().join(".tools/python"));
    let said = ok(&mut command)?;
    ensure!(said.trim_end().ends_with("done"), "{said}");
    Ok(())
}
