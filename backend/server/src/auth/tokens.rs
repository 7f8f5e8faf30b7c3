//! Tokens: JWTs signed with the cluster's own key, for people, nodes, service accounts and browser sessions.
use anyhow::{Context, Result};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Who signs, and the audience of a token for this API.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The audience of a browser session: such a token is no bearer token, and no bearer token is a session.
pub const SESSION_AUDIENCE: &str = "pilothouse/session";
/// The audience of what a browser keeps while its user signs in elsewhere.
pub const SIGN_IN_AUDIENCE: &str = "pilothouse/sign-in";
/// How audiences begin that only this server means something by.
pub const OWN_AUDIENCES: &str = "pilothouse/";
/// Clocks of other machines may differ this much.
const LEEWAY_SECONDS: i64 = 10;
/// Tokens whose signature is remembered; with more, all are checked anew once.
const REMEMBERED: usize = if cfg!(test) { 16 } else { 2048 };

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    /// The user's name.
    pub sub: String,
    pub aud: Vec<String>,
    /// Unix seconds, as `iat` and `nbf`.
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub jti: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Of a session: the issuer that its user signed in with; empty for a password.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// What a service account's token is bound to.
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

impl Claims {
    pub fn new(user: &str, groups: &[&str], seconds: i64) -> Self {
        let now = now_seconds();
        Self {
            iss: ISSUER.into(),
            sub: user.into(),
            aud: vec![ISSUER.into()],
            exp: now + seconds,
            iat: now,
            nbf: now,
            jti: uuid::Uuid::new_v4().to_string(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Self::default()
        }
    }
}

pub fn now_seconds() -> i64 {
    pilothouse_api::jiff::Timestamp::now().as_second()
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    pub serviceaccount: ObjectName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectName>,
    /// Unix seconds: when a token that lasts longer should have been renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectName {
    pub name: String,
    pub uid: String,
}

/// The key pair. Cheap to clone.
#[derive(Clone)]
pub struct Signer(Arc<Keys>);

struct Keys {
    algorithm: Algorithm,
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    public: Value,
    /// What tokens say whose signature was found good. Checking one costs more than all else that a read takes, and
    /// clients send the same one with each request.
    signed: RwLock<HashMap<String, Arc<Claims>>>,
}

impl Signer {
    /// `pem` is PKCS#8: a P-256 or an Ed25519 key.
    pub fn new(pem: &[u8]) -> Result<Self> {
        let (algorithm, encoding) = match EncodingKey::from_ec_pem(pem) {
            Ok(key) => (Algorithm::ES256, key),
            Err(_) => (
                Algorithm::EdDSA,
                EncodingKey::from_ed_pem(pem).context("the token key is not P-256 or Ed25519")?,
            ),
        };
        let jwk =
            Jwk::from_encoding_key(&encoding, algorithm).context("cannot derive the public token key")?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).context("cannot name the token key")?;
        let decoding = DecodingKey::from_jwk(&jwk).context("cannot use the public token key")?;
        let mut public = serde_json::to_value(&jwk)?;
        public["kid"] = json!(kid);
        public["use"] = json!("sig");
        let signed = RwLock::default();
        Ok(Self(Arc::new(Keys { algorithm, kid, encoding, decoding, public, signed })))
    }

    pub fn sign(&self, claims: &Claims) -> Result<String> {
        let mut header = Header::new(self.0.algorithm);
        header.kid = Some(self.0.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.0.encoding).context("cannot sign a token")
    }

    /// The claims, if this cluster signed them for `audience` and they hold now.
    pub fn verify(&self, token: &str, audience: &str) -> Option<Claims> {
        self.verify_any(token, &[audience])
    }

    /// As [`Signer::verify`], for a token that names at least one of `audiences`.
    pub fn verify_any(&self, token: &str, audiences: &[&str]) -> Option<Claims> {
        let claims = self.signed(token)?;
        let now = now_seconds();
        let holds = claims.nbf <= now + LEEWAY_SECONDS && now <= claims.exp + LEEWAY_SECONDS;
        let meant = claims.aud.iter().any(|audience| audiences.contains(&audience.as_str()));
        (holds && meant).then(|| Claims::clone(&claims))
    }

