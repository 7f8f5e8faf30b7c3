//! The scheduler's shell: changes in, bindings out.
use super::events::{EventRecorder, reference};
use super::feed::{Feed, Step};
use crate::objects::{Actor, Objects, Part, WriteOptions};
use pilothouse_api::disruption::{self, Cause};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::storage::{BOUND_BY_CONTROLLER, CLAIMS, SELECTED_NODE, VOLUMES};
use pilothouse_api::{Key, Status};
use pilothouse_scheduler::storage::Choice;
use pilothouse_scheduler::{Decision, Scheduler, Victim};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const RESOURCES: &[&str] = &[
    "pods",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "storageclasses.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "csidrivers.storage.k8s.io",
    "csistoragecapacities.storage.k8s.io",
];
/// Bindings being written at the same time.
const CONCURRENCY: usize = 128;
const COMPONENT: &str = "default-scheduler";

pub async fn run(objects: Objects, events: EventRecorder, shutdown: CancellationToken) {
    let mut feed = Feed::new(objects.store().clone(), Some(RESOURCES));
    let mut scheduler = Scheduler::default();
    let mut writing: JoinSet<Option<Failed>> = JoinSet::new();
    loop {
        while writing.len() < CONCURRENCY {
            let Some(decision) = scheduler.next(Timestamp::now()) else { break };
            writing.spawn(carry_out(objects.clone(), events.clone(), decision));
        }
        let timer = async {
            match scheduler.next_at() {
                Some(at) => {
                    let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                    tokio::time::sleep(wait).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            step = feed.next() => match step {
                Step::Snapshot(state) => {
                    scheduler = Scheduler::default();
                    let now = Timestamp::now();
                    state.changes().for_each(|change| scheduler.observe(&change, now));
                }
                Step::Changes(changes) => {
                    let now = Timestamp::now();
                    changes.newest().for_each(|change| scheduler.observe(&change, now));
                }
                Step::Quiet(_) => {}
            },
            Some(done) = writing.join_next(), if !writing.is_empty() => {
                match done {
                    Ok(Some(Failed::Binding(key, uid))) => {
                        let pod = objects.store().get(&key).map(|object| Arc::new(object.value()));
                        scheduler.binding_failed(&key, &uid, pod, Timestamp::now());
                    }
                    Ok(Some(Failed::Volumes(uid, claims))) => scheduler.volumes_failed(&uid, claims.into_iter()),
                    _ => {}
                }
            }
            () = timer => {}
        }
    }
}

/// What could not be written.
enum Failed {
    /// The pod and its UID.
    Binding(Key, String),
    /// The pod's UID, and its claims.
    Volumes(String, Vec<Key>),
}

async fn carry_out(objects: Objects, events: EventRecorder, decision: Decision) -> Option<Failed> {
    let actor = Actor::system("kube-scheduler");
    match decision {
        Decision::Bind { pod, uid, node } => {
            let options = WriteOptions { subresource: "binding".into(), ..WriteOptions::default() };
            match objects.bind(&actor, &pod.namespace, &pod.name, &uid, &node, &options).await {
                Ok(bound) => {
                    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                    events.record(reference(&bound.value()), "Normal", "Scheduled", message, COMPONENT);
                    None
                }
                Err(error) => {
                    tracing::debug!(pod = %pod, %error, "a binding was refused");
                    Some(Failed::Binding(pod, uid))
                }
            }
        }
        Decision::BindVolumes { pod, uid, node, claims } => {
            match bind_volumes(&objects, &actor, (&pod, &uid), &node, &claims).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::debug!(pod = %pod, %error, "a pod's volumes could not be bound");
                    Some(Failed::Volumes(uid, claims.into_iter().map(|(claim, _)| claim).collect()))
                }
            }
        }
        Decision::Unschedulable { pod, uid, message } => {
            match mark_unschedulable(&objects, &actor, &pod, &uid, &message, None).await {
                Ok(object) => {
                    events.record(reference(&object), "Warning", "FailedScheduling", message, COMPONENT)
                }
                Err(error) => tracing::debug!(pod = %pod, %error, "a pod could not be marked unschedulable"),
            }
            None
        }
        Decision::Preempt { pod, uid, node, victims, message } => {
            match mark_unschedulable(&objects, &actor, &pod, &uid, &message, Some(&*node)).await {
                Ok(object) => {
                    events.record(reference(&object), "Warning", "FailedScheduling", message, COMPONENT);
                    for victim in victims {
                        preempt(&objects, &events, &actor, &victim, &uid, &node).await;
                    }
                }
                Err(error) => tracing::debug!(pod = %pod, %error, "a pod could not be given room"),
            }
            None
        }
    }
}

