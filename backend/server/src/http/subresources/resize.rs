//! `resize`: CPU and memory of a pod's containers, changed while they run.
use super::super::resources::Call;
use pilothouse_api::{FieldErrors, Status, decode, resize};
use serde_json::Value;

/// The pod with the resources of `given`.
pub fn resized(call: &Call, old: &Value, given: &Value) -> Result<Value, Status> {
    let mut new = resize::asked_for(old, given);
    call.entry.rules.default(&mut new);
    let mut errors = FieldErrors::default();
    resize::validate(&new, old, &mut errors);
    decode::check_types(&call.entry, &new)?;
    call.entry.rules.validate(&new, &mut errors);
    match errors.is_empty() {
        true => Ok(new),
        false => Err(Status::invalid(&call.entry.kind, &call.entry.group, &call.name, &errors)),
    }
}
