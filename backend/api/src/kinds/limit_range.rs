//! LimitRange: what a pod or container of a namespace may ask for, and what it gets where it asks for nothing.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use container_validation::quantities;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct LimitRange;

impl Kind for LimitRange {
    type Object = core::LimitRange;
    const SINGULAR: &'static str = "limitrange";
    const CREATED_BY_UPDATE: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["limits"];

    fn default(object: &mut Value) {
        for item in items(child(object, "spec"), "limits") {
            if item["type"] != "Container" {
                continue;
            }
            // A bound is the default of what was left out: max of default, default (and min) of defaultRequest.
            for (field, source) in
                [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
            {
                let Some(amounts) = item[source].as_object().cloned() else {
                    continue;
                };
                let target = child(item, field);
                for (resource, amount) in amounts {
                    fill(target, &resource, amount);
                }
            }
        }
    }

    fn validate(object: &core::LimitRange, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("limits");
        let limits = object.spec.as_ref().map(|s| s.limits.as_slice()).unwrap_or_default();
        let mut types = std::collections::BTreeSet::new();
        for (i, limit) in limits.iter().enumerate() {
            let path = path.index(i);
            if !types.insert(&limit.type_) {
                errors.duplicate(&path.child("type"), limit.type_.as_str());
            }
            let min = quantities(limit.min.as_ref(), &path.child("min"), errors);
            let max = quantities(limit.max.as_ref(), &path.child("max"), errors);
            let default = quantities(limit.default.as_ref(), &path.child("default"), errors);
            let request = quantities(limit.default_request.as_ref(), &path.child("defaultRequest"), errors);
            if limit.type_ == "Pod" {
                for (field, set) in [("default", &default), ("defaultRequest", &request)] {
                    if !set.is_empty() {
                        let detail = "may not be specified when `type` is 'Pod'";
                        errors.forbidden(&path.child(field), detail);
                    }
                }
            }
            let pairs = [
                ("min", "min", &min, "max", &max),
                ("defaultRequest", "default request", &request, "max", &max),
                ("defaultRequest", "default request", &request, "default limit", &default),
                ("default", "default", &default, "max", &max),
            ];
            for (field, low_words, low, high_words, high) in pairs {
                for (resource, amount) in low {
                    if let Some(bound) = high.get(resource).filter(|bound| amount > *bound) {
                        let words =
                            format!("{low_words} value {amount} is greater than {high_words} value {bound}");
                        errors.invalid(&path.child(field).key(resource), json!(amount.to_string()), words);
                    }
                }
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Created At")]
    }

    fn cells(object: &core::LimitRange, _now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), created_cell(&object.metadata)]
    }
}
