//! What a container leaves as its last message: its termination file, or the end of its log.
use crate::agent::Agent;
use crate::pod_sync::spec_of;
use crate::pod_worker::Worker;
use crate::runtime::{Container, ObservedPod, State};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

pub const DEFAULT_PATH: &str = "/dev/termination-log";
/// Kubernetes' limits for the message, and for what of a log serves as one.
const MESSAGE_BYTES: u64 = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: u32 = 80;

/// The file on the node that one attempt of a container writes its message to.
pub fn file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("termination").join(format!("{container}-{attempt}"))
}

/// Makes the file, for a container of any user.
pub fn make_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::File::create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// Remembers the messages of containers that have ended since the last look.
pub async fn collect(agent: &Agent, worker: &Worker, pod: &Value, observed: &ObservedPod) {
    for container in observed.containers.iter().filter(|c| c.state == State::Exited) {
        if worker.memory.lock().last_words.contains_key(&container.id) {
            continue;
        }
        let message = message(agent, &worker.uid, pod, container).await;
        worker.memory.lock().last_words.insert(container.id.clone(), message);
    }
    worker.memory.lock().last_words.retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
}

async fn message(agent: &Agent, uid: &str, pod: &Value, container: &Container) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(file(&agent.pod_dir(uid), &container.name, container.attempt)) {
        let _ = file.take(MESSAGE_BYTES).read_to_end(&mut bytes);
    }
    let policy = spec_of(pod, &container.name).map(|spec| &spec["terminationMessagePolicy"]);
    if bytes.is_empty() && container.exit_code != 0 && policy.is_some_and(|p| p == "FallbackToLogsOnError") {
        bytes = agent.runtime.log_tail(&container.id, LOG_LINES).await.unwrap_or_default();
        bytes.drain(..bytes.len().saturating_sub(LOG_BYTES));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
