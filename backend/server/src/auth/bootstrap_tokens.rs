//! Bootstrap tokens: `id.secret`, kept as Secrets of their own type in kube-system. After
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>.
use super::AUTHENTICATED;
use crate::objects::Actor;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilothouse_api::Key;
use pilothouse_api::jiff::Timestamp;
use pilothouse_store::Store;
use serde_json::Value;

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// Id and secret, where the text has the form of such a token.
fn parts(token: &str) -> Option<(&str, &str)> {
    let plain = |text: &str| text.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    let (id, secret) = token.split_once('.')?;
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// Who a token is from, if it is one and holds.
pub fn authenticate(store: &Store, token: &str, now: Timestamp) -> Option<Actor> {
    let (id, secret) = parts(token)?;
    let object = store.get(&Key::new("secrets", NAMESPACE, format!("bootstrap-token-{id}")))?.value();
    identity(&object, id, secret, now)
}

fn identity(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<Actor> {
    let text = |field: &str| {
        let bytes = STANDARD.decode(object["data"][field].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let right = object["type"] == SECRET_TYPE
        && object["metadata"]["deletionTimestamp"].is_null()
        && text("token-id").as_deref() == Some(id)
        && is_same(&text("token-secret")?, secret)
        && text("usage-bootstrap-authentication").as_deref() == Some("true");
    // One that cannot be read has passed.
    let holds = text("expiration").is_none_or(|at| at.parse::<Timestamp>().is_ok_and(|at| now < at));
    if !right || !holds {
        return None;
    }
    let more = text("auth-extra-groups").unwrap_or_default();
    let more = more.split(',').filter(|group| group.starts_with(&format!("{GROUP}:"))).map(str::to_owned);
    let groups = std::iter::once(GROUP.to_owned()).chain(more).chain([AUTHENTICATED.to_owned()]).collect();
    Some(Actor { user: format!("system:bootstrap:{id}"), groups, ..Actor::default() })
}

/// Takes as long whatever differs.
fn is_same(a: &str, b: &str) -> bool {
    let differing = a.bytes().zip(b.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_holds_until_its_end_and_for_its_purpose() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let secret = |more: &[(&str, &str)]| {
            let mut data = json!({
                "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:workers,system:masters",
            });
            for (field, value) in more {
                data[*field] = (*value).into();
            }
            let encoded = data.as_object().unwrap().iter();
            let data: Value = encoded
                .map(|(k, v)| (k.clone(), Value::from(STANDARD.encode(v.as_str().unwrap()))))
                .collect();
            json!({"type": SECRET_TYPE, "data": data})
        };
        let of = |object: Value| identity(&object, "abcdef", "0123456789abcdef", now);
        let actor = of(secret(&[("expiration", "2026-01-02T00:00:00Z")])).unwrap();
        assert_eq!(actor.user, "system:bootstrap:abcdef");
        assert_eq!(actor.groups, [GROUP, "system:bootstrappers:workers", AUTHENTICATED]);
        assert!(of(secret(&[("expiration", "2025-12-31T00:00:00Z")])).is_none());
        assert!(of(secret(&[("usage-bootstrap-authentication", "false")])).is_none());
        assert!(of(secret(&[("token-secret", "0123456789abcdeX")])).is_none());
        let mut foreign = secret(&[]);
        foreign["type"] = "Opaque".into();
        assert!(of(foreign).is_none());
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        assert_eq!(parts("ABCDEF.0123456789abcdef"), None);
    }
}
