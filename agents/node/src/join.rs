//! How a node gets a credential of its own: with a join token, which may do no more than ask, it has a certificate request
//! signed, as kubelets do. After <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/>.
use crate::connection::{Credential, Dialer};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use std::time::Duration;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks whether the certificate is there.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the leader may take to sign.
const PATIENCE: Duration = Duration::from_secs(300);

/// A connection over which nodes join, one after the other.
pub struct Joining {
    token: String,
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Joining {
    /// `dialer` needs no credential of its own.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(dialer: &Dialer, token: &str) -> Result<Self> {
        let stream = dialer.connect().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { token: token.to_owned(), sender, host: dialer.address().to_owned() })
    }

    /// A client certificate for the node of that name.
    ///
    /// # Errors
    /// The token may not ask, or nobody signs.
    pub async fn join(&mut self, node: &str) -> Result<Credential> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        let request = params.serialize_request(&key)?.pem()?;
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "node-csr-"},
            "spec": {"signerName": SIGNER, "usages": ["digital signature", "client auth"], "request": STANDARD.encode(request)},
        });
        let (status, made) = self.call(Method::POST, REQUESTS, Some(&object)).await?;
        if status != StatusCode::CREATED {
            bail!(
                "the server does not take the join token's request: {}",
                made["message"].as_str().unwrap_or_default()
            );
        }
        let path = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().unwrap_or_default());
        let signed = tokio::time::timeout(PATIENCE, self.certificate(&path)).await;
        let chain_pem = signed
            .context("nobody signs the node's request: may the token's group ask for node certificates?")??;
        Ok(Credential::Certificate { chain_pem, key_pem: key.serialize_pem() })
    }

    async fn certificate(&mut self, path: &str) -> Result<String> {
        let mut pause = FIRST_LOOK;
        loop {
            let (_, request) = self.call(Method::GET, path, None).await?;
            if let Some(certificate) = request["status"]["certificate"].as_str() {
                return Ok(String::from_utf8(STANDARD.decode(certificate)?)?);
            }
            let conditions = request["status"]["conditions"].as_array().into_iter().flatten();
            let refused = conditions.into_iter().find(|c| c["type"] == "Denied" || c["type"] == "Failed");
            if let Some(refused) = refused {
                bail!("the node's request is refused: {}", refused["message"].as_str().unwrap_or_default());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let calling = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            let bytes = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, serde_json::from_slice(&bytes).unwrap_or_default()))
        };
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, calling).await;
        Ok(answered.context("the server does not answer")??)
    }
}
