//! One webhook of a configuration, and which requests it is for.
use super::super::Request;
use super::super::matching::Matcher;
use crate::remote::Endpoint;
use pilothouse_api::policy::Conditions;
use pilothouse_api::{KindEntry, Registry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mutating,
    Validating,
}

pub struct Hook {
    pub kind: Kind,
    pub name: String,
    pub endpoint: Endpoint,
    pub timeout: Duration,
    /// Whether a request passes where the webhook cannot be asked.
    pub ignores_failure: bool,
    /// Whether it wants to see what those after it changed.
    pub is_reinvoked: bool,
    /// Of `AdmissionReview`: `v1` or `v1beta1`.
    pub version: &'static str,
    pub conditions: Conditions,
    matcher: Matcher,
}

impl Hook {
    /// All webhooks of a configuration, in its order.
    pub fn all_of(kind: Kind, configuration: &Value) -> Vec<Self> {
        let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
        webhooks.map(|webhook| Self::new(kind, webhook)).collect()
    }

    fn new(kind: Kind, webhook: &Value) -> Self {
        let versions = webhook["admissionReviewVersions"].as_array().into_iter().flatten();
        let version = versions.filter_map(Value::as_str).find_map(|version| match version {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        Self {
            kind,
            name: webhook["name"].as_str().unwrap_or_default().to_owned(),
            endpoint: Endpoint::new(&webhook["clientConfig"]),
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
            ignores_failure: webhook["failurePolicy"] == "Ignore",
            is_reinvoked: webhook["reinvocationPolicy"] == "IfNeeded",
            version: version.unwrap_or("v1"),
            conditions: Conditions::new(&webhook["matchConditions"]),
            matcher: Matcher::of_webhook(webhook),
        }
    }

    /// In whose shape the webhook sees the request's objects; None where the request is none of its business.
    pub fn wants(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
        namespace_labels: Option<&BTreeMap<String, String>>,
        registry: &Registry,
    ) -> Option<Arc<KindEntry>> {
        self.matcher.wants(request, object, namespace_labels, registry)
    }
}
