//! Who is signed in, and what they may do: what they may not is not offered.
use crate::api::{self, ApiError, Body, Resource};
use crate::context::{Session, ui};
use crate::view_model::discovery;
use crate::view_model::rules::Rules;
use crate::view_model::text;
use leptos::prelude::*;
use leptos::task::spawn_local;
use serde_json::{Value, json};

/// Asks the server who we are.
pub fn start() {
    api::on_unauthorized(|| ui().session.set(Session::SignedOut));
    spawn_local(async {
        match api::get("/auth/session").await {
            Ok(session) => signed_in(&session),
            Err(error) if error.code == 401 => ui().session.set(Session::SignedOut),
            Err(error) => {
                ui().session.set(Session::SignedOut);
                ui().failed(error.message);
            }
        }
    });
}

fn signed_in(session: &Value) {
    let ui = ui();
    let groups = crate::view_model::list(session, &["groups"]);
    let is_administrator =
        session["isAdministrator"] == true || groups.iter().any(|group| group == "system:masters");
    ui.rules.update(|rules| rules.clear());
    ui.cluster_rights.update(|rights| rights.clear());
    ui.asked_rights.set_value(Vec::new());
    ui.session.set(Session::SignedIn { username: text(session, &["username"]).to_owned(), is_administrator });
    spawn_local(discover());
}

/// How people may sign in here.
#[derive(Clone, Debug, Default)]
pub struct Methods {
    pub issuers: Vec<Issuer>,
    /// Why the last sign-in at an issuer failed.
    pub trouble: String,
}

#[derive(Clone, Debug)]
pub struct Issuer {
    url: String,
    /// Where the browser goes to sign in there.
    pub start: String,
}

impl Issuer {
    /// What people know it by.
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}

pub async fn methods() -> Result<Methods, ApiError> {
    let answer = api::get("/auth/methods").await?;
    let issuers = crate::view_model::list(&answer, &["openid"]).iter().map(|issuer| Issuer {
        url: text(issuer, &["issuer"]).to_owned(),
        start: text(issuer, &["start"]).to_owned(),
    });
    Ok(Methods { issuers: issuers.collect(), trouble: text(&answer, &["trouble"]).to_owned() })
}

pub async fn sign_in(username: String, password: String) -> Result<(), ApiError> {
    let body = Body::json(&json!({"username": username, "password": password}));
    let session = api::send("POST", "/auth/login", "application/json", Some(body)).await?;
    signed_in(&session);
    Ok(())
}

pub fn sign_out() {
    spawn_local(async {
        if let Err(error) = api::send("POST", "/auth/logout", "application/json", None).await {
            ui().failed(error.message);
        }
        ui().session.set(Session::SignedOut);
    });
}

/// All kinds of the server; asked anew by the page that lists them, since kinds come and go.
pub async fn discover() {
    const AGGREGATED: &str =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let mut kinds = Vec::new();
    for root in ["/api", "/apis"] {
        let Ok(body) = api::send("GET", root, AGGREGATED, None).await else { continue };
        match text(&body, &["kind"]) {
            "APIGroupDiscoveryList" => kinds.extend(discovery::from_groups(&body)),
            "APIVersions" => kinds.extend(resources_at("/api/v1").await),
            _ => {
                for group in crate::view_model::list(&body, &["groups"]) {
                    let version = text(group, &["preferredVersion", "groupVersion"]);
                    kinds.extend(resources_at(&format!("/apis/{version}")).await);
                }
            }
        }
    }
    if !kinds.is_empty() {
        ui().kinds.set(kinds);
    }
}

async fn resources_at(path: &str) -> Vec<discovery::Found> {
    api::get(path).await.map(|body| discovery::from_resource_list(&body)).unwrap_or_default()
}

/// Whether the user may. Reactive: no until the server has said yes. An empty namespace means all of them.
pub fn may(verb: &str, resource: &Resource, subresource: &str, namespace: &str) -> bool {
    let ui = ui();
    match ui.session.get() {
        Session::SignedIn { is_administrator: true, .. } => return true,
        Session::SignedIn { .. } => {}
        _ => return false,
    }
    let name = match subresource {
        "" => resource.plural.to_string(),
        subresource => format!("{}/{subresource}", resource.plural),
    };
    if resource.namespaced && !namespace.is_empty() {
        if first_time(namespace) {
            spawn_local(ask_rules(namespace.to_owned()));
        }
        return ui
            .rules
            .with(|all| all.get(namespace).is_some_and(|rules| rules.allow(verb, &resource.group, &name)));
    }
    let question = format!("{verb} {name}.{}", resource.group);
    if first_time(&question) {
        spawn_local(ask_access(question.clone(), verb.to_owned(), resource.clone(), subresource.to_owned()));
    }
    ui.cluster_rights.with(|rights| rights.get(&question).copied().unwrap_or(false))
}

fn first_time(question: &str) -> bool {
    ui().asked_rights
        .try_update_value(|asked| {
            let is_new = !asked.iter().any(|known| known == question);
            if is_new {
                asked.push(question.to_owned());
            }
            is_new
        })
        .unwrap_or(false)
}

async fn ask(kind: &str, plural: &str, spec: Value) -> Result<Value, ApiError> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let path = format!("/apis/authorization.k8s.io/v1/{plural}");
    api::send("POST", &path, "application/json", Some(Body::json(&review))).await
}

async fn ask_rules(namespace: String) {
    let answer =
        ask("SelfSubjectRulesReview", "selfsubjectrulesreviews", json!({"namespace": namespace})).await;
    let rules = answer.map_or_else(|_| Rules::unknown(), |review| Rules::from_review(&review));
    ui().rules.update(|all| drop(all.insert(namespace, rules)));
}

async fn ask_access(question: String, verb: String, resource: Resource, subresource: String) {
    let attributes = json!({
        "verb": verb, "group": resource.group, "version": resource.version,
        "resource": resource.plural, "subresource": subresource,
    });
    let answer =
        ask("SelfSubjectAccessReview", "selfsubjectaccessreviews", json!({"resourceAttributes": attributes}))
            .await;
    // Where the server can't say, it decides at each request.
    let allowed = answer.map_or(true, |review| review["status"]["allowed"] == true);
    ui().cluster_rights.update(|rights| {
        rights.insert(question, allowed);
    });
}
