//! `ephemeralcontainers`: adds containers to a running pod, as `kubectl debug` does. What was added stays.
use super::super::resources::Call;
use pilothouse_api::{FieldErrors, Path, Status, decode};
use serde_json::Value;

/// The pod with the ephemeral containers of `given`, of which nothing else counts.
pub fn added(call: &Call, old: &Value, given: &Value) -> Result<Value, Status> {
    let list = |pod: &Value| pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = list(given).into();
    call.entry.rules.default(&mut new);
    let mut errors = FieldErrors::default();
    let path = Path::new("spec").child("ephemeralContainers");
    let kept = list(old).iter().all(|container| list(&new).contains(container));
    if !kept {
        errors.forbidden(&path, "existing ephemeral containers may not be changed or removed");
    }
    decode::check_types(&call.entry, &new)?;
    call.entry.rules.validate(&new, &mut errors);
    match errors.is_empty() {
        true => Ok(new),
        false => Err(Status::invalid(&call.entry.kind, &call.entry.group, &call.name, &errors)),
    }
}
