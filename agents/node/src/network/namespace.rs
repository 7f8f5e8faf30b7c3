//! Work inside another process' network namespace.
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;

/// Runs `work` in the network namespace of the process `pid`. Entering a namespace is for a whole thread, so a thread is made
/// for it, which ends with the work.
pub async fn inside<T: Send + 'static>(
    pid: i64,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let entered = move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net"));
        let namespace = namespace.with_context(|| format!("process {pid} has no network namespace"))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    let thread = std::thread::Builder::new().name("in-namespace".into());
    thread.spawn(move || {
        let _ = answer.send(entered()); // who asked may have left
    })?;
    outcome.await.context("the thread in the namespace ended early")?
}
