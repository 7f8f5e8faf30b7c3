//! What the controllers of pods share: whose pod it is, taking pods over and letting them go, making pods of a template.
use crate::Plan;
use crate::cluster::{Cluster, PODS};
use crate::object::*;
use crate::plan::Part;
use crate::pod::Pod;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The most pods one plan creates or deletes: the rest follows once these are seen.
pub const BURST: usize = 500;
/// Room for the suffix in a name of at most 63 letters, which the pod's host name needs.
const LONGEST_PREFIX: usize = 57;
const SUFFIX_LENGTH: usize = 5;

/// How many pods a plan may create: one, as a trial, after the last plan was refused one (a quota, an admission rule).
pub fn burst(controller: &'static str, key: &Key, cluster: &Cluster) -> usize {
    if cluster.refusal(controller, key).is_some() { 1 } else { BURST }
}

/// The label of pods that tells the revision of the template they were made of, for DaemonSets and StatefulSets.
pub const REVISION_LABEL: &str = "controller-revision-hash";

pub type Pods<'a> = Vec<(&'a Key, &'a Pod)>;

/// The owners of one kind that a change of something they control concerns: its controller now and before, or those that
/// might adopt it.
pub fn owner_keys(change: &Observed, kind: &str, resource: &str, cluster: &Cluster) -> Vec<Key> {
    let states = [&change.object, &change.previous].into_iter().flatten();
    let owners = states.filter_map(|object| controller_of(object)).filter(|owner| owner["kind"] == kind);
    let mut keys: Vec<Key> =
        owners.map(|owner| Key::new(resource, change.key.namespace.clone(), text(owner, "name"))).collect();
    keys.dedup();
    if let Some(orphan) = change.object.as_deref().filter(|object| controller_of(object).is_none()) {
        keys.extend(cluster.selecting(resource, &change.key.namespace, &labels(orphan)));
    }
    keys
}

/// The owner's pods among those that `counts`. Pods that match and have no controller are adopted, those that match no
/// longer are let go.
pub fn claim<'a>(
    owner: &Value,
    selector: &LabelSelector,
    cluster: &'a Cluster,
    plan: &mut Plan,
    counts: impl Fn(&Key, &Pod) -> bool,
) -> Pods<'a> {
    let mut claimed = Vec::new();
    for (key, pod) in cluster.controlled_pods(uid(owner)).filter(|(key, pod)| counts(key, pod)) {
        if selector.matches(&pod.labels) {
            claimed.push((key, pod));
        } else if let Some(object) = cluster.get(key) {
            plan.update(key.clone(), released(&object, uid(owner)), Part::Spec);
        }
    }
    if is_deleting(owner) {
        return claimed;
    }
    for key in cluster.orphans(PODS, text(&owner["metadata"], "namespace")) {
        let fits = |pod: &&Pod| pod.is_active() && counts(key, pod) && selector.matches(&pod.labels);
        if let Some((pod, object)) = cluster.pod(key).filter(fits).zip(cluster.get(key)) {
            plan.update(key.clone(), adopted(&object, owner), Part::Spec);
            claimed.push((key, pod));
        }
    }
    claimed
}

/// Names for new pods. They follow from what is seen of the owner and its pods: two plans on the same view, or one plan on
/// a view that lags, name the same pods, so that a repeat is refused by the store instead of doubled.
pub struct Names<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    salt: String,
}

impl<'a> Names<'a> {
    pub fn new(owner: &'a Value, cluster: &'a Cluster) -> Self {
        let seen = cluster.dependents(uid(owner)).fold(0_u64, |seen, key| seen ^ hash(&[&key.name]));
        let salt = format!("{}/{}/{seen}", uid(owner), text(&owner["metadata"], "resourceVersion"));
        Self { cluster, namespace: text(&owner["metadata"], "namespace"), salt }
    }

    /// `count` names that begin with `prefix` and that no pod has.
    pub fn free(&self, prefix: &str, count: usize) -> Vec<String> {
        let short = prefix.get(..LONGEST_PREFIX).unwrap_or(prefix);
        let suffix = |i: u64| letters(hash(&[&self.salt, prefix, &i.to_string()]), SUFFIX_LENGTH);
        let mut names = BTreeSet::new();
        let free = (0_u64..).map(|i| format!("{short}-{}", suffix(i))).filter(|name| {
            !self.cluster.contains(&Key::new(PODS, self.namespace, name.as_str()))
                && names.insert(name.clone())
        });
        free.take(count).collect()
    }
}

/// A pod of the owner's template, controlled by the owner.
pub fn pod_from_template(owner: &Value, name: &str) -> Value {
    pod_of(owner, &owner["spec"]["template"], name)
}

/// A pod of a template that is, or was, the owner's.
pub fn pod_of(owner: &Value, template: &Value, name: &str) -> Value {
    let mut metadata = template["metadata"].as_object().cloned().unwrap_or_default();
    metadata.remove("creationTimestamp");
    metadata.insert("name".into(), name.into());
    metadata.insert("generateName".into(), format!("{}-", self::name(owner)).into());
    metadata.insert("namespace".into(), owner["metadata"]["namespace"].clone());
    metadata.insert("ownerReferences".into(), json!([controller_reference(owner)]));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Since when a pod counts as available: ready for `min_ready` seconds. None: it is not ready. That it will be later is
/// noted for the next visit.
pub fn is_available(pod: &Pod, min_ready: i64, now: Timestamp, plan: &mut Plan) -> bool {
    let Some(since) = pod.ready_since else { return false };
    let available_at = if min_ready > 0 { later(since, min_ready) } else { now };
    if available_at > now {
        plan.check_again(available_at);
    }
    available_at <= now
}
