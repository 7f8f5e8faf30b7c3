//! Simulated nodes join with a token that may do nothing else, run pods, and fall silent with their process.
use anyhow::{Result, ensure};
use pilothouse_e2e::{Cluster, Kubectl, cluster, eventually};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NODES: usize = 20;
const TOKEN: &str = "abcdef.0123456789abcdef";
const GROUP: &str = "--group=system:bootstrappers:hollow";

struct Hollow(Child);

impl Drop for Hollow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As `pilothouse hollow --help` tells it.
fn allow_joining(kubectl: &Kubectl) -> Result<()> {
    let approved = "--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    kubectl.ok(&["create", "clusterrolebinding", "asks", "--clusterrole=system:node-bootstrapper", GROUP])?;
    kubectl.ok(&["create", "clusterrolebinding", "is-approved", approved, GROUP])?;
    kubectl.ok(&[
        "-n",
        "kube-system",
        "create",
        "secret",
        "generic",
        "bootstrap-token-abcdef",
        "--type=bootstrap.kubernetes.io/token",
        "--from-literal=token-id=abcdef",
        "--from-literal=token-secret=0123456789abcdef",
        "--from-literal=usage-bootstrap-authentication=true",
        "--from-literal=auth-extra-groups=system:bootstrappers:hollow",
    ])?;
    Ok(())
}

fn ready_nodes(kubectl: &Kubectl) -> Result<usize> {
    let nodes = kubectl.ok(&["get", "nodes", "-l", "pilothouse.io/hollow=true", "--no-headers"])?;
    Ok(nodes.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count())
}

#[test]
fn simulated_nodes_join_with_a_token_and_run_pods_until_their_process_ends() -> Result<()> {
    let cluster = Cluster::start("hollow", &["--no-agent"])?;
    let kubectl = cluster.kubectl();
    allow_joining(&kubectl)?;
    let token = cluster.dir().join("join-token");
    fs::write(&token, TOKEN)?;
    let hollow = Command::new(cluster::binary())
        .args(["hollow", "--nodes", &NODES.to_string(), "--server", &cluster.api()?, "--ca-file"])
        .arg(cluster.dir().join("data/ca.crt"))
        .arg("--join-token-file")
        .arg(&token)
        .stdout(Stdio::null())
        .spawn()?;
    let hollow = Hollow(hollow);
    let within = Duration::from_secs(60);
    eventually("the nodes are ready", within, || Ok((ready_nodes(&kubectl)? == NODES).then_some(())))?;

    let bearer = format!("--token={TOKEN}");
    let refused = kubectl.refused(&[&bearer, "get", "secrets", "--all-namespaces"], "")?;
    ensure!(refused.contains("forbidden"), "a join token reads secrets: {refused}");

    kubectl.ok(&["create", "deployment", "web", "--image=nothing", "--replicas=60"])?;
    kubectl.ok(&["create", "job", "work", "--image=nothing", "--", "true"])?;
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    kubectl.ok(&["wait", "--for=condition=complete", "job/work", "--timeout=60s"])?;
    let refused = kubectl.refused(&["logs", "deployment/web"], "")?;
    ensure!(refused.contains("no containers to talk to"), "{refused}");

    drop(hollow);
    let within = Duration::from_secs(120);
    eventually("the nodes are silent", within, || Ok((ready_nodes(&kubectl)? == 0).then_some(())))
}
