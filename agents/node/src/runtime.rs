//! The container runtime as the agent sees it.
pub(crate) mod docker;
pub mod fake;
mod pause;
pub(crate) mod silence;

use pilothouse_api::jiff::Timestamp;

/// Labels from which a restarted agent knows its containers again. The first four are those of other runtimes
/// too.
pub mod label {
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    pub const NODE: &str = "pilothouse.io/node";
    pub const ATTEMPT: &str = "pilothouse.io/attempt";
    pub const ADDRESS: &str = "pilothouse.io/address";
    /// The sandbox whose namespaces a container shares.
    pub const SANDBOX_ID: &str = "pilothouse.io/sandbox";
    /// How often in a row the container crashed before this attempt.
    pub const CRASHES: &str = "pilothouse.io/crashes";
    /// The container name of sandboxes.
    pub const SANDBOX: &str = "POD";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Created,
    Running,
    Exited,
}

/// What a container may use at most, as the kernel holds it; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: i64,
    /// Microseconds in each period of 100 ms.
    pub cpu_quota: i64,
    pub memory_bytes: i64,
}

/// One container as the runtime tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    /// How often in a row it crashed before this attempt: what the back-off doubles by.
    pub crashes: u32,
    /// The sandbox it was made for.
    pub sandbox: String,
    pub state: State,
    pub exit_code: i64,
    pub oom_killed: bool,
    /// Why it could not be started.
    pub error: String,
    pub image: String,
    pub image_id: String,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub pid: i64,
    /// What asks it to end, where that is not SIGTERM.
    pub stop_signal: String,
    pub limits: Limits,
    /// The file of its log, on the runtime's machine.
    pub log: String,
    /// Of sandboxes: the pod's address, as it was given at creation.
    pub address: String,
}

/// Everything the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    pub sandbox: Option<Container>,
    /// In the order of attempts.
    pub containers: Vec<Container>,
}

impl ObservedPod {
    /// The newest attempt of a container.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.attempt)
    }

    /// The one before.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        let latest = self.latest(name)?.attempt;
        self.containers.iter().filter(|c| c.name == name && c.attempt < latest).max_by_key(|c| c.attempt)
    }
}
