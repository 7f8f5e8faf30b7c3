//! ValidatingWebhookConfiguration: which outside services may refuse requests.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use webhook::Webhook;

pub struct ValidatingWebhookConfiguration;

impl Kind for ValidatingWebhookConfiguration {
    type Object = admission::ValidatingWebhookConfiguration;
    const SINGULAR: &'static str = "validatingwebhookconfiguration";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        webhook::default(object);
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let mut names = std::collections::BTreeSet::new();
        for (i, given) in object.webhooks.iter().flatten().enumerate() {
            let path = Path::new("webhooks").index(i);
            let rules = Webhook {
                name: &given.name,
                client: &given.client_config,
                side_effects: &given.side_effects,
                review_versions: &given.admission_review_versions,
                timeout_seconds: given.timeout_seconds,
                failure_policy: given.failure_policy.as_deref(),
                match_policy: given.match_policy.as_deref(),
                rules: given.rules.as_deref().unwrap_or_default(),
                match_conditions: given.match_conditions.as_deref().unwrap_or_default(),
            };
            webhook::validate(&rules, &path, errors);
            if !names.insert(&given.name) {
                errors.duplicate(&path.child("name"), given.name.as_str());
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), number("Webhooks"), text("Age")]
    }

    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let count = object.webhooks.as_ref().map_or(0, Vec::len);
        vec![name_cell(&object.metadata), count.into(), age_cell(&object.metadata, now)]
    }
}
