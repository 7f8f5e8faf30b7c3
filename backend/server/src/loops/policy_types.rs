//! Checks the types of ValidatingAdmissionPolicies' expressions against the kinds they are for, and tells in their status.
use crate::feed;
use crate::objects::{Actor, Objects, Part, WriteOptions};
use pilothouse_api::{Status, meta, policy};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const RESOURCE: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
/// Behind the changes.
const TICK: Duration = Duration::from_secs(60);

pub async fn run(objects: Objects, shutdown: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    let following = match feed::follow(objects.store(), &[RESOURCE], move |_| told.notify_one()) {
        Ok(following) => following,
        Err(error) => return tracing::error!(%error, "admission policies cannot be followed"),
    };
    let working = async {
        loop {
            for policy in objects.store().list(RESOURCE, None).objects {
                let policy = policy.value();
                if policy["status"]["observedGeneration"] == policy["metadata"]["generation"] {
                    continue;
                }
                if let Err(error) = check(&objects, policy.clone()).await {
                    tracing::warn!(%error, name = meta::name(&policy), "a policy's types are not checked yet");
                }
            }
            tokio::select! { () = changed.notified() => {}, () = tokio::time::sleep(TICK) => {} }
        }
    };
    tokio::select! { () = shutdown.cancelled() => {}, () = following => {}, () = working => {} }
}

async fn check(objects: &Objects, mut policy: Value) -> Result<(), Status> {
    let registry = objects.newest_registry().await;
    let name = meta::name(&policy).to_owned();
    let entry = registry.by_resource(RESOURCE).ok_or_else(|| Status::not_found(RESOURCE, &name))?;
    let (read, kinds) = (policy.clone(), registry.clone());
    // The schemas of all kinds are built for the first of them.
    let warnings = tokio::task::spawn_blocking(move || policy::warnings(&read, &kinds)).await;
    let warnings = warnings.map_err(Status::internal)?;
    let generation = policy["metadata"]["generation"].clone();
    let mut status = json!({"observedGeneration": generation, "typeChecking": {}});
    if !warnings.is_empty() {
        status["typeChecking"]["expressionWarnings"] = warnings.into();
    }
    if let Some(conditions) = policy["status"].get("conditions") {
        status["conditions"] = conditions.clone();
    }
    policy["status"] = status;
    let (actor, options) =
        (Actor::system("controller:validatingadmissionpolicy-status-controller"), WriteOptions::default());
    let change = |_: &Value| Ok(policy.clone());
    objects.update(&actor, entry, "", &name, Part::Status, &options, change).await?;
    Ok(())
}
