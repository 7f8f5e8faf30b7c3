//! How this server proves to aggregated servers that it may speak for its callers: a certificate of an authority that they
//! read about in the ConfigMap `kube-system/extension-apiserver-authentication`.
use crate::objects::{Actor, Part, WriteOptions};
use crate::remote::Identity;
use crate::state::AppState;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use pilothouse_api::{Reason, Status};
use serde_json::{Value, json};

const CONFIG_MAP: &str = "extension-apiserver-authentication";
const NAMESPACE: &str = "kube-system";
/// The name in the certificate, and the only one that may speak for others.
pub const COMMON_NAME: &str = "front-proxy-client";

pub struct FrontProxy {
    /// The authority that signed the certificate, in PEM.
    pub ca_pem: String,
    pub identity: Identity,
}

/// Writes what aggregated servers go by. What other servers of this cluster wrote stays.
pub async fn publish(app: &AppState) -> Result<(), Status> {
    let Some(entry) = app.registry.by_resource("configmaps") else { return Ok(()) };
    let front_proxy_ca = app.aggregation.identity().map(|proxy| proxy.ca_pem.clone()).unwrap_or_default();
    let data = |old: &Value| {
        json!({
            "client-ca-file": with(&old["client-ca-file"], &app.ca_pem),
            "requestheader-client-ca-file": with(&old["requestheader-client-ca-file"], &front_proxy_ca),
            "requestheader-allowed-names": json!([COMMON_NAME]).to_string(),
            "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
            "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
            "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
            "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        })
    };
    let (actor, options) = (Actor::system("bootstrap"), WriteOptions::default());
    let object = json!({"metadata": {"name": CONFIG_MAP}, "data": data(&Value::Null)});
    match app.objects.create(&actor, &entry, NAMESPACE, object, &options).await {
        Err(status) if status.reason == Reason::AlreadyExists => {}
        outcome => return outcome.map(drop),
    }
    let change = |old: &Value| {
        let mut new = old.clone();
        new["data"] = data(&old["data"]);
        Ok(new)
    };
    app.objects.update(&actor, &entry, NAMESPACE, CONFIG_MAP, Part::Spec, &options, change).await?;
    Ok(())
}

/// A bundle with one certificate more, unless it holds it already.
fn with(bundle: &Value, pem: &str) -> String {
    match bundle.as_str().unwrap_or_default() {
        bundle if bundle.contains(pem.trim()) => bundle.to_owned(),
        bundle => format!("{bundle}{pem}"),
    }
}

/// Who a request is from, as aggregated servers are told.
pub fn headers(actor: &Actor) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.append(name, value);
        }
    };
    add(HeaderName::from_static("x-remote-user"), &actor.user);
    if !actor.uid.is_empty() {
        add(HeaderName::from_static("x-remote-uid"), &actor.uid);
    }
    for group in &actor.groups {
        add(HeaderName::from_static("x-remote-group"), group);
    }
    for (key, values) in &actor.extra {
        let Ok(name) = HeaderName::try_from(format!("x-remote-extra-{}", escaped(key))) else { continue };
        values.iter().for_each(|value| add(name.clone(), value));
    }
    headers
}

/// What no header's name may hold is written as `%2F` and its like.
fn escaped(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.to_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_caller_is_told_with_groups_and_extras() {
        let actor = Actor {
            user: "jane".into(),
            uid: "1".into(),
            groups: vec!["a".into(), "b".into()],
            extra: BTreeMap::from([("example.com/Scope".to_owned(), vec!["x".to_owned()])]),
        };
        let headers = headers(&actor);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("X-Remote-User"), ["jane"]);
        assert_eq!(all("X-Remote-Uid"), ["1"]);
        assert_eq!(all("X-Remote-Group"), ["a", "b"]);
        assert_eq!(all("X-Remote-Extra-example.com%2fscope"), ["x"]);
    }
}
