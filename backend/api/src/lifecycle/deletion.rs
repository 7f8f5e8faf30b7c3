//! What a deletion comes to: at once, after a grace period, or when the last finalizer is gone.
use super::{metadata_mut, seconds, strings};
use crate::kind::KindEntry;
use crate::meta;
use crate::status::Status;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// `propagationPolicy`.
const POLICIES: [&str; 3] = ["Background", "Foreground", "Orphan"];

/// `DeleteOptions` of meta/v1, as far as they decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    /// `Orphan`, `Background`, `Foreground`.
    pub propagation_policy: Option<String>,
    /// The precondition on the object's UID.
    pub uid: Option<String>,
    /// The precondition on the object's resourceVersion.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// From a request's body; fields that are missing stay open. The old `orphanDependents` is a policy, too.
    pub fn from_json(body: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let orphan = body["orphanDependents"].as_bool();
        let legacy = orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        Self {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            propagation_policy: text(&body["propagationPolicy"]).or(legacy),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
        }
    }

    fn check(&self) -> Result<(), Status> {
        let mut errors = FieldErrors::default();
        if let Some(policy) = &self.propagation_policy
            && !POLICIES.contains(&policy.as_str())
        {
            errors.not_supported(&Path::new("propagationPolicy"), policy.as_str(), &POLICIES);
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid("DeleteOptions", "meta.k8s.io", "", &errors)),
        }
    }
}

/// What a deletion comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// Nothing holds it: remove it now.
    Remove,
    /// It is marked and goes when its finalizers or its node let it.
    Update(Value),
    /// It is marked already.
    Unchanged,
}

/// What a deletion request comes to. Errors: Conflict for a precondition that does not hold, Invalid for options that
/// do not exist.
pub fn before_delete(
    entry: &KindEntry,
    object: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Deletion, Status> {
    options.check()?;
    check_preconditions(entry, object, options)?;
    let mut finalizers = finalizers(object, options.propagation_policy.as_deref());
    if marked_until(object).is_none() {
        let added = entry.rules.deletion_finalizers().iter().map(|name| (*name).to_owned());
        let added: Vec<String> = added.filter(|name| !finalizers.contains(name)).collect();
        finalizers.extend(added);
    }
    // Kubernetes takes a negative grace period for the shortest there is.
    let requested = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let grace = entry.rules.grace_period_seconds(object, requested).max(0);
    let deadline = match marked_until(object) {
        None => {
            if grace == 0 && finalizers.is_empty() && !entry.rules.holds_deletion(object) {
                return Ok(Deletion::Remove);
            }
            Some(now.as_second() + grace)
        }
        // The grace period can only be cut short: the new deadline counts from when the deletion began.
        Some((deadline, current)) if grace < current => Some(deadline - current + grace),
        Some(_) => None,
    };
    let mut marked = object.clone();
    if let Some(deadline) = deadline {
        mark(entry, &mut marked, object, deadline, grace, now);
    }
    let fields = metadata_mut(&mut marked);
    match finalizers.is_empty() {
        true => drop(fields.remove("finalizers")),
        false => drop(fields.insert("finalizers".into(), finalizers.into())),
    }
    match () {
        () if is_released(entry, &marked) => Ok(Deletion::Remove),
        () if marked == *object => Ok(Deletion::Unchanged),
        () => Ok(Deletion::Update(marked)),
    }
}

fn mark(entry: &KindEntry, marked: &mut Value, object: &Value, deadline: i64, grace: i64, now: Timestamp) {
    let is_first = marked_until(object).is_none();
    let fields = metadata_mut(marked);
    let stamp = Timestamp::from_second(deadline).unwrap_or(now);
    fields.insert("deletionTimestamp".into(), seconds(stamp).into());
    fields.insert("deletionGracePeriodSeconds".into(), grace.into());
    // Controllers watch the generation: that the object goes is news for them.
    if is_first && let Some(generation) = fields.get("generation").and_then(Value::as_i64) {
        fields.insert("generation".into(), (generation + 1).into());
    }
    if is_first {
        entry.rules.before_marked_for_deletion(marked);
    }
}

/// The deadline in seconds since the epoch and the grace period in seconds, of an object marked for deletion.
fn marked_until(object: &Value) -> Option<(i64, i64)> {
    let fields = &object["metadata"];
    let deadline: Timestamp = fields["deletionTimestamp"].as_str()?.parse().ok()?;
    Some((deadline.as_second(), fields["deletionGracePeriodSeconds"].as_i64().unwrap_or(0)))
}

/// The finalizers with those of the policy. Without a policy, those an earlier deletion left stay.
fn finalizers(object: &Value, policy: Option<&str>) -> Vec<String> {
    let mut finalizers = strings(&object["metadata"]["finalizers"]);
    let wanted = match policy {
        None => return finalizers,
        Some("Foreground") => Some(FOREGROUND),
        Some("Orphan") => Some(ORPHAN),
        Some(_) => None,
    };
    finalizers.retain(|name| (name != FOREGROUND && name != ORPHAN) || Some(name.as_str()) == wanted);
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|name| name == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

fn check_preconditions(entry: &KindEntry, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let refused = |why: String| Err(Status::conflict(&entry.resource, meta::name(object), why));
    let uid = meta::uid(object);
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return refused(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        ));
    }
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return refused(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

/// Marked for deletion with nothing left to wait for: the write that made it so must remove it.
pub fn is_released(entry: &KindEntry, object: &Value) -> bool {
    marked_until(object).is_some_and(|(_, grace)| grace == 0)
        && strings(&object["metadata"]["finalizers"]).is_empty()
        && !entry.rules.holds_deletion(object)
}
