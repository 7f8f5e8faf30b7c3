//! The watch cache: the newest version of every object, the recent changes, and who is told of them.
use crate::feed::Subscriber;
use crate::{Change, ChangeKind, Object, ReadError};
use pilothouse_api::{Key, Revision};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Changes kept for watches that resume. With 1 KiB objects this is about 20 MiB at most, and shared with the
/// objects themselves where those did not change again.
const RECENT_CHANGES: usize = 20_000;

type Address = (Arc<str>, Arc<str>);

#[derive(Default)]
pub struct Cache {
    pub revision: Revision,
    resources: HashMap<Arc<str>, BTreeMap<Address, Arc<Object>>>,
    recent: VecDeque<Change>,
    /// A watch can resume after this revision.
    oldest: Revision,
    by_resource: HashMap<Arc<str>, Vec<Subscriber>>,
    of_everything: Vec<Subscriber>,
}

impl Cache {
    /// The state that was loaded, at `revision`; `recent` are the last changes that led there, oldest first.
    pub fn load(
        &mut self,
        revision: Revision,
        objects: Vec<Arc<Object>>,
        recent: Vec<(ChangeKind, Arc<Object>)>,
    ) {
        self.revision = revision;
        self.oldest = recent.first().map_or(revision, |(_, object)| object.revision - 1);
        self.recent.clear();
        let mut last: HashMap<Key, Arc<Object>> = HashMap::new();
        for (kind, object) in recent {
            let previous =
                last.insert(object.key.clone(), object.clone()).filter(|_| kind != ChangeKind::Added);
            self.recent.push_back(Change { kind, object, previous });
        }
        self.resources.clear();
        for object in objects {
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

    /// Takes the next change of the log and tells every subscriber whom it concerns.
    pub fn apply(&mut self, kind: ChangeKind, object: Arc<Object>) {
        let previous = match kind {
            ChangeKind::Deleted => {
                let address = (object.key.namespace.clone(), object.key.name.clone());
                self.resources.get_mut(&object.key.resource).and_then(|objects| objects.remove(&address))
            }
            ChangeKind::Added | ChangeKind::Modified => self.put(object.clone()),
        };
        self.revision = object.revision;
        let change = Change { kind, object, previous };
        if let Some(subscribers) = self.by_resource.get_mut(&change.object.key.resource) {
            subscribers.retain(|subscriber| subscriber.tell(&change));
        }
        self.of_everything.retain(|subscriber| subscriber.tell(&change));
        self.recent.push_back(change);
        while self.recent.len() > RECENT_CHANGES {
            if let Some(dropped) = self.recent.pop_front() {
                self.oldest = dropped.object.revision;
            }
        }
    }

    /// Registers a subscriber and returns the changes after `from` that it has already missed.
    pub fn subscribe(
        &mut self,
        subscriber: Subscriber,
        from: Revision,
    ) -> Result<VecDeque<Change>, ReadError> {
        if from < self.oldest || from > self.revision {
            return Err(ReadError::Expired { asked: from, oldest: self.oldest });
        }
        let start = self.recent.partition_point(|change| change.object.revision <= from);
        let missed =
            self.recent.iter().skip(start).filter(|change| subscriber.wants(change)).cloned().collect();
        match &subscriber.resource {
            Some(resource) => self.by_resource.entry(resource.clone()).or_default().push(subscriber),
            None => self.of_everything.push(subscriber),
        }
        Ok(missed)
    }
}
