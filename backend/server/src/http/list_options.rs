//! What a list or a watch may ask for: `ListOptions` of meta/v1, checked as Kubernetes checks them
//! (apimachinery `ValidateListOptions`).
use super::resources::Call;
use pilothouse_api::{FieldErrors, Path, Revision, Status};

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";

/// Which state a list shows or a watch starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest.
    Newest,
    /// Whatever is at hand: `resourceVersion=0`.
    Any,
    /// This revision or a later one.
    AtLeast(Revision),
    /// This one.
    Exactly(Revision),
}

impl Wanted {
    /// Of a list that is not continued.
    pub fn of_list(call: &Call) -> Result<Self, Status> {
        check_list(call)?;
        let exact = match call.param("resourceVersionMatch") {
            Some(name) => name == EXACT,
            // As it was before one could say: pages are of the revision named.
            None => call.param("limit").is_some_and(|limit| limit != "0"),
        };
        Ok(match revision(call)? {
            None => Self::Newest,
            Some(0) => Self::Any,
            Some(revision) if exact => Self::Exactly(revision),
            Some(revision) => Self::AtLeast(revision),
        })
    }
}

/// `resourceVersion`; None where the client names none.
pub fn revision(call: &Call) -> Result<Option<Revision>, Status> {
    let Some(text) = call.param("resourceVersion") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let mut errors = FieldErrors::default();
        errors.invalid(&Path::new("resourceVersion"), text, "must be an unsigned integer");
        invalid(&errors)
    })
}

fn check_list(call: &Call) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    let path = Path::new("resourceVersionMatch");
    if let Some(name) = call.param("resourceVersionMatch") {
        if call.param("resourceVersion").is_none() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if call.param("continue").is_some() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
        if name != EXACT && name != NOT_OLDER_THAN {
            errors.not_supported(&path, name, &[EXACT, NOT_OLDER_THAN, ""]);
        }
        if name == EXACT && call.param("resourceVersion") == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.forbidden(&path, why);
        }
    }
    if call.query.contains_key("sendInitialEvents") {
        errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
    finish(&errors)
}

pub fn check_watch(call: &Call) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    let path = Path::new("resourceVersionMatch");
    let name = call.param("resourceVersionMatch");
    let asks_state = call.query.contains_key("sendInitialEvents");
    if asks_state && name != Some(NOT_OLDER_THAN) {
        let why = format!("sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}");
        errors.forbidden(&path, why);
    }
    if let Some(name) = name {
        if !asks_state {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.forbidden(&path, why);
        }
        if name != NOT_OLDER_THAN {
            errors.not_supported(&path, name, &[NOT_OLDER_THAN]);
        }
        if call.param("continue").is_some() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
    finish(&errors)
}

fn finish(errors: &FieldErrors) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(invalid(errors)),
    }
}

fn invalid(errors: &FieldErrors) -> Status {
    Status::invalid("ListOptions", "meta.k8s.io", "", errors)
}
