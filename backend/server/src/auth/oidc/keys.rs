//! The keys of one issuer: found by its OpenID configuration, fetched anew in time and when a token names an unknown one.
use super::config::IssuerConfig;
use crate::{outbound, remote};
use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Signatures that need no shared secret: with one, whoever can check a token could make one.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Keys that were taken back are forgotten after this.
const RENEWAL: Duration = Duration::from_secs(600);
/// An unknown key is looked for at most so often: anybody can name one.
const PAUSE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(10) };
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
const LEEWAY_SECONDS: u64 = 10;

/// Who signs, and with what.
pub struct Issuer {
    pub config: IssuerConfig,
    tls: Arc<ClientConfig>,
    keys: ArcSwap<KeySet>,
    tries: Mutex<Tries>,
}

#[derive(Default)]
struct KeySet {
    keys: Vec<(Option<String>, DecodingKey)>,
}

#[derive(Default)]
struct Tries {
    last: Option<Instant>,
    failures: u32,
}

impl Tries {
    /// Before the next one.
    fn wait(&self) -> Duration {
        match self.failures {
            0 => PAUSE,
            n => Duration::from_secs(1 << n.min(6)).min(LONGEST_BACK_OFF),
        }
    }
}

impl KeySet {
    /// Keys of a kind that is not known are left out: issuers may have some for others.
    fn parse(set: &Value) -> Result<Self, String> {
        let all = set["keys"].as_array().ok_or("the key set has no keys")?;
        let signing = |jwk: &Jwk| matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let jwks =
            all.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok()).filter(signing);
        let keys = jwks.filter_map(|jwk| {
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            Some((jwk.common.key_id, key))
        });
        let keys: Vec<_> = keys.collect();
        match keys.is_empty() {
            true => Err("the key set has no key for signatures that is understood".into()),
            false => Ok(Self { keys }),
        }
    }

    fn named<'a>(&'a self, id: Option<&'a str>) -> impl Iterator<Item = &'a DecodingKey> {
        let fits = move |own: &Option<String>| id.is_none() || own.is_none() || own.as_deref() == id;
        self.keys.iter().filter(move |(own, _)| fits(own)).map(|(_, key)| key)
    }
}

impl Issuer {
    /// Errors: the authority cannot be used.
    pub fn new(config: IssuerConfig) -> Result<Self, String> {
        let tls = remote::trusting(config.authority.as_deref().map(str::as_bytes), None)?;
        Ok(Self { config, tls: Arc::new(tls), keys: ArcSwap::default(), tries: Mutex::default() })
    }

    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// What a token says that this issuer signed for one of its audiences, and that holds now.
    pub fn verify(&self, token: &str) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(format!("signatures by {:?} are not taken", header.alg));
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.config.url]);
        validation.set_audience(&self.config.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let keys = self.keys.load();
        let mut why = "it is signed with an unknown key".to_owned();
        for key in keys.named(header.kid.as_deref()) {
            match jsonwebtoken::decode::<Value>(token, key, &validation) {
                Ok(decoded) => return Ok(decoded.claims),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    fn knows(&self, id: Option<&str>) -> bool {
        self.keys.load().named(id).next().is_some()
    }

    /// Looks for a key that is not known yet. False: there is nothing new.
    pub async fn look_for(&self, id: Option<&str>) -> bool {
        if self.knows(id) {
            return false;
        }
        let mut tries = self.tries.lock().await;
        // Somebody else may have looked meanwhile.
        if self.knows(id) {
            return true;
        }
        if tries.last.is_some_and(|last| last.elapsed() < tries.wait()) {
            return false;
        }
        self.fetch(&mut tries).await && self.knows(id)
    }

    /// Keeps the keys up to date.
    pub async fn run(&self) {
        loop {
            let mut tries = self.tries.lock().await;
            let wait = match self.fetch(&mut tries).await {
                true => RENEWAL,
                false => tries.wait(),
            };
            drop(tries);
            tokio::time::sleep(wait).await;
        }
    }

    /// The issuer's OpenID configuration.
    pub async fn discover(&self) -> Result<Value, String> {
        let config = outbound::get(&self.config.discovery_url, self.tls()).await?;
        let config: Value = serde_json::from_slice(&config)
            .map_err(|error| format!("{}: {error}", self.config.discovery_url))?;
        match config["issuer"].as_str() {
            Some(issuer) if issuer == self.config.url => Ok(config),
            other => Err(format!("{}: it is of issuer {other:?}", self.config.discovery_url)),
        }
    }

    async fn fetch(&self, tries: &mut Tries) -> bool {
        let fetched = async {
            let config = self.discover().await?;
            let url = config["jwks_uri"].as_str().ok_or("the OpenID configuration names no jwks_uri")?;
            let set = outbound::get(url, self.tls()).await?;
            let set = serde_json::from_slice(&set).map_err(|error| format!("{url}: {error}"))?;
            KeySet::parse(&set)
        };
        let fetched = fetched.await;
        // From its end: who waited meanwhile must not fetch again at once.
        tries.last = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                tries.failures = 0;
                self.keys.store(Arc::new(keys));
                true
            }
            Err(why) => {
                tries.failures += 1;
                // Each doubling of the failures is told once.
                if tries.failures.is_power_of_two() {
                    tracing::warn!(
                        issuer = self.config.url,
                        failures = tries.failures,
                        why,
                        "no keys from an issuer"
                    );
                }
                false
            }
        }
    }
}
