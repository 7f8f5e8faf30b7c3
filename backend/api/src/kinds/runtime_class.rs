//! RuntimeClass: what runs a pod's containers, by name.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct RuntimeClass;

impl Kind for RuntimeClass {
    type Object = node::RuntimeClass;
    const SINGULAR: &'static str = "runtimeclass";
    const CREATED_BY_UPDATE: bool = true;

    fn validate(object: &node::RuntimeClass, errors: &mut FieldErrors) {
        if let Err(why) = crate::meta::dns_label(&object.handler) {
            errors.invalid(&Path::new("handler"), object.handler.as_str(), why);
        }
        let overhead = object.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref());
        container_validation::quantities(overhead, &Path::new("overhead").child("podFixed"), errors);
        let scheduling = object.scheduling.clone().unwrap_or_default();
        let path = Path::new("scheduling");
        labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"), errors);
        for (i, toleration) in scheduling.tolerations.iter().flatten().enumerate() {
            scheduling_validation::validate_toleration(
                toleration,
                &path.child("tolerations").index(i),
                errors,
            );
        }
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let changed = object.handler != old.handler;
        validate_immutable(changed, &Path::new("handler"), object.handler.as_str().into(), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Handler"), text("Age")]
    }

    fn cells(object: &node::RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), object.handler.clone().into(), age_cell(&object.metadata, now)]
    }
}
