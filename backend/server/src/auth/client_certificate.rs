//! Client certificates: who a connection is from, by the certificate that TLS verified. CN is the user, each O a group.
use super::AUTHENTICATED;
use crate::certificates::Subject;
use crate::objects::Actor;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Carries the identity from the connection to the handlers. Nobody outside can send it: the listeners remove it from
/// every request first.
pub const HEADER: &str = "x-pilothouse-client-certificate";
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// What to mark the requests of a connection with.
pub fn mark(der: &[u8]) -> Option<HeaderValue> {
    let subject = Subject::of_certificate(der).filter(|subject| !subject.common_name.is_empty())?;
    let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let told = json!({"user": subject.common_name, "groups": subject.organizations, "digest": digest});
    HeaderValue::from_str(&STANDARD.encode(told.to_string())).ok()
}

pub fn identity(headers: &HeaderMap) -> Option<Actor> {
    let bytes = STANDARD.decode(headers.get(HEADER)?.as_bytes()).ok()?;
    let told: Value = serde_json::from_slice(&bytes).ok()?;
    let mut groups: Vec<String> = told["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group.as_str().map(str::to_owned))
        .collect();
    groups.push(AUTHENTICATED.into());
    let digest = told["digest"].as_str().unwrap_or_default();
    let extra = BTreeMap::from([(CREDENTIAL.to_owned(), vec![format!("X509SHA256={digest}")])]);
    Some(Actor { user: told["user"].as_str()?.to_owned(), uid: String::new(), groups, extra })
}
