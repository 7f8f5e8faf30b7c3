//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who asks for a certificate is written down,
//! and who may approve or sign is asked by the signer's name.
use super::{Operation, Outcome, Request, Rule, done};
use crate::auth::{Attributes, Auth, MASTERS};
use crate::certificates::{CLIENT, Subject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilothouse_api::Status;
use serde_json::{Value, json};

const RESOURCE: &str = "certificatesigningrequests.certificates.k8s.io";

pub struct Certificates {
    auth: Auth,
}

impl Certificates {
    pub fn new(auth: Auth) -> Self {
        Self { auth }
    }

    fn judge(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
        match (request.operation, request.subresource) {
            (Operation::Create, "") if signer == CLIENT => {
                let pem = STANDARD.decode(object["spec"]["request"].as_str().unwrap_or_default());
                let subject = pem.ok().and_then(|pem| Subject::of_request(&pem).ok()).unwrap_or_default();
                if subject.organizations.iter().any(|group| group == MASTERS) {
                    let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
                    return Err(Status::forbidden(RESOURCE, request.name, why));
                }
                Ok(())
            }
            (Operation::Update, "approval") => self.may(request, "approve", signer),
            (Operation::Update, "status") => {
                let old = request.old.unwrap_or(&Value::Null);
                let same = object["status"]["certificate"] == old["status"]["certificate"]
                    && object["status"]["conditions"] == old["status"]["conditions"];
                if same { Ok(()) } else { self.may(request, "sign", signer) }
            }
            _ => Ok(()),
        }
    }

    fn may(&self, request: &Request<'_>, verb: &str, signer: &str) -> Result<(), Status> {
        let domain = signer.split('/').next().unwrap_or_default();
        let allows = |name: &str| {
            let wanted = Attributes {
                verb: verb.into(),
                group: "certificates.k8s.io".into(),
                version: "v1".into(),
                resource: "signers".into(),
                name: name.into(),
                ..Attributes::default()
            };
            self.auth.decide(request.actor, &wanted).is_ok()
        };
        if allows(signer) || allows(&format!("{domain}/*")) {
            return Ok(());
        }
        let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(Status::forbidden(RESOURCE, request.name, why))
    }
}

impl Rule for Certificates {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    /// Whoever asks cannot claim to be another.
    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        if request.creates(RESOURCE)
            && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        {
            let actor = request.actor;
            for (field, value) in [
                ("username", json!(actor.user)),
                ("uid", json!(actor.uid)),
                ("groups", json!(actor.groups)),
                ("extra", json!(actor.extra)),
            ] {
                let is_empty = value.as_str().is_some_and(str::is_empty) || value == json!({});
                match is_empty {
                    true => spec.remove(field),
                    false => spec.insert(field.into(), value),
                };
            }
        }
        done(Ok(()))
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        match &*request.entry.resource {
            RESOURCE => done(self.judge(request, object)),
            _ => done(Ok(())),
        }
    }
}
