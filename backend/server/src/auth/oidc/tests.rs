//! Tokens of an issuer that runs here, over real HTTPS.
use super::sign_in::Client;
use super::*;
use crate::listen;
use crate::testing::{Answer, Api};
use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

const NOW: fn() -> i64 = crate::auth::tokens::now_seconds;

/// An OpenID provider with one key at a time.
#[derive(Clone)]
struct Provider {
    url: String,
    ca: String,
    keys: Arc<Mutex<(String, EncodingKey)>>,
    /// What was asked for with the code that was given.
    asked: Arc<Mutex<HashMap<String, String>>>,
}

impl Provider {
    async fn start() -> Self {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
        let tls =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![pair.cert.der().clone()], key)
                .unwrap();
        let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
        let provider = Self {
            url: format!("https://localhost:{}", listener.local_addr().unwrap().port()),
            ca: pair.cert.pem(),
            keys: Arc::new(Mutex::new(Self::key("first"))),
            asked: Arc::default(),
        };
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/keys", get(keys))
            .route("/token", post(exchange))
            .with_state(provider.clone());
        tokio::spawn(listen::tls(listener, tls, app, CancellationToken::new()));
        provider
    }

    fn key(id: &str) -> (String, EncodingKey) {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        (id.to_owned(), EncodingKey::from_ec_pem(pem.as_bytes()).unwrap())
    }

    fn rotate(&self, id: &str) {
        *self.keys.lock() = Self::key(id);
    }

    fn sign(&self, claims: &Value) -> String {
        let keys = self.keys.lock();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(keys.0.clone());
        jsonwebtoken::encode(&header, claims, &keys.1).unwrap()
    }

    /// For this cluster, for an hour, with changes.
    fn token(&self, changes: Value) -> String {
        let mut claims = json!({
            "iss": self.url, "aud": "pilothouse", "exp": NOW() + 3600, "iat": NOW(), "sub": "ann", "groups": ["dev"],
        });
        for (name, value) in changes.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.sign(&claims)
    }

    fn configuration(&self) -> Configuration {
        let file = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": self.url, "audiences": ["pilothouse"], "certificateAuthority": self.ca},
                "claimMappings": {
                    "username": {"claim": "sub", "prefix": "oidc:"},
                    "groups": {"expression": "claims.groups.map(g, 'oidc:' + g)"},
                },
                "userValidationRules": [{"expression": "!user.username.contains('root')", "message": "not root"}],
            }],
        });
        Configuration::parse(&file.to_string()).unwrap()
    }
}

async fn configuration(State(provider): State<Provider>) -> impl IntoResponse {
    let url = &provider.url;
    axum::Json(json!({
        "issuer": url, "jwks_uri": format!("{url}/keys"), "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
    }))
}

async fn keys(State(provider): State<Provider>) -> impl IntoResponse {
    let keys = provider.keys.lock();
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&keys.1, Algorithm::ES256).unwrap()).unwrap();
    jwk["kid"] = keys.0.as_str().into();
    let strange = json!({"kty": "later", "kid": "x"});
    axum::Json(json!({"keys": [strange, jwk]}))
}

/// Gives a token if the code and its verifier are right.
async fn exchange(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Form(given): Form<HashMap<String, String>>,
) -> Result<impl IntoResponse, StatusCode> {
    let asked = provider.asked.lock().clone();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(given["code_verifier"].as_bytes()));
    let right = given["code"] == "the-code"
        && challenge == asked["code_challenge"]
        && given["redirect_uri"] == asked["redirect_uri"]
        && headers.contains_key(header::AUTHORIZATION);
    match right {
        true => Ok(axum::Json(json!({"id_token": provider.token(json!({"nonce": asked["nonce"]}))}))),
        false => Err(StatusCode::BAD_REQUEST),
    }
}

async fn api(provider: &Provider) -> Api {
    let api = Api::start().await;
    api.state.auth.trust(Issuers::new(provider.configuration()).unwrap());
    api
}

