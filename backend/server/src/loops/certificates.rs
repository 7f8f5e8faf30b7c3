//! Signs approved CertificateSigningRequests of the cluster's own signers, approves what needs no person, and forgets
//! what is old.
use crate::auth::{Attributes, Auth};
use crate::certificates::{self, Authority, NODE_CLIENT, Profile, Subject};
use crate::feed;
use crate::objects::{Actor, Objects, Part, WriteOptions, seconds};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, future, stream};
use parking_lot::Mutex;
use pilothouse_api::jiff::{SignedDuration, Timestamp};
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Status, meta};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const RESOURCE: &str = "certificatesigningrequests.certificates.k8s.io";
/// Every request is looked at so often: for what becomes old, and for what was missed.
const RESYNC: Duration = Duration::from_secs(600);
/// Before a request is looked at again that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Requests worked on at the same time: enough to fill the store's write groups when a thousand nodes join.
const CONCURRENCY: usize = 32;
/// How long requests stay that were decided, and those that nobody looked at (csrcleaner).
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const UNDECIDED: SignedDuration = SignedDuration::from_hours(24);

/// What the loop needs besides the objects.
#[derive(Clone)]
pub struct Signing {
    pub auth: Auth,
    pub authority: Arc<dyn Authority>,
    /// The authority that signed the server's certificate: what the holder of a token trusts.
    pub ca_pem: Arc<str>,
}

pub async fn run(objects: Objects, signing: Signing, shutdown: CancellationToken) {
    let due = Arc::new(Due::default());
    let told = due.clone();
    let following = match feed::follow(objects.store(), &[RESOURCE], move |seen| match seen {
        feed::Observation::Put(object) => told.add([object.key.name.clone()]),
        feed::Observation::Reset | feed::Observation::Gone(_) => {}
    }) {
        Ok(following) => following,
        Err(error) => return tracing::error!(%error, "certificate requests cannot be followed"),
    };
    let working = work(&objects, &signing, &due);
    tokio::select! { () = shutdown.cancelled() => {}, () = following => {}, () = working => {} }
}

/// The names of the requests that are to be looked at.
#[derive(Default)]
struct Due {
    names: Mutex<BTreeSet<Arc<str>>>,
    changed: Notify,
}

impl Due {
    fn add(&self, names: impl IntoIterator<Item = Arc<str>>) {
        self.names.lock().extend(names);
        self.changed.notify_one();
    }
}

/// One request's change costs a look at that request, however many others there are. Runs for ever.
async fn work(objects: &Objects, signing: &Signing, due: &Due) {
    let mut resync = tokio::time::interval(RESYNC);
    let mut failed: Vec<Arc<str>> = Vec::new();
    loop {
        tokio::select! {
            () = due.changed.notified() => {}
            () = tokio::time::sleep(RETRY_AFTER), if !failed.is_empty() => due.add(failed.drain(..)),
            _ = resync.tick() => {
                let all = objects.store().list(RESOURCE, None).objects;
                due.add(all.into_iter().map(|request| request.key.name.clone()));
            }
        }
        let names = std::mem::take(&mut *due.names.lock());
        let looks =
            stream::iter(names).map(async |name| look(objects, signing, &name).await.err().map(|_| name));
        let stuck: Vec<Arc<str>> =
            looks.buffer_unordered(CONCURRENCY).filter_map(future::ready).collect().await;
        failed.extend(stuck);
    }
}

