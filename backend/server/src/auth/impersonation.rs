//! Acting as somebody else (`kubectl --as`), where a rule allows the verb `impersonate`. After
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>.
use super::{ANONYMOUS, AUTHENTICATED, Attributes, Auth, UNAUTHENTICATED};
use crate::objects::Actor;
use axum::http::{HeaderMap, HeaderName};
use pilothouse_api::Status;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const EXTRA: &str = "impersonate-extra-";

/// Whom the headers name for the caller to be taken for; None where they name nobody. Errors: Forbidden for each part that the
/// caller may not take on, BadRequest for parts without a user.
pub fn apply(auth: &Auth, caller: &Actor, headers: &HeaderMap) -> Result<Option<Actor>, Status> {
    let texts = |name: &HeaderName| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    };
    let one = |name: &HeaderName| texts(name).into_iter().next().unwrap_or_default();
    let (user, uid, mut groups) = (one(&USER), one(&UID), texts(&GROUP));
    let extra: Vec<(String, &HeaderName)> = headers
        .keys()
        .filter_map(|name| Some((percent_decoded(name.as_str().strip_prefix(EXTRA)?), name)))
        .collect();
    if user.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request("groups, uid or extra cannot be impersonated without a user"));
    }
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let wanted = Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        auth.authorize(caller, &wanted)
    };
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", &user)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    let mut actor = Actor { user: user.clone(), uid, ..Actor::default() };
    for (key, name) in extra {
        let values = texts(name);
        for value in &values {
            may("authentication.k8s.io", "userextras", &key, "", value)?;
        }
        actor.extra.insert(key, values);
    }
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let anonymous = user == ANONYMOUS || groups.iter().any(|group| group == UNAUTHENTICATED);
    if !anonymous && !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    actor.groups = groups;
    Ok(Some(actor))
}

/// Keys may hold what header names may not.
fn percent_decoded(text: &str) -> String {
    crate::http::resources::percent_decode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        Auth::new(crate::ClusterStore::memory().store, pem.as_bytes()).unwrap()
    }

    fn headers(rows: &[(&str, &str)]) -> HeaderMap {
        let row =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        rows.iter().map(row).collect()
    }

    #[tokio::test]
    async fn masters_become_anybody_and_others_nobody() {
        let (auth, admin) = (auth(), Actor::system("test"));
        let robot = headers(&[("impersonate-user", "system:serviceaccount:a:robot")]);
        let actor = apply(&auth, &admin, &robot).unwrap().unwrap();
        assert_eq!(actor.user, "system:serviceaccount:a:robot");
        assert_eq!(actor.groups, ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]);
        let jane = headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-extra-a%2fb", "c"),
        ]);
        let actor = apply(&auth, &admin, &jane).unwrap().unwrap();
        assert_eq!(
            (actor.groups, &actor.extra["a/b"]),
            (vec!["dev".into(), AUTHENTICATED.into()], &vec!["c".to_owned()])
        );
        let nobody = Actor { user: "joe".into(), ..Actor::default() };
        let refused = apply(&auth, &nobody, &jane).unwrap_err();
        assert!(
            refused.message.contains(r#"User "joe" cannot impersonate resource "users""#),
            "{}",
            refused.message
        );
        assert!(apply(&auth, &admin, &headers(&[("impersonate-group", "dev")])).is_err());
        assert_eq!(apply(&auth, &nobody, &HeaderMap::new()).unwrap(), None);
    }
}
