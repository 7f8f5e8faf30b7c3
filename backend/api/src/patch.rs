//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.
mod strategic;

use crate::kind::KindEntry;
use crate::meta;
use crate::status::{Reason, Status};
use serde_json::Value;

/// The patch formats a client can send, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    /// Server-side apply: not a patch in itself, see [`crate::apply`].
    Apply,
}

impl PatchType {
    /// By the request's `Content-Type`; parameters after `;` do not matter.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }

    /// The answer to a patch of another type, or of one that the kind does not take.
    pub fn unsupported() -> Status {
        Status::new(
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )
    }
}

/// A JSON patch longer than this is refused, as Kubernetes does: each operation may copy the whole object.
const MAX_OPERATIONS: usize = 10_000;

/// `current` with the patch applied; what it became is not checked here. Errors: BadRequest for what is no patch,
/// Invalid for one that does not fit the object.
pub fn patch(kind: PatchType, entry: &KindEntry, current: &Value, patch: &Value) -> Result<Value, Status> {
    let patched = match kind {
        PatchType::Json => json(current, patch)?,
        PatchType::Merge => merge(current, patch)?,
        PatchType::Strategic if entry.rules.has_strategic_merge() => {
            strategic::merge(entry.rules.type_ref(), current, patch).map_err(unprocessable)?
        }
        PatchType::Strategic => return Err(PatchType::unsupported()),
        PatchType::Apply => return Err(Status::internal("an apply configuration is not a patch")),
    };
    if !patched.is_object() {
        let name = meta::name(current);
        return Err(unprocessable(format!("{} {name:?} would be no object any more", entry.resource)));
    }
    Ok(patched)
}

fn json(current: &Value, patch: &Value) -> Result<Value, Status> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if operations.0.len() > MAX_OPERATIONS {
        let count = operations.0.len();
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"),
        ));
    }
    let mut patched = current.clone();
    json_patch::patch(&mut patched, &operations).map_err(|error| unprocessable(error.to_string()))?;
    Ok(patched)
}

fn merge(current: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: a merge patch is an object"));
    }
    let mut patched = current.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

fn unprocessable(why: String) -> Status {
    Status::new(
        Reason::Invalid,
        format!("the server rejected our request due to an error in our request: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn config_map() -> KindEntry {
        KindEntry::clone(crate::Registry::builtin().by_resource("configmaps").unwrap())
    }

    #[test]
    fn a_json_patch_is_applied_whole_or_not_at_all() {
        let current = json!({"metadata": {"name": "x"}, "data": {"a": "1"}});
        let good =
            json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]);
        let patched = patch(PatchType::Json, &config_map(), &current, &good).unwrap();
        assert_eq!(patched["data"], json!({}));
        let rows = [
            (json!([{"op": "remove", "path": "/data/b"}]), 422),
            (json!([{"op": "test", "path": "/data/a", "value": "2"}]), 422),
            (json!([{"op": "replace", "path": "", "value": 1}]), 422),
            (json!([{"op": "dance", "path": "/a"}]), 400),
            (json!({"data": null}), 400),
            (Value::Array(vec![json!({"op": "remove", "path": "/x"}); MAX_OPERATIONS + 1]), 413),
        ];
        for (broken, code) in rows {
            let error = patch(PatchType::Json, &config_map(), &current, &broken).unwrap_err();
            assert_eq!(error.code(), code, "{broken:.60}");
        }
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_removes_nulls() {
        let current = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        let change = json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 1}});
        let patched = patch(PatchType::Merge, &config_map(), &current, &change).unwrap();
        assert_eq!(patched, json!({"a": {"c": [3]}, "d": 1, "e": {"g": 1}}));
        assert_eq!(patch(PatchType::Merge, &config_map(), &current, &json!(1)).unwrap_err().code(), 400);
    }

    #[test]
    fn the_media_type_tells_the_kind_of_patch() {
        let rows = [
            ("application/json-patch+json", Some(PatchType::Json)),
            ("application/merge-patch+json; charset=utf-8", Some(PatchType::Merge)),
            ("application/strategic-merge-patch+json", Some(PatchType::Strategic)),
            ("application/apply-patch+yaml", Some(PatchType::Apply)),
            ("application/json", None),
        ];
        for (content_type, expected) in rows {
            assert_eq!(PatchType::from_content_type(content_type), expected, "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn no_patch_panics_whatever_it_holds(current in crate::arbitrary::object(), change in crate::arbitrary::object()) {
            for kind in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
                let _ = patch(kind, &config_map(), &current, &change);
            }
        }

        #[test]
        fn a_merge_patch_applied_again_changes_nothing(current in crate::arbitrary::object(), change in crate::arbitrary::object()) {
            let once = patch(PatchType::Merge, &config_map(), &current, &change).unwrap();
            let twice = patch(PatchType::Merge, &config_map(), &once, &change).unwrap();
            prop_assert_eq!(once, twice);
        }
    }
}
