//! The API as controllers and nodes write to it: the real rules for objects before the real store, with a clock of its own.
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::lifecycle::{self, CreateContext, DeleteOptions, Deletion};
use pilothouse_api::{Key, KindEntry, Observed, Registry, Revision, Status};
use pilothouse_controllers::{Action, Part};
use pilothouse_store::{Change, ChangeKind, Object, Store, Watch, WatchItem, Write, WriteError};
use serde_json::{Value, json};
use std::sync::Arc;

/// The namespace of everything in the story.
pub const NAMESPACE: &str = "default";

pub struct Api {
    registry: Registry,
    pub store: Store,
    pub now: Timestamp,
    uids: u64,
    /// So many pods more are refused, as a quota or a webhook would.
    pub refusals: u32,
}

/// What a watcher is told next.
pub enum Told {
    Change(Observed),
    /// It fell behind and must start over.
    Lagged,
    Nothing,
}

impl Api {
    pub fn new() -> Self {
        let now = Timestamp::from_second(1_767_225_600).unwrap_or_default(); // 2026-01-01T00:00:00Z
        let store = Store::memory(Arc::new(|_: &Key, _: &Value| Vec::new()));
        let mut api = Self { registry: Registry::builtin(), store, now, uids: 0, refusals: 0 };
        for name in [NAMESPACE, "kube-node-lease"] {
            let _ = api.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        api
    }

    pub fn pass(&mut self, millis: i64) {
        self.now = self.now.checked_add(millis.milliseconds()).unwrap_or(self.now);
    }

    fn entry(&self, resource: &str) -> Result<Arc<KindEntry>, Status> {
        self.registry.by_resource(resource).cloned().ok_or_else(|| Status::not_found(resource, ""))
    }

    fn write(&self, entry: &KindEntry, write: Write) -> Result<Revision, Status> {
        let name = write.key().name.clone();
        // The memory store answers at once.
        let written = futures::FutureExt::now_or_never(self.store.write(write));
        match written {
            Some(Ok(object)) => Ok(object.revision),
            Some(Err(WriteError::AlreadyExists(_))) => Err(Status::already_exists(&entry.resource, &name)),
            Some(Err(WriteError::NotFound(_))) => Err(Status::not_found(&entry.resource, &name)),
            _ => Err(Status::stale(&entry.resource, &name)),
        }
    }

    pub fn create(&mut self, mut object: Value) -> Result<(Key, Revision), Status> {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let entry = self.registry.by_kind(&version, &kind).cloned();
        let entry = entry.ok_or_else(|| Status::not_found(&kind, ""))?;
        if kind == "Pod" && self.refusals > 0 {
            self.refusals -= 1;
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::forbidden("pods", name, "exceeded quota: small"));
        }
        let namespace = match (entry.is_namespaced(), object["metadata"]["namespace"].as_str()) {
            (false, _) => String::new(),
            (true, given) => given.unwrap_or(NAMESPACE).to_owned(),
        };
        self.uids += 1;
        let (uid, suffix) = (format!("uid-{:05}", self.uids), format!("x{:04}", self.uids));
        let cx = CreateContext { namespace: &namespace, now: self.now, uid: &uid, name_suffix: &suffix };
        lifecycle::before_create(&entry, &mut object, &cx)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = Key::new(entry.stored_as.clone(), namespace, name);
        let revision = self.write(&entry, Write::Create { key: key.clone(), object })?;
        Ok((key, revision))
    }

    pub fn get(&self, key: &Key) -> Option<Value> {
        self.store.get(key).map(|object| object.value())
    }

    pub fn list(&self, resource: &str) -> Vec<(Key, Value)> {
        let objects = self.store.list(resource, None).objects;
        objects.iter().map(|object| (object.key.clone(), object.value())).collect()
    }

