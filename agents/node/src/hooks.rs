//! What a container's `lifecycle` runs after its start and before its end.
use crate::agent::Agent;
use crate::pod_sync::spec_of;
use crate::probes::{self, Target};
use serde_json::Value;
use std::time::Duration;

/// Resolves when the hook has run, at once where there is none. The error is what the container is ended for.
pub async fn post_start(
    agent: &Agent,
    pod: &Value,
    spec: &Value,
    id: &str,
    address: &str,
) -> Result<(), String> {
    let hook = &spec["lifecycle"]["postStart"];
    if !hook.is_object() {
        return Ok(());
    }
    let target = Target { docker: &agent.runtime, container: spec, id, address };
    let outcome = probes::act(&target, hook).await.map(drop).map_err(|failed| failed.why);
    if let Err(why) = &outcome {
        let message = format!("PostStartHook failed: {why}");
        agent.event(pod, spec["name"].as_str(), "Warning", "FailedPostStartHook", message);
    }
    outcome
}

/// The hook may take the whole `grace`, and no more.
pub async fn pre_stop(agent: &Agent, pod: &Value, container: &str, id: &str, address: &str, grace: Duration) {
    let Some(spec) = spec_of(pod, container) else { return };
    let hook = &spec["lifecycle"]["preStop"];
    if !hook.is_object() {
        return;
    }
    let target = Target { docker: &agent.runtime, container: spec, id, address };
    let failure = match tokio::time::timeout(grace, probes::act(&target, hook)).await {
        Ok(Ok(_)) => return,
        Ok(Err(failed)) => format!("PreStopHook failed: {}", failed.why),
        Err(_) => format!("PreStopHook failed: it did not end within {} s", grace.as_secs()),
    };
    agent.event(pod, Some(container), "Warning", "FailedPreStopHook", failure);
}
