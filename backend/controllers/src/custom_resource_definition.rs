//! CustomResourceDefinition: its names are accepted unless another of its group has them, and when it is deleted all
//! its objects go first.
use crate::cluster::Cluster;
use crate::object::{is_deleting, text};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::seconds;
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

pub struct CustomResourceDefinitions;

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Controller for CustomResourceDefinitions {
    fn name(&self) -> &'static str {
        "custom-resource-definition-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource == DEFINITIONS {
            // A name that one gives up another may have been waiting for.
            let group = change.key.name.split_once('.').map_or("", |(_, group)| group);
            let mut keys: Vec<Key> = cluster.keys(DEFINITIONS).filter(|key| is_of(key, group)).collect();
            keys.push(change.key.clone());
            keys.dedup();
            return keys;
        }
        // An object of a kind on its way out.
        let definition = Key::new(DEFINITIONS, "", change.key.resource.clone());
        if cluster.is_deleting(&definition) { vec![definition] } else { Vec::new() }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(DEFINITIONS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(definition) = cluster.get(key) else {
            return plan;
        };
        match is_deleting(&definition) {
            true => clean_up(key, &definition, cluster, now, &mut plan),
            false => accept_names(key, &definition, cluster, now, &mut plan),
        }
        plan
    }
}

fn is_of(key: &Key, group: &str) -> bool {
    key.name.split_once('.').is_some_and(|(_, own)| own == group)
}

fn clean_up(key: &Key, definition: &Value, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
    let finalizers = definition["metadata"]["finalizers"].as_array().into_iter().flatten();
    let others: Vec<&Value> = finalizers.clone().filter(|finalizer| **finalizer != CLEANUP).collect();
    if others.len() == finalizers.count() {
        return;
    }
    let mut left = 0;
    for object in cluster.keys(&key.name) {
        left += 1;
        if let Some(uid) = cluster.uid(&object).filter(|_| !cluster.is_deleting(&object)) {
            plan.delete_whatever(object, uid, None);
        }
    }
    let mut next = definition.clone();
    if left == 0 {
        next["metadata"]["finalizers"] = json!(others);
        plan.update(key.clone(), next, Part::Spec);
        return;
    }
    let progress = Condition {
        of: "Terminating",
        holds: true,
        reason: "InstanceDeletionInProgress",
        message: "CustomResource deletion is in progress".into(),
    };
    progress.set(&mut next, now);
    if next != *definition {
        plan.update(key.clone(), next, Part::Status);
    }
}

fn accept_names(key: &Key, definition: &Value, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
    let group = text(&definition["spec"], "group");
    let others = cluster.keys(DEFINITIONS).filter(|other| other != key && is_of(other, group));
    let others: Vec<Arc<Value>> = others.filter_map(|other| cluster.get(&other)).collect();
    let (accepted, conflict) = accepted_names(definition, &others);
    let mut next = definition.clone();
    if !next["status"].is_object() {
        next["status"] = json!({});
    }
    next["status"]["acceptedNames"] = accepted;
    let is_accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".into()));
    Condition { of: "NamesAccepted", holds: is_accepted, reason, message }.set(&mut next, now);
    // What once was established stays so: its objects are there.
    let established = match is_accepted {
        true => Condition {
            of: "Established",
            holds: true,
            reason: "InitialNamesAccepted",
            message: "the initial names have been accepted".into(),
        },
        false => Condition {
            of: "Established",
            holds: false,
            reason: "NotAccepted",
            message: "not all names are accepted".into(),
        },
    };
    if !established_already(definition) {
        established.set(&mut next, now);
    }
    if next != *definition {
        plan.update(key.clone(), next, Part::Status);
    }
}

