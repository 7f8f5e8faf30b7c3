//! What the system allows a process: every node and client is an open file.
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process have as many open files as it may ask for: the usual limit of 1024 is there for programs that use
/// `select`. How many it may have now.
pub fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, "the limit of open files stays");
            soft
        }
    }
}
