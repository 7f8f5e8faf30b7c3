//! APIService: which server answers for one version of an API group.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use serde_json::{Value, json};

pub struct APIService;

impl Kind for APIService {
    type Object = apiregistration::APIService;
    const SINGULAR: &'static str = "apiservice";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const SUBRESOURCES: &'static [Subresource] = &[status("apiregistration.k8s.io", "v1", "APIService")];
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;

    fn default(object: &mut Value) {
        if object["spec"]["service"].is_object() {
            fill(&mut object["spec"]["service"], "port", 443);
        }
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({}));
        if object["spec"]["service"].is_null() {
            let made = object["metadata"]["creationTimestamp"].clone();
            object["status"]["conditions"] = json!([{
                "type": "Available", "status": "True", "reason": "Local", "lastTransitionTime": made,
                "message": "Local APIServices are always available",
            }]);
        }
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        let group = spec.group.unwrap_or_default();
        let version = spec.version.unwrap_or_default();
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let wanted = format!("{version}.{group}");
        if name != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        if let Err(why) = crate::meta::dns_label(&version) {
            errors.invalid(&path.child("version"), version, why);
        }
        let bounds = [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
            ("versionPriority", spec.version_priority, 1000),
        ];
        for (field, value, most) in bounds {
            if !(1..=most).contains(&value) {
                let detail =
                    format!("must be positive and less than {}", if most == 1000 { "1000" } else { "20000" });
                errors.invalid(&path.child(field), value, detail);
            }
        }
        let Some(service) = spec.service else {
            if spec.insecure_skip_tls_verify == Some(true) {
                let path = path.child("insecureSkipTLSVerify");
                errors.invalid(&path, true, "local APIServices may not have insecureSkipTLSVerify");
            }
            return;
        };
        let at = path.child("service");
        validate_required(service.namespace.as_deref(), &at.child("namespace"), errors);
        validate_required(service.name.as_deref(), &at.child("name"), errors);
        if spec.insecure_skip_tls_verify == Some(true) && spec.ca_bundle.is_some_and(|c| !c.0.is_empty()) {
            let path = path.child("insecureSkipTLSVerify");
            errors.invalid(&path, true, "may not be true if caBundle is present");
        }
    }

    /// The core group has no name: its first version is `v1.`.
    fn validate_name(name: &str) -> Result<(), String> {
        match name.strip_suffix('.') {
            Some(version) => crate::meta::dns_label(version),
            None => crate::meta::dns_subdomain(name),
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Service"), text("Available"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let service = object
            .spec
            .as_ref()
            .and_then(|s| s.service.clone())
            .map(|s| format!("{}/{}", s.namespace.unwrap_or_default(), s.name.unwrap_or_default()));
        let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let available = match conditions.iter().find(|c| c.type_ == "Available") {
            Some(c) if c.status == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", c.status, c.reason.as_deref().unwrap_or_default()),
            None => "Unknown".to_owned(),
        };
        vec![
            name_cell(&object.metadata),
            text_or(service.as_deref(), "Local"),
            available.into(),
            age_cell(&object.metadata, now),
        ]
    }
}
