//! All kinds the server knows, found by URL, by `apiVersion` and `kind`, or by resource.
use crate::kind::KindEntry;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Cheap to clone; a CustomResourceDefinition makes a new registry with one entry more.
#[derive(Clone, Default)]
pub struct Registry {
    entries: Vec<Arc<KindEntry>>,
    by_url: BTreeMap<(String, String, String), Arc<KindEntry>>,
    by_kind: BTreeMap<(String, String), Arc<KindEntry>>,
    by_resource: BTreeMap<Arc<str>, Arc<KindEntry>>,
}

impl Registry {
    /// The kinds of [`crate::kinds::all`].
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for entry in crate::kinds::all() {
            registry.insert(entry);
        }
        registry
    }

    /// A kind whose URL is taken already is left out: built-in kinds stay what they are.
    pub fn insert(&mut self, entry: impl Into<Arc<KindEntry>>) {
        let entry: Arc<KindEntry> = entry.into();
        if self.by_url(&entry.group, &entry.version, &entry.plural).is_some() {
            return;
        }
        if entry.stored_as == entry.resource {
            // Of several versions of a kind the first is the stored one.
            self.by_resource.entry(entry.resource.clone()).or_insert_with(|| entry.clone());
        }
        if !entry.is_served {
            return;
        }
        let url = (entry.group.clone(), entry.version.clone(), entry.plural.clone());
        self.by_url.insert(url, entry.clone());
        self.by_kind.insert((entry.api_version(), entry.kind.clone()), entry.clone());
        self.entries.push(entry);
    }

    /// In the order of the list.
    pub fn entries(&self) -> &[Arc<KindEntry>] {
        &self.entries
    }

    pub fn by_url(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<KindEntry>> {
        self.by_url.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<KindEntry>> {
        self.by_kind.get(&(api_version.to_owned(), kind.to_owned()))
    }

    /// The entry in whose shape objects of `resource` (`pods`, `deployments.apps`) are stored.
    pub fn by_resource(&self, resource: &str) -> Option<&Arc<KindEntry>> {
        self.by_resource.get(resource)
    }
}
