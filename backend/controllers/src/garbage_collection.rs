//! Garbage collection: what belongs to an object goes with it, or before it, or is let go.
use crate::cluster::Cluster;
use crate::object::*;
use crate::{Action, Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};

pub struct GarbageCollection;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl Controller for GarbageCollection {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    /// Keys are objects: dependents of what is gone, and owners that wait for their dependents.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let mut keys = Vec::new();
        match &change.object {
            None => {
                let gone = change.previous.as_deref().map_or("", uid);
                keys.extend(cluster.dependents(gone).map(|(key, _)| key.clone()));
            }
            Some(object) => {
                if is_deleting(object) && waits(object) {
                    keys.push(change.key.clone());
                }
                if owners(object).next().is_some() {
                    keys.push(change.key.clone());
                }
            }
        }
        // An owner in foreground deletion waits for this one.
        let waiting = change.latest().into_iter().flat_map(owners).filter_map(|owner| {
            let key = cluster.by_uid(text(owner, "uid"))?;
            cluster.get(key).filter(|owner| is_deleting(owner) && waits(owner)).map(|_| key.clone())
        });
        keys.extend(waiting);
        keys
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let resources: Vec<_> = cluster.resources().cloned().collect();
        let objects = resources.iter().flat_map(|resource| cluster.all(resource));
        objects.filter(|(_, object)| owners(object).next().is_some() || waits(object)).map(|(key, _)| key).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(object) = cluster.get(key) else { return plan };
        if is_deleting(object) && has_finalizer(object, ORPHAN) {
            orphan(key, object, cluster, &mut plan);
        } else if is_deleting(object) && has_finalizer(object, FOREGROUND) {
            delete_dependents_first(key, object, cluster, &mut plan);
        } else if !is_deleting(object) {
            collect(key, object, cluster, &mut plan);
        }
        plan
    }
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().any(|f| f == finalizer)
}

fn waits(object: &Value) -> bool {
    has_finalizer(object, FOREGROUND) || has_finalizer(object, ORPHAN)
}

fn without_finalizer(object: &Value, finalizer: &str) -> Value {
    let mut next = object.clone();
    let finalizers = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    let kept: Vec<Value> = finalizers.filter(|f| *f != finalizer).cloned().collect();
    next["metadata"]["finalizers"] = json!(kept);
    next
}

/// An object goes when none of its owners is left. An owner in another namespace cannot own.
fn collect(key: &Key, object: &Value, cluster: &Cluster, plan: &mut Plan) {
    let (mut present, mut absent) = (Vec::new(), 0);
    for owner in owners(object) {
        let found = cluster.by_uid(text(owner, "uid"));
        match found.filter(|o| o.namespace.is_empty() || o.namespace == key.namespace) {
            Some(found) => present.push((owner, found)),
            None => absent += 1,
        }
    }
    if present.is_empty() && absent == 0 {
        return;
    }
    let all_waiting = !present.is_empty()
        && present.iter().all(|(_, owner)| cluster.get(owner).is_some_and(|o| is_deleting(o) && has_finalizer(o, FOREGROUND)));
    if present.is_empty() || all_waiting {
        let policy = if all_waiting { "Foreground" } else { "Background" };
        let options = DeleteOptions {
            uid: Some(uid(object).to_owned()),
            propagation_policy: Some(policy.into()),
            ..DeleteOptions::default()
        };
        plan.actions.push(Action::Delete { key: key.clone(), options });
    } else if absent > 0 {
        let kept: Vec<Value> = present.into_iter().map(|(owner, _)| owner.clone()).collect();
        let mut next = object.clone();
        next["metadata"]["ownerReferences"] = json!(kept);
        plan.update(key.clone(), next, Part::Spec);
    }
}

fn delete_dependents_first(key: &Key, object: &Value, cluster: &Cluster, plan: &mut Plan) {
    let mut blocked = false;
    for (dependent_key, dependent) in cluster.dependents(uid(object)) {
        blocked |= owners(dependent).any(|o| o["uid"] == uid(object) && o["blockOwnerDeletion"] == true);
        if !is_deleting(dependent) {
            collect(dependent_key, dependent, cluster, plan);
        }
    }
    if !blocked {
        plan.update(key.clone(), without_finalizer(object, FOREGROUND), Part::Spec);
    }
}

fn orphan(key: &Key, object: &Value, cluster: &Cluster, plan: &mut Plan) {
    let mut left = false;
    for (dependent_key, dependent) in cluster.dependents(uid(object)) {
        left = true;
        let mut next = Value::clone(dependent);
        let kept: Vec<Value> = owners(dependent).filter(|o| o["uid"] != uid(object)).cloned().collect();
        next["metadata"]["ownerReferences"] = json!(kept);
        plan.update(dependent_key.clone(), next, Part::Spec);
    }
    if !left {
        plan.update(key.clone(), without_finalizer(object, ORPHAN), Part::Spec);
    }
}
