//! StorageObjectInUseProtection: claims and volumes are born with the finalizer that keeps them while they are used.
use super::{Outcome, Request, Rule, done};
use pilothouse_api::storage::{CLAIM_PROTECTION, CLAIMS, VOLUME_PROTECTION, VOLUMES, has_finalizer};
use serde_json::{Value, json};

pub struct StorageProtection;

impl Rule for StorageProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        let finalizer = match () {
            () if request.creates(CLAIMS) => CLAIM_PROTECTION,
            () if request.creates(VOLUMES) => VOLUME_PROTECTION,
            () => return done(Ok(())),
        };
        if !has_finalizer(object, finalizer)
            && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        {
            let finalizers = metadata.entry("finalizers").or_insert(Value::Null);
            if finalizers.is_null() {
                *finalizers = json!([]);
            }
            if let Some(all) = finalizers.as_array_mut() {
                all.push(finalizer.into());
            }
        }
        done(Ok(()))
    }
}
