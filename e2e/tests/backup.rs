//! A cluster that is lost comes back from its backup.
use anyhow::{Result, ensure};
use pilothouse_e2e::{Cluster, cluster};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn pilothouse(verb: &str, data_dir: &Path, file: &Path) -> Result<Output> {
    Ok(Command::new(cluster::binary()).arg(verb).arg("--data-dir").arg(data_dir).arg(file).output()?)
}

fn succeeds(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_cluster_is_backed_up_while_it_runs_and_restored_elsewhere() -> Result<()> {
    let mut first = Cluster::start("backup", &["--no-agent"])?;
    let file = first.dir().join("cluster.backup");
    let kubectl = first.kubectl();
    kubectl.ok(&["create", "configmap", "kept", "--from-literal=answer=42"])?;
    kubectl.ok(&["create", "secret", "generic", "sealed", "--from-literal=word=hush"])?;
    let token = kubectl.ok(&["create", "token", "default"])?;
    succeeds(&pilothouse("backup", &first.dir().join("data"), &file)?)?;
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "it holds keys");
    kubectl.ok(&["create", "configmap", "later", "--from-literal=answer=43"])?;
    let later = kubectl.json(&["get", "configmap", "later"])?["metadata"]["resourceVersion"].to_string();

    let over =
        pilothouse("restore", &first.dir().join("other-name-same-cluster"), &first.dir().join("up.log"))?;
    ensure!(!over.status.success(), "any file passes for a backup");
    first.stop()?;
    let over = pilothouse("restore", &first.dir().join("data"), &file)?;
    let said = String::from_utf8_lossy(&over.stderr).into_owned();
    ensure!(!over.status.success() && said.contains("holds a cluster already"), "{said}");
    let again = first.dir().join("again.backup");
    succeeds(&pilothouse("backup", &first.dir().join("data"), &again)?)?;

    let second_data = Cluster::dir_of("restored").join("data");
    succeeds(&pilothouse("restore", &second_data, &file)?)?;
    let second = Cluster::start("restored", &["--no-agent"])?;
    let kubectl = second.kubectl();
    ensure!(kubectl.ok(&["get", "configmap", "kept", "-o", "jsonpath={.data.answer}"])? == "42");
    ensure!(kubectl.ok(&["get", "secret", "sealed", "-o", "jsonpath={.data.word}"])? == "aHVzaA==");
    let absent = kubectl.refused(&["get", "configmap", "later"], "")?;
    ensure!(absent.contains("not found"), "{absent}");
    // Credentials of before still hold: the keys are the same.
    let review = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.trim()}});
    let review = kubectl.ok_with_input(
        &["create", "--validate=false", "-o", "jsonpath={.status.authenticated}", "-f", "-"],
        &review.to_string(),
    )?;
    ensure!(review == "true", "{review}");
    ensure!(first.admin_password()? == second.admin_password()?);
    // A revision that the lost cluster gave out later is never met again.
    let new = kubectl.ok(&["create", "configmap", "new", "-o", "jsonpath={.metadata.resourceVersion}"])?;
    ensure!(new.trim().parse::<u64>()? > later.trim_matches('"').parse::<u64>()?, "{new} after {later}");
    Ok(())
}
