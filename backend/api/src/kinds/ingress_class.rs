//! IngressClass: which controller serves an Ingress.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct IngressClass;

impl Kind for IngressClass {
    type Object = networking::IngressClass;
    const SINGULAR: &'static str = "ingressclass";
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        if object["spec"]["parameters"].is_object() {
            fill(&mut object["spec"]["parameters"], "scope", "Cluster");
        }
    }

    fn validate(object: &networking::IngressClass, errors: &mut FieldErrors) {
        let controller = object.spec.as_ref().and_then(|s| s.controller.as_deref()).unwrap_or_default();
        let path = Path::new("spec").child("controller");
        match controller {
            "" => errors.required(&path, ""),
            text if !text.contains('/') => {
                errors.invalid(&path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
            }
            _ => {}
        }
    }

    fn validate_update(
        object: &networking::IngressClass,
        old: &networking::IngressClass,
        errors: &mut FieldErrors,
    ) {
        let controller = |c: &networking::IngressClass| c.spec.as_ref().and_then(|s| s.controller.clone());
        let path = Path::new("spec").child("controller");
        validate_immutable(controller(object) != controller(old), &path, json!(controller(object)), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Controller"), text("Parameters"), text("Age")]
    }

    fn cells(object: &networking::IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map(|p| {
            let group = p.api_group.map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", p.kind, p.name)
        });
        vec![
            name_cell(&object.metadata),
            text_or(spec.controller.as_deref(), ""),
            text_or(parameters.as_deref(), "<none>"),
            age_cell(&object.metadata, now),
        ]
    }
}
