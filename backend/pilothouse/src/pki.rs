//! The cluster's own certificate authority, the server's certificate, and the keys that sign tokens and encrypt secrets.
use crate::data_dir::{DataDir, write_private};
use anyhow::{Context, Result, bail};
use pilothouse_server::certificates::{Authority, Profile, Subject};
use pilothouse_server::{FrontProxy, Identity};
use rand::RngExt;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Renewed at each start, so it only has to outlive one run.
const SERVER_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Clocks of clients may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

pub struct Pki {
    pub ca_pem: String,
    pub tls: rustls::ServerConfig,
    pub authority: Arc<ClusterAuthority>,
    pub front_proxy: FrontProxy,
    /// PKCS#8 PEM of the key that signs tokens.
    pub token_key_pem: String,
    /// Current key first; its id is its place in the file's history.
    pub encryption_keys: Vec<(String, [u8; 32])>,
}

/// Loads what the directory holds and makes what it lacks.
pub fn open(dir: &DataDir, listen: SocketAddr, names: &[String]) -> Result<Pki> {
    let pki = dir.pki();
    let ca_key = key_pair(&pki.join("ca.key"))?;
    let ca_path = dir.ca_certificate();
    let ca_pem = load_or_make(&ca_path, || {
        Ok(authority_params("pilothouse-ca")
            .self_signed(&ca_key)
            .context("cannot sign the CA certificate")?
            .pem())
    })?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, &ca_key)
        .with_context(|| format!("{} is not a certificate of pki/ca.key", ca_path.display()))?;

    let server_key = KeyPair::generate().context("cannot make a key")?;
    let server =
        server_params(listen, names).signed_by(&server_key, &issuer).context("cannot sign a certificate")?;
    let chain = vec![server.der().clone(), CertificateDer::from_pem_slice(ca_pem.as_bytes())?];
    let key = PrivateKeyDer::try_from(server_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut tls =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(client_verifier(&ca_pem)?)
            .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let token_key_pem = key_pair(&pki.join("token-signing.key"))?.serialize_pem();
    let encryption_keys = encryption_keys(&pki.join("encryption-keys"))?;
    let authority = Arc::new(ClusterAuthority { ca_pem: ca_pem.clone(), key: ca_key });
    let front_proxy = front_proxy(&pki)?;
    Ok(Pki { ca_pem, tls, authority, front_proxy, token_key_pem, encryption_keys })
}

/// An authority of its own: who has its certificate may speak for anybody, which no other certificate may.
fn front_proxy(pki: &Path) -> Result<FrontProxy> {
    let ca_key = key_pair(&pki.join("front-proxy-ca.key"))?;
    let path = pki.join("front-proxy-ca.crt");
    let ca_pem = load_or_make(&path, || {
        let params = authority_params("pilothouse-front-proxy-ca");
        Ok(params.self_signed(&ca_key).context("cannot sign the CA certificate")?.pem())
    })?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, &ca_key)
        .with_context(|| format!("{} is not a certificate of front-proxy-ca.key", path.display()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("front-proxy-client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + SERVER_LIFETIME).into();
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params.signed_by(&key, &issuer).context("cannot sign a certificate")?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let identity = Identity { chain: vec![certificate.der().clone()], key };
    Ok(FrontProxy { ca_pem, identity })
}

/// Clients may show a certificate of the cluster's authority; most show a token.
fn client_verifier(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.allow_unauthenticated().build().context("cannot verify client certificates")
}

/// The authority, to sign certificates that clients and nodes ask for.
pub struct ClusterAuthority {
    ca_pem: String,
    key: KeyPair,
}

impl Authority for ClusterAuthority {
    fn sign(&self, request_pem: &str, profile: &Profile) -> Result<String> {
        let mut request =
            CertificateSigningRequestParams::from_pem(request_pem).context("the request cannot be read")?;
        let params = &mut request.params;
        // The library keeps one of a kind: a certificate with fewer groups than asked for would be a surprise.
        let asked = Subject::of_request(request_pem.as_bytes()).map_err(anyhow::Error::msg)?;
        if asked.organizations.len() > 1 {
            bail!("a subject with more than one organization cannot be signed");
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.not_before = SystemTime::from(profile.not_before).into();
        params.not_after = SystemTime::from(profile.not_after).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if profile.key_encipherment {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        let purposes = [
            (profile.is_client, ExtendedKeyUsagePurpose::ClientAuth),
            (profile.is_server, ExtendedKeyUsagePurpose::ServerAuth),
        ];
        params.extended_key_usages =
            purposes.into_iter().filter(|(wanted, _)| *wanted).map(|(_, purpose)| purpose).collect();
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &self.key).context("the authority is broken")?;
        Ok(request.signed_by(&issuer).context("cannot sign the certificate")?.pem())
    }
}

fn key_pair(path: &Path) -> Result<KeyPair> {
    let pem = load_or_make(path, || Ok(KeyPair::generate().context("cannot make a key")?.serialize_pem()))?;
    KeyPair::from_pem(&pem).with_context(|| format!("{} is not a private key", path.display()))
}

fn load_or_make(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = make()?;
            write_private(path, text.as_bytes())?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + CA_LIFETIME).into();
    params
}

fn server_params(listen: SocketAddr, names: &[String]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("pilothouse");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + SERVER_LIFETIME).into();
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let always = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
        "10.96.0.1",
    ];
    let all = always.into_iter().map(str::to_owned).chain(hostname).chain(names.iter().cloned());
    params.subject_alt_names = all.filter_map(|name| subject_name(&name)).collect();
    if !listen.ip().is_unspecified() {
        params.subject_alt_names.push(SanType::IpAddress(listen.ip()));
    }
    params
}

fn subject_name(name: &str) -> Option<SanType> {
    match name.parse::<IpAddr>() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => name.try_into().ok().map(SanType::DnsName),
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// One key a line, `id hex`, the newest first: to rotate, put a new line on top and start again.
fn encryption_keys(path: &Path) -> Result<Vec<(String, [u8; 32])>> {
    let text = load_or_make(path, || {
        let key: [u8; 32] = rand::rng().random();
        Ok(format!("key-1 {}\n", key.iter().map(|b| format!("{b:02x}")).collect::<String>()))
    })?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (id, hex) = line.split_once(' ').unwrap_or((line, ""));
            let key = decode_key(hex.trim())
                .with_context(|| format!("{}: key {id:?} is not 64 hexadecimal digits", path.display()))?;
            Ok((id.to_owned(), key))
        })
        .collect()
}

fn decode_key(hex: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}
