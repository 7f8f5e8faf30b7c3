//! Server-side apply: who owns which field (`metadata.managedFields`), and what follows when managers disagree.
//! Follows Kubernetes' "Server-Side Apply".
mod fields;

use crate::decode;
use crate::kind::KindEntry;
use crate::lifecycle::seconds;
use crate::meta;
use crate::status::{Cause, Reason, Status};
use fields::FieldSet;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Managers of updates beyond this are counted as one, the oldest first: each client name would stay for ever.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Kubernetes' name for those.
const ANCIENT: &str = "ancient-changes";
/// Owns what an object had before it was first applied, where nobody was told to own it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The object after `manager` applied `applied` to it: what it says is set and owned, what it said before and says no
/// more is removed unless another manager owns it. Errors: Conflict where it changes fields of other managers, unless
/// `force` takes them over; BadRequest for what cannot be applied.
pub fn apply(
    entry: &KindEntry,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    now: Timestamp,
) -> Result<Value, Status> {
    apply_to_subresource(entry, live, applied, manager, "", force, now)
}

/// As [`apply`], through a subresource: `status` owns nothing but the status.
pub fn apply_to_subresource(
    entry: &KindEntry,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    subresource: &str,
    force: bool,
    now: Timestamp,
) -> Result<Value, Status> {
    let applied = checked(entry, applied, manager, subresource)?;
    let of = entry.rules.type_ref();
    let own =
        Identity { manager, operation: Operation::Apply, subresource, api_version: &entry.api_version() };
    let set = fields::fields_of(of, &applied).without_identity();
    let Some(live) = live else {
        let mut object = applied;
        write_managers(&mut object, vec![own.entry(set, now)]);
        return Ok(object);
    };
    let mut managers = read_managers(live);
    if managers.is_empty() {
        let before =
            Identity { manager: BEFORE_FIRST_APPLY, operation: Operation::Update, subresource: "", ..own };
        managers.push(before.entry(fields::fields_of(of, live).without_identity(), now));
    }
    let last = managers.iter().position(|m| own.is(m)).map(|at| managers.remove(at));

    let mut kept = set.clone();
    managers.iter().for_each(|m| kept.insert_all(&m.fields));
    let mut object = fields::merge(of, live, &applied);
    if let Some(last) = &last {
        fields::prune(of, &mut object, &last.fields, &kept);
    }

    let difference = fields::compare(of, live, &object);
    let changed = difference.changed.without_identity();
    if !force {
        check_conflicts(&managers, &changed)?;
    }
    for other in &mut managers {
        other.fields.remove_all(&changed);
        other.fields.remove_all(&difference.removed);
    }
    match last {
        // Nothing new was said: the time stays, so that the write comes to nothing.
        Some(last) if last.fields == set && object == *live => managers.push(last),
        _ => managers.push(own.entry(set, now)),
    }
    write_managers(&mut object, managers);
    Ok(object)
}

/// The object with what a policy's ApplyConfiguration says: merged as an apply merges, without an owner. Errors: it does
/// not fit the kind, or sets what merges only as a whole.
pub fn configure(entry: &KindEntry, live: &Value, configuration: &Value) -> Result<Value, String> {
    let of = entry.rules.type_ref();
    let mut applied = configuration.clone();
    for identity in ["apiVersion", "kind"] {
        applied[identity] = live[identity].clone();
    }
    decode::check_types(entry, &applied).map_err(|status| status.message)?;
    if let Some(unknown) = decode::unknown_fields(entry, &applied).first() {
        return Err(format!(
            "failed to convert patch object to typed object: .{unknown}: field not declared in schema"
        ));
    }
    fields::check_lists(of, &applied, "")
        .map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let atomic = fields::atomic_paths(of, &applied);
    if !atomic.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomic.join(", ")
        ));
    }
    Ok(fields::merge(of, live, &applied))
}

/// What may be applied, without what does not count.
fn checked(entry: &KindEntry, applied: &Value, manager: &str, subresource: &str) -> Result<Value, Status> {
    if manager.is_empty() {
        let mut errors = crate::FieldErrors::default();
        errors.required(&crate::Path::new("fieldManager"), "is required for apply patch");
        return Err(Status::invalid("PatchOptions", "meta.k8s.io", "", &errors));
    }
    if applied["metadata"].get("managedFields").is_some_and(|sent| !sent.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let mut applied = applied.clone();
    decode::settle_types(entry, &mut applied)?;
    let what = {
        let (name, namespace) = (meta::name(&applied), meta::namespace(&applied));
        format!("{namespace}/{name}; {}, Kind={}", entry.api_version(), entry.kind)
    };
    let untyped =
        |why: String| Status::bad_request(format!("failed to create typed patch object ({what}): {why}"));
    // Whoever would own a field must name one that there is, whatever `fieldValidation` says.
    match decode::unknown_fields(entry, &applied).as_slice() {
        [] => {}
        [one] => return Err(untyped(format!(".{one}: field not declared in schema"))),
        many => {
            let lines = many.iter().map(|path| format!("\n  .{path}: field not declared in schema"));
            return Err(untyped(format!("errors:{}", lines.collect::<String>())));
        }
    }
    entry.rules.prune(&mut applied);
    let Value::Object(fields) = &mut applied else {
        return Err(Status::bad_request("an apply configuration is an object"));
    };
    match subresource {
        "status" => {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
        }
        _ if entry.has_status() => drop(fields.remove("status")),
        _ => {}
    }
    fields::check_lists(entry.rules.type_ref(), &applied, "").map_err(untyped)?;
    Ok(applied)
}

fn check_conflicts(managers: &[Manager], changed: &FieldSet) -> Result<(), Status> {
    let conflicts = managers.iter().map(|m| (m.to_string(), m.fields.common_paths(changed)));
    let conflicts: Vec<(String, Vec<String>)> = conflicts.filter(|(_, paths)| !paths.is_empty()).collect();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let text = match conflicts.as_slice() {
        [] => return Ok(()),
        [(manager, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
        }
        many => {
            let lines = many
                .iter()
                .map(|(manager, paths)| format!("conflicts with {manager}:\n- {}", paths.join("\n- ")));
            format!("Apply failed with {count} conflicts: {}", lines.collect::<Vec<_>>().join("\n"))
        }
    };
    let mut status = Status::new(Reason::Conflict, text);
    status.details.causes = conflicts
        .iter()
        .flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)))
        .map(|(manager, path)| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {manager}"),
            field: path.clone(),
        })
        .collect();
    Err(status)
}

