//! ServiceAccount: who a pod is to the API.
use super::support::{age_cell, name_cell, subresource};
use crate::kind::{Column, Kind, Subresource, Verb};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct ServiceAccount;

impl Kind for ServiceAccount {
    type Object = core::ServiceAccount;
    const SINGULAR: &'static str = "serviceaccount";
    const SHORT_NAMES: &'static [&'static str] = &["sa"];
    const SUBRESOURCES: &'static [Subresource] =
        &[subresource("token", "authentication.k8s.io", "v1", "TokenRequest", &[Verb::Create])];

    fn columns() -> Vec<Column> {
        vec![Column::new("Name", "string"), Column::new("Secrets", "string"), Column::new("Age", "string")]
    }

    fn cells(object: &core::ServiceAccount, now: Timestamp) -> Vec<Value> {
        let secrets = object.secrets.as_ref().map_or(0, Vec::len);
        vec![name_cell(&object.metadata), secrets.into(), age_cell(&object.metadata, now)]
    }
}
