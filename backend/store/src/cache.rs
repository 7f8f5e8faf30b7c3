//! The watch cache: the newest version of every object, and what changed lately.
use crate::history::History;
use crate::{Change, ChangeKind, Object, ReadError};
use pilothouse_api::{Key, Revision};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// Changes kept of one resource, for watches that resume and for later pages of a list.
const CHANGES: usize = 10_000;
/// Changes kept of a resource that changes all the time and whose past nobody asks for.
const TRANSIENT_CHANGES: usize = 200;
/// What all histories may take. The resource with the largest one pays first, so that a busy resource never shortens
/// the history of a quiet one.
const HISTORY_BYTES: usize = 24 * 1024 * 1024;

type Address = (Arc<str>, Arc<str>);

#[derive(Default)]
pub struct Cache {
    pub revision: Revision,
    resources: HashMap<Arc<str>, BTreeMap<Address, Arc<Object>>>,
    histories: HashMap<Arc<str>, History>,
    history_bytes: usize,
    /// Where the history of a resource starts that has none yet.
    loaded: Revision,
}

/// Resources whose every version is short-lived: leases are renewed every few seconds, events expire. Their bodies
/// stay out of the log and their history is short.
pub fn is_transient(resource: &str) -> bool {
    matches!(resource, "leases.coordination.k8s.io" | "events")
}

impl Cache {
    /// The state that was loaded, at `revision`; `recent` are the changes that led there after `oldest`, in order.
    pub fn load(
        &mut self,
        revision: Revision,
        objects: Vec<Arc<Object>>,
        oldest: Revision,
        recent: Vec<(ChangeKind, Arc<Object>)>,
    ) {
        *self = Self { revision, loaded: oldest, ..Self::default() };
        let mut last: HashMap<Key, Arc<Object>> = HashMap::new();
        for (kind, object) in recent {
            let previous =
                last.insert(object.key.clone(), object.clone()).filter(|_| kind != ChangeKind::Added);
            self.remember(Change { kind, object, previous });
        }
        for object in objects {
            // The log does not hold every version of these, so nothing resumes from before now.
            if is_transient(&object.key.resource) {
                self.history(&object.key.resource).oldest = revision;
            }
            self.put(object);
        }
    }

    fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let address = (object.key.namespace.clone(), object.key.name.clone());
        match self.resources.get_mut(&object.key.resource) {
            Some(objects) => objects.insert(address, object),
            None => {
                let resource = object.key.resource.clone();
                self.resources.entry(resource).or_default().insert(address, object)
            }
        }
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.resources.get(&key.resource)?.get(&(key.namespace.clone(), key.name.clone()))
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.resources.values().flat_map(BTreeMap::values)
    }

    pub fn count(&self, resource: &str) -> usize {
        self.resources.get(resource).map_or(0, BTreeMap::len)
    }

    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let Some(objects) = self.resources.get(resource) else {
            return Vec::new();
        };
        let Some(namespace) = namespace else {
            return objects.values().cloned().collect();
        };
        let namespace: Arc<str> = namespace.into();
        let from = Bound::Included((namespace.clone(), Arc::from("")));
        let range = objects.range((from, Bound::Unbounded));
        range.take_while(|((ns, _), _)| *ns == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// The list as it was at `revision`: today's, with what changed since undone.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        revision: Revision,
    ) -> Result<Vec<Arc<Object>>, ReadError> {
        self.check(Some(resource), revision)?;
        let mut objects = self.list(resource, namespace);
        let Some(history) = self.histories.get(resource) else { return Ok(objects) };
        let expired = ReadError::Expired { asked: revision, oldest: history.oldest };
        let undo = history.undo(revision).ok_or(expired)?;
        if undo.is_empty() {
            return Ok(objects);
        }
        objects.retain(|object| !undo.contains_key(&object.key));
        let here =
            |object: &Arc<Object>| namespace.is_none_or(|namespace| *namespace == *object.key.namespace);
        objects.extend(undo.into_values().flatten().filter(here));
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Takes the next change of the log. None: it says nothing that was not known.
    pub fn apply(&mut self, kind: ChangeKind, object: Arc<Object>) -> Option<Change> {
        self.revision = object.revision;
        let previous = match kind {
            ChangeKind::Deleted => {
                let address = (object.key.namespace.clone(), object.key.name.clone());
                let objects = self.resources.get_mut(&object.key.resource);
                Some(objects.and_then(|objects| objects.remove(&address))?)
            }
            ChangeKind::Added | ChangeKind::Modified => self.put(object.clone()),
        };
        // Versions in between may be missing from what another server logged of a transient object.
        let kind = match (kind, &previous) {
            (ChangeKind::Modified, None) => ChangeKind::Added,
            (ChangeKind::Added, Some(_)) => ChangeKind::Modified,
            _ => kind,
        };
        let change = Change { kind, object, previous };
        self.remember(change.clone());
        Some(change)
    }

    fn history(&mut self, resource: &Arc<str>) -> &mut History {
        let loaded = self.loaded;
        self.histories.entry(resource.clone()).or_insert_with(|| History::starting_at(loaded))
    }

    fn remember(&mut self, change: Change) {
        let resource = change.object.key.resource.clone();
        let limit = if is_transient(&resource) { TRANSIENT_CHANGES } else { CHANGES };
        let history = self.history(&resource);
        let before = history.bytes;
        history.push(change);
        while history.len() > limit {
            history.drop_oldest();
        }
        let after = history.bytes;
        self.history_bytes = self.history_bytes + after - before;
        while self.history_bytes > HISTORY_BYTES {
            let Some(largest) = self.histories.values_mut().max_by_key(|history| history.bytes) else {
                return;
            };
            let before = largest.bytes;
            largest.drop_oldest();
            self.history_bytes = self.history_bytes + largest.bytes - before;
        }
    }

    /// Whether everything after `revision` is still known.
    fn check(&self, resource: Option<&str>, revision: Revision) -> Result<(), ReadError> {
        let oldest = match resource {
            Some(resource) => self.histories.get(resource).map_or(self.loaded, |history| history.oldest),
            None => self.histories.values().map(|history| history.oldest).max().unwrap_or(self.loaded),
        };
        match revision < oldest || revision > self.revision {
            true => Err(ReadError::Expired { asked: revision, oldest }),
            false => Ok(()),
        }
    }

    /// What changed after `from`, in order.
    pub fn changes_after(&self, resource: Option<&str>, from: Revision) -> Result<Vec<Change>, ReadError> {
        self.check(resource, from)?;
        if let Some(resource) = resource {
            let history = self.histories.get(resource);
            return Ok(history.into_iter().flat_map(|history| history.after(from)).cloned().collect());
        }
        let mut changes: Vec<Change> =
            self.histories.values().flat_map(|history| history.after(from)).cloned().collect();
        changes.sort_by_key(|change| change.object.revision);
        Ok(changes)
    }
}
