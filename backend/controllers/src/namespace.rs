//! Namespace: when it is deleted, everything in it goes first.
use crate::cluster::Cluster;
use crate::object::{is_deleting, text};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed, lifecycle};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub struct Namespaces;

const NAMESPACES: &str = "namespaces";
const FINALIZER: &str = "kubernetes";

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource == NAMESPACES {
            return vec![change.key.clone()];
        }
        // Anything that comes or goes in a namespace on its way out.
        let namespace = Key::new(NAMESPACES, "", change.key.namespace.clone());
        if cluster.is_deleting(&namespace) { vec![namespace] } else { Vec::new() }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(NAMESPACES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(namespace) = cluster.get(key) else {
            return plan;
        };
        let finalizers: Vec<&Value> =
            namespace["spec"]["finalizers"].as_array().into_iter().flatten().collect();
        if !is_deleting(&namespace) || !finalizers.iter().any(|f| **f == FINALIZER) {
            return plan;
        }
        let left: Vec<Key> =
            cluster.resources().flat_map(|resource| cluster.keys_in(resource, &key.name)).collect();
        for object_key in left.iter().cloned() {
            let uid = cluster.uid(&object_key).filter(|_| !cluster.is_deleting(&object_key));
            if let Some(uid) = uid {
                plan.delete_whatever(object_key, uid, None);
            }
        }
        if left.is_empty() {
            let mut next = Value::clone(&namespace);
            let kept: Vec<Value> = finalizers.into_iter().filter(|f| **f != FINALIZER).cloned().collect();
            next["spec"]["finalizers"] = json!(kept);
            plan.update(key.clone(), next, Part::Whole);
        } else if plan.actions.is_empty() || text(&namespace["status"], "phase") != "Terminating" {
            let mut next = Value::clone(&namespace);
            next["status"]["phase"] = "Terminating".into();
            let before = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let conditions = conditions(&left, cluster).map(|wanted| kept_or_new(&before, wanted, now));
            next["status"]["conditions"] = json!(conditions);
            if next != *namespace {
                plan.update(key.clone(), next, Part::Status);
            }
        }
        plan
    }
}

/// One condition of a namespace on its way out.
struct Condition {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// What keeps a namespace, in Kubernetes' words.
fn conditions(left: &[Key], cluster: &Cluster) -> [Condition; 5] {
    let mut resources: BTreeMap<&str, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    for key in left {
        *resources.entry(&key.resource).or_default() += 1;
        let object = cluster.get(key);
        let own = object.iter().flat_map(|o| o["metadata"]["finalizers"].as_array().into_iter().flatten());
        for finalizer in own.filter_map(Value::as_str) {
            *finalizers.entry(finalizer.to_owned()).or_default() += 1;
        }
    }
    let listed = |parts: Vec<String>| parts.join(", ");
    let remaining =
        listed(resources.iter().map(|(what, n)| format!("{what} has {n} resource instances")).collect());
    let finalizing =
        listed(finalizers.iter().map(|(what, n)| format!("{what} in {n} resource instances")).collect());
    let condition = |name, holds, reason, message: String| Condition { name, holds, reason, message };
    [
        condition(
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        condition(
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {remaining}"),
        ),
        match finalizers.is_empty() {
            true => condition(
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".into(),
            ),
            false => condition(
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {finalizing}"),
            ),
        },
    ]
}

/// The time of a condition moves only with its status.
fn kept_or_new(before: &[Value], wanted: Condition, now: Timestamp) -> Value {
    let status = if wanted.holds { "True" } else { "False" };
    let same = before.iter().find(|old| old["type"] == wanted.name && old["status"] == status);
    let since = same.map_or_else(|| lifecycle::seconds(now).into(), |old| old["lastTransitionTime"].clone());
    json!({
        "type": wanted.name, "status": status, "reason": wanted.reason, "message": wanted.message,
        "lastTransitionTime": since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, deployment};

    #[test]
    fn a_namespace_goes_after_everything_in_it() {
        let mut world = World::new();
        let other =
            world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
        let mut web = deployment("web", 2, "web");
        web["metadata"]["namespace"] = "other".into();
        world.create(web);
        let held = json!({"name": "held", "namespace": "other", "finalizers": ["example.com/slow"]});
        let held = world.create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": held}));
        let kept =
            world.create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}));
        world.converge();
        world.delete(&other, "Background");
        world.converge();
        assert_eq!(world.get(&other)["status"]["phase"], "Terminating");
        assert_eq!(
            world.objects.keys().filter(|key| &*key.namespace == "other").count(),
            1,
            "one has a finalizer"
        );
        let conditions = &world.get(&other)["status"]["conditions"];
        let remaining =
            conditions.as_array().unwrap().iter().find(|c| c["type"] == "NamespaceFinalizersRemaining");
        assert_eq!(
            remaining.unwrap()["message"],
            "Some content in the namespace has finalizers remaining: example.com/slow in 1 resource instances"
        );
        world.edit(&held, |map| map["metadata"]["finalizers"] = json!([]));
        world.converge();
        assert!(!world.objects.contains_key(&other));
        assert!(world.objects.contains_key(&kept));
        world.assert_at_rest();
    }

    #[test]
    fn every_namespace_has_a_default_account_and_gets_it_back() {
        let mut world = World::new();
        world.settle();
        let account = Key::new("serviceaccounts", "default", "default");
        assert!(world.objects.contains_key(&account));
        world.delete(&account, "Background");
        world.settle();
        assert!(world.objects.contains_key(&account));
    }
}
