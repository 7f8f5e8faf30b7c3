//! PersistentVolumeClaimResize: a claim grows only where its class lets it.
use super::{Context, Operation, Outcome, Request, Rule, done};
use pilothouse_api::quantity::Quantity;
use pilothouse_api::storage::{CLAIMS, CLASSES, class_of};
use pilothouse_api::{Key, Status};
use serde_json::Value;

pub struct VolumeResize {
    context: Context,
}

impl VolumeResize {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn judge(&self, request: &Request<'_>, claim: &Value) -> Result<(), Status> {
        let is_update = request.operation == Operation::Update && request.subresource.is_empty();
        let (true, Some(old)) = (is_update && *request.entry.resource == *CLAIMS, request.old) else {
            return Ok(());
        };
        let size = |claim: &Value| {
            let amount = claim["spec"]["resources"]["requests"]["storage"].as_str();
            amount.and_then(Quantity::parse).unwrap_or(Quantity::ZERO)
        };
        if size(claim) <= size(old) {
            return Ok(());
        }
        let forbidden = |why: &str| Err(Status::forbidden(CLAIMS, request.name, why));
        if old["status"]["phase"] != "Bound" {
            return forbidden("Only bound persistent volume claims can be expanded");
        }
        let class = self.context.store.get(&Key::new(CLASSES, "", class_of(old)));
        if class.is_some_and(|class| class.value()["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )
    }
}

impl Rule for VolumeResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        done(self.judge(request, object))
    }
}