async fn look(objects: &Objects, signing: &Signing, name: &Arc<str>) -> Result<(), Status> {
    let Some(request) = objects.store().get(&Key::new(RESOURCE, "", name.clone())) else { return Ok(()) };
    let done = step(objects, signing, &request.value(), Timestamp::now()).await;
    if let Err(error) = &done {
        tracing::warn!(%error, %name, "a certificate request is stuck");
    }
    done
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Api, eventually};
    use axum::http::StatusCode;
    use rcgen::{CertificateParams, DnType, KeyPair};

    const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

    fn pem(common_name: &str, organization: &str) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn request(name: &str, signer: &str, pem: &str) -> Value {
        let usages = json!(["digital signature", "client auth"]);
        let spec = json!({"signerName": signer, "request": STANDARD.encode(pem), "usages": usages, "username": "forged"});
        json!({"metadata": {"name": name}, "spec": spec})
    }

    async fn get(api: &Api, name: &str) -> Value {
        api.call("GET", &format!("{CSRS}/{name}"), Value::Null).await.body
    }

    #[tokio::test]
    async fn what_is_approved_is_signed_and_the_certificate_is_its_user() {
        let api = Api::start().await;
        let signing = api.signing();
        tokio::spawn(run(api.state.objects.clone(), signing, CancellationToken::new()));
        let made = api.make(CSRS, request("jane", certificates::CLIENT, &pem("jane", "dev"))).await;
        assert_eq!(made["spec"]["username"], "admin", "nobody asks in another's name");
        let approval = format!("{CSRS}/jane/approval");
        let condition = json!({"type": "Approved", "status": "True", "reason": "ByHand"});
        let approved = json!({"metadata": {"name": "jane"}, "spec": made["spec"], "status": {"conditions": [condition]}});
        let refused = api.call_as(("joe", &[]), "PUT", &approval, approved.clone()).await;
        assert_eq!(refused.code, StatusCode::FORBIDDEN);
        let answer = api.call("PUT", &approval, approved).await;
        assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
        eventually("the certificate", async || !get(&api, "jane").await["status"]["certificate"].is_null())
            .await;
        let certificate = get(&api, "jane").await["status"]["certificate"].clone();
        let certificate = STANDARD.decode(certificate.as_str().unwrap()).unwrap();
        let der =
            <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
                &certificate,
            );
        let mark = crate::auth::client_certificate::mark(&der.unwrap()).unwrap();
        let headers =
            [(crate::auth::client_certificate::HEADER.parse().unwrap(), mark)].into_iter().collect();
        let (actor, _) = api.state.auth.authenticate(&headers).unwrap();
        assert_eq!(
            (actor.user.as_str(), actor.groups),
            ("jane", vec!["dev".into(), "system:authenticated".into()])
        );
    }

    #[tokio::test]
    async fn a_node_gets_its_certificate_by_itself_where_its_token_may() {
        let api = Api::start().await;
        let signing = api.signing();
        tokio::spawn(run(api.state.objects.clone(), signing, CancellationToken::new()));
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        for role in
            ["system:node-bootstrapper", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"]
        {
            let subject = json!({"kind": "Group", "name": "system:bootstrappers", "apiGroup": "rbac.authorization.k8s.io"});
            let role = json!({"metadata": {"name": role.replace(':', "-")}, "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}});
            api.make(bindings, role).await;
        }
        let data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"});
        let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": data});
        api.make("/api/v1/namespaces/kube-system/secrets", secret).await;
        let ask = request("n1", NODE_CLIENT, &pem("system:node:n1", "system:nodes"));
        eventually("the right to ask", async || {
            let token = Some("abcdef.0123456789abcdef");
            api.send(token, "POST", CSRS, ask.clone()).await.code == StatusCode::CREATED
        })
        .await;
        eventually("the certificate", async || !get(&api, "n1").await["status"]["certificate"].is_null())
            .await;
        assert_eq!(get(&api, "n1").await["status"]["conditions"][0]["reason"], "AutoApproved");
    }

    #[tokio::test]
    async fn requests_are_made_read_watched_decided_and_deleted_as_the_conformance_test_does() {
        let api = Api::start().await;
        let group = api.call("GET", "/apis/certificates.k8s.io/v1", Value::Null).await.body;
        let names: Vec<&str> =
            group["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
        for name in ["", "/approval", "/status"] {
            assert!(names.contains(&&*format!("certificatesigningrequests{name}")), "{names:?}");
        }
        let mut template = request("", "example.com/e2e", &pem("e2e.example.com", "dev"));
        template["metadata"] = json!({"generateName": "e2e-example-csr-"});
        template["spec"]["expirationSeconds"] = 3600.into();
        template["spec"]["usages"] = json!(["digital signature", "key encipherment", "server auth"]);
        api.make(CSRS, template.clone()).await;
        api.make(CSRS, template.clone()).await;
        let made = api.make(CSRS, template).await;
        let name = made["metadata"]["name"].as_str().unwrap();
        let one = format!("{CSRS}/{name}");
        assert_eq!(get(&api, name).await["spec"]["expirationSeconds"], 3600);
        let own = format!("{CSRS}?fieldSelector=spec.signerName%3Dexample.com/e2e");
        let list = api.call("GET", &own, Value::Null).await.body;
        assert_eq!(list["items"].as_array().unwrap().len(), 3);

        let from = list["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch = api
            .watch(&format!("{CSRS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3D{name}"))
            .await;
        let change = json!({"metadata": {"annotations": {"patched": "true"}}});
        let mut patched = api.call("PATCH", &one, change).await.body;
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        patched["metadata"]["annotations"]["updated"] = "true".into();
        let updated = api.call("PUT", &one, patched).await.body;
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        let event = watch.next().await;
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["name"]),
            (&json!("MODIFIED"), &json!(name))
        );

        let (approval, status) = (format!("{one}/approval"), format!("{one}/status"));
        for subresource in [&approval, &status] {
            let read = api.call("GET", subresource, Value::Null).await.body;
            assert_eq!(read["kind"], "CertificateSigningRequest");
            assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
        }
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "e2e"});
        let change = json!({"metadata": {"annotations": {"patchedapproval": "true"}},
            "status": {"conditions": [condition("ApprovalPatch")]}});
        let mut approved = api.call("PATCH", &approval, change).await.body;
        assert_eq!(approved["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(approved["metadata"]["annotations"]["patchedapproval"], "true");
        approved["status"]["conditions"].as_array_mut().unwrap().push(condition("Approved"));
        let approved = api.call("PUT", &approval, approved).await.body;
        assert_eq!(approved["status"]["conditions"][1]["type"], "Approved");

        let signed = rcgen::generate_simple_self_signed(vec!["e2e.example.com".to_owned()]).unwrap();
        let certificate = STANDARD.encode(signed.cert.pem());
        let change = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": certificate}});
        let mut issued = api.call("PATCH", &status, change).await.body;
        assert_eq!(issued["status"]["certificate"], certificate, "{issued}");
        assert_eq!(issued["metadata"]["annotations"]["patchedstatus"], "true");
        issued["status"]["conditions"].as_array_mut().unwrap().push(condition("StatusUpdate"));
        let issued = api.call("PUT", &status, issued).await.body;
        assert_eq!(issued["status"]["conditions"][2]["type"], "StatusUpdate", "{issued}");

        assert_eq!(api.call("DELETE", &one, Value::Null).await.code, StatusCode::OK);
        assert_eq!(api.call("GET", &one, Value::Null).await.code, StatusCode::NOT_FOUND);
        for left in [2, 0] {
            let list = api.call("GET", &own, Value::Null).await.body;
            assert_eq!(list["items"].as_array().unwrap().len(), left);
            assert_eq!(api.call("DELETE", &own, Value::Null).await.code, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn nobody_becomes_a_master_by_certificate() {
        let api = Api::start().await;
        let refused =
            api.call("POST", CSRS, request("m", certificates::CLIENT, &pem("m", "system:masters"))).await;
        assert_eq!(
            refused.message(),
            "certificatesigningrequests.certificates.k8s.io \"m\" is forbidden: use of kubernetes.io/kube-apiserver-client \
             signer with system:masters group is not allowed"
        );
    }
}