    pub fn update(&mut self, key: &Key, mut new: Value, part: Part) -> Result<Revision, Status> {
        let entry = self.entry(&key.resource)?;
        let not_found = || Status::not_found(&key.resource, &key.name);
        let stored = self.store.get(key).ok_or_else(not_found)?;
        let old = stored.value();
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return Err(Status::stale(&key.resource, &key.name));
        }
        match part {
            Part::Spec => lifecycle::before_update(&entry, &mut new, &old, self.now)?,
            Part::Status => lifecycle::before_update_status(&entry, &mut new, &old, self.now)?,
            Part::Whole => {}
        }
        if lifecycle::is_released(&entry, &new) {
            return self.write(&entry, Write::Delete { key: key.clone(), expected: Some(stored.revision) });
        }
        if new == old {
            return Ok(stored.revision);
        }
        self.write(&entry, Write::Update { key: key.clone(), object: new, expected: stored.revision })
    }

    /// Changes what is there now.
    pub fn edit(
        &mut self,
        key: &Key,
        part: Part,
        change: impl FnOnce(&mut Value),
    ) -> Result<Revision, Status> {
        let mut object = self.get(key).ok_or_else(|| Status::not_found(&key.resource, &key.name))?;
        change(&mut object);
        self.update(key, object, part)
    }

    pub fn delete(&mut self, key: &Key, options: &DeleteOptions) -> Result<Revision, Status> {
        let entry = self.entry(&key.resource)?;
        let Some(stored) = self.store.get(key) else { return Ok(0) };
        let expected = Some(stored.revision);
        match lifecycle::before_delete(&entry, &stored.value(), options, self.now)? {
            Deletion::Remove => self.write(&entry, Write::Delete { key: key.clone(), expected }),
            Deletion::Update(object) => {
                self.write(&entry, Write::Update { key: key.clone(), object, expected: stored.revision })
            }
            Deletion::Unchanged => Ok(stored.revision),
        }
    }

    /// What `POST …/binding` does.
    pub fn bind(&mut self, pod: &Key, uid: &str, node: &str) -> Result<Revision, Status> {
        let object = self.get(pod).ok_or_else(|| Status::not_found("pods", &pod.name))?;
        let is_free = object["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
        let is_meant = object["metadata"]["uid"] == uid && object["metadata"]["deletionTimestamp"].is_null();
        if !is_free || !is_meant {
            return Err(Status::conflict("pods", &pod.name, "it cannot be bound".to_owned()));
        }
        self.edit(pod, Part::Whole, |object| object["spec"]["nodeName"] = node.into())
    }

    /// What a controller's action comes to: the revision it was written at, 0 for one that writes nothing.
    pub fn carry_out(&mut self, action: &Action) -> Result<Revision, Status> {
        match action {
            Action::Create { object, .. } => self.create(object.clone()).map(|(_, revision)| revision),
            Action::Update { key, object, part } => self.update(key, object.clone(), *part),
            Action::Delete { key, options } => self.delete(key, options),
            Action::Event { .. } => Ok(0),
        }
    }

    /// Everything there is, and a watch of what follows.
    pub fn snapshot(&self) -> (Vec<Observed>, Option<Watch>) {
        let (revision, objects) = self.store.everything();
        let state = objects.iter().map(|object| observed(ChangeKind::Added, object, None)).collect();
        (state, self.store.watch(None, None, revision).ok())
    }
}

/// The next change that a watch has, if it has one.
pub fn next(watch: &mut Option<Watch>) -> Told {
    let Some(open) = watch else { return Told::Lagged };
    match open.try_next() {
        WatchItem::Change(Change { kind, object, previous }) => {
            Told::Change(observed(kind, &object, previous.as_deref()))
        }
        WatchItem::Progress(_) => Told::Nothing,
        WatchItem::Lagged => Told::Lagged,
    }
}

fn observed(kind: ChangeKind, object: &Object, previous: Option<&Object>) -> Observed {
    let value = Arc::new(object.value());
    let before = previous.map(|object| Arc::new(object.value()));
    let (key, revision) = (object.key.clone(), object.revision);
    match kind {
        ChangeKind::Deleted => Observed {
            key,
            revision,
            object: None,
            previous: before.or(Some(value)),
            bytes: Default::default(),
        },
        _ => Observed { key, revision, object: Some(value), previous: before, bytes: object.bytes.clone() },
    }
}