/// Follows a write that was no apply: what `manager` changed is its own from now on, and nobody else's. `old` is None
/// for a new object. `managedFields` that the client sent are taken; an empty list forgets them.
pub fn track(
    entry: &KindEntry,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: Timestamp,
) {
    let of = entry.rules.type_ref();
    let nothing = Value::Object(Map::new());
    let before = old.unwrap_or(&nothing);
    let mut managers = match new["metadata"].get("managedFields") {
        Some(sent) if !sent.is_null() => read_managers(new),
        _ => read_managers(before),
    };
    let difference = fields::compare(of, before, new);
    let changed = difference.changed.without_identity();
    let own =
        Identity { manager, operation: Operation::Update, subresource, api_version: &entry.api_version() };
    for manager in &mut managers {
        if !own.is(manager) {
            manager.fields.remove_all(&changed);
        }
        manager.fields.remove_all(&difference.removed);
    }
    if !changed.is_empty() {
        match managers.iter_mut().find(|m| own.is(m)) {
            None => managers.push(own.entry(changed, now)),
            Some(known) => {
                known.fields.insert_all(&changed);
                known.time = seconds(now);
            }
        }
    }
    write_managers(new, cap_update_managers(managers));
}

/// Puts the oldest managers of updates together until few enough are left.
fn cap_update_managers(mut managers: Vec<Manager>) -> Vec<Manager> {
    let is_update = |m: &&Manager| m.operation == Operation::Update && m.subresource.is_empty();
    while managers.iter().filter(is_update).count() > MAX_UPDATE_MANAGERS {
        let named = |m: &Manager| is_update(&m) && m.manager != ANCIENT;
        let oldest =
            managers.iter().enumerate().filter(|(_, m)| named(m)).min_by(|a, b| a.1.time.cmp(&b.1.time));
        let Some((at, _)) = oldest else { break };
        let oldest = managers.remove(at);
        let same = |m: &Manager| m.manager == ANCIENT && m.api_version == oldest.api_version;
        match managers.iter_mut().find(|m| same(m)) {
            Some(ancient) => ancient.fields.insert_all(&oldest.fields),
            None => managers.push(Manager { manager: ANCIENT.into(), ..oldest }),
        }
    }
    managers
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

/// What tells one entry of `managedFields` from another.
#[derive(Clone, Copy)]
struct Identity<'a> {
    manager: &'a str,
    operation: Operation,
    subresource: &'a str,
    api_version: &'a str,
}

impl Identity<'_> {
    fn is(&self, entry: &Manager) -> bool {
        // An apply in another version is the same manager's next word.
        let version = self.operation == Operation::Apply || entry.api_version == self.api_version;
        entry.manager == self.manager
            && entry.operation == self.operation
            && entry.subresource == self.subresource
            && version
    }

    fn entry(&self, fields: FieldSet, now: Timestamp) -> Manager {
        Manager {
            manager: self.manager.into(),
            operation: self.operation,
            subresource: self.subresource.into(),
            api_version: self.api_version.into(),
            time: seconds(now),
            fields,
        }
    }
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Manager {
    manager: String,
    operation: Operation,
    subresource: String,
    api_version: String,
    /// RFC 3339; empty where the client's entry had none.
    time: String,
    fields: FieldSet,
}

/// As conflicts name it.
impl std::fmt::Display for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
            if !self.time.is_empty() {
                write!(f, " at {}", self.time)?;
            }
        }
        Ok(())
    }
}

fn read_managers(object: &Value) -> Vec<Manager> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let read = entries.map(|entry| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Manager {
            manager: text("manager"),
            operation: if entry["operation"] == "Apply" { Operation::Apply } else { Operation::Update },
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            fields: match entry.get("fieldsV1") {
                Some(fields) => FieldSet::from_json(fields),
                None => FieldSet::default(),
            },
        }
    });
    read.filter(|manager| !manager.fields.children.is_empty()).collect()
}

/// Entries that own nothing any more are left out.
fn write_managers(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.fields.children.is_empty());
    managers.sort_by(|a, b| (a.operation, &a.time, &a.manager).cmp(&(b.operation, &b.time, &b.manager)));
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    if managers.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let entries: Vec<Value> = managers.iter().map(Manager::to_json).collect();
    metadata.insert("managedFields".into(), entries.into());
}

impl Manager {
    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": format!("{:?}", self.operation), "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        for (field, text) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !text.is_empty() {
                entry[field] = text.as_str().into();
            }
        }
        entry
    }
}

#[cfg(test)]
mod tests;
