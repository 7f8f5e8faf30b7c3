//! What the server told this node: its pods, what they mount, and the services they talk to.
use pilothouse_protocol::ObjectChange;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

type Address = (Arc<str>, Arc<str>, Arc<str>);

/// The newest word on every object, by resource, namespace and name.
#[derive(Default)]
pub struct Assigned {
    objects: HashMap<Address, Arc<Value>>,
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
            touched.extend(self.objects.keys().filter(|address| !listed.contains(*address)).cloned());
            for address in &touched {
                self.objects.remove(address);
            }
            self.complete = true;
        }
        for change in changes {
            let address = (change.resource, change.namespace, change.name);
            match change.object.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) {
                Some(object) => drop(self.objects.insert(address.clone(), Arc::new(object))),
                None => drop(self.objects.remove(&address)),
            }
            touched.push(address);
        }
        touched
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    pub fn all(&self, resource: &str) -> Vec<Arc<Value>> {
        self.objects
            .iter()
            .filter(|((r, _, _), _)| &**r == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn change(name: &str, object: Option<&str>) -> ObjectChange {
        let object = object.map(|o| RawValue::from_string(o.to_owned()).unwrap());
        ObjectChange { resource: "pods".into(), namespace: "a".into(), name: name.into(), object }
    }

    #[test]
    fn what_a_full_set_does_not_list_is_gone() {
        let mut assigned = Assigned::default();
        assigned.apply(true, vec![change("x", Some("{}")), change("y", Some("{}"))]);
        assigned.apply(false, vec![change("z", Some("{}"))]);
        assigned.apply(true, vec![change("y", Some("{}"))]);
        assert!(assigned.get("pods", "a", "y").is_some());
        assert_eq!(assigned.all("pods").len(), 1);
    }
}
