//! `AdmissionReview`, as it is asked and answered (admission.k8s.io/v1).
use super::super::matching::operation;
use super::super::{Operation, Request};
use super::hook::{Hook, Kind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilothouse_api::patch::{PatchType, patch};
use pilothouse_api::{KindEntry, Reason, Status};
use serde_json::{Value, json};

/// What a webhook is sent. `object` is in the shape of `entry`, as is `old`.
pub fn question(
    uid: &str,
    hook: &Hook,
    request: &Request<'_>,
    entry: &KindEntry,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let mut ask = asked(request, entry, object);
    ask["uid"] = uid.into();
    ask["object"] = json!(object);
    ask["oldObject"] = json!(old);
    let version = format!("admission.k8s.io/{}", hook.version);
    json!({"kind": "AdmissionReview", "apiVersion": version, "request": ask})
}

/// The request itself, without the objects and without a name for the question: what `request` is in expressions.
pub fn asked(request: &Request<'_>, entry: &KindEntry, object: Option<&Value>) -> Value {
    let kind =
        |entry: &KindEntry| json!({"group": entry.group, "version": entry.version, "kind": entry.kind});
    let resource =
        |entry: &KindEntry| json!({"group": entry.group, "version": entry.version, "resource": entry.plural});
    let actor = request.actor;
    let mut user = json!({"username": actor.user, "groups": actor.groups});
    if !actor.uid.is_empty() {
        user["uid"] = actor.uid.as_str().into();
    }
    if !actor.extra.is_empty() {
        user["extra"] = json!(actor.extra);
    }
    let mut ask = json!({
        "kind": kind(entry), "resource": resource(entry), "requestKind": kind(request.entry),
        "requestResource": resource(request.entry), "operation": operation(request.operation), "userInfo": user,
        "dryRun": request.dry_run, "options": options(request),
    });
    let name = match (request.name, object) {
        ("", Some(object)) => pilothouse_api::meta::name(object),
        (name, _) => name,
    };
    let namespace = if &*request.entry.resource == "namespaces" { name } else { request.namespace };
    for (field, text) in [
        ("name", name),
        ("namespace", namespace),
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
    ] {
        if !text.is_empty() {
            ask[field] = text.into();
        }
    }
    ask
}

fn options(request: &Request<'_>) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// What a webhook said. Errors: the answer is none.
pub struct Answer {
    pub refusal: Option<Status>,
    /// A JSON patch.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

impl Answer {
    pub fn read(hook: &Hook, uid: &str, body: &[u8]) -> Result<Self, String> {
        let review: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let version = format!("admission.k8s.io/{}", hook.version);
        if review["kind"] != "AdmissionReview" || review["apiVersion"] != version.as_str() {
            return Err(format!(
                "received invalid webhook response: expected webhook response of {version}, Kind=AdmissionReview, got {}, \
                 Kind={}",
                review["apiVersion"].as_str().unwrap_or_default(),
                review["kind"].as_str().unwrap_or_default()
            ));
        }
        let response = &review["response"];
        if !response.is_object() {
            return Err("received invalid webhook response: webhook response was absent".into());
        }
        let given = response["uid"].as_str().unwrap_or_default();
        if hook.version == "v1" && given != uid {
            return Err(format!(
                "received invalid webhook response: expected response.uid={uid:?}, got {given:?}"
            ));
        }
        let allowed = response["allowed"].as_bool().unwrap_or(false);
        let patch = match response["patch"].as_str().filter(|text| !text.is_empty()) {
            None => None,
            Some(_) if hook.kind == Kind::Validating => {
                return Err(
                    "received invalid webhook response: patch is not allowed for validating webhooks".into(),
                );
            }
            Some(_) if hook.version == "v1" && response["patchType"] != "JSONPatch" => {
                return Err("received invalid webhook response: response.patchType must be JSONPatch".into());
            }
            Some(text) => {
                let bytes = STANDARD.decode(text).map_err(|error| format!("response.patch: {error}"))?;
                Some(serde_json::from_slice(&bytes).map_err(|error| format!("response.patch: {error}"))?)
            }
        };
        let texts = |value: &Value| -> Vec<String> {
            let all = value.as_array().into_iter().flatten();
            all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
        Ok(Self {
            refusal: (!allowed).then(|| refusal(&hook.name, &response["status"])),
            patch: patch.filter(|_| allowed),
            warnings: texts(&response["warnings"]),
            annotations: annotations
                .filter_map(|(key, value)| Some((format!("{}/{key}", hook.name), value.as_str()?.to_owned())))
                .collect(),
        })
    }
}

/// The object with the webhook's patch. Errors: it does not fit.
pub fn patched(entry: &KindEntry, object: &Value, change: &Value) -> Result<Value, Status> {
    patch(PatchType::Json, entry, object, change)
}

fn refusal(name: &str, status: &Value) -> Status {
    let denied = format!("admission webhook {name:?} denied the request");
    let text = |field: &str| status[field].as_str().filter(|text| !text.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{denied}: {message}"),
        (None, Some(reason)) => format!("{denied}: {reason}"),
        (None, None) => format!("{denied} without explanation"),
    };
    Status::new(reason(text("reason"), status["code"].as_u64()), message)
}

/// The reason it names, or the one that goes with its code.
fn reason(named: Option<&str>, code: Option<u64>) -> Reason {
    const ALL: &[Reason] = &[
        Reason::Unauthorized,
        Reason::Forbidden,
        Reason::NotFound,
        Reason::AlreadyExists,
        Reason::Conflict,
        Reason::Gone,
        Reason::Invalid,
        Reason::ServerTimeout,
        Reason::Timeout,
        Reason::TooManyRequests,
        Reason::BadRequest,
        Reason::MethodNotAllowed,
        Reason::NotAcceptable,
        Reason::RequestEntityTooLarge,
        Reason::UnsupportedMediaType,
        Reason::InternalError,
        Reason::ServiceUnavailable,
    ];
    let by_name = || ALL.iter().find(|reason| named.is_some_and(|name| format!("{reason:?}") == name));
    let by_code = || ALL.iter().find(|reason| code == Some(u64::from(reason.code())));
    by_name().or_else(by_code).copied().unwrap_or(Reason::BadRequest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(kind: Kind) -> Hook {
        let webhook = json!({"webhooks": [{"name": "a.b.c", "clientConfig": {"url": "https://x/"}}]});
        Hook::all_of(kind, &webhook).remove(0)
    }

    fn read(kind: Kind, response: Value) -> Result<Answer, String> {
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        Answer::read(&hook(kind), "1", review.to_string().as_bytes())
    }

    #[test]
    fn a_refusal_carries_the_webhooks_words() {
        let rows = [
            (json!({"message": "no"}), "admission webhook \"a.b.c\" denied the request: no", 400),
            (
                json!({"message": "no", "code": 403}),
                "admission webhook \"a.b.c\" denied the request: no",
                403,
            ),
            (json!({"reason": "Conflict"}), "admission webhook \"a.b.c\" denied the request: Conflict", 409),
            (Value::Null, "admission webhook \"a.b.c\" denied the request without explanation", 400),
        ];
        for (status, message, code) in rows {
            let answer =
                read(Kind::Validating, json!({"uid": "1", "allowed": false, "status": status})).unwrap();
            let refusal = answer.refusal.unwrap();
            assert_eq!((refusal.message.as_str(), refusal.code()), (message, code));
        }
    }

    #[test]
    fn an_answer_must_be_one() {
        let why = |kind: Kind, response: Value| read(kind, response).err().unwrap_or_default();
        assert!(
            why(Kind::Validating, json!({"uid": "2", "allowed": true}))
                .contains("expected response.uid=\"1\"")
        );
        assert!(why(Kind::Validating, Value::Null).contains("webhook response was absent"));
        let patch =
            json!({"uid": "1", "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode("[]")});
        assert!(why(Kind::Validating, patch.clone()).contains("not allowed for validating"));
        assert_eq!(read(Kind::Mutating, patch).unwrap().patch, Some(json!([])));
        let typeless = json!({"uid": "1", "allowed": true, "patch": STANDARD.encode("[]")});
        assert!(why(Kind::Mutating, typeless).contains("patchType must be JSONPatch"));
        assert!(Answer::read(&hook(Kind::Mutating), "1", b"{}").is_err());
    }
}