/// Tells the binder which volume each claim gets, and whom the room on the node is kept for.
async fn bind_volumes(
    objects: &Objects,
    actor: &Actor,
    (pod, uid): (&Key, &str),
    node: &str,
    claims: &[(Key, Choice)],
) -> Result<(), Status> {
    let entry = |resource: &str| {
        let found = objects.registry().by_resource(resource).cloned();
        found.ok_or_else(|| Status::internal(format!("there is no kind {resource}")))
    };
    let options = WriteOptions::default();
    for (key, choice) in claims {
        match choice {
            Choice::Make => {
                let change = |old: &Value| {
                    let mut new = old.clone();
                    new["metadata"]["annotations"][SELECTED_NODE] = node.into();
                    Ok(new)
                };
                let entry = entry(CLAIMS)?;
                objects
                    .update(actor, &entry, &key.namespace, &key.name, Part::Spec, &options, change)
                    .await?;
            }
            Choice::Volume(volume) => {
                let claim = objects.store().get(key).ok_or_else(|| Status::not_found(CLAIMS, &key.name))?;
                let change = |old: &Value| claimed(old, key, &claim.uid, volume);
                objects.update(actor, &*entry(VOLUMES)?, "", volume, Part::Spec, &options, change).await?;
            }
        }
    }
    let change = |old: &Value| {
        if old["metadata"]["uid"] != uid || old["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty()) {
            return Err(Status::not_found("pods", &pod.name));
        }
        let mut new = old.clone();
        new["status"]["nominatedNodeName"] = node.into();
        Ok(new)
    };
    objects
        .update(actor, &*entry("pods")?, &pod.namespace, &pod.name, Part::Status, &options, change)
        .await?;
    Ok(())
}

/// The volume as the claim's; a conflict if it is another's meanwhile.
fn claimed(volume: &Value, claim: &Key, uid: &str, name: &str) -> Result<Value, Status> {
    let reference = &volume["spec"]["claimRef"];
    let is_kept = reference["name"] == *claim.name && reference["namespace"] == *claim.namespace;
    let is_ours = is_kept && reference["uid"].as_str().is_none_or(|bound| bound.is_empty() || bound == uid);
    if !reference.is_null() && !is_ours {
        return Err(Status::conflict(VOLUMES, name, "the volume is another claim's by now".to_owned()));
    }
    let mut new = volume.clone();
    new["spec"]["claimRef"] = json!({
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": &*claim.namespace, "name": &*claim.name, "uid": uid,
    });
    if reference.is_null() {
        new["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
    }
    Ok(new)
}

/// Sends a pod away for a more important one.
async fn preempt(
    objects: &Objects,
    events: &EventRecorder,
    actor: &Actor,
    victim: &Victim,
    by: &str,
    node: &str,
) {
    let Some(entry) = objects.registry().by_resource("pods").cloned() else { return };
    let (namespace, name) = (&victim.pod.namespace, &victim.pod.name);
    let now = Timestamp::now();
    let mark = |pod: &Value| match pod["metadata"]["uid"] == *victim.uid {
        true => Ok(disruption::marked(pod, Cause::Preemption, now).unwrap_or_else(|| pod.clone())),
        false => Err(Status::not_found("pods", name)),
    };
    let options = WriteOptions::default();
    let marked = objects.update(actor, &entry, namespace, name, Part::Status, &options, mark).await;
    if let Err(error) = marked {
        return tracing::debug!(pod = %victim.pod, %error, "a pod was not preempted");
    }
    let delete = DeleteOptions { uid: Some(victim.uid.clone()), ..DeleteOptions::default() };
    match objects.delete(actor, &entry, namespace, name, &delete, &WriteOptions::default()).await {
        Ok(deleted) => {
            let message = format!("Preempted by pod {by} on node {node}");
            events.record(reference(&deleted.object.value()), "Normal", "Preempted", message, COMPONENT);
        }
        Err(error) => tracing::debug!(pod = %victim.pod, %error, "a pod was not preempted"),
    }
}

async fn mark_unschedulable(
    objects: &Objects,
    actor: &Actor,
    pod: &Key,
    uid: &str,
    message: &str,
    nominated: Option<&str>,
) -> Result<Value, Status> {
    let entry = objects
        .registry()
        .by_resource("pods")
        .cloned()
        .ok_or_else(|| Status::not_found("pods", &pod.name))?;
    let now = Timestamp::now();
    let change = |old: &Value| {
        if old["metadata"]["uid"] != uid {
            return Err(Status::not_found("pods", &pod.name));
        }
        // Bound while this verdict was on its way: it is void, and nobody makes room for it.
        if old["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty()) {
            return Err(Status::conflict("pods", &pod.name, "the pod has a node by now".to_owned()));
        }
        let mut new = old.clone();
        let mut conditions = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let before =
            conditions.iter().position(|c| c["type"] == "PodScheduled").map(|at| conditions.remove(at));
        let since = before.filter(|c| c["status"] == "False").map(|c| c["lastTransitionTime"].clone());
        conditions.push(json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or_else(|| pilothouse_api::lifecycle::seconds(now).into()),
        }));
        new["status"]["conditions"] = conditions.into();
        if let Some(node) = nominated {
            new["status"]["nominatedNodeName"] = node.into();
        }
        Ok(new)
    };
    let options = WriteOptions::default();
    let written =
        objects.update(actor, &entry, &pod.namespace, &pod.name, Part::Status, &options, change).await?;
    Ok(written.value())
}
