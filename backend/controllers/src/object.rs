//! Reading JSON objects the way controllers ask: owners, conditions, readiness, times.
use pilothouse_api::jiff::{Timestamp, ToSpan};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

pub fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

pub fn uid(object: &Value) -> &str {
    text(&object["metadata"], "uid")
}

pub fn name(object: &Value) -> &str {
    text(&object["metadata"], "name")
}

pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object();
    labels
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect()
}

pub fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

/// The owner that controls it: at most one.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owners(object).find(|owner| owner["controller"] == true)
}

/// An owner reference that makes `owner` the controller.
pub fn controller_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

/// The object with `owner` as its controller.
pub fn adopted(object: &Value, owner: &Value) -> Value {
    let mut next = object.clone();
    let mut all: Vec<Value> =
        owners(object).filter(|other| other["uid"] != owner["metadata"]["uid"]).cloned().collect();
    all.push(controller_reference(owner));
    next["metadata"]["ownerReferences"] = all.into();
    next
}

/// The object without that owner.
pub fn released(object: &Value, owner_uid: &str) -> Value {
    let mut next = object.clone();
    let kept: Vec<Value> = owners(object).filter(|owner| owner["uid"] != owner_uid).cloned().collect();
    next["metadata"]["ownerReferences"] = kept.into();
    next
}

pub fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

pub fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(seconds.seconds()).unwrap_or(at)
}

/// `25%` or a number, of `total`.
pub fn bound(value: &Value, total: i64, round_up: bool) -> i64 {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            (total * percent + if round_up { 99 } else { 0 }) / 100
        }
        other => count(other),
    }
}

/// RFC 3339 in whole seconds, as the API writes times.
pub fn stamp(now: Timestamp) -> Value {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string().into()
}

pub fn condition<'a>(object: &'a Value, r#type: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == r#type)
}

/// Ended for good: it will not run again.
pub fn is_terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

/// Puts a condition into a list, keeping the transition time while the status stays. Fields beyond `status`, `reason` and
/// `message` are the caller's.
pub fn set_condition(
    conditions: &mut Vec<Value>,
    r#type: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let fresh = json!({
        "type": r#type, "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp(now),
    });
    match conditions.iter_mut().find(|c| c["type"] == r#type) {
        Some(old) => {
            let moved = old["status"] != status;
            let Some(fields) = old.as_object_mut() else { return };
            for (field, value) in fresh.as_object().into_iter().flatten() {
                if field != "lastTransitionTime" || moved {
                    fields.insert(field.clone(), value.clone());
                }
            }
        }
        None => conditions.push(fresh),
    }
}

/// `object` with `status` in place of its own; None where they are the same.
pub fn with_status(object: &Value, status: Value) -> Option<Value> {
    if object["status"] == status {
        return None;
    }
    let mut next = object.clone();
    next["status"] = status;
    Some(next)
}

/// The annotations, to be changed.
pub fn annotations_mut(object: &mut Value) -> &mut Map<String, Value> {
    let slot = &mut object["metadata"]["annotations"];
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// The letters of generated names: no vowels and no look-alikes, so that no words arise.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A stable 64-bit hash (FNV-1a): names derived from it must not change between versions of the compiler.
pub fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash as `length` letters of a name.
pub fn letters(mut hash: u64, length: usize) -> String {
    hash ^= hash >> 32;
    let count = LETTERS.len() as u64;
    (0..length)
        .map(|_| {
            let letter = LETTERS[usize::try_from(hash % count).unwrap_or(0)];
            hash /= count;
            char::from(letter)
        })
        .collect()
}
