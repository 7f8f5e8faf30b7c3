//! What happens to every object on its way in, in a fixed order, whatever its kind: create, update, status, delete.
mod deletion;
mod metadata;

pub use deletion::{DeleteOptions, Deletion, before_delete, is_released};

use crate::decode;
use crate::kind::{CLIENT_METADATA, KindEntry};
use crate::meta;
use crate::status::Status;
use crate::validation::FieldErrors;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// What the caller knows at creation.
pub struct CreateContext<'a> {
    /// The namespace of the URL; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub now: Timestamp,
    pub uid: &'a str,
    /// Appended to `generateName`: five random lowercase letters and digits.
    pub name_suffix: &'a str,
}

/// `generateName` is cut so that with its suffix it is still a label.
const MAX_GENERATED_NAME: usize = 63;

/// An object of the right shape, with its defaults: what admission rules need that compute on it, or show it to others,
/// before [`before_create`] has its turn. Errors: BadRequest for an object that cannot be read.
pub fn complete(entry: &KindEntry, object: &mut Value) -> Result<(), Status> {
    check_shape(entry, object)?;
    entry.rules.default(object);
    Ok(())
}

/// Completes, defaults and checks a new object. Afterwards it can be stored. Errors: BadRequest for an object that
/// cannot be read, Invalid for one that breaks rules.
pub fn before_create(entry: &KindEntry, object: &mut Value, cx: &CreateContext<'_>) -> Result<(), Status> {
    check_shape(entry, object)?;
    check_namespace(entry, object, cx.namespace)?;
    let fields = metadata_mut(object);
    if text(fields, "name").is_empty() && !text(fields, "generateName").is_empty() {
        let name = generated_name(text(fields, "generateName"), cx.name_suffix);
        fields.insert("name".into(), name.into());
    }
    for field in
        ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"]
    {
        fields.remove(field);
    }
    fields.insert("uid".into(), cx.uid.into());
    fields.insert("creationTimestamp".into(), seconds(cx.now).into());
    if entry.has_generation {
        fields.insert("generation".into(), json!(1));
    }
    if entry.has_status() && !entry.rules.keeps_status_at_creation() {
        remove(object, "status");
    }
    entry.rules.default(object);
    entry.rules.before_create(object);
    let mut errors = FieldErrors::default();
    metadata::validate(entry, object, &mut errors);
    entry.rules.validate(object, &mut errors);
    finish(entry, object, &errors)
}

/// What a new object was sent with may not say that it is stored already. As in Kubernetes this counts only once admission has
/// let the object pass, so it is asked before [`before_create`] and told after. Errors: BadRequest.
pub fn check_unstored(object: &Value) -> Result<(), Status> {
    match object["metadata"]["resourceVersion"].as_str().unwrap_or_default() {
        "" | "0" => Ok(()),
        _ => Err(Status::bad_request("resourceVersion should not be set on objects to be created")),
    }
}

fn generated_name(prefix: &str, suffix: &str) -> String {
    let mut end = prefix.len().min(MAX_GENERATED_NAME.saturating_sub(suffix.len()));
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &prefix[..end])
}

/// A write of everything but the status: the status stays, and `generation` moves only with the spec. Errors: also
/// Conflict for a stale `resourceVersion` and for another object's `uid`.
pub fn before_update(entry: &KindEntry, new: &mut Value, old: &Value, _now: Timestamp) -> Result<(), Status> {
    check_shape(entry, new)?;
    check_same_object(entry, new, old)?;
    keep_system_metadata(new, old);
    if entry.has_status() {
        match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => remove(new, "status"),
        }
    }
    entry.rules.default(new);
    entry.rules.before_update(new, old);
    if entry.has_generation && !same_desired_state(entry, new, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        metadata_mut(new).insert("generation".into(), generation.into());
    }
    let mut errors = FieldErrors::default();
    metadata::validate(entry, new, &mut errors);
    metadata::validate_update(new, old, &mut errors);
    entry.rules.validate_update(new, old, &mut errors);
    finish(entry, new, &errors)
}

