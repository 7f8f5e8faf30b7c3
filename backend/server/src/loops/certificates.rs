//! Signs approved CertificateSigningRequests of the cluster's own signers, approves what needs no person, and forgets
//! what is old.
use crate::auth::{Attributes, Auth};
use crate::certificates::{self, Authority, NODE_CLIENT, Profile, Subject};
use crate::feed;
use crate::objects::{Actor, Objects, Part, WriteOptions, seconds};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilothouse_api::jiff::{SignedDuration, Timestamp};
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Status, meta};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const RESOURCE: &str = "certificatesigningrequests.certificates.k8s.io";
/// Behind the changes, and for what becomes old.
const TICK: Duration = Duration::from_secs(60);
/// How long requests stay that were decided, and those that nobody looked at (csrcleaner).
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const UNDECIDED: SignedDuration = SignedDuration::from_hours(24);

/// What the loop needs besides the objects.
#[derive(Clone)]
pub struct Signing {
    pub auth: Auth,
    pub authority: Arc<dyn Authority>,
}

pub async fn run(objects: Objects, signing: Signing, shutdown: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    let following = match feed::follow(objects.store(), &[RESOURCE], move |_| told.notify_one()) {
        Ok(following) => following,
        Err(error) => return tracing::error!(%error, "certificate requests cannot be followed"),
    };
    let working = async {
        loop {
            for request in objects.store().list(RESOURCE, None).objects {
                let request = request.value();
                if let Err(error) = step(&objects, &signing, &request, Timestamp::now()).await {
                    tracing::warn!(%error, name = meta::name(&request), "a certificate request is stuck");
                }
            }
            tokio::select! { () = changed.notified() => {}, () = tokio::time::sleep(TICK) => {} }
        }
    };
    tokio::select! { () = shutdown.cancelled() => {}, () = following => {}, () = working => {} }
}

enum Step {
    Approve,
    Issue(String),
    Fail(String),
    Forget,
    Nothing,
}

fn has(request: &Value, kind: &str) -> bool {
    let conditions = request["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] != "False")
}

fn next(signing: &Signing, request: &Value, now: Timestamp) -> Step {
    let spec = &request["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let (approved, denied) = (has(request, "Approved"), has(request, "Denied") || has(request, "Failed"));
    let issued = request["status"]["certificate"].as_str().is_some_and(|text| !text.is_empty());
    let made = request["metadata"]["creationTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let age = made.map_or(SignedDuration::ZERO, |made| now.duration_since(made));
    let kept = if denied || issued { DECIDED } else { UNDECIDED };
    if age > kept {
        return Step::Forget;
    }
    let signer = text("signerName");
    if denied || issued || !certificates::is_own(signer) {
        return Step::Nothing;
    }
    let pem = STANDARD.decode(text("request")).unwrap_or_default();
    let usages: Vec<&str> =
        spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let subject = Subject::of_request(&pem);
    let fits = subject.and_then(|subject| {
        certificates::check(signer, &subject, &usages, text("username")).map(|()| subject)
    });
    match (approved, fits) {
        (false, Ok(subject)) if signer == NODE_CLIENT && approves_itself(signing, request, &subject) => {
            Step::Approve
        }
        (false, _) => Step::Nothing,
        (true, Err(why)) => Step::Fail(why),
        (true, Ok(_)) => {
            let profile = Profile::new(&usages, spec["expirationSeconds"].as_i64(), now);
            match signing.authority.sign(&String::from_utf8_lossy(&pem), &profile) {
                Ok(certificate) => Step::Issue(certificate),
                Err(error) => Step::Fail(format!("{error:#}")),
            }
        }
    }
}

/// Whether the requester may have a node's certificate without anybody looking: its own, or any.
fn approves_itself(signing: &Signing, request: &Value, subject: &Subject) -> bool {
    let spec = &request["spec"];
    let groups = spec["groups"].as_array().into_iter().flatten();
    let actor = Actor {
        user: spec["username"].as_str().unwrap_or_default().to_owned(),
        groups: groups.filter_map(|group| group.as_str().map(str::to_owned)).collect(),
        ..Actor::default()
    };
    let kind = if actor.user == subject.common_name { "selfnodeclient" } else { "nodeclient" };
    let wanted = Attributes {
        verb: "create".into(),
        group: "certificates.k8s.io".into(),
        version: "*".into(),
        resource: "certificatesigningrequests".into(),
        subresource: kind.into(),
        ..Attributes::default()
    };
    signing.auth.decide(&actor, &wanted).is_ok()
}

async fn step(objects: &Objects, signing: &Signing, request: &Value, now: Timestamp) -> Result<(), Status> {
    let name = meta::name(request);
    let entry = objects.registry().by_resource(RESOURCE).cloned();
    let entry = entry.ok_or_else(|| Status::not_found(RESOURCE, name))?;
    let (actor, options) = (Actor::system("controller:certificate-controller"), WriteOptions::default());
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": seconds(now),
            "lastTransitionTime": seconds(now),
        })
    };
    let mut new = request.clone();
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    let mut add = |condition: Value| match new["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => new["status"]["conditions"] = json!([condition]),
    };
    match next(signing, request, now) {
        Step::Nothing => return Ok(()),
        Step::Forget => {
            let delete = DeleteOptions { uid: Some(meta::uid(request).into()), ..DeleteOptions::default() };
            objects.delete(&actor, &entry, "", name, &delete, &options).await?;
            return Ok(());
        }
        Step::Approve => {
            let why = "Auto approving kubelet client certificate after SubjectAccessReview.";
            add(condition("Approved", "AutoApproved", why));
        }
        Step::Fail(why) => add(condition("Failed", "SignerValidationFailure", &why)),
        Step::Issue(certificate) => new["status"]["certificate"] = STANDARD.encode(certificate).into(),
    }
    let change = |_: &Value| Ok(new.clone());
    objects.update(&actor, &entry, "", name, Part::Status, &options, change).await?;
    Ok(())
}
