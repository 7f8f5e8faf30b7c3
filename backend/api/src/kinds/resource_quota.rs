//! ResourceQuota: how much all of a namespace may use together.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ResourceQuota;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

impl Kind for ResourceQuota {
    type Object = core::ResourceQuota;
    const SINGULAR: &'static str = "resourcequota";
    const SHORT_NAMES: &'static [&'static str] = &["quota"];
    const SUBRESOURCES: &'static [Subresource] = &[status("", "v1", "ResourceQuota")];

    fn before_create(object: &mut Value) {
        reset_status(object, json!({}));
    }

    fn validate(object: &core::ResourceQuota, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        container_validation::quantities(spec.hard.as_ref(), &path.child("hard"), errors);
        for (i, scope) in spec.scopes.iter().flatten().enumerate() {
            one_of(Some(scope), SCOPES, &path.child("scopes").index(i), errors);
        }
    }

    fn validate_update(object: &core::ResourceQuota, old: &core::ResourceQuota, errors: &mut FieldErrors) {
        let scopes = |quota: &core::ResourceQuota| {
            quota.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default()
        };
        let path = Path::new("spec").child("scopes");
        validate_immutable(scopes(object) != scopes(old), &path, json!(scopes(object)), errors);
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Request"), text("Limit"), text("Age")]
    }

    fn cells(object: &core::ResourceQuota, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let hard = object.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let used =
            |resource: &str| status.used.as_ref().and_then(|u| u.get(resource)).map_or("0", |q| q.0.as_str());
        let told = |limits: bool| {
            let chosen = hard.iter().filter(|(resource, _)| resource.starts_with("limits.") == limits);
            let words: Vec<String> = chosen.map(|(r, q)| format!("{r}: {}/{}", used(r), q.0)).collect();
            Value::from(words.join(", "))
        };
        vec![name_cell(&object.metadata), told(false), told(true), age_cell(&object.metadata, now)]
    }
}
