//! Tokens of service accounts: what one may be bound to, for how long, and what it says. After
//! <https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/>.
use super::tokens::{self, Bound, Claims, ObjectName};
use pilothouse_api::{FieldErrors, Key, Path, Reason, Status};
use pilothouse_store::{Object, Store};
use serde_json::Value;

/// The shortest life, and what is given where none is asked for, in seconds.
const SHORTEST: i64 = 600;
const USUAL: i64 = 3600;
/// No token lasts longer, whatever is asked for.
const LONGEST: i64 = 86_400 * 365;
/// More is a mistake.
const MOST_ASKED: i64 = 1 << 32;
/// The life that is asked for where nobody chose one: clients from before tokens expired may not read theirs anew, so
/// it lasts a year, and says when it should have been renewed.
const UNCHOSEN: i64 = 3607;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Empty: for this API.
    pub audiences: Vec<String>,
    pub seconds: Option<i64>,
    pub bound_to: Option<Reference>,
}

/// authentication/v1 `BoundObjectReference`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    pub kind: String,
    pub api_version: String,
    pub name: String,
    /// Empty: whatever it is.
    pub uid: String,
}

/// What a token will say, and until when it is said to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub claims: Claims,
    /// Unix seconds; the token itself may last longer.
    pub renew_before: i64,
    pub seconds: i64,
    pub is_shortened: bool,
}

impl Request {
    /// From a `TokenRequestSpec`.
    pub fn read(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reference = &spec["boundObjectRef"];
        Self {
            audiences: spec["audiences"].as_array().into_iter().flatten().map(text).collect(),
            seconds: spec["expirationSeconds"].as_i64(),
            bound_to: reference.is_object().then(|| Reference {
                kind: text(&reference["kind"]),
                api_version: text(&reference["apiVersion"]),
                name: text(&reference["name"]),
                uid: text(&reference["uid"]),
            }),
        }
    }
}

impl Granted {
    pub fn is_for_a_pod_on(&self, node: &str) -> bool {
        let Some(bound) = &self.claims.bound else { return false };
        bound.pod.is_some() && bound.node.as_ref().is_some_and(|own| own.name == node)
    }
}

/// Decides on a request for a token of an account. Errors: Invalid for an impossible life, BadRequest, NotFound and
/// Conflict for what it cannot be bound to.
pub fn grant(store: &Store, account: &Object, request: &Request) -> Result<Granted, Status> {
    let asked = request.seconds.unwrap_or(USUAL);
    check_seconds(asked, &account.key.name)?;
    let seconds = asked.min(LONGEST);
    let (namespace, name) = (&*account.key.namespace, &*account.key.name);
    let mut bound = Bound { namespace: namespace.into(), serviceaccount: named(account), ..Bound::default() };
    if let Some(reference) = &request.bound_to {
        bind(store, account, reference, &mut bound)?;
    }
    let is_ours = request.audiences.is_empty() || request.audiences == [tokens::ISSUER];
    let is_extended = seconds == UNCHOSEN && bound.pod.is_some() && is_ours;
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let mut claims = Claims::new(&user, &[], if is_extended { LONGEST } else { seconds });
    if !request.audiences.is_empty() {
        claims.aud.clone_from(&request.audiences);
    }
    let renew_before = claims.iat + seconds;
    bound.warnafter = is_extended.then_some(renew_before);
    claims.bound = Some(bound);
    Ok(Granted { claims, renew_before, seconds, is_shortened: seconds < asked })
}

fn check_seconds(seconds: i64, name: &str) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < SHORTEST {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MOST_ASKED {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("TokenRequest", "authentication.k8s.io", name, &errors)),
    }
}

fn named(object: &Object) -> ObjectName {
    ObjectName { name: object.key.name.to_string(), uid: object.uid.to_string() }
}