    /// What a token says that this cluster signed, whenever and for whomever it holds.
    fn signed(&self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.0.signed.read().get(token) {
            return Some(claims.clone());
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.kid.as_deref() != Some(&self.0.kid) {
            return None;
        }
        let mut validation = Validation::new(self.0.algorithm);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Whether it holds now, and here, is asked at each use.
        validation.validate_aud = false;
        validation.validate_exp = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.0.decoding, &validation).ok()?;
        let claims = Arc::new(decoded.claims);
        let mut signed = self.0.signed.write();
        if signed.len() >= REMEMBERED {
            signed.clear();
        }
        signed.insert(token.to_owned(), claims.clone());
        Some(claims)
    }

    /// The public key as a JSON Web Key Set.
    pub fn key_set(&self) -> Value {
        json!({"keys": [self.0.public]})
    }

    /// What OIDC discovery says (`/.well-known/openid-configuration`).
    pub fn discovery(&self) -> Value {
        let algorithm = format!("{:?}", self.0.algorithm);
        json!({
            "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": [algorithm],
        })
    }
}

/// `authentication.kubernetes.io/…` facts of a bound token, as `UserInfo.extra` tells them.
pub fn extra(claims: &Claims) -> BTreeMap<String, Vec<String>> {
    let mut extra = BTreeMap::new();
    let mut add = |field: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{field}"), vec![value.to_owned()]);
    };
    add("credential-id", &format!("JTI={}", claims.jti));
    if let Some(bound) = &claims.bound {
        if let Some(pod) = &bound.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer::new(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn a_token_names_its_user_and_groups() {
        let (signer, claims) = (signer(), Claims::new("admin", &["system:masters"], 60));
        let token = signer.sign(&claims).unwrap();
        assert_eq!(signer.verify(&token, ISSUER), Some(claims));
    }

    #[test]
    fn an_expired_token_is_refused() {
        let signer = signer();
        let token = signer.sign(&Claims::new("admin", &[], -60)).unwrap();
        assert_eq!(signer.verify(&token, ISSUER), None);
        assert_eq!(signer.verify(&token, ISSUER), None, "nor when it is known");
        let mut early = Claims::new("admin", &[], 600);
        early.nbf += 300;
        assert_eq!(signer.verify(&signer.sign(&early).unwrap(), ISSUER), None);
    }

    #[test]
    fn tokens_without_number_take_no_memory_without_bound() {
        let signer = signer();
        for _ in 0..REMEMBERED + 10 {
            let token = signer.sign(&Claims::new("admin", &[], 60)).unwrap();
            assert!(signer.verify(&token, ISSUER).is_some());
        }
        assert!(signer.0.signed.read().len() <= REMEMBERED);
    }

    #[test]
    fn a_token_of_another_key_is_refused() {
        let token = signer().sign(&Claims::new("admin", &["system:masters"], 60)).unwrap();
        assert_eq!(signer().verify(&token, ISSUER), None);
    }

    #[test]
    fn a_token_whose_claims_were_changed_is_refused() {
        use base64::Engine;
        let signer = signer();
        let token = signer.sign(&Claims::new("admin", &[], 60)).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let mut claims: Value = serde_json::from_slice(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(parts[1]).unwrap(),
        )
        .unwrap();
        claims["groups"] = json!(["system:masters"]);
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
        let forged = [parts[0], &claims, parts[2]].join(".");
        assert_eq!(signer.verify(&forged, ISSUER), None);
    }

    #[test]
    fn a_session_is_no_bearer_token() {
        let (signer, mut claims) = (signer(), Claims::new("admin", &[], 60));
        claims.aud = vec![SESSION_AUDIENCE.into()];
        let token = signer.sign(&claims).unwrap();
        assert_eq!(signer.verify(&token, ISSUER), None);
        assert!(signer.verify(&token, SESSION_AUDIENCE).is_some());
    }
}
