//! Custom kinds: keeps the registry in step with the stored CustomResourceDefinitions, on every server by its own feed.
use crate::feed::Observation;
use crate::state::SharedRegistry;
use pilothouse_api::{KindEntry, Registry, custom};
use pilothouse_store::Object;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// What was made of the definitions seen so far.
pub struct CustomKinds {
    registry: SharedRegistry,
    known: BTreeMap<Arc<str>, Known>,
}

struct Known {
    /// What the rules were made from: they stay the same while it does, so that watches go on.
    basis: Value,
    is_terminating: bool,
    entries: Vec<Arc<KindEntry>>,
}

impl CustomKinds {
    pub fn new(registry: SharedRegistry) -> Self {
        Self { registry, known: BTreeMap::new() }
    }

    pub fn observe(&mut self, observation: Observation) {
        let revision = match &observation {
            Observation::Reset => {
                self.known.clear();
                return;
            }
            Observation::Put(object) => {
                self.put(object);
                object.revision
            }
            Observation::Gone(object) => {
                self.known.remove(&object.key.name);
                object.revision
            }
        };
        let mut registry = Registry::builtin();
        for entry in self.known.values().flat_map(|known| &known.entries) {
            registry.insert(entry.clone());
        }
        self.registry.replace(registry, revision);
    }

    fn put(&mut self, object: &Object) {
        let definition = object.value();
        let is = |condition: &str| custom::definition::is(&definition, condition);
        let basis = json!({
            "spec": definition["spec"], "names": definition["status"]["acceptedNames"],
            "established": is("Established"),
        });
        let is_terminating = is("Terminating");
        let before = self.known.get(&object.key.name).filter(|known| known.basis == basis);
        if before.is_some_and(|known| known.is_terminating == is_terminating) {
            return;
        }
        let mut entries = custom::entries(&definition);
        for (entry, before) in entries.iter_mut().zip(before.into_iter().flat_map(|known| &known.entries)) {
            entry.rules = before.rules.clone();
        }
        let entries = entries.into_iter().map(Arc::new).collect();
        self.known.insert(object.key.name.clone(), Known { basis, is_terminating, entries });
    }
}

#[cfg(test)]
mod tests;
