//! THE write path: default, admit, validate, store. HTTP handlers, controllers and nodes all write through it.
use crate::admission::{Admission, Notes, Operation, Pending, Request};
use crate::conversion::Conversions;
use crate::state::SharedRegistry;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::{self, CreateContext, DeleteOptions, Deletion};
use pilothouse_api::{Key, KindEntry, Registry, Status, apply, meta};
use pilothouse_store::{Object, ReadError, Store, Term, Write, WriteError};
use rand::RngExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a write is tried again that met another writer. Five are enough for apiserver, ours competes with loops in
/// the same process.
const CONFLICT_RETRIES: usize = 16;
/// Names tried for one `generateName`.
const GENERATE_RETRIES: usize = 8;
/// The letters of generated names: no vowels, no look-alikes (apimachinery `rand`).
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX_LENGTH: usize = 5;

/// Who writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Actor {
    /// A part of the server itself: `system:controller-manager`.
    pub fn system(component: &str) -> Self {
        Self {
            user: format!("system:{component}"),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            ..Self::default()
        }
    }

    /// Whoever sends no credential.
    pub fn anonymous() -> Self {
        Self {
            user: crate::auth::ANONYMOUS.into(),
            groups: vec![crate::auth::UNAUTHENTICATED.into()],
            ..Self::default()
        }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, for the credential of an agent.
    pub fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        self.is_in("system:nodes").then_some(name)
    }
}

/// Which half of an object a write may touch; the other is kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Spec,
    /// The status alone.
    Status,
    /// Both, without the rules for updates: for what the server itself computes (a binding, a finalized namespace).
    Whole,
    /// What a subresource changes of the spec by rules of its own (a resize, an ephemeral container).
    Amended,
}

/// How `metadata.managedFields` follows a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// What changed belongs to the writer from now on.
    #[default]
    Track,
    /// The change has seen to it: server-side apply.
    Done,
}

/// The query parameters that every write has.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Everything is done but the writing.
    pub dry_run: bool,
    /// Empty: the changed fields are not tracked, as for the server's own loops.
    pub field_manager: String,
    /// `status`, `scale` …; empty for the object itself.
    pub subresource: String,
    pub ownership: Ownership,
    /// Takes what admission has to say.
    pub notes: Notes,
}

/// What a deletion came to.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The last state, or the state marked for deletion.
    pub object: Arc<Object>,
    /// False while a grace period or finalizers hold the object.
    pub removed: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Store,
    registry: SharedRegistry,
    admission: Admission,
    conversions: Conversions,
}

impl Objects {
    pub fn new(
        store: Store,
        registry: SharedRegistry,
        admission: Admission,
        conversions: Conversions,
    ) -> Self {
        Self { store, registry, admission, conversions }
    }

    /// The same for the loops of a leader: they write nothing any more once another leads.
    #[must_use]
    pub fn under(&self, term: Option<Term>) -> Self {
        Self { store: self.store.under(term), ..self.clone() }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load()
    }

    /// The kinds of every definition that memory holds.
    pub async fn newest_registry(&self) -> Arc<Registry> {
        self.registry.catch_up(&self.store).await;
        self.registry.load()
    }

    /// `namespace` is empty for a cluster-scoped kind.
    pub async fn create(
        &self,
        actor: &Actor,
        entry: &KindEntry,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let generated = meta::name(&object).is_empty() && object["metadata"]["generateName"].is_string();
        let mut tries = if generated { GENERATE_RETRIES } else { 1 };
        for _ in 0..CONFLICT_RETRIES {
            match self.create_once(actor, entry, namespace, object.clone(), options).await {
                Ok(Some(made)) => return Ok(made),
                Ok(None) => {}
                Err(status) if status.reason == pilothouse_api::Reason::AlreadyExists && tries > 1 => {
                    tries -= 1;
                }
                Err(status) => return Err(status),
            }
        }
        Err(Status::stale(&entry.resource, meta::name(&object)))
    }

