//! APIServices: one for every group version that this server answers for itself, and for the others whether they can be
//! reached, as `kubectl get apiservices` shows it.
use crate::aggregation::{Aggregation, RESOURCE, RemoteApi};
use crate::feed;
use crate::objects::{Actor, Objects, Part, WriteOptions, seconds};
use crate::service_backends;
use futures::future::join_all;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, KindEntry, Reason, Registry, Status};
use pilothouse_store::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Servers come and go without an object telling it.
const TICK: Duration = Duration::from_secs(10);
/// Made by this server: `onstart` stays as it is, `true` goes with its definition.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// It describes itself.
const OWN_GROUP: &str = "apiregistration.k8s.io";

/// Where Kubernetes puts its groups; the order is that of their names for the rest.
const PRIORITIES: &[(&str, i64)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("resource.k8s.io", 15900),
];
/// Of groups that came with a definition.
const CUSTOM_PRIORITY: i64 = 1000;
const CUSTOM_VERSION_PRIORITY: i64 = 100;
const BUILTIN_PRIORITY: i64 = 15000;
const BUILTIN_VERSION_PRIORITY: i64 = 15;

pub async fn run(objects: Objects, aggregation: Aggregation, shutdown: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    // Services and their endpoints change too often to be followed for the few that matter: the tick sees them.
    let following = match feed::follow(objects.store(), &[RESOURCE, DEFINITIONS], move |_| told.notify_one())
    {
        Ok(following) => following,
        Err(error) => return tracing::error!(%error, "API services cannot be followed"),
    };
    let working = async {
        loop {
            if let Err(error) = register(&objects).await {
                tracing::warn!(%error, "the server's own API services are not registered yet");
            }
            let remotes = aggregation.remotes();
            join_all(remotes.iter().map(|(_, remote)| check(&objects, &aggregation, remote))).await;
            tokio::select! { () = changed.notified() => {}, () = tokio::time::sleep(TICK) => {} }
        }
    };
    tokio::select! { () = shutdown.cancelled() => {}, () = following => {}, () = working => {} }
}

fn actor() -> Actor {
    Actor::system("controller:apiservice-registration-controller")
}

/// What this server answers for, by the name of its APIService.
fn wanted(registry: &Registry, store: &Store) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    // The registry may not have heard yet that a definition is gone.
    let is_defined = |entry: &KindEntry| {
        let definition = Key::new(DEFINITIONS, "", entry.resource.clone());
        !entry.rules.is_custom() || store.get(&definition).is_some()
    };
    let served = registry.entries().iter().filter(|entry| entry.group != OWN_GROUP && is_defined(entry));
    for entry in served {
        let name = format!("{}.{}", entry.version, entry.group);
        let (priority, version_priority, managed) = match entry.rules.is_custom() {
            true => (CUSTOM_PRIORITY, CUSTOM_VERSION_PRIORITY, "true"),
            false => {
                let listed = PRIORITIES.iter().find(|(group, _)| *group == entry.group);
                (
                    listed.map_or(BUILTIN_PRIORITY, |(_, p)| *p),
                    builtin_version_priority(&entry.version),
                    "onstart",
                )
            }
        };
        all.entry(name.clone()).or_insert_with(|| {
            json!({
                "metadata": {"name": name, "labels": {MANAGED: managed}},
                "spec": {"group": entry.group, "version": entry.version, "groupPriorityMinimum": priority,
                    "versionPriority": version_priority},
            })
        });
    }
    all
}

/// A later version is preferred.
fn builtin_version_priority(version: &str) -> i64 {
    let number = version.strip_prefix('v').and_then(|rest| rest.parse::<i64>().ok());
    number.map_or(1, |number| BUILTIN_VERSION_PRIORITY * number.min(60))
}

async fn register(objects: &Objects) -> Result<(), Status> {
    let registry = objects.newest_registry().await;
    let Some(entry) = registry.by_resource(RESOURCE) else { return Ok(()) };
    let (wanted, options) = (wanted(&registry, objects.store()), WriteOptions::default());
    for (name, object) in &wanted {
        if objects.store().get(&Key::new(RESOURCE, "", name.as_str())).is_some() {
            continue;
        }
        match objects.create(&actor(), entry, "", object.clone(), &options).await {
            Err(status) if status.reason != Reason::AlreadyExists => return Err(status),
            _ => {}
        }
    }
    for object in objects.store().list(RESOURCE, None).objects {
        let is_left_over = object.labels.get(MANAGED).is_some_and(|managed| managed == "true")
            && !wanted.contains_key(&*object.key.name);
        if is_left_over {
            let delete = DeleteOptions { uid: Some(object.uid.to_string()), ..DeleteOptions::default() };
            let gone = objects.delete(&actor(), entry, "", &object.key.name, &delete, &options).await;
            gone.map(drop).or_else(|status| match status.reason {
                Reason::NotFound => Ok(()),
                _ => Err(status),
            })?;
        }
    }
    Ok(())
}

/// Status, reason and message of the condition `Available`.
async fn condition(objects: &Objects, aggregation: &Aggregation, remote: &RemoteApi) -> [String; 3] {
    let (namespace, name, port) = &remote.service;
    let no = |reason: &str, message: String| ["False".to_owned(), reason.to_owned(), message];
    let store = objects.store();
    let service = store.get(&Key::new("services", namespace.as_str(), name.as_str())).map(|s| s.value());
    let Some(service) = service else {
        return no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    if service["spec"]["type"] != "ExternalName" {
        let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let Some(found) = ports.iter().find(|candidate| candidate["port"] == *port) else {
            let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
            return no("ServicePortError", why);
        };
        if service_backends::ready(store, namespace, name, &port.to_string()).is_err() {
            let port = found["name"].as_str().unwrap_or_default();
            let why = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}"
            );
            return no("MissingEndpoints", why);
        }
    }
    match remote.get(aggregation, &remote.root()).await {
        Ok(_) => ["True".into(), "Passed".into(), "all checks passed".into()],
        Err(why) => no("FailedDiscoveryCheck", why),
    }
}

async fn check(objects: &Objects, aggregation: &Aggregation, remote: &RemoteApi) {
    let [status, reason, message] = condition(objects, aggregation, remote).await;
    let is_new = |service: &Value| {
        let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
        let known = conditions.into_iter().find(|condition| condition["type"] == "Available");
        known.is_none_or(|c| {
            (&c["status"], &c["reason"], &c["message"]) != (&json!(status), &json!(reason), &json!(message))
        })
    };
    let registry = objects.registry();
    let Some(entry) = registry.by_resource(RESOURCE) else { return };
    let change = |old: &Value| {
        let mut new = old.clone();
        if !is_new(old) {
            return Ok(new);
        }
        let before = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let own = before.iter().find(|condition| condition["type"] == "Available");
        let since = match own {
            Some(own) if own["status"] == status.as_str() => own["lastTransitionTime"].clone(),
            _ => seconds(Timestamp::now()).into(),
        };
        let mut conditions: Vec<Value> =
            before.iter().filter(|condition| condition["type"] != "Available").cloned().collect();
        conditions.push(json!({
            "type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
        }));
        new["status"] = json!({"conditions": conditions});
        Ok(new)
    };
    let options = WriteOptions::default();
    let written = objects.update(&actor(), entry, "", &remote.name, Part::Status, &options, change).await;
    if let Err(status) = written
        && status.reason != Reason::NotFound
    {
        tracing::warn!(error = %status.message, service = remote.name, "an API service's condition is not written");
    }
}
