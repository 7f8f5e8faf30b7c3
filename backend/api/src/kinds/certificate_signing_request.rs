//! CertificateSigningRequest: a key that asks for a certificate, and what was said to it.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::kind::{Subresource, Verb};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct CertificateSigningRequest;

/// Shorter certificates than ten minutes would be out of date before they are used.
const LEAST_SECONDS: i32 = 600;

impl Kind for CertificateSigningRequest {
    type Object = certificates::CertificateSigningRequest;
    const SINGULAR: &'static str = "certificatesigningrequest";
    const SHORT_NAMES: &'static [&'static str] = &["csr"];
    const SUBRESOURCES: &'static [Subresource] = &[
        subresource(
            "approval",
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            &[Verb::Get, Verb::Patch, Verb::Update],
        ),
        status("certificates.k8s.io", "v1", "CertificateSigningRequest"),
    ];

    fn before_create(object: &mut Value) {
        reset_status(object, serde_json::json!({}));
    }

    fn validate(object: &certificates::CertificateSigningRequest, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &object.spec);
        let pem = String::from_utf8_lossy(&spec.request.0);
        if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            errors.invalid(&path.child("request"), "<redacted>", detail);
        }
        if spec.usages.as_ref().is_none_or(Vec::is_empty) {
            errors.required(&path.child("usages"), "usages must be provided");
        }
        match spec.signer_name.split_once('/') {
            _ if spec.signer_name.is_empty() => errors.required(&path.child("signerName"), ""),
            Some((domain, rest)) if crate::meta::dns_subdomain(domain).is_ok() && !rest.is_empty() => {}
            _ => {
                let detail =
                    "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                errors.invalid(&path.child("signerName"), spec.signer_name.as_str(), detail);
            }
        }
        if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < LEAST_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, detail);
        }
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        let spec = serde_json::json!(object.spec);
        validate_immutable(object.spec != old.spec, &Path::new("spec"), spec, errors);
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", object["spec"]["signerName"].as_str().unwrap_or_default().to_owned())]
    }

    fn columns() -> Vec<Column> {
        let told = ["Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"];
        told.map(text).into()
    }

    fn cells(object: &certificates::CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let duration = object.spec.expiration_seconds.map(|s| crate::meta::human_duration(s.into()));
        let status = object.status.clone().unwrap_or_default();
        let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind);
        let mut words = vec![match (has("Denied"), has("Approved")) {
            (true, _) => "Denied",
            (false, true) => "Approved",
            (false, false) => "Pending",
        }];
        if has("Failed") {
            words.push("Failed");
        }
        if status.certificate.is_some_and(|c| !c.0.is_empty()) {
            words.push("Issued");
        }
        vec![
            name_cell(&object.metadata),
            age_cell(&object.metadata, now),
            text_or(Some(&object.spec.signer_name), "<none>"),
            text_or(object.spec.username.as_deref(), ""),
            text_or(duration.as_deref(), "<none>"),
            words.join(",").into(),
        ]
    }
}