fn bind(store: &Store, account: &Object, reference: &Reference, bound: &mut Bound) -> Result<(), Status> {
    let (resource, namespace) = match (&*reference.api_version, &*reference.kind) {
        ("" | "v1", "Pod") => ("pods", &*account.key.namespace),
        ("" | "v1", "Secret") => ("secrets", &*account.key.namespace),
        ("" | "v1", "Node") => ("nodes", ""),
        (version, kind) => {
            let why = format!("cannot bind token to object of type {version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let object = store.get(&Key::new(resource, namespace, reference.name.as_str()));
    let object = object.ok_or_else(|| Status::not_found(resource, &reference.name))?;
    if !reference.uid.is_empty() && *reference.uid != *object.uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            reference.uid
        );
        return Err(Status::conflict(resource, &reference.name, why));
    }
    let place = match resource {
        "pods" => &mut bound.pod,
        "secrets" => &mut bound.secret,
        _ => &mut bound.node,
    };
    *place = Some(named(&object));
    if resource == "pods" {
        let pod = object.value();
        let own = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        if *own != *account.key.name {
            let why = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                account.key.name
            );
            return Err(Status::new(Reason::BadRequest, why));
        }
        // Who checks the token may ask where it is used.
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
        bound.node = node.map(|node| ObjectName {
            uid: store.get(&Key::new("nodes", "", node)).map(|node| node.uid.to_string()).unwrap_or_default(),
            name: node.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Api, eventually};
    use serde_json::{Value, json};

    async fn api() -> Api {
        let api = Api::start().await;
        api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
        for name in ["robot", "other"] {
            api.make("/api/v1/namespaces/shop/serviceaccounts", json!({"metadata": {"name": name}})).await;
        }
        api.make("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
        let pod = json!({"metadata": {"name": "web"}, "spec": {"serviceAccountName": "robot", "nodeName": "n1",
            "containers": [{"name": "c", "image": "i"}]}});
        api.make("/api/v1/namespaces/shop/pods", pod).await;
        api
    }

    async fn ask(api: &Api, account: &str, spec: Value) -> (u16, Value) {
        let path = format!("/api/v1/namespaces/shop/serviceaccounts/{account}/token");
        let answer = api.call("POST", &path, json!({"spec": spec})).await;
        (answer.code.as_u16(), answer.body)
    }

    async fn review(api: &Api, spec: Value) -> Value {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        api.make(path, json!({"spec": spec})).await["status"].clone()
    }

    #[tokio::test]
    async fn a_token_is_bound_to_what_there_is_and_no_longer() {
        let api = api().await;
        let pod = |uid: &str| json!({"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid});
        assert_eq!(ask(&api, "other", json!({"boundObjectRef": pod("")})).await.0, 400);
        assert_eq!(ask(&api, "robot", json!({"boundObjectRef": pod("1")})).await.0, 409);
        let none = json!({"kind": "Secret", "apiVersion": "v1", "name": "none"});
        assert_eq!(ask(&api, "robot", json!({"boundObjectRef": none})).await.0, 404);
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "name": "none"});
        assert_eq!(ask(&api, "robot", json!({"boundObjectRef": map})).await.0, 400);
        let (code, body) = ask(&api, "robot", json!({"expirationSeconds": 60})).await;
        assert_eq!((code, &body["details"]["causes"][0]["field"]), (422, &json!("spec.expirationSeconds")));

        let (code, body) = ask(&api, "robot", json!({"boundObjectRef": pod("")})).await;
        assert_eq!(code, 201, "{body}");
        let token = body["status"]["token"].as_str().unwrap().to_owned();
        let status = review(&api, json!({"token": token})).await;
        assert_eq!(status["user"]["username"], "system:serviceaccount:shop:robot");
        let extra =
            |name: &str| status["user"]["extra"][format!("authentication.kubernetes.io/{name}")][0].clone();
        assert_eq!((extra("pod-name"), extra("node-name")), (json!("web"), json!("n1")));
        api.call("DELETE", "/api/v1/namespaces/shop/pods/web?gracePeriodSeconds=0", Value::Null).await;
        assert_eq!(review(&api, json!({"token": token})).await["authenticated"], json!(false));
    }

    #[tokio::test]
    async fn a_node_gets_tokens_for_its_own_pods_alone() {
        let api = api().await;
        let path = "/api/v1/namespaces/shop/serviceaccounts/robot/token";
        let code = async |node: &str, spec: Value| {
            let who = (&*format!("system:node:{node}"), &["system:nodes"][..]);
            api.call_as(who, "POST", path, json!({"spec": spec})).await.code.as_u16()
        };
        let pod = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web"}});
        eventually("the node's right", async || code("n1", pod.clone()).await == 201).await;
        assert_eq!(code("n1", json!({})).await, 403);
        assert_eq!(code("n2", pod).await, 403);
    }

    #[tokio::test]
    async fn a_life_that_nobody_chose_is_extended_for_old_clients() {
        let api = api().await;
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "web"});
        let life = |body: &Value| {
            let token = body["status"]["token"].as_str().unwrap();
            let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap();
            (
                claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
                claims["kubernetes.io"]["warnafter"].clone(),
            )
        };
        let (_, body) = ask(&api, "robot", json!({"boundObjectRef": pod, "expirationSeconds": 3607})).await;
        let (seconds, warn_after) = life(&body);
        assert_eq!(seconds, 86_400 * 365);
        assert!(warn_after.is_i64());
        assert_eq!(body["spec"]["expirationSeconds"], 3607);
        for spec in [
            json!({"expirationSeconds": 3607}),
            json!({"expirationSeconds": 3607, "boundObjectRef": pod, "audiences": ["vault"]}),
        ] {
            let (_, body) = ask(&api, "robot", spec).await;
            assert_eq!(life(&body), (3607, Value::Null));
        }
    }

    #[tokio::test]
    async fn a_review_names_the_audiences_that_fit() {
        let api = api().await;
        let (_, body) = ask(&api, "robot", json!({"audiences": ["vault", "registry"]})).await;
        let token = body["status"]["token"].as_str().unwrap();
        assert_eq!(review(&api, json!({"token": token})).await["authenticated"], json!(false));
        let status = review(&api, json!({"token": token, "audiences": ["other", "vault"]})).await;
        assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
        let empty =
            api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {}})).await;
        assert_eq!(empty.code, 400);
    }
}
