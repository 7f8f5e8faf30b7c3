//! What probes and hooks do: a command in the container, a request to it, a connection, a pause.
use crate::grpc::{self, Call};
use crate::runtime::docker::Docker;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What is read of an answer at most.
const READ_LIMIT: usize = 10 * 1024;
/// A hook's request; its other acts may take what they take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Redirects that are followed at most, as Go's client does.
const MOST_REDIRECTS: usize = 10;

/// What is to be said though all went well.
pub type Warning = Option<String>;

/// Why a probe or a hook did not go well.
#[derive(Debug, PartialEq)]
pub struct Failed {
    pub why: String,
    /// The runtime did not do what was asked: that says nothing about the container.
    pub unknown: bool,
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, unknown: false }
    }
}

/// The running container that is acted on.
pub struct Target<'a> {
    pub docker: &'a Docker,
    /// Its spec.
    pub container: &'a Value,
    pub id: &'a str,
    /// The pod's.
    pub address: &'a str,
}

fn seconds(probe: &Value, field: &str, default: u64) -> Duration {
    Duration::from_secs(probe[field].as_u64().unwrap_or(default))
}

pub fn period(probe: &Value) -> Duration {
    seconds(probe, "periodSeconds", 10).max(Duration::from_secs(1))
}

pub fn initial_delay(probe: &Value) -> Duration {
    seconds(probe, "initialDelaySeconds", 0)
}

pub fn threshold(probe: &Value, field: &str, default: u64) -> u64 {
    probe[field].as_u64().unwrap_or(default).max(1)
}

/// One try of a probe; the error is what the event says.
pub async fn probe(target: &Target<'_>, probe: &Value) -> Result<Warning, Failed> {
    let timeout = seconds(probe, "timeoutSeconds", 1).max(Duration::from_secs(1));
    match tokio::time::timeout(timeout, act(target, probe)).await {
        Ok(outcome) => outcome,
        Err(_) if probe["exec"].is_object() => Err(format!(
            "command timed out: {:?} timed out after {timeout:?}",
            words(&probe["exec"]).join(" ")
        )
        .into()),
        Err(_) => Err(format!("context deadline exceeded: no answer within {timeout:?}").into()),
    }
}

/// Does what a probe or a hook says.
pub async fn act(target: &Target<'_>, handler: &Value) -> Result<Warning, Failed> {
    if handler["exec"].is_object() {
        return exec(target, &words(&handler["exec"])).await.map(|()| None);
    }
    if handler["sleep"].is_object() {
        tokio::time::sleep(seconds(&handler["sleep"], "seconds", 0)).await;
        return Ok(None);
    }
    let request = async {
        if handler["httpGet"].is_object() {
            http(target, &handler["httpGet"]).await
        } else if handler["grpc"].is_object() {
            grpc(target, &handler["grpc"]).await.map(|()| None)
        } else if handler["tcpSocket"].is_object() {
            let (host, port) = place(target, &handler["tcpSocket"])?;
            dial(&host, port).await.map(|_| None)
        } else {
            Err("missing probe handler".into())
        }
    };
    let outcome = tokio::time::timeout(REQUEST_TIMEOUT, request).await;
    Ok(outcome.unwrap_or_else(|_| Err("no answer in time".into()))?)
}

fn words(exec: &Value) -> Vec<String> {
    let words = exec["command"].as_array().into_iter().flatten();
    words.filter_map(|w| w.as_str().map(str::to_owned)).collect()
}

/// Host and port of an action, which are the pod's own where it does not say.
fn place(target: &Target<'_>, action: &Value) -> Result<(String, u16), String> {
    let host = action["host"].as_str().filter(|host| !host.is_empty()).unwrap_or(target.address);
    let port = port(target.container, &action["port"]);
    Ok((host.to_owned(), port.ok_or_else(|| format!("couldn't find port: {}", action["port"]))?))
}

