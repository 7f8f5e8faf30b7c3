//! The API as controllers and nodes write to it: the real rules for objects before the real store, with a clock of its own.
//! Every change is kept once, parsed, and read by all who follow at their own pace.
use super::random::Random;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::lifecycle::{self, CreateContext, DeleteOptions, Deletion};
use pilothouse_api::{Key, KindEntry, Observed, Registry, Revision, Status};
use pilothouse_controllers::{Action, Part};
use pilothouse_store::{Store, Write, WriteError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The namespace of everything in the story.
pub const NAMESPACE: &str = "default";

/// The kinds are the same in every story.
static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Why writes of controllers fail for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// A quota is used up: no pod more.
    Quota,
    /// A webhook or a policy says no to whatever is made.
    Invalid,
    /// The database is away.
    Away,
    /// The database is away, and the write was committed: nobody can tell.
    Unanswered,
}

pub struct Api {
    store: Store,
    state: BTreeMap<Key, Arc<Value>>,
    /// Every change so far, in the order of revisions.
    log: Vec<Observed>,
    /// Who follows reads the log from here.
    pub now: Timestamp,
    uids: u64,
    /// So many writes of controllers more fail.
    pub refusals: Option<(Refusal, u32)>,
    /// How many of the changes are heartbeats.
    pub heartbeats: usize,
}

impl Api {
    pub fn new() -> Self {
        let now = Timestamp::from_second(1_767_225_600).unwrap_or_default(); // 2026-01-01T00:00:00Z
        let store = Store::memory(Arc::new(|_: &Key, _: &Value| Vec::new()));
        let mut api = Self {
            store,
            state: BTreeMap::new(),
            log: Vec::new(),
            now,
            uids: 0,
            refusals: None,
            heartbeats: 0,
        };
        for name in [NAMESPACE, "kube-node-lease"] {
            let _ = api.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        api
    }

    pub fn pass(&mut self, millis: i64) {
        self.now = self.now.checked_add(millis.milliseconds()).unwrap_or(self.now);
    }

    pub fn revision(&self) -> Revision {
        self.store.revision()
    }

    /// Where somebody who starts to follow now begins to read.
    pub fn end_of_log(&self) -> usize {
        self.log.len()
    }

    /// The next change for somebody who follows.
    pub fn next(&self, place: &mut usize) -> Option<&Observed> {
        let change = self.log.get(*place)?;
        *place += 1;
        Some(change)
    }

    /// Everything there is, as somebody who starts to follow is told.
    pub fn everything(&self) -> impl Iterator<Item = Observed> + '_ {
        self.state.iter().map(|(key, object)| Observed {
            key: key.clone(),
            revision: revision_of(object),
            object: Some(object.clone()),
            previous: None,
            bytes: self.store.get(key).map(|stored| stored.bytes.clone()).unwrap_or_default(),
        })
    }

