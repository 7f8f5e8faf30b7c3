//! What the server told this node: its pods, what they mount, and the services they talk to.
use pilothouse_protocol::ObjectChange;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

type Address = (Arc<str>, Arc<str>, Arc<str>);
/// By namespace and name.
type Objects = BTreeMap<(Arc<str>, Arc<str>), Arc<Value>>;

/// The newest word on every object, by resource.
#[derive(Default)]
pub struct Assigned {
    objects: HashMap<Arc<str>, Objects>,
    /// The first full set has come: before it, nothing may be taken for gone.
    pub complete: bool,
}

impl Assigned {
    /// Takes a message and returns the addresses that changed.
    pub fn apply(&mut self, full: bool, changes: Vec<ObjectChange>) -> Vec<Address> {
        let mut touched = Vec::new();
        if full {
            let listed: std::collections::HashSet<Address> =
                changes.iter().map(|c| (c.resource.clone(), c.namespace.clone(), c.name.clone())).collect();
            for (resource, objects) in &mut self.objects {
                objects.retain(|(namespace, name), _| {
                    let address = (resource.clone(), namespace.clone(), name.clone());
                    let keep = listed.contains(&address);
                    if !keep {
                        touched.push(address);
                    }
                    keep
                });
            }
            self.complete = true;
        }
        for change in changes {
            let objects = self.objects.entry(change.resource.clone()).or_default();
            let place = (change.namespace.clone(), change.name.clone());
            match change.object.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) {
                Some(object) => drop(objects.insert(place, Arc::new(object))),
                None => drop(objects.remove(&place)),
            }
            touched.push((change.resource, change.namespace, change.name));
        }
        touched
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(resource)?.get(&(namespace.into(), name.into())).cloned()
    }

    pub fn all(&self, resource: &str) -> Vec<Arc<Value>> {
        self.objects.get(resource).into_iter().flat_map(|objects| objects.values().cloned()).collect()
    }

    pub fn in_namespace(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let Some(objects) = self.objects.get(resource) else { return Vec::new() };
        let from = objects.range((Arc::from(namespace), Arc::from(""))..);
        from.take_while(|((ns, _), _)| &**ns == namespace).map(|(_, object)| object.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn change(namespace: &str, name: &str, object: Option<&str>) -> ObjectChange {
        let object = object.map(|o| RawValue::from_string(o.to_owned()).unwrap());
        ObjectChange { resource: "pods".into(), namespace: namespace.into(), name: name.into(), object }
    }

    #[test]
    fn what_a_full_set_does_not_list_is_gone() {
        let mut assigned = Assigned::default();
        assigned.apply(true, vec![change("a", "x", Some("{}")), change("a", "y", Some("{}"))]);
        assigned.apply(false, vec![change("a", "z", Some("{}"))]);
        let touched = assigned.apply(true, vec![change("a", "y", Some("{}"))]);
        assert_eq!(touched.len(), 3, "two are gone and one is told again");
        assert!(assigned.get("pods", "a", "y").is_some());
        assert_eq!(assigned.all("pods").len(), 1);
    }

    #[test]
    fn a_namespace_is_told_from_its_neighbours() {
        let mut assigned = Assigned::default();
        let all = [("a", "x"), ("b", "x"), ("b", "y"), ("ba", "x")];
        assigned.apply(true, all.map(|(ns, name)| change(ns, name, Some("{}"))).to_vec());
        assert_eq!(assigned.in_namespace("pods", "b").len(), 2);
    }
}
