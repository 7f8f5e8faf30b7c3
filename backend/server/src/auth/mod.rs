//! Who asks, and what may they do.
pub mod attributes;
pub mod bootstrap;
mod bootstrap_tokens;
pub mod client_certificate;
mod default_roles;
mod impersonation;
pub mod login;
pub mod node;
pub mod oidc;
pub mod rbac;
pub mod reviews;
pub mod token_requests;
pub mod tokens;
pub mod users;

pub use attributes::Attributes;
pub use tokens::Claims;

use crate::feed;
use crate::objects::Actor;
use anyhow::Result;
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Status};
use pilothouse_store::{Object, ReadError, Store};
use std::collections::HashMap;
use std::sync::Arc;

pub const SESSION_COOKIE: &str = "pilothouse_session";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
pub const MASTERS: &str = "system:masters";

/// Revoked sessions kept at most: each is worth a few bytes until it would have ended anyway.
const MAX_REVOKED: usize = 100_000;

/// Tokens of what is being deleted hold so long after its time is up, for last words.
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// How a request proved who it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    ClientCertificate,
    BearerToken,
    /// The browser sends it by itself: such requests need proof that a page of ours made them.
    SessionCookie,
    /// No credential at all: whoever it is may what everybody may.
    Nothing,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As whom the request acts.
    pub actor: Actor,
    pub proof: Proof,
    /// Who really sent it, if it is to be taken for somebody else's.
    pub impersonator: Option<Actor>,
}

