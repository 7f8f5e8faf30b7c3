//! The machine shuts down: ordinary pods end first, critical ones after them, each within its share of the time.
//! After <https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/>.
//!
//! That a machine goes down, and not only this program, is known from logind alone. While the agent runs it holds one of its
//! delay locks: a child of ours, `systemd-inhibit`, has the lock as long as it lives, and runs `busctl`, which tells logind's
//! signal. Ending the child lets the machine go on.
use crate::agent::Agent;
use crate::eviction::is_critical;
use crate::pod_sync::{self, Verdict};
use crate::pod_worker::Worker;
use crate::settings::ShutdownGrace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const LOGIND: [&str; 3] =
    ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"];
const SIGNAL: &str = "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown',path='/org/freedesktop/login1'";
/// How long logind waits for those who hold a lock is an administrator's to say, and by default too short.
const LIMITS: &str = "/etc/systemd/logind.conf.d/99-pilothouse.conf";
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a lock that could not be taken, or was lost, is asked for again.
const PAUSE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Ends the pods when the machine shuts down. Runs for ever.
pub async fn follow(agent: Arc<Agent>) {
    let Some(grace) = agent.settings.shutdown_grace else { return std::future::pending().await };
    loop {
        match until_shutdown(grace).await {
            Ok(lock) => {
                end_pods(&agent, grace).await;
                drop(lock);
                return std::future::pending().await;
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, again_in = ?PAUSE, "a shutdown of this machine would not wait for pods");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Resolves when the machine begins to shut down, which waits until the lock is dropped.
async fn until_shutdown(grace: ShutdownGrace) -> Result<Child> {
    allow(grace).await.context("logind's delay cannot be set")?;
    let mut lock = Command::new("systemd-inhibit")
        .args(["--what=shutdown", "--mode=delay", "--who=pilothouse", "--why=pods are ended gracefully"])
        .args(["busctl", "--system", "--match", SIGNAL, "monitor"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("systemd-inhibit cannot be run")?;
    let said = lock.stdout.take().context("it says nothing")?;
    tracing::info!("a shutdown of this machine waits for pods");
    ensure!(announced(BufReader::new(said)).await?, "logind's lock was lost");
    Ok(lock)
}

/// Reads what `busctl monitor` prints until a shutdown is announced. False: it ended before.
async fn announced(said: impl AsyncBufRead + Unpin) -> Result<bool> {
    let mut lines = said.lines();
    let mut this_signal = false;
    while let Some(line) = lines.next_line().await? {
        if let Some((_, member)) = line.split_once("Member=") {
            this_signal = member.split_whitespace().next() == Some("PrepareForShutdown");
        } else if this_signal && line.trim() == "BOOLEAN true;" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sees to it that logind waits as long as the pods may take.
async fn allow(grace: ShutdownGrace) -> Result<()> {
    let wanted = u64::try_from(grace.total).unwrap_or(0) * 1_000_000;
    if delay_microseconds().await? >= wanted {
        return Ok(());
    }
    let dir = std::path::Path::new(LIMITS).parent().context("no directory")?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(LIMITS, format!("[Login]\nInhibitDelayMaxSec={}\n", grace.total))?;
    run("systemctl", &["kill", "--signal=HUP", "systemd-logind.service"]).await?;
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    while delay_microseconds().await? < wanted {
        ensure!(Instant::now() < deadline, "logind does not take {LIMITS}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn delay_microseconds() -> Result<u64> {
    let mut arguments = vec!["--system", "get-property"];
    arguments.extend(LOGIND);
    arguments.push("InhibitDelayMaxUSec");
    let said = run("busctl", &arguments).await?;
    let number = said.trim().strip_prefix("t ").and_then(|number| number.parse().ok());
    number.with_context(|| format!("busctl says {said:?}"))
}

async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
    let output = output.with_context(|| format!("{program} does not end"))?;
    let output = output.with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Why a pod that comes now is not begun.
pub fn refusal() -> Verdict {
    Verdict {
        reason: "NodeShutdown".into(),
        message: "Pod was rejected as the node is shutting down.".into(),
        grace_seconds: None,
    }
}

/// A pod's last word: its own grace, as far as its group's share of the time goes.
fn verdict(pod: &Value, share: i64) -> Verdict {
    Verdict {
        reason: pod_sync::TERMINATED.into(),
        message: "Pod was terminated in response to imminent node shutdown.".into(),
        grace_seconds: Some(pod_sync::grace_seconds(pod).min(share)),
    }
}

/// First ordinary pods, then critical ones: seconds of each group.
fn groups(grace: ShutdownGrace) -> [(bool, i64); 2] {
    [(false, grace.total - grace.critical), (true, grace.critical)]
}

pub async fn end_pods(agent: &Arc<Agent>, grace: ShutdownGrace) {
    tracing::warn!(seconds = grace.total, "the machine shuts down: pods are ended");
    agent.shutting_down.cancel();
    agent.node_changed.notify_one();
    for (critical, share) in groups(grace) {
        let mut ending: Vec<Arc<Worker>> = Vec::new();
        for worker in agent.workers() {
            let Some(pod) = worker.pod.borrow().clone() else { continue };
            if is_critical(&pod) == critical && !worker.is_over() {
                worker.condemn(agent, &pod, verdict(&pod, share));
                ending.push(worker);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(share).unwrap_or(0));
        while ending.iter().any(|worker| !worker.is_over()) && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn critical_pods_come_last_and_no_pod_has_more_than_its_share() {
        assert_eq!(groups(ShutdownGrace { total: 30, critical: 10 }), [(false, 20), (true, 10)]);
        let with =
            |own: i64| verdict(&json!({"spec": {"terminationGracePeriodSeconds": own}}), 20).grace_seconds;
        assert_eq!((with(5), with(60)), (Some(5), Some(20)));
    }

    #[tokio::test]
    async fn a_shutdown_is_told_from_other_signals_and_from_its_own_cancelling() {
        let signal = |member: &str, value: &str| {
            format!(
                "\u{2023} Type=signal  Endian=l  Flags=1  Version=1 Cookie=9\n  Sender=:1.3  Path=/org/freedesktop/login1  \
                 Interface=org.freedesktop.login1.Manager  Member={member}\n  UniqueName=:1.3\n  MESSAGE \"b\" {{\n          \
                 BOOLEAN {value};\n  }};\n\n"
            )
        };
        let told = async |text: String| announced(text.as_bytes()).await.unwrap();
        assert!(told(signal("PrepareForShutdown", "true")).await);
        assert!(!told(signal("PrepareForShutdown", "false") + &signal("PrepareForSleep", "true")).await);
    }
}