    /// None: what was to be written beside the object had changed meanwhile.
    async fn create_once(
        &self,
        actor: &Actor,
        entry: &KindEntry,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        if !object.is_object() || !object["metadata"].is_object() {
            return Err(Status::bad_request(
                "the object provided is unrecognized (must be of type object with metadata)",
            ));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let now = Timestamp::now();
        let suffix = name_suffix();
        let given_name = meta::name(&object).to_owned();
        let request = Request::new(Operation::Create, entry, actor)
            .of(namespace, &given_name, &uid)
            .subresource(&options.subresource)
            .dry_run(options.dry_run)
            .noting(&options.notes);
        self.admission.mutate(&request, &mut object).await?;
        let context = CreateContext { namespace, now, uid: &uid, name_suffix: &suffix };
        let unstored = lifecycle::check_unstored(&object);
        lifecycle::before_create(entry, &mut object, &context)?;
        self.admission.validate(&request, &object).await?;
        unstored?;
        if options.ownership == Ownership::Track && !options.field_manager.is_empty() {
            apply::track(entry, None, &mut object, &options.field_manager, &options.subresource, now);
        }
        let name = meta::name(&object).to_owned();
        let key = Key::new(entry.stored_as.clone(), namespace, name.as_str());
        self.to_stored(entry, &mut object).await?;
        if options.dry_run {
            return match self.store.get(&key) {
                Some(_) => Err(Status::already_exists(&entry.resource, &name)),
                None => Ok(Some(self.unwritten(key, object, 0))),
            };
        }
        match self.commit(Write::Create { key, object }, request.into_pending()).await {
            Ok(written) => Ok(Some(written)),
            Err(Refused::Companion) => Ok(None),
            Err(Refused::Write(error)) => Err(write_failed(entry, &name, error)),
        }
    }

    /// Writes an object together with what admission wants written with it.
    async fn commit(&self, write: Write, pending: Pending) -> Result<Arc<Object>, Refused> {
        let key = write.key().clone();
        let companions = pending.take_writes();
        let written = if companions.is_empty() {
            self.store.write(write).await
        } else {
            let all = std::iter::once(write).chain(companions).collect();
            let gone = || WriteError::Unavailable("nothing was written".into());
            self.store.write_together(all).await.and_then(|all| all.into_iter().next().ok_or_else(gone))
        };
        match written {
            Ok(written) => {
                pending.commit(&self.store, &written);
                Ok(written)
            }
            Err(WriteError::Conflict(other)) if other.key != key => Err(Refused::Companion),
            Err(WriteError::NotFound(other)) if other != key => Err(Refused::Companion),
            Err(error) => Err(Refused::Write(error)),
        }
    }

    /// `change` gets the object as it is now and gives it as it should be. Without `metadata.resourceVersion` in what it
    /// gives, or with the current one, it is asked again when another writer was faster.
    #[allow(clippy::too_many_arguments)]
    pub async fn update(
        &self,
        actor: &Actor,
        entry: &KindEntry,
        namespace: &str,
        name: &str,
        part: Part,
        options: &WriteOptions,
        change: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
    ) -> Result<Arc<Object>, Status> {
        let key = Key::new(entry.stored_as.clone(), namespace, name);
        let mut live = self.current(entry, &key).await?;
        for _ in 0..CONFLICT_RETRIES {
            let old = self.value_of(entry, &live).await?;
            let new = change(&old)?;
            let Some(new) = self.prepare_update(actor, entry, part, options, &live, &old, new).await? else {
                return Ok(live);
            };
            let Prepared { mut object, pending, released } = new;
            self.to_stored(entry, &mut object).await?;
            if options.dry_run {
                return Ok(self.unwritten(key, object, live.revision));
            }
            let write = match released {
                true => Write::Delete { key: key.clone(), expected: Some(live.revision) },
                false => Write::Update { key: key.clone(), object, expected: live.revision },
            };
            match self.commit(write, pending).await {
                Ok(written) => return Ok(written),
                Err(Refused::Companion) => {}
                Err(Refused::Write(WriteError::Conflict(now))) => live = now,
                Err(Refused::Write(error)) => return Err(write_failed(entry, name, error)),
            }
        }
        Err(Status::stale(&entry.resource, name))
    }

    /// None: nothing would change.
    #[allow(clippy::too_many_arguments)]
    async fn prepare_update(
        &self,
        actor: &Actor,
        entry: &KindEntry,
        part: Part,
        options: &WriteOptions,
        live: &Object,
        old: &Value,
        mut new: Value,
    ) -> Result<Option<Prepared>, Status> {
        check_identity(entry, live, &new)?;
        if options.ownership == Ownership::Track {
            // A client may leave managedFields out; they are the server's to keep.
            carry_managed_fields(&mut new, old);
        }
        // The server's own loops name the part and no subresource.
        let subresource = match part {
            Part::Status if options.subresource.is_empty() => "status",
            _ => &options.subresource,
        };
        let request = Request::new(Operation::Update, entry, actor)
            .of(&live.key.namespace, &live.key.name, &live.uid)
            .subresource(subresource)
            .dry_run(options.dry_run)
            .noting(&options.notes)
            .changing(old);
        self.admission.mutate(&request, &mut new).await?;
        let now = Timestamp::now();
        match part {
            Part::Spec => lifecycle::before_update(entry, &mut new, old, now)?,
            Part::Status => lifecycle::before_update_status(entry, &mut new, old, now)?,
            Part::Whole => keep_system_fields(&mut new, old),
            Part::Amended => {
                keep_system_fields(&mut new, old);
                if entry.has_generation && new["spec"] != old["spec"] {
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                    new["metadata"]["generation"] = generation.into();
                }
            }
        }
        self.admission.validate(&request, &new).await?;
        set_revision(&mut new, live.revision);
        let released = lifecycle::is_released(entry, &new);
        if new == *old && !released && !self.is_outdated(entry, live) {
            return Ok(None);
        }
        if options.ownership == Ownership::Track && !options.field_manager.is_empty() {
            apply::track(entry, Some(old), &mut new, &options.field_manager, &options.subresource, now);
        }
        Ok(Some(Prepared { object: new, pending: request.into_pending(), released }))
    }

    pub async fn delete(
        &self,
        actor: &Actor,
        entry: &KindEntry,
        namespace: &str,
        name: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted, Status> {
        let key = Key::new(entry.stored_as.clone(), namespace, name);
        let mut live = self.current(entry, &key).await?;
        for _ in 0..CONFLICT_RETRIES {
            let old = self.value_of(entry, &live).await?;
            let request = Request::new(Operation::Delete, entry, actor)
                .of(namespace, name, &live.uid)
                .dry_run(options.dry_run)
                .noting(&options.notes)
                .changing(&old);
            self.admission.validate(&request, &old).await?;
            let (write, removed) = match lifecycle::before_delete(entry, &old, delete, Timestamp::now())? {
                Deletion::Unchanged => return Ok(Deleted { object: live, removed: false }),
                Deletion::Remove => (Write::Delete { key: key.clone(), expected: Some(live.revision) }, true),
                Deletion::Update(mut object) => {
                    self.to_stored(entry, &mut object).await?;
                    if options.dry_run {
                        let object = self.unwritten(key, object, live.revision);
                        return Ok(Deleted { object, removed: false });
                    }
                    (Write::Update { key: key.clone(), object, expected: live.revision }, false)
                }
            };
            if options.dry_run {
                return Ok(Deleted { object: live, removed });
            }
            match self.store.write(write).await {
                Ok(object) => return Ok(Deleted { object, removed }),
                Err(WriteError::Conflict(now)) => live = now,
                Err(error) => return Err(write_failed(entry, name, error)),
            }
        }
        Err(Status::stale(&entry.resource, name))
    }

    /// Whether a stream to an object may be opened: `subresource` is `exec`, `attach`, `portforward` or `proxy`, `asked`
    /// what kind of stream it is to be.
    #[allow(clippy::too_many_arguments)]
    pub async fn admit_connect(
        &self,
        actor: &Actor,
        entry: &KindEntry,
        namespace: &str,
        name: &str,
        subresource: &str,
        asked: &Value,
        notes: &Notes,
    ) -> Result<(), Status> {
        let request = Request::new(Operation::Connect, entry, actor)
            .of(namespace, name, "")
            .subresource(subresource)
            .noting(notes);
        self.admission.validate(&request, asked).await
    }

    /// Puts a pod on a node, as `pods/binding` does. `uid` empty: whichever pod has the name.
    pub async fn bind(
        &self,
        actor: &Actor,
        namespace: &str,
        name: &str,
        uid: &str,
        node: &str,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let entry = self.registry.by_resource("pods").ok_or_else(|| Status::not_found("pods", name))?;
        let now = Timestamp::now();
        let change = |pod: &Value| bound(pod, uid, node, now);
        self.update(actor, &entry, namespace, name, Part::Whole, options, change).await
    }

    async fn current(&self, entry: &KindEntry, key: &Key) -> Result<Arc<Object>, Status> {
        if let Some(object) = self.store.get(key) {
            // Memory may be behind another server's writes; the write itself finds out.
            return Ok(object);
        }
        self.store.fresh().await.map_err(read_failed)?;
        self.store.get(key).ok_or_else(|| Status::not_found(&entry.resource, &key.name))
    }

    /// Whether stored bytes are what clients of this entry read.
    pub fn is_stored_shape(&self, entry: &KindEntry) -> bool {
        if entry.rules.is_custom() {
            // Its schema, or the version that is stored, may be another since.
            return false;
        }
        match self.registry.by_resource(&entry.stored_as) {
            Some(stored) => stored.version == entry.version && stored.group == entry.group,
            None => true,
        }
    }

    /// An object as clients of `entry` see it. Errors: a conversion webhook fails.
    pub async fn value_of(&self, entry: &KindEntry, object: &Object) -> Result<Value, Status> {
        if self.is_stored_shape(entry) {
            return Ok(object.value());
        }
        let shown = self.conversions.shown(entry, vec![object.value()]).await?;
        shown.into_iter().next().ok_or_else(|| Status::internal("a conversion gave nothing"))
    }

    /// As [`Objects::value_of`], of many at once.
    pub async fn values_of(&self, entry: &KindEntry, objects: &[Arc<Object>]) -> Result<Vec<Value>, Status> {
        let values = objects.iter().map(|object| object.value()).collect();
        if self.is_stored_shape(entry) {
            return Ok(values);
        }
        self.conversions.shown(entry, values).await
    }

    /// Whether the object lies in another version than its kind is stored in now: writing it again moves it there.
    fn is_outdated(&self, entry: &KindEntry, object: &Object) -> bool {
        let stored = self.registry.by_resource(&entry.stored_as).filter(|_| entry.rules.is_custom());
        stored.is_some_and(|stored| object.value()["apiVersion"] != stored.api_version())
    }

    async fn to_stored(&self, entry: &KindEntry, object: &mut Value) -> Result<(), Status> {
        match self.registry.by_resource(&entry.stored_as) {
            Some(stored) => self.conversions.stored(entry, &stored, object).await,
            None => Ok(()),
        }
    }

    /// What a dry run answers with.
    fn unwritten(&self, key: Key, mut object: Value, revision: u64) -> Arc<Object> {
        if revision > 0 {
            set_revision(&mut object, revision);
        }
        Arc::new(Object {
            uid: meta::uid(&object).into(),
            revision,
            labels: BTreeMap::new(),
            fields: Vec::new(),
            bytes: object.to_string().into(),
            key,
        })
    }
}

/// An update ready to be written.
struct Prepared {
    object: Value,
    pending: Pending,
    released: bool,
}

/// Why nothing was written.
enum Refused {
    /// What was to be written beside the object had changed: admission must look again.
    Companion,
    Write(WriteError),
}

/// A store error as the client is told it.
pub fn write_failed(entry: &KindEntry, name: &str, error: WriteError) -> Status {
    match error {
        WriteError::AlreadyExists(_) => Status::already_exists(&entry.resource, name),
        WriteError::NotFound(_) => Status::not_found(&entry.resource, name),
        WriteError::Conflict(_) => Status::stale(&entry.resource, name),
        WriteError::Superseded => Status::conflict(&entry.resource, name, error.to_string()),
        WriteError::Unavailable(why) => {
            Status::unavailable(format!("the database is not available: {why}"), 1)
        }
    }
}

pub fn read_failed(error: ReadError) -> Status {
    match error {
        ReadError::Expired { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        ReadError::Ahead { asked, reached } => Status::ahead(asked, reached),
        ReadError::Unavailable(why) => {
            Status::unavailable(format!("the database is not available: {why}"), 1)
        }
    }
}

/// What makes a generated name unique.
pub fn name_suffix() -> String {
    let mut rng = rand::rng();
    (0..NAME_SUFFIX_LENGTH)
        .map(|_| char::from(NAME_LETTERS[rng.random_range(0..NAME_LETTERS.len())]))
        .collect()
}

/// A client that names a version or a UID means that one.
fn check_identity(entry: &KindEntry, live: &Object, new: &Value) -> Result<(), Status> {
    let name = &live.key.name;
    match new["metadata"]["resourceVersion"].as_str() {
        None | Some("") => {}
        Some(text) => match text.parse::<u64>() {
            Ok(revision) if revision == live.revision => {}
            Ok(_) => return Err(Status::stale(&entry.resource, name)),
            Err(_) => {
                let mut errors = pilothouse_api::FieldErrors::default();
                let path = pilothouse_api::Path::new("metadata").child("resourceVersion");
                errors.invalid(&path, text, "must be an unsigned integer");
                return Err(Status::invalid(&entry.kind, &entry.group, name, &errors));
            }
        },
    }
    match meta::uid(new) {
        "" => Ok(()),
        uid if uid == &*live.uid => Ok(()),
        uid => Err(Status::conflict(
            &entry.resource,
            name,
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.uid),
        )),
    }
}

fn set_revision(object: &mut Value, revision: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}

fn carry_managed_fields(new: &mut Value, old: &Value) {
    let kept = old["metadata"].get("managedFields").cloned();
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    // An empty list is a client's way to reset them.
    if metadata.get("managedFields").is_some_and(|v| v.as_array().is_some_and(Vec::is_empty)) {
        metadata.remove("managedFields");
        return;
    }
    match kept {
        Some(fields) => metadata.insert("managedFields".into(), fields),
        None => metadata.remove("managedFields"),
    };
}

/// What no writer may change, for writes that skip the rules of updates.
fn keep_system_fields(new: &mut Value, old: &Value) {
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp"] {
        match old["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// The pod with its node, or why it may not have it (core `BindingREST.assignPod`).
fn bound(pod: &Value, uid: &str, node: &str, now: Timestamp) -> Result<Value, Status> {
    let name = meta::name(pod);
    if !uid.is_empty() && uid != meta::uid(pod) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(pod)
        );
        return Err(Status::conflict("pods", name, why));
    }
    if pod["metadata"].get("deletionTimestamp").is_some() {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(Status::conflict("pods/binding", name, why));
    }
    match pod["spec"]["nodeName"].as_str() {
        None | Some("") => {}
        Some(other) => {
            let why = format!("pod {name} is already assigned to node {other:?}");
            return Err(Status::conflict("pods/binding", name, why));
        }
    }
    let gates = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if gates {
        let why = format!("pod {name} has non-empty .spec.schedulingGates");
        return Err(Status::conflict("pods/binding", name, why));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    if !pod["status"].is_object() {
        pod["status"] = serde_json::json!({});
    }
    let scheduled = serde_json::json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": seconds(now),
    });
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
            Some(condition) => *condition = scheduled,
            None => conditions.push(scheduled),
        },
        None => pod["status"]["conditions"] = serde_json::json!([scheduled]),
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName"); // it has its place
    }
    Ok(pod)
}

/// meta/v1 `Time`: RFC 3339 in whole seconds.
pub fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