fn established_already(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

type Conflict = (&'static str, String);

/// The names it has from now on, and the first that another has: then its old name stays.
fn accepted_names(definition: &Value, others: &[Arc<Value>]) -> (Value, Option<Conflict>) {
    let (wanted, current) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let taken = |fields: &[&str]| -> BTreeSet<String> {
        let names = others.iter().map(|other| &other["status"]["acceptedNames"]);
        names.flat_map(|names| fields.iter().flat_map(|field| texts(&names[*field]))).collect()
    };
    let (resources, kinds) = (taken(&["plural", "singular", "shortNames"]), taken(&["kind", "listKind"]));
    let (mut accepted, mut conflict) = (json!({"plural": "", "kind": ""}), None);
    for (field, taken, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let clash = texts(&wanted[field]).into_iter().find(|name| taken.contains(name));
        let names = if clash.is_some() { current } else { wanted };
        if !names[field].is_null() {
            accepted[field] = names[field].clone();
        }
        if let Some(name) = clash {
            conflict.get_or_insert((reason, format!("{name:?} is already in use")));
        }
    }
    if !wanted["categories"].is_null() {
        accepted["categories"] = wanted["categories"].clone();
    }
    (accepted, conflict)
}

/// A text or a list of texts.
fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

struct Condition {
    of: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn set(self, definition: &mut Value, now: Timestamp) {
        let status = if self.holds { "True" } else { "False" };
        let slot = &mut definition["status"]["conditions"];
        if !slot.is_array() {
            *slot = json!([]);
        }
        let Some(conditions) = slot.as_array_mut() else { return };
        let old = conditions.iter_mut().find(|condition| condition["type"] == self.of);
        let since = match &old {
            Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
            _ => seconds(now).into(),
        };
        let new = json!({
            "type": self.of, "status": status, "reason": self.reason, "message": self.message,
            "lastTransitionTime": since,
        });
        match old {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn definition(plural: &str, kind: &str, short: &str) -> Value {
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.example.com")},
            "spec": {"group": "example.com", "scope": "Namespaced", "versions": [version],
                "names": {"plural": plural, "kind": kind, "shortNames": [short]}},
        })
    }

    fn condition(world: &World, key: &Key, of: &str) -> (String, String) {
        let found = crate::object::condition(world.get(key), of).cloned().unwrap_or_default();
        (text(&found, "status").to_owned(), text(&found, "reason").to_owned())
    }

    #[test]
    fn the_first_to_ask_for_a_name_has_it_and_the_next_gets_it_when_the_first_is_gone() {
        let mut world = World::new();
        let first = world.create(definition("boxes", "Box", "bx"));
        world.converge();
        assert_eq!(condition(&world, &first, "NamesAccepted"), ("True".into(), "NoConflicts".into()));
        assert_eq!(condition(&world, &first, "Established"), ("True".into(), "InitialNamesAccepted".into()));
        assert_eq!(world.get(&first)["status"]["acceptedNames"]["singular"], "box");
        assert_eq!(world.get(&first)["status"]["storedVersions"], json!(["v1"]));

        let second = world.create(definition("crates", "Crate", "bx"));
        world.converge();
        assert_eq!(
            condition(&world, &second, "NamesAccepted"),
            ("False".into(), "ShortNamesConflict".into())
        );
        assert_eq!(condition(&world, &second, "Established"), ("False".into(), "NotAccepted".into()));
        assert_eq!(condition(&world, &first, "Established").0, "True");

        world.delete(&first, "Background");
        world.converge();
        assert!(!world.objects.contains_key(&first));
        assert_eq!(condition(&world, &second, "Established").0, "True");
        world.assert_at_rest();
    }

    #[test]
    fn a_stored_version_is_remembered_and_cannot_be_taken_away() {
        let mut world = World::new();
        let key = world.create(definition("boxes", "Box", "bx"));
        world.converge();
        let mut next = definition("boxes", "Box", "bx")["spec"]["versions"][0].clone();
        next["name"] = "v2".into();
        world.edit(&key, |definition| {
            definition["spec"]["versions"][0]["storage"] = false.into();
            if let Some(versions) = definition["spec"]["versions"].as_array_mut() {
                versions.push(next);
            }
        });
        assert_eq!(world.get(&key)["status"]["storedVersions"], json!(["v1", "v2"]));
    }
}
