//! DefaultStorageClass: a claim that leaves its class open gets the default one.
use super::{Context, Outcome, Request, Rule, done};
use pilothouse_api::storage::{CLAIMS, CLASSES, default_class, leaves_class_open};
use serde_json::Value;

pub struct DefaultStorageClass {
    context: Context,
}

impl DefaultStorageClass {
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

impl Rule for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        if request.creates(CLAIMS) && leaves_class_open(object) {
            let found = self.context.store.list(CLASSES, None).objects;
            let classes: Vec<Value> = found.iter().map(|class| class.value()).collect();
            if let (Some(name), Some(spec)) =
                (default_class(classes.iter()), object.get_mut("spec").and_then(Value::as_object_mut))
            {
                spec.insert("storageClassName".into(), name.into());
            }
        }
        done(Ok(()))
    }
}