/// A write of the status: the spec stays as it is. Kubernetes lets labels, annotations and their like change with it, for
/// most kinds.
pub fn before_update_status(
    entry: &KindEntry,
    new: &mut Value,
    old: &Value,
    _now: Timestamp,
) -> Result<(), Status> {
    check_shape(entry, new)?;
    check_same_object(entry, new, old)?;
    let mut result = old.clone();
    match new["status"].take() {
        Value::Null => remove(&mut result, "status"),
        status => result["status"] = status,
    }
    let managed = new["metadata"]["managedFields"].take();
    let fields = metadata_mut(&mut result);
    if !managed.is_null() {
        fields.insert("managedFields".into(), managed);
    }
    let kept = entry.rules.status_keeps();
    for field in CLIENT_METADATA.iter().filter(|field| !kept.contains(field)) {
        match new["metadata"][*field].take() {
            Value::Null => drop(fields.remove(*field)),
            value => drop(fields.insert((*field).into(), value)),
        }
    }
    *new = result;
    entry.rules.default(new);
    let mut errors = FieldErrors::default();
    if new["metadata"] != old["metadata"] {
        metadata::validate(entry, new, &mut errors);
        metadata::validate_update(new, old, &mut errors);
    }
    entry.rules.validate_status(new, old, &mut errors);
    finish(entry, new, &errors)
}

/// An object of this kind with every field of the right type: what defaults and rules may rely on.
fn check_shape(entry: &KindEntry, object: &mut Value) -> Result<(), Status> {
    if !object.is_object() {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized: {} is an object",
            entry.kind
        )));
    }
    entry.rules.prune(object);
    let expected = entry.api_version();
    match object.get("apiVersion") {
        None => object["apiVersion"] = expected.into(),
        Some(given) if *given != expected => {
            let given = given.as_str().unwrap_or_default();
            return Err(Status::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({expected})"
            )));
        }
        Some(_) => {}
    }
    match object.get("kind") {
        None => object["kind"] = entry.kind.clone().into(),
        Some(given) if *given != entry.kind => {
            let given = given.as_str().unwrap_or_default();
            let (version, kind) = (&entry.version, &entry.kind);
            return Err(Status::bad_request(format!(
                "{given} in version {version:?} cannot be handled as a {kind}: the kind in the data ({given}) does not \
                 match the expected kind ({kind})"
            )));
        }
        Some(_) => {}
    }
    decode::check_types(entry, object)
}

fn check_namespace(entry: &KindEntry, object: &mut Value, namespace: &str) -> Result<(), Status> {
    let given = meta::namespace(object);
    if !entry.is_namespaced() {
        metadata_mut(object).remove("namespace");
        return Ok(());
    }
    if !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata_mut(object).insert("namespace".into(), namespace.into());
    Ok(())
}

/// Refuses a write that is meant for another object, or for another state of it than there is.
fn check_same_object(entry: &KindEntry, new: &Value, old: &Value) -> Result<(), Status> {
    let name = meta::name(old);
    let given = meta::name(new);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let given = meta::namespace(new);
    if !given.is_empty() && given != meta::namespace(old) {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let (given, uid) = (meta::uid(new), meta::uid(old));
    if !given.is_empty() && given != uid {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(Status::conflict(&entry.resource, name, why));
    }
    let version =
        |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let given = version(new);
    if !matches!(given.as_str(), "" | "0") && given != version(old) {
        return Err(Status::stale(&entry.resource, name));
    }
    Ok(())
}

/// What of the metadata only the server sets; a client may leave it out, and a change of it means nothing.
fn keep_system_metadata(new: &mut Value, old: &Value) {
    let fields = metadata_mut(new);
    let kept = ["name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"];
    let deletion = ["deletionTimestamp", "deletionGracePeriodSeconds"];
    // A deletion never ends but with the object. That none is begun by an update is for validation to say.
    let is_deleting = old["metadata"].get("deletionTimestamp").is_some();
    for field in kept.iter().chain(deletion.iter().filter(|_| is_deleting)) {
        match old["metadata"].get(*field) {
            Some(value) => drop(fields.insert((*field).into(), value.clone())),
            None => drop(fields.remove(*field)),
        }
    }
    fields.remove("selfLink");
}

/// Whether two states of an object want the same: all but metadata, and the status where it has its own writer.
fn same_desired_state(entry: &KindEntry, new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
        return new == old;
    };
    let desired = |field: &&String| match field.as_str() {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => !entry.has_status(),
        _ => true,
    };
    let mut fields = new.keys().chain(old.keys()).filter(desired);
    fields.all(|field| new.get(field) == old.get(field))
}

fn finish(entry: &KindEntry, object: &Value, errors: &FieldErrors) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&entry.kind, &entry.group, meta::name(object), errors))
}

/// RFC 3339 without fractions, as `metav1.Time` is written.
pub fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// The fields of `metadata`, made where they are missing.
fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object above"),
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

fn text<'a>(fields: &'a Map<String, Value>, field: &str) -> &'a str {
    fields.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests;
