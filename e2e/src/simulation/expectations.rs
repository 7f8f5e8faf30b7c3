//! How a story must end: everything as it was asked for, and, once it is deleted, nothing left.
use super::api::{Api, NAMESPACE};
use super::invariants::{has, number};
use super::machine::Machine;
use super::server::Server;
use pilothouse_api::Key;
use serde_json::{Value, json};

/// What people made.
const OWNERS: [&str; 7] = [
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "replicationcontrollers",
    "replicasets.apps",
    "cronjobs.batch",
    "jobs.batch",
];

pub fn all_is_as_asked_for(api: &Api, server: &Server, machines: &[Machine]) -> Result<(), String> {
    for (_, deployment) in api.list("deployments.apps") {
        let wanted = number(&deployment["spec"]["replicas"]);
        for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
            expect(deployment, field, wanted)?;
        }
        is_observed(deployment)?;
    }
    for (_, set) in api.list("statefulsets.apps") {
        let wanted = number(&set["spec"]["replicas"]);
        for field in ["replicas", "readyReplicas", "availableReplicas"] {
            expect(set, field, wanted)?;
        }
        let update = &set["spec"]["updateStrategy"];
        if update["type"] == "RollingUpdate" && number(&update["rollingUpdate"]["partition"]) == 0 {
            expect(set, "updatedReplicas", wanted)?;
        }
        is_observed(set)?;
    }
    let nodes = i64::try_from(machines.len()).unwrap_or(0);
    for (_, set) in api.list("daemonsets.apps") {
        for field in ["desiredNumberScheduled", "currentNumberScheduled", "numberAvailable"] {
            expect(set, field, nodes)?;
        }
        if set["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
            expect(set, "updatedNumberScheduled", nodes)?;
        }
    }
    for resource in ["replicationcontrollers", "replicasets.apps"] {
        for (_, set) in api.list(resource) {
            for field in ["replicas", "readyReplicas"] {
                expect(set, field, number(&set["spec"]["replicas"]))?;
            }
        }
    }
    for (key, job) in api.list("jobs.batch") {
        match (has(job, "Complete"), has(job, "Failed")) {
            (true, _) => expect(job, "succeeded", number(&job["spec"]["completions"]))?,
            (_, true) if may_fail(job) => {}
            _ => return Err(format!("{key} has not ended: {}", job["status"])),
        }
        expect(job, "active", 0)?;
    }
    if let Some(unrest) = server.unrest(api) {
        return Err(unrest);
    }
    view_is_true(api, server)?;
    only_assigned_pods_run(api, machines)
}

fn may_fail(job: &Value) -> bool {
    let limits = &job["spec"];
    number(&limits["backoffLimit"]) < 1000
        || !limits["activeDeadlineSeconds"].is_null()
        || !limits["backoffLimitPerIndex"].is_null()
}

fn expect(object: &Value, field: &str, wanted: i64) -> Result<(), String> {
    if number(&object["status"][field]) == wanted {
        return Ok(());
    }
    let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
    Err(format!("{kind} {name} has not {field} {wanted}: {}", object["status"]))
}

fn is_observed(object: &Value) -> Result<(), String> {
    expect(object, "observedGeneration", number(&object["metadata"]["generation"]))
}

/// What the controllers see is what there is.
fn view_is_true(api: &Api, server: &Server) -> Result<(), String> {
    for (key, object) in api.all() {
        let seen = server.cluster.get(key);
        if seen.as_deref().map(|seen| &seen["metadata"]["uid"]) != Some(&object["metadata"]["uid"]) {
            return Err(format!("the controllers do not see {key}"));
        }
    }
    for resource in server.cluster.resources() {
        if server.cluster.count(resource) != api.list(resource).count() {
            return Err(format!("the controllers see {resource} that are gone"));
        }
    }
    Ok(())
}

/// Nothing is on a machine that the API does not have there, and the other way round.
fn only_assigned_pods_run(api: &Api, machines: &[Machine]) -> Result<(), String> {
    for machine in machines {
        let here = |pod: &Value| pod["spec"]["nodeName"] == *machine.node.name;
        let mut assigned: Vec<&str> = api
            .list("pods")
            .filter(|(_, pod)| here(pod))
            .filter_map(|(_, pod)| pod["metadata"]["uid"].as_str())
            .collect();
        assigned.sort_unstable();
        let found: Vec<&str> = machine.node.pods().map(|pod| &*pod.uid).collect();
        if assigned != found {
            return Err(format!("{} has {found:?} where {assigned:?} is assigned", machine.node.name));
        }
        for pod in machine.node.pods() {
            let told = pod.assigned().map(|pod| &pod["status"]["phase"]);
            if told != Some(&pod.status()["phase"]) {
                return Err(format!("{} is {} and shown as {told:?}", pod.uid, pod.status()["phase"]));
            }
        }
    }
    Ok(())
}

/// What people would delete.
pub fn owners(api: &Api) -> Vec<Key> {
    let own = |object: &Value| object["metadata"]["ownerReferences"].is_null();
    let all = OWNERS.iter().flat_map(|resource| api.list(resource));
    all.filter(|(_, object)| own(object)).map(|(key, _)| key.clone()).collect()
}

pub fn nothing_is_left(api: &Api, machines: &[Machine]) -> Result<(), String> {
    let kinds = OWNERS.iter().chain(&["pods", "controllerrevisions.apps"]);
    let left: Vec<&Key> = kinds.flat_map(|resource| api.list(resource)).map(|(key, _)| key).collect();
    if !left.is_empty() {
        return Err(format!("orphans are left: {left:?}"));
    }
    let service = Key::new("services", NAMESPACE, "web");
    for (key, slice) in api.list("endpointslices.discovery.k8s.io") {
        if api.get(&service).is_some() && slice["endpoints"] != json!([]) && !slice["endpoints"].is_null() {
            return Err(format!("{key} still names pods: {}", slice["endpoints"]));
        }
    }
    match machines.iter().flat_map(|machine| machine.node.pods()).next() {
        Some(pod) => Err(format!("{} is left on its machine", pod.uid)),
        None => Ok(()),
    }
}
