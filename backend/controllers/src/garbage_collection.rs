//! Garbage collection: what belongs to an object goes with it, or before it, or is let go.
use crate::cluster::Cluster;
use crate::object::*;
use crate::{Action, Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::HashSet;

pub struct GarbageCollection;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Objects looked at for one circle; more than these in a circle is nobody's intention.
const LONGEST_CIRCLE: usize = 1_000;

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
                keys.extend(cluster.dependents(gone).cloned());
            }
            Some(object) => {
                let owners_changed = change.previous.as_ref().is_none_or(|old| {
                    old["metadata"]["ownerReferences"] != object["metadata"]["ownerReferences"]
                });
                let has_owners = owners(object).next().is_some();
                if is_deleting(object) && waits(object) || has_owners && owners_changed {
                    keys.push(change.key.clone());
                }
            }
        }
        // An owner that waits for its dependents waited for this one, too.
        let states = [&change.object, &change.previous].into_iter().flatten();
        let owners =
            states.flat_map(|object| owners(object)).filter_map(|owner| cluster.by_uid(text(owner, "uid")));
        keys.extend(owners.filter(|owner| cluster.is_deleting(owner)).cloned());
        keys.dedup();
        keys
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.owned_or_deleting().collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(object) = cluster.get(key) else {
            return plan;
        };
        if is_deleting(&object) && has_finalizer(&object, ORPHAN) {
            orphan(key, &object, cluster, &mut plan);
        } else if is_deleting(&object) && has_finalizer(&object, FOREGROUND) {
            delete_dependents_first(key, &object, cluster, &mut plan);
        } else if !is_deleting(&object) {
            collect(key, &object, cluster, &mut plan);
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

/// How an owner stands to what it owns.
#[derive(PartialEq)]
enum Standing {
    /// It is there and stays.
    Solid,
    /// It is on its way out and waits for its dependents.
    Waiting,
    Absent,
}

fn standing(owner: &Value, key: &Key, cluster: &Cluster) -> Standing {
    let Some(found) = cluster.by_uid(text(owner, "uid")) else {
        return Standing::Absent;
    };
    if *found.name != *text(owner, "name") {
        return Standing::Absent;
    }
    if !found.namespace.is_empty() && found.namespace != key.namespace {
        // An owner in another namespace is none; an object of the whole cluster that names one is left alone, since
        // nobody can say which namespace was meant.
        return if key.namespace.is_empty() { Standing::Solid } else { Standing::Absent };
    }
    let waiting = cluster.is_deleting(found)
        && cluster.get(found).is_some_and(|owner| has_finalizer(&owner, FOREGROUND));
    if waiting { Standing::Waiting } else { Standing::Solid }
}

/// An object goes when none of its owners stays.
fn collect(key: &Key, object: &Value, cluster: &Cluster, plan: &mut Plan) {
    let standings: Vec<(&Value, Standing)> =
        owners(object).map(|owner| (owner, standing(owner, key, cluster))).collect();
    let (solid, leaving): (Vec<_>, Vec<_>) = standings.into_iter().partition(|(_, s)| *s == Standing::Solid);
    if leaving.is_empty() {
        return;
    }
    if !solid.is_empty() {
        let kept: Vec<Value> = solid.into_iter().map(|(owner, _)| owner.clone()).collect();
        let mut next = object.clone();
        next["metadata"]["ownerReferences"] = json!(kept);
        return plan.update(key.clone(), next, Part::Spec);
    }
    // Somebody waits for it: it takes its own dependents along first.
    let is_awaited = leaving.iter().any(|(_, s)| *s == Standing::Waiting);
    let policy = if is_awaited && cluster.dependents(uid(object)).next().is_some() {
        "Foreground"
    } else {
        "Background"
    };
    let options = DeleteOptions {
        uid: Some(uid(object).to_owned()),
        resource_version: object["metadata"]["resourceVersion"].as_str().map(str::to_owned),
        propagation_policy: Some(policy.into()),
        ..DeleteOptions::default()
    };
    plan.actions.push(Action::Delete { key: key.clone(), options });
}

fn delete_dependents_first(key: &Key, object: &Value, cluster: &Cluster, plan: &mut Plan) {
    let mut blocked = false;
    for dependent_key in cluster.dependents(uid(object)) {
        let Some(dependent) = cluster.get(dependent_key) else {
            continue;
        };
        blocked |= blocks(&dependent, uid(object)) && !waits_for(dependent_key, uid(object), cluster);
        if !is_deleting(&dependent) {
            collect(dependent_key, &dependent, cluster, plan);
        }
    }
    if !blocked {
        plan.update(key.clone(), without_finalizer(object, FOREGROUND), Part::Spec);
    }
}

fn blocks(dependent: &Value, owner_uid: &str) -> bool {
    owners(dependent).any(|o| o["uid"] == owner_uid && o["blockOwnerDeletion"] == true)
}

/// Whether an object that is deleted in the foreground waits, over others that do the same, for the object `wanted`:
/// objects that own each other in a circle would wait for ever.
fn waits_for(key: &Key, wanted: &str, cluster: &Cluster) -> bool {
    let (mut open, mut seen) = (vec![key.clone()], HashSet::new());
    while let Some(key) = open.pop().filter(|_| seen.len() < LONGEST_CIRCLE) {
        let Some(object) = cluster.get(&key).filter(|o| is_deleting(o) && has_finalizer(o, FOREGROUND))
        else {
            continue;
        };
        if !seen.insert(key) {
            continue;
        }
        for dependent_key in cluster.dependents(uid(&object)) {
            let Some(dependent) = cluster.get(dependent_key).filter(|d| blocks(d, uid(&object))) else {
                continue;
            };
            if uid(&dependent) == wanted {
                return true;
            }
            open.push(dependent_key.clone());
        }
    }
    false
}

fn orphan(key: &Key, object: &Value, cluster: &Cluster, plan: &mut Plan) {
    let mut left = false;
    for dependent_key in cluster.dependents(uid(object)) {
        let Some(dependent) = cluster.get(dependent_key) else {
            continue;
        };
        left = true;
        plan.update(dependent_key.clone(), released(&dependent, uid(object)), Part::Spec);
    }
    if !left {
        plan.update(key.clone(), without_finalizer(object, ORPHAN), Part::Spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn map(name: &str, owners: &[&Value]) -> Value {
        let references: Vec<Value> = owners
            .iter()
            .map(|o| json!({"apiVersion": "v1", "kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"], "blockOwnerDeletion": true}))
            .collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": references}})
    }

    #[test]
    fn what_belongs_to_an_object_goes_with_it_and_what_has_another_owner_stays() {
        let mut world = World::new();
        let a = world.create(map("a", &[]));
        let b = world.create(map("b", &[]));
        let (of_a, of_b) = (world.get(&a).clone(), world.get(&b).clone());
        let only = world.create(map("only", &[&of_a]));
        let only_object = world.get(&only).clone();
        let deep = world.create(map("deep", &[&only_object]));
        let both = world.create(map("both", &[&of_a, &of_b]));
        world.settle();
        world.delete(&a, "Background");
        world.settle();
        assert!(!world.objects.contains_key(&only) && !world.objects.contains_key(&deep));
        assert_eq!(world.get(&both)["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
        world.assert_at_rest();
    }

    #[test]
    fn in_the_foreground_the_owner_goes_last_and_orphans_stay() {
        let mut world = World::new();
        let a = world.create(map("a", &[]));
        let of_a = world.get(&a).clone();
        let mut held = map("held", &[&of_a]);
        held["metadata"]["finalizers"] = json!(["example.com/slow"]);
        let held = world.create(held);
        world.delete(&a, "Foreground");
        world.settle();
        assert!(world.objects.contains_key(&a), "it waits");
        world.edit(&held, |map| map["metadata"]["finalizers"] = json!([]));
        world.settle();
        assert!(!world.objects.contains_key(&a) && !world.objects.contains_key(&held));

        let b = world.create(map("b", &[]));
        let of_b = world.get(&b).clone();
        let left = world.create(map("left", &[&of_b]));
        world.delete(&b, "Orphan");
        world.settle();
        assert!(!world.objects.contains_key(&b));
        assert!(world.get(&left)["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
    }

    #[test]
    fn objects_that_own_each_other_in_a_circle_do_not_wait_for_ever() {
        let mut world = World::new();
        let a = world.create(map("a", &[]));
        let of_a = world.get(&a).clone();
        let b = world.create(map("b", &[&of_a]));
        let of_b = world.get(&b).clone();
        let c = world.create(map("c", &[&of_b]));
        let of_c = world.get(&c).clone();
        let other = world.create(map("other", &[&of_c]));
        world.edit(&a, |a| {
            a["metadata"]["ownerReferences"] = map("a", &[&of_c])["metadata"]["ownerReferences"].clone()
        });
        world.settle();
        world.delete(&a, "Foreground");
        world.settle();
        for key in [a, b, c, other] {
            assert!(!world.objects.contains_key(&key), "{key} stays");
        }
    }

    #[test]
    fn an_owner_that_never_was_or_lives_elsewhere_is_none() {
        let mut world = World::new();
        let ghost = json!({"kind": "ConfigMap", "metadata": {"name": "ghost", "uid": "uid-ghost"}});
        let haunted = world.create(map("haunted", &[&ghost]));
        world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
        let mut far = map("far", &[]);
        far["metadata"]["namespace"] = "other".into();
        let far = world.create(far);
        let far_object = world.get(&far).clone();
        let claiming = world.create(map("claiming", &[&far_object]));
        world.settle();
        assert!(!world.objects.contains_key(&haunted) && !world.objects.contains_key(&claiming));
        assert!(world.objects.contains_key(&far));
    }
}