impl Caller {
    pub fn sender(&self) -> &Actor {
        self.impersonator.as_ref().unwrap_or(&self.actor)
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    store: Store,
    signer: tokens::Signer,
    users: users::Users,
    rbac: rbac::Rbac,
    nodes: node::Nodes,
    throttle: login::Throttle,
    /// Whose tokens are taken beside our own.
    issuers: ArcSwap<oidc::Issuers>,
    /// At whose place people may sign in to the dashboard.
    sign_in: ArcSwapOption<oidc::sign_in::Client>,
    /// Sessions signed out before their end: token id to end.
    revoked: Mutex<HashMap<String, i64>>,
}

impl Auth {
    pub fn new(store: Store, signing_key_pem: &[u8]) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            store,
            signer: tokens::Signer::new(signing_key_pem)?,
            users: users::Users::default(),
            rbac: rbac::Rbac::default(),
            nodes: node::Nodes::default(),
            throttle: login::Throttle::default(),
            issuers: ArcSwap::default(),
            sign_in: ArcSwapOption::default(),
            revoked: Mutex::default(),
        })))
    }

    /// Fills the indexes from the store and gives the tasks that keep them in step.
    pub fn follow(&self) -> Result<Vec<futures::future::BoxFuture<'static, ()>>, ReadError> {
        let (users, rbac, nodes) = (self.0.users.clone(), self.0.rbac.clone(), self.0.nodes.clone());
        let store = &self.0.store;
        Ok(vec![
            Box::pin(feed::follow(store, &["secrets"], move |o| users.observe(&o))?),
            Box::pin(feed::follow(store, rbac::RESOURCES, move |o| rbac.observe(&o))?),
            Box::pin(feed::follow(store, node::RESOURCES, move |o| nodes.observe(&o))?),
        ])
    }

    pub fn issue(&self, claims: &Claims) -> Result<String> {
        self.0.signer.sign(claims)
    }

    pub fn users(&self) -> &users::Users {
        &self.0.users
    }

    pub fn rbac(&self) -> &rbac::Rbac {
        &self.0.rbac
    }

    pub fn signer(&self) -> &tokens::Signer {
        &self.0.signer
    }

    fn throttle(&self) -> &login::Throttle {
        &self.0.throttle
    }

    /// Takes tokens of these issuers from now on.
    pub fn trust(&self, issuers: oidc::Issuers) {
        self.0.issuers.store(Arc::new(issuers));
    }

    /// Lets people sign in to the dashboard at an issuer.
    pub fn offer(&self, client: oidc::sign_in::Client) {
        self.0.sign_in.store(Some(Arc::new(client)));
    }

    pub fn sign_in(&self) -> Option<oidc::sign_in::Client> {
        self.0.sign_in.load().as_deref().cloned()
    }

    pub fn issuers(&self) -> Arc<oidc::Issuers> {
        self.0.issuers.load_full()
    }

    /// Who a request for `path` acts as: who sent it, or whom it asks to be taken for. Without a credential nobody in
    /// particular; one that does not hold is an error.
    pub async fn caller(&self, headers: &HeaderMap, path: &str) -> Result<Caller, Status> {
        let mut known = self.authenticate(headers);
        // Its issuer may have a new key.
        if known.is_none()
            && let Some(token) = bearer_token(headers)
            && self.issuers().learn(&token).await
        {
            known = self.authenticate(headers);
        }
        let (actor, proof) = match known {
            Some(known) => known,
            None if has_credential(headers) || !self.0.issuers.load().admits_anonymous(path) => {
                return Err(Status::unauthorized());
            }
            None => (Actor::anonymous(), Proof::Nothing),
        };
        Ok(match impersonation::apply(self, &actor, headers)? {
            Some(other) => Caller { actor: other, proof, impersonator: Some(actor) },
            None => Caller { actor, proof, impersonator: None },
        })
    }

    /// Who sent the request; None without a valid credential.
    pub fn authenticate(&self, headers: &HeaderMap) -> Option<(Actor, Proof)> {
        if let Some(actor) = client_certificate::identity(headers) {
            return Some((actor, Proof::ClientCertificate));
        }
        if let Some(token) = bearer_token(headers) {
            // A bad token is an error, not a reason to look for a cookie.
            return Some((self.authenticate_token(&token, &[tokens::ISSUER])?, Proof::BearerToken));
        }
        let claims = self.session(headers)?;
        Some((actor_of(&claims), Proof::SessionCookie))
    }

    /// As [`Auth::authenticate_token`], and which of the audiences it is for.
    pub async fn review_token(&self, token: &str, audiences: &[&str]) -> Option<(Actor, Vec<String>)> {
        let mut actor = self.authenticate_token(token, audiences);
        if actor.is_none() && self.issuers().learn(token).await {
            actor = self.authenticate_token(token, audiences);
        }
        let named = match self.0.signer.verify_any(token, audiences) {
            Some(claims) => claims.aud.into_iter().filter(|own| audiences.contains(&own.as_str())).collect(),
            None => vec![tokens::ISSUER.to_owned()],
        };
        Some((actor?, named))
    }

    /// The user of a bearer token that names one of `audiences`.
    pub fn authenticate_token(&self, token: &str, audiences: &[&str]) -> Option<Actor> {
        if audiences.contains(&tokens::ISSUER)
            && let Some(actor) = bootstrap_tokens::authenticate(&self.0.store, token, Timestamp::now())
        {
            return Some(actor);
        }
        let Some(claims) = self.0.signer.verify_any(token, audiences) else {
            let for_us = audiences.contains(&tokens::ISSUER);
            return if for_us { self.0.issuers.load().authenticate(token) } else { None };
        };
        // What the browser keeps is no bearer token.
        if claims.aud.iter().any(|audience| audience.starts_with(tokens::OWN_AUDIENCES)) {
            return None;
        }
        match &claims.bound {
            None => Some(actor_of(&claims)),
            Some(bound) => self.service_account(&claims, bound),
        }
    }

    /// A service account's token lasts no longer than the account and the pod it is bound to.
    fn service_account(&self, claims: &Claims, bound: &tokens::Bound) -> Option<Actor> {
        let (namespace, name) = (&*bound.namespace, &*bound.serviceaccount.name);
        let lives = |resource: &str, namespace: &str, object: &tokens::ObjectName| {
            let found = self.0.store.get(&Key::new(resource, namespace, &*object.name));
            found.is_some_and(|found| *found.uid == *object.uid && !has_long_been_deleted(&found))
        };
        let all = lives("serviceaccounts", namespace, &bound.serviceaccount)
            && bound.pod.as_ref().is_none_or(|pod| lives("pods", namespace, pod))
            && bound.secret.as_ref().is_none_or(|secret| lives("secrets", namespace, secret))
            // Of a pod's token the node is told, but it is the pod that counts.
            && (bound.pod.is_some() || bound.node.as_ref().is_none_or(|node| lives("nodes", "", node)));
        all.then(|| Actor {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            uid: bound.serviceaccount.uid.clone(),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.into(),
            ],
            extra: tokens::extra(claims),
        })
    }

    /// The claims of a browser session that still holds.
    pub fn session(&self, headers: &HeaderMap) -> Option<Claims> {
        let cookie = cookie(headers, SESSION_COOKIE)?;
        let mut claims = self.0.signer.verify(&cookie, tokens::SESSION_AUDIENCE)?;
        if self.0.revoked.lock().contains_key(&claims.jti) {
            return None;
        }
        if !claims.provider.is_empty() {
            return self.issuers().by_url(&claims.provider).is_some().then_some(claims);
        }
        // A user that is gone, or has another password, is signed out everywhere; groups are those of now.
        let user = self.0.users.get(&claims.sub).filter(|user| user.epoch == claims.uid)?;
        claims.groups = user.groups;
        claims.uid = String::new();
        Some(claims)
    }

    pub fn revoke(&self, claims: &Claims) {
        let now = tokens::now_seconds();
        let mut revoked = self.0.revoked.lock();
        revoked.retain(|_, end| *end > now);
        if revoked.len() < MAX_REVOKED {
            revoked.insert(claims.jti.clone(), claims.exp);
        }
    }

    /// `Ok`, or the refusal to send.
    pub fn authorize(&self, actor: &Actor, wanted: &Attributes) -> Result<(), Status> {
        self.decide(actor, wanted).map_err(|reason| wanted.forbidden(&actor.user, reason))
    }

    /// Why not, as far as there is more to say than that no rule allows it.
    pub fn decide(&self, actor: &Actor, wanted: &Attributes) -> Result<(), &'static str> {
        if actor.is_in(MASTERS) {
            return Ok(());
        }
        let refusal = match actor.node() {
            Some(node) if wanted.is_resource() => match self.0.nodes.allows(node, wanted) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            _ => "",
        };
        match self.0.rbac.allows(actor, wanted) {
            true => Ok(()),
            false => Err(refusal),
        }
    }
}

/// Marked for deletion, and past the time it was given: something holds it, but its tokens end.
fn has_long_been_deleted(object: &Object) -> bool {
    // Asked at each request: hardly any is.
    if !object.mentions("deletionTimestamp") {
        return false;
    }
    let value = object.value();
    let marked = value["metadata"]["deletionTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    marked.is_some_and(|at| Timestamp::now().as_second() > at.as_second() + DELETION_LEEWAY_SECONDS)
}

fn actor_of(claims: &Claims) -> Actor {
    let mut groups = claims.groups.clone();
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    let extra = tokens::extra(claims);
    Actor { user: claims.sub.clone(), uid: claims.uid.clone(), groups, extra }
}

fn has_credential(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION)
        || headers.contains_key(client_certificate::HEADER)
        || cookie(headers, SESSION_COOKIE).is_some()
}

fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    None
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}