async fn whoami(api: &Api, token: &str) -> Answer {
    api.send(Some(token), "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await
}

#[tokio::test]
async fn a_token_of_a_trusted_issuer_is_its_users() {
    let provider = Provider::start().await;
    let api = api(&provider).await;
    let answer = whoami(&api, &provider.token(json!({}))).await;
    let user = &answer.body["status"]["userInfo"];
    assert_eq!(user["username"], "oidc:ann", "{}", answer.body);
    assert_eq!(user["groups"], json!(["oidc:dev", "system:authenticated"]));
    // Rights are given as to anybody else.
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(api.send(Some(&provider.token(json!({}))), "GET", secrets, Value::Null).await.code, 403);
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    api.make(
        bindings,
        json!({"metadata": {"name": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "oidc:dev"}]}),
    )
    .await;
    crate::testing::eventually("the binding", async || {
        api.send(Some(&provider.token(json!({}))), "GET", secrets, Value::Null).await.code == 200
    })
    .await;
    let review = json!({"spec": {"token": provider.token(json!({}))}});
    let answer = api.make("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer["status"]["user"]["username"], "oidc:ann");
}

#[tokio::test]
async fn what_is_not_right_about_a_token_refuses_it() {
    let provider = Provider::start().await;
    let api = api(&provider).await;
    let other = Provider::start().await;
    // Whoever knows only the public key must not be able to sign with it.
    let symmetric = {
        let key = EncodingKey::from_secret(b"public");
        let claims =
            json!({"iss": provider.url, "aud": "pilothouse", "exp": NOW() + 60, "sub": "ann", "groups": []});
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let forged = other.token(json!({"iss": provider.url}));
    for (what, token) in [
        ("another audience", provider.token(json!({"aud": "other"}))),
        ("an end in the past", provider.token(json!({"exp": NOW() - 60}))),
        ("a start in the future", provider.token(json!({"nbf": NOW() + 600}))),
        ("a user who is refused", provider.token(json!({"sub": "root"}))),
        ("groups of no use", provider.token(json!({"groups": 7}))),
        ("an unknown issuer", other.token(json!({}))),
        ("another's key", forged),
        ("a shared secret", symmetric),
    ] {
        assert_eq!(whoami(&api, &token).await.code, 401, "{what}");
    }
    assert_eq!(whoami(&api, &provider.token(json!({}))).await.code, 201);
}

#[tokio::test]
async fn a_new_key_is_found_when_a_token_names_it_and_the_old_one_is_forgotten() {
    let provider = Provider::start().await;
    let api = api(&provider).await;
    let old = provider.token(json!({"jti": "1"}));
    assert_eq!(whoami(&api, &provider.token(json!({}))).await.code, 201);
    provider.rotate("second");
    assert_eq!(whoami(&api, &provider.token(json!({}))).await.code, 201);
    assert_eq!(whoami(&api, &old).await.code, 401);
}

#[tokio::test]
async fn people_sign_in_at_the_issuer_and_come_back_with_a_session() {
    let provider = Provider::start().await;
    let api = api(&provider).await;
    let client = Client::new(&provider.configuration(), &provider.url, None, Some("hush".into())).unwrap();
    api.state.auth.offer(client);
    let visit = async |path: &str, cookies: &str| {
        let request = Request::get(path).header("host", "cluster.example").header("cookie", cookies);
        api.raw(request.body(axum::body::Body::empty()).unwrap()).await
    };
    let cookies = |headers: &HeaderMap| -> Vec<String> {
        let all = headers.get_all(header::SET_COOKIE).iter();
        all.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned()).collect()
    };
    let home = header::HeaderValue::from_static("/ui/");
    let start = visit("/auth/oidc/login", "").await;
    assert_eq!(start.code, 303, "{}", start.body);
    let location = start.headers["location"].to_str().unwrap().to_owned();
    let (endpoint, query) = location.split_once('?').unwrap();
    assert_eq!(endpoint, format!("{}/authorize", provider.url));
    let uri: axum::http::Uri = format!("/?{query}").parse().unwrap();
    let Query(asked) = Query::<HashMap<String, String>>::try_from_uri(&uri).unwrap();
    assert_eq!(asked["redirect_uri"], "https://cluster.example/auth/oidc/callback");
    assert_eq!((&*asked["code_challenge_method"], &*asked["client_id"]), ("S256", "pilothouse"));
    *provider.asked.lock() = asked.clone();
    let pending = cookies(&start.headers).remove(0);

    let back = format!("/auth/oidc/callback?code=the-code&state={}", asked["state"]);
    let foreign = "/auth/oidc/callback?code=the-code&state=other";
    for (url, cookie, why) in [
        (&*back, "", "this browser began no sign-in"),
        (foreign, &*pending, "the answer belongs to another sign-in"),
    ] {
        let refused = visit(url, cookie).await;
        assert_eq!((refused.code.as_u16(), &refused.headers["location"]), (303, &home));
        let kept = cookies(&refused.headers);
        assert!(!kept.iter().any(|cookie| cookie.starts_with("pilothouse_session")), "{kept:?}");
        let told = visit("/auth/methods", &kept[0]).await;
        assert!(told.body["trouble"].as_str().unwrap().contains(why), "{}", told.body);
    }
    assert_eq!(visit("/auth/methods", "").await.body["trouble"], "");
    let done = visit(&back, &pending).await;
    assert_eq!((done.code.as_u16(), &done.headers["location"]), (303, &home), "{}", done.body);
    let session = cookies(&done.headers).remove(0);
    let who = visit("/auth/session", &session).await;
    assert_eq!(
        (&who.body["username"], &who.body["groups"]),
        (&json!("oidc:ann"), &json!(["oidc:dev", "system:authenticated"]))
    );
    // As with a password, the session ends when whom it is from is no longer trusted.
    api.state.auth.trust(Issuers::default());
    assert_eq!(visit("/auth/session", &session).await.code, 401);
}
