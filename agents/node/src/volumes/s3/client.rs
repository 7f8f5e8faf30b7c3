//! The few calls of the S3 API that make and remove buckets, signed by `rusty-s3`.
use super::Bucket;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Credentials, S3Action, UrlStyle};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a signed request may be under way.
const SIGNED_FOR: Duration = Duration::from_secs(300);
/// A page of a list has a thousand keys of a kilobyte at most, and what stands around them.
const LARGEST_ANSWER: usize = 16 << 20;
/// Objects deleted at the same time.
const CONCURRENCY: usize = 16;

pub struct Client {
    bucket: rusty_s3::Bucket,
    credentials: Credentials,
    tls: tokio_rustls::TlsConnector,
}

struct Answer {
    status: StatusCode,
    body: String,
}

impl Answer {
    /// The code within the answer's XML: `BucketAlreadyOwnedByYou`.
    fn code(&self) -> &str {
        let from = self.body.split_once("<Code>").map_or("", |(_, rest)| rest);
        from.split_once("</Code>").map_or("", |(code, _)| code)
    }

    fn expect(self, what: &str) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        let message = self.body.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
        let message = message.map_or("", |(message, _)| message);
        bail!("{what}: {} {} {message}", self.status, self.code());
    }
}

impl Client {
    pub(super) fn new(bucket: &Bucket) -> Result<Self> {
        let url = bucket.url();
        let endpoint = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        // Names below a host of one's own are rarely resolved.
        let style = if bucket.endpoint.is_some() { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let made = rusty_s3::Bucket::new(endpoint, style, bucket.name.clone(), bucket.region.clone());
        let made = made.map_err(|error| anyhow!("{url:?} is no address of S3: {error:?}"))?;
        let credentials = match &bucket.token {
            Some(token) => Credentials::new_with_token(&bucket.key, &bucket.secret, token),
            None => Credentials::new(&bucket.key, &bucket.secret),
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = rustls::crypto::ring::default_provider().into();
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { bucket: made, credentials, tls: Arc::new(tls).into() })
    }

    /// Makes the bucket, if it is not there already.
    pub async fn make_bucket(&self) -> Result<()> {
        let action = self.bucket.create_bucket(&self.credentials);
        let body = action.body();
        let answer = self.send(Method::PUT, action.sign(SIGNED_FOR).as_str(), body).await?;
        match answer.code() {
            "BucketAlreadyOwnedByYou" => Ok(()),
            _ => answer.expect("the bucket could not be made").map(drop),
        }
    }

    /// Whether the bucket is there and may be read.
    pub async fn look(&self) -> Result<()> {
        let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
        action.with_max_keys(1);
        let answer = self.send(Method::GET, action.sign(SIGNED_FOR).as_str(), String::new()).await?;
        answer.expect("the bucket cannot be read").map(drop)
    }

    pub async fn remove_bucket(&self) -> Result<()> {
        let action = self.bucket.delete_bucket(&self.credentials);
        let answer = self.send(Method::DELETE, action.sign(SIGNED_FOR).as_str(), String::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            _ => answer.expect("the bucket could not be removed").map(drop),
        }
    }

    /// Puts an empty object: some clients want to see a directory.
    pub async fn put(&self, key: &str) -> Result<()> {
        let action = self.bucket.put_object(Some(&self.credentials), key);
        let answer = self.send(Method::PUT, action.sign(SIGNED_FOR).as_str(), String::new()).await?;
        answer.expect("an object could not be put").map(drop)
    }

    /// Removes every object whose key begins so.
    pub async fn empty(&self, prefix: &str) -> Result<()> {
        loop {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(prefix.to_owned());
            let answer = self.send(Method::GET, action.sign(SIGNED_FOR).as_str(), String::new()).await?;
            if answer.status == StatusCode::NOT_FOUND {
                return Ok(()); // the bucket is gone
            }
            let answer = answer.expect("the bucket could not be listed")?;
            let page = ListObjectsV2::parse_response(&answer.body)
                .map_err(|error| anyhow!("the list of objects is malformed: {error}"))?;
            if page.contents.is_empty() {
                return Ok(());
            }
            // From the start again: what was listed is gone then.
            let gone =
                stream::iter(page.contents).map(|object| async move { self.remove(&object.key).await });
            gone.buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
        }
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let action = self.bucket.delete_object(Some(&self.credentials), key);
        let answer = self.send(Method::DELETE, action.sign(SIGNED_FOR).as_str(), String::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            _ => answer.expect("an object could not be removed").map(drop),
        }
    }

    async fn send(&self, method: Method, url: &str, body: String) -> Result<Answer> {
        let uri: hyper::Uri = url.parse()?;
        let host = uri.host().context("an URL without a host")?.to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", authority)
            .header("user-agent", "pilothouse")
            // Also for an empty body: servers insist on it.
            .header("content-length", body.len())
            .body(Full::new(Bytes::from(body)))?;
        let asking = async {
            let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port))
                .await
                .with_context(|| format!("cannot reach {host}:{port}"))?;
            match is_tls {
                false => exchange(tcp, request).await,
                true => {
                    let name = rustls::pki_types::ServerName::try_from(host.clone())?;
                    exchange(self.tls.connect(name, tcp).await?, request).await
                }
            }
        };
        tokio::time::timeout(TIMEOUT, asking)
            .await
            .with_context(|| format!("{host}:{port} does not answer"))?
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow!("the answer broke off: {error}"))?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    let answer = answer.await;
    connection.abort();
    answer
}
