//! The node's care for its pods on real Docker: what it promises, what it takes back, and what it does after its own death.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod eviction;
mod faults;
mod logs;
mod resize;
#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;

fn container_id(status: &Value) -> String {
    let id = status["containerStatuses"][0]["containerID"].as_str().unwrap();
    id.trim_start_matches("docker://").to_owned()
}

fn runs(status: &Value) -> bool {
    !status["containerStatuses"][0]["state"]["running"].is_null()
}