/// A number, or the name of one of the container's ports.
fn port(container: &Value, port: &Value) -> Option<u16> {
    let number = match port {
        Value::Number(number) => number.as_u64()?,
        Value::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let mut ports = container["ports"].as_array().into_iter().flatten();
                ports.find(|p| p["name"] == name.as_str())?["containerPort"].as_u64()?
            }
        },
        _ => return None,
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {host}:{port}: connect: connection refused")
        }
        _ => format!("dial tcp {host}:{port}: {e}"),
    })
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
struct Page {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Page {
    /// Where a `Location` leads from here.
    fn redirected(&self, location: &str) -> Option<Self> {
        if !location.contains("://") {
            let path = match location.starts_with('/') {
                true => location.to_owned(),
                false => format!("{}/{location}", self.path.rsplit_once('/').map_or("", |(dir, _)| dir)),
            };
            return Some(Self { path, ..self.clone() });
        }
        let to: hyper::Uri = location.parse().ok()?;
        let tls = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = to.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Some(Self { tls, host: to.host()?.to_owned(), port, path })
    }
}

/// Redirects are followed while they stay on the host; one that leads away is not, and passes with a warning.
async fn http(target: &Target<'_>, get: &Value) -> Result<Warning, String> {
    let (host, port) = place(target, get)?;
    let path = get["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let tls = get["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS"));
    let mut page = Page { tls, host, port, path };
    for _ in 0..MOST_REDIRECTS {
        let response = ask(&page, get).await?;
        let code = response.status().as_u16();
        let location = response.headers().get("location").and_then(|to| to.to_str().ok());
        let next = location.and_then(|to| page.redirected(to)).filter(|next| next.host == page.host);
        match (code, next) {
            (200..300, _) => return Ok(None),
            (301 | 302 | 303 | 307 | 308, Some(next)) => page = next,
            (300..400, _) => {
                let body = http_body_util::Limited::new(response.into_body(), READ_LIMIT).collect().await;
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                let body = String::from_utf8_lossy(&body);
                return Ok(Some(format!("Probe terminated redirects, Response body: {body}")));
            }
            (code, _) => return Err(format!("HTTP probe failed with statuscode: {code}")),
        }
    }
    Err(format!("Get {:?}: stopped after {MOST_REDIRECTS} redirects", page.path))
}

async fn ask(page: &Page, get: &Value) -> Result<Response<hyper::body::Incoming>, String> {
    let Page { tls, host, port, path } = page;
    let url = format!("{}://{host}:{port}{path}", if *tls { "https" } else { "http" });
    let fail = |why: String| format!("Get {url:?}: {why}");
    let mut request = Request::get(path.as_str());
    let (mut named_host, mut named_agent) = (false, false);
    for header in get["httpHeaders"].as_array().into_iter().flatten() {
        let text = |field: &str| header[field].as_str().unwrap_or_default();
        named_host |= text("name").eq_ignore_ascii_case("host");
        named_agent |= text("name").eq_ignore_ascii_case("user-agent");
        request = request.header(text("name"), text("value"));
    }
    if !named_host {
        request = request.header("host", format!("{host}:{port}"));
    }
    if !named_agent {
        request = request.header("user-agent", "kube-probe/1.36");
    }
    let request = request.header("accept", "*/*").header("connection", "close");
    let request = request.body(Full::default()).map_err(|e| fail(e.to_string()))?;
    let stream = dial(host, *port).await.map_err(fail)?;
    let response = match tls {
        true => exchange(encrypt(stream, host).await.map_err(fail)?, request).await,
        false => exchange(stream, request).await,
    };
    response.map_err(fail)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<hyper::body::Incoming>, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the sender.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// TLS without a look at the certificate: a probe asks whether the container answers, not who it is.
async fn encrypt(
    stream: TcpStream,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|e| e.to_string())
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.Health/Check`.
async fn grpc(target: &Target<'_>, action: &Value) -> Result<(), String> {
    let (host, port) = place(target, action)?;
    let service = action["service"].as_str().unwrap_or_default().to_owned();
    let stream = dial(&host, port)
        .await
        .map_err(|why| format!("timeout: failed to connect service \"{host}:{port}\": {why}"))?;
    let authority = format!("{host}:{port}");
    let call = Call {
        authority: &authority,
        method: HEALTH_CHECK,
        user_agent: "kube-probe/1.36",
        timeout: REQUEST_TIMEOUT,
    };
    match grpc::call::<Health>(stream, &call, &HealthRequest { service }).await {
        Ok(Health { status: 1 }) => Ok(()),
        Ok(Health { status }) => {
            let words = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let word = usize::try_from(status).ok().and_then(|s| words.get(s)).unwrap_or(&"UNKNOWN");
            Err(format!("service unhealthy (responded with {word:?})"))
        }
        Err(fault) if fault.code == grpc::UNIMPLEMENTED => {
            Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                .into())
        }
        Err(fault) => Err(format!("error: health rpc failed: {fault}")),
    }
}

async fn exec(target: &Target<'_>, command: &[String]) -> Result<(), Failed> {
    let ran = target.docker.exec(target.id, command, READ_LIMIT).await;
    let (code, said) = ran.map_err(|error| Failed { why: format!("{error:#}"), unknown: true })?;
    match code {
        0 => Ok(()),
        code => {
            let said = String::from_utf8_lossy(&said);
            let said = said.trim();
            let why = if said.is_empty() { format!("command exited with {code}") } else { said.to_owned() };
            Err(why.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioExecutor;
    use serde_json::json;

    #[test]
    fn a_port_is_a_number_or_the_name_of_one_of_the_containers_own() {
        let container = json!({"ports": [{"name": "web", "containerPort": 8080}]});
        let rows = [
            (json!(80), Some(80)),
            (json!("81"), Some(81)),
            (json!("web"), Some(8080)),
            (json!("no"), None),
            (json!(0), None),
        ];
        for (given, expected) in rows {
            assert_eq!(port(&container, &given), expected, "{given}");
        }
    }

    /// What a probe comes to against a listener on the loopback.
    async fn tried(port: u16, probe: Value) -> Result<(), String> {
        told(port, probe).await.map(drop)
    }

    async fn told(port: u16, mut probe: Value) -> Result<Warning, String> {
        for kind in ["httpGet", "grpc", "tcpSocket"] {
            if probe[kind].is_object() {
                probe[kind]["port"] = port.into();
            }
        }
        let dir = std::env::temp_dir().join(format!("pilothouse-probe-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("docker.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client =
            bollard::Docker::connect_with_unix(&socket.to_string_lossy(), 1, bollard::API_DEFAULT_VERSION);
        let docker = Docker { client: client.unwrap() };
        let target = Target { docker: &docker, container: &json!({}), id: "", address: "127.0.0.1" };
        let outcome = super::probe(&target, &probe).await;
        std::fs::remove_dir_all(dir).unwrap();
        outcome.map_err(|failed| failed.why)
    }

    type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

    /// A health service that knows the services `up` and `down`.
    async fn health(request: Request<hyper::body::Incoming>) -> Result<Response<Body>, hyper::Error> {
        use hyper::body::Frame;
        assert_eq!(request.uri().path(), HEALTH_CHECK);
        let asked = request.into_body().collect().await?.to_bytes();
        let status = match &asked[5..] {
            [0x0a, 2, b'u', b'p'] => 1,
            _ => 2,
        };
        let trailers = hyper::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let frames = [Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status])), Frame::trailers(trailers)];
        let frames = futures::stream::iter(frames.map(Ok));
        Ok(Response::new(http_body_util::StreamBody::new(frames).boxed()))
    }

    #[tokio::test]
    async fn grpc_services_tell_their_health() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(health);
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        assert_eq!(tried(port, json!({"grpc": {"service": "up"}})).await, Ok(()));
        let why = tried(port, json!({"grpc": {"service": "down"}})).await.unwrap_err();
        assert_eq!(why, "service unhealthy (responded with \"NOT_SERVING\")");
    }

    /// Answers every path but `/bad` with 200, over TLS with a certificate of its own where `tls`.
    async fn web(tls: bool) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let made = rcgen::generate_simple_self_signed(["example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let answer = async |request: Request<hyper::body::Incoming>| {
            let (code, location) = match request.uri().path() {
                "/bad" => (500, None),
                "/moved" => (302, Some("/good")),
                "/lost" => (302, Some("bad")),
                "/away" => (302, Some("http://192.0.2.1/good")),
                "/round" => (302, Some("/round")),
                _ => (200, None),
            };
            let named = request.headers()["host"] == "named"
                || request.headers()["host"]
                    == format!("127.0.0.1:{}", request.headers()["x-port"].to_str().unwrap()).as_str();
            let code = if named { code } else { 421 };
            let response = Response::builder().status(code).header("location", location.unwrap_or_default());
            Ok::<_, std::convert::Infallible>(response.body(Full::<Bytes>::from("moved away")).unwrap())
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(answer);
                let builder = hyper::server::conn::http1::Builder::new();
                if tls {
                    let Ok(stream) = acceptor.accept(stream).await else { continue };
                    tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
                } else {
                    tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn http_probes_go_by_the_status_over_tls_too() {
        for (tls, scheme) in [(false, "HTTP"), (true, "HTTPS")] {
            let port = web(tls).await;
            let get = |path: &str, host: Option<&str>| {
                let mut headers = vec![json!({"name": "X-Port", "value": port.to_string()})];
                headers.extend(host.map(|host| json!({"name": "Host", "value": host})));
                json!({"httpGet": {"path": path, "scheme": scheme, "httpHeaders": headers}})
            };
            assert_eq!(tried(port, get("/good", None)).await, Ok(()), "{scheme}");
            assert_eq!(tried(port, get("good", Some("named"))).await, Ok(()), "{scheme}");
            let why = tried(port, get("/bad", None)).await.unwrap_err();
            assert_eq!(why, "HTTP probe failed with statuscode: 500");
        }
        let port = web(false).await;
        let get = |path: &str| {
            let headers = json!([{"name": "X-Port", "value": port.to_string()}]);
            json!({"httpGet": {"path": path, "httpHeaders": headers}})
        };
        assert_eq!(told(port, get("/moved")).await, Ok(None));
        assert_eq!(told(port, get("/lost")).await.unwrap_err(), "HTTP probe failed with statuscode: 500");
        let away = "Probe terminated redirects, Response body: moved away".to_owned();
        assert_eq!(told(port, get("/away")).await, Ok(Some(away)), "another host is not asked");
        assert!(told(port, get("/round")).await.unwrap_err().contains("stopped after 10 redirects"));
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let why = tried(free, json!({"httpGet": {"path": "/"}})).await.unwrap_err();
        let place = format!("127.0.0.1:{free}");
        assert_eq!(why, format!("Get \"http://{place}/\": dial tcp {place}: connect: connection refused"));
    }
}