    fn registry() -> &'static Registry {
        REGISTRY.get_or_init(Registry::builtin)
    }

    fn entry(resource: &str) -> Result<Arc<KindEntry>, Status> {
        Self::registry().by_resource(resource).cloned().ok_or_else(|| Status::not_found(resource, ""))
    }

    fn write(&mut self, entry: &KindEntry, write: Write) -> Result<Revision, Status> {
        let key = write.key().clone();
        let mut object = match &write {
            Write::Create { object, .. } | Write::Update { object, .. } => Some(object.clone()),
            Write::Delete { .. } => None,
        };
        // The memory store answers at once.
        let written = match futures::FutureExt::now_or_never(self.store.write(write)) {
            Some(Ok(written)) => written,
            Some(Err(WriteError::AlreadyExists(_))) => {
                return Err(Status::already_exists(&entry.resource, &key.name));
            }
            Some(Err(WriteError::NotFound(_))) => return Err(Status::not_found(&entry.resource, &key.name)),
            _ => return Err(Status::stale(&entry.resource, &key.name)),
        };
        if let Some(object) = &mut object {
            object["metadata"]["resourceVersion"] = written.revision.to_string().into();
        }
        let object = object.map(Arc::new);
        let previous = match &object {
            Some(object) => self.state.insert(key.clone(), object.clone()),
            None => self.state.remove(&key),
        };
        let bytes = if object.is_some() { written.bytes.clone() } else { Default::default() };
        self.log.push(Observed { key, revision: written.revision, object, previous, bytes });
        Ok(written.revision)
    }

    pub fn create(&mut self, mut object: Value) -> Result<(Key, Revision), Status> {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let entry = Self::registry().by_kind(&version, &kind).cloned();
        let entry = entry.ok_or_else(|| Status::not_found(&kind, ""))?;
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

    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.state.get(key)
    }

    /// All objects of a resource, in order.
    pub fn list(&self, resource: &str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let from = Key::new(resource, "", "");
        self.state.range(from.clone()..).take_while(move |(key, _)| key.resource == from.resource)
    }

    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.state.iter()
    }

    pub fn update(&mut self, key: &Key, mut new: Value, part: Part) -> Result<Revision, Status> {
        let entry = Self::entry(&key.resource)?;
        let not_found = || Status::not_found(&key.resource, &key.name);
        let old = self.state.get(key).ok_or_else(not_found)?.clone();
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return Err(Status::stale(&key.resource, &key.name));
        }
        let expected = revision_of(&old);
        match part {
            Part::Spec | Part::Scale => lifecycle::before_update(&entry, &mut new, &old, self.now)?,
            Part::Status => lifecycle::before_update_status(&entry, &mut new, &old, self.now)?,
            Part::Whole => {}
        }
        if lifecycle::is_released(&entry, &new) {
            return self.write(&entry, Write::Delete { key: key.clone(), expected: Some(expected) });
        }
        if new == *old {
            return Ok(expected);
        }
        self.write(&entry, Write::Update { key: key.clone(), object: new, expected })
    }

    /// Changes what is there now.
    pub fn edit(
        &mut self,
        key: &Key,
        part: Part,
        change: impl FnOnce(&mut Value),
    ) -> Result<Revision, Status> {
        let object = self.state.get(key).ok_or_else(|| Status::not_found(&key.resource, &key.name))?;
        let mut object = Value::clone(object);
        change(&mut object);
        self.update(key, object, part)
    }

    pub fn delete(&mut self, key: &Key, options: &DeleteOptions) -> Result<Revision, Status> {
        let entry = Self::entry(&key.resource)?;
        let Some(stored) = self.state.get(key).cloned() else { return Ok(0) };
        let expected = revision_of(&stored);
        match lifecycle::before_delete(&entry, &stored, options, self.now)? {
            Deletion::Remove => {
                self.write(&entry, Write::Delete { key: key.clone(), expected: Some(expected) })
            }
            Deletion::Update(object) => {
                self.write(&entry, Write::Update { key: key.clone(), object, expected })
            }
            Deletion::Unchanged => Ok(expected),
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

    /// A write of a controller, which may be refused: the revision it was written at, 0 for one that writes nothing.
    pub fn carry_out(&mut self, action: &Action, random: &mut Random) -> Result<Revision, Status> {
        let is_pod = action.key().is_some_and(|key| &*key.resource == "pods");
        let is_made = matches!(action, Action::Create { .. });
        let refusal = self.refusals.map(|(refusal, _)| refusal).filter(|refusal| match refusal {
            Refusal::Quota => is_pod && is_made,
            Refusal::Invalid => is_made,
            Refusal::Away | Refusal::Unanswered => true,
        });
        if refusal.is_some() {
            let left = self.refusals.map_or(0, |(_, left)| left.saturating_sub(1));
            self.refusals = self.refusals.filter(|_| left > 0).map(|(refusal, _)| (refusal, left));
        }
        let name = action.key().map(|key| key.name.to_string()).unwrap_or_default();
        match refusal {
            Some(Refusal::Quota) => Err(Status::forbidden("pods", &name, "exceeded quota: small")),
            Some(Refusal::Invalid) => {
                Err(Status::bad_request("admission webhook \"strict\" denied the request: no"))
            }
            Some(Refusal::Away) => Err(Status::unavailable("the database is not available", 1)),
            Some(Refusal::Unanswered) => {
                if random.chance(500) {
                    let _ = self.write_action(action);
                }
                Err(Status::unavailable("the database is not available", 1))
            }
            None => self.write_action(action),
        }
    }

    fn write_action(&mut self, action: &Action) -> Result<Revision, Status> {
        match action {
            Action::Create { object, .. } => self.create(object.clone()).map(|(_, revision)| revision),
            Action::Update { key, object, part } => self.update(key, object.clone(), *part),
            Action::Delete { key, options } => self.delete(key, options),
            Action::Event { .. } => Ok(0),
        }
    }
}

fn revision_of(object: &Value) -> Revision {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
