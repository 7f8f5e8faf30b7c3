//! The line to the server: dialled by the agent, dialled again when it breaks, and never in the pods' way.
use crate::AgentOptions;
use crate::agent::Agent;
use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use pilothouse_protocol::{CONNECT_PATH, NodeMessage, PROTOCOL, STREAM_PATH, ServerMessage};
use rand::RngExt;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;

const PING_EVERY: Duration = Duration::from_secs(10);
/// A line on which nothing came for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(35);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Where nobody listens, asking costs next to nothing: who is back is found soon.
const LONGEST_PAUSE_UNREACHABLE: Duration = Duration::from_millis(1500);
/// A first packet is sent again after one second; of a network that was cut the next try learns sooner than the third.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Events and requests that may wait for the server; more are dropped.
const OTHERS: usize = 1024;

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// What waits to be told to the server: of each pod only its newest status, whatever the length of an outage.
#[derive(Clone)]
pub struct Outbox {
    statuses: Arc<parking_lot::Mutex<HashMap<String, Vec<NodeMessage>>>>,
    changed: Arc<Notify>,
    others: mpsc::Sender<NodeMessage>,
}

impl Outbox {
    /// `uid` is the pod's, or the node's name; a later message of one sort about it replaces an earlier one.
    /// The end of a pod does not replace its last status: who waits for it reads there how it ended.
    pub fn tell(&self, uid: &str, message: NodeMessage) {
        let mut statuses = self.statuses.lock();
        let waiting = statuses.entry(uid.to_owned()).or_default();
        waiting.retain(|old| std::mem::discriminant(old) != std::mem::discriminant(&message));
        waiting.push(message);
        drop(statuses);
        self.changed.notify_one();
    }

    /// What is no status: events, requests, failures of streams.
    pub fn send(&self, message: NodeMessage) {
        if self.others.try_send(message).is_err() {
            tracing::debug!("an event was dropped: the server is away for long");
        }
    }

    fn take(&self) -> Vec<NodeMessage> {
        self.statuses.lock().drain().flat_map(|(_, messages)| messages).collect()
    }
}

/// No connection came about: nothing serves there, or the network is cut.
#[derive(Debug)]
struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot reach {}", self.0)
    }
}

/// How an agent shows who it is.
#[derive(Clone)]
pub enum Credential {
    /// It does not: who joins sends its token along by itself.
    None,
    Token(String),
    /// A client certificate of its own, in PEM, as [`crate::join`] gets it.
    Certificate {
        chain_pem: String,
        key_pem: String,
    },
}

/// Dials the server, for the control line and for each stream.
#[derive(Clone)]
pub struct Dialer {
    host: String,
    address: String,
    roots: Arc<rustls::RootCertStore>,
    /// A bearer token; None where the certificate says it all.
    token: Option<String>,
    tls: tokio_rustls::TlsConnector,
    frames: WebSocketConfig,
}

impl Dialer {
    /// `server_url` is `https://host:port`.
    ///
    /// # Errors
    /// The address or a certificate cannot be read.
    pub fn new(server_url: &str, ca_pem: &str, credential: Credential) -> Result<Self> {
        let Some(address) = server_url.strip_prefix("https://") else {
            bail!("the server's address must start with https://, not {server_url:?}");
        };
        let address = address.trim_end_matches('/');
        let host =
            address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
        let address = if address.contains(':') { address.to_owned() } else { format!("{address}:443") };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.context("the CA certificate is not PEM")?)?;
        }
        let roots = Arc::new(roots);
        let (token, tls) = identity(&roots, credential)?;
        Ok(Self { host, address, roots, token, tls, frames: WebSocketConfig::default() })
    }

    /// The way to the same server for somebody else.
    ///
    /// # Errors
    /// The credential cannot be read.
    pub fn as_another(&self, credential: Credential) -> Result<Self> {
        let (token, tls) = identity(&self.roots, credential)?;
        Ok(Self { token, tls, ..self.clone() })
    }

    /// The same with buffers of `bytes`, for programs that keep thousands of lines.
    pub fn with_buffers(mut self, bytes: usize) -> Self {
        self.frames = self.frames.read_buffer_size(bytes).write_buffer_size(bytes);
        self
    }

    /// A TLS connection to the server.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let connecting = async {
            let reached = tokio::time::timeout(REACH_TIMEOUT, TcpStream::connect(&self.address)).await;
            let reached = reached.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            let tcp = reached.with_context(|| Unreachable(self.address.clone()))?;
            tcp.set_nodelay(true)?;
            let name = rustls::pki_types::ServerName::try_from(self.host.clone())?;
            self.tls.connect(name, tcp).await.context("the server's certificate was refused")
        };
        tokio::time::timeout(DIAL_TIMEOUT, connecting).await.context("the server does not answer")?
    }

    pub async fn dial(&self, path: &str) -> Result<Socket> {
        let dialling = async {
            let tls = self.connect().await?;
            let mut request = format!("wss://{}{path}", self.address).into_client_request()?;
            let headers = request.headers_mut();
            if let Some(token) = &self.token {
                headers.insert("authorization", format!("Bearer {token}").parse()?);
            }
            headers.insert("sec-websocket-protocol", PROTOCOL.parse()?);
            let dialled = tokio_tungstenite::client_async_with_config(request, tls, Some(self.frames)).await;
            let (socket, _) = dialled.context("the server refused the connection")?;
            Ok(socket)
        };
        tokio::time::timeout(DIAL_TIMEOUT, dialling).await.context("the server does not answer")?
    }

    /// The server's `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub async fn stream(&self, id: &str) -> Result<Socket> {
        self.dial(&format!("{STREAM_PATH}/{id}")).await
    }
}

/// The bearer token, if it is one, and the TLS that a credential asks for.
fn identity(
    roots: &Arc<rustls::RootCertStore>,
    credential: Credential,
) -> Result<(Option<String>, tokio_rustls::TlsConnector)> {
    let provider = rustls::crypto::ring::default_provider().into();
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.clone());
    let (token, mut tls) = match credential {
        Credential::None => (None, tls.with_no_client_auth()),
        Credential::Token(token) => (Some(token), tls.with_no_client_auth()),
        Credential::Certificate { chain_pem, key_pem } => {
            let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<_, _>>();
            let chain = chain.context("the client certificate is not PEM")?;
            let key =
                PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).context("the client key is not PEM")?;
            (None, tls.with_client_auth_cert(chain, key)?)
        }
    };
    // There is one server to remember, and the default's room for 256 is what a simulated node would spend most on.
    tls.resumption = Resumption::in_memory_sessions(1);
    Ok((token, Arc::new(tls).into()))
}

pub struct Connection {
    dialer: Dialer,
    outbox: Outbox,
    others: tokio::sync::Mutex<mpsc::Receiver<NodeMessage>>,
}

impl Connection {
    pub fn new(options: &AgentOptions) -> Result<Self> {
        let credential = Credential::Token(options.credential.clone());
        let dialer = Dialer::new(&options.server_url, &options.ca_pem, credential)?;
        let (sender, receiver) = mpsc::channel(OTHERS);
        let outbox = Outbox { statuses: Arc::default(), changed: Arc::default(), others: sender };
        Ok(Self { dialer, outbox, others: receiver.into() })
    }

    /// The server's `host:port`.
    pub fn server_address(&self) -> String {
        self.dialer.address().to_owned()
    }

    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Keeps a line to the server until `shutdown`.
    pub async fn run(&self, agent: Arc<Agent>, shutdown: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let mut longest = LONGEST_PAUSE;
            match self.talk(&agent).await {
                Ok(()) => tracing::info!("the server closed the line"),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "no line to the server; pods go on");
                    if error.is::<Unreachable>() {
                        longest = LONGEST_PAUSE_UNREACHABLE;
                    }
                }
            }
            pause = if begun.elapsed() > SILENCE { FIRST_PAUSE } else { (pause * 2).min(longest) };
            // Many agents must not come back in step.
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
        }
    }

    async fn talk(&self, agent: &Arc<Agent>) -> Result<()> {
        let socket = self.dialer.dial(CONNECT_PATH).await?;
        let (mut sink, mut incoming) = socket.split();
        let node = agent.node_object.lock().clone();
        send(&mut sink, &NodeMessage::Register { node }).await?;
        // The server may have lost what it was told last: every pod tells its status again.
        agent.tell_everything();
        let mut others = self.others.lock().await;
        let mut ping = tokio::time::interval(PING_EVERY);
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                frame = incoming.next() => {
                    heard = tokio::time::Instant::now();
                    match frame {
                        Some(Ok(Message::Text(text))) => self.receive(agent, &text)?,
                        Some(Ok(Message::Close(_))) | None => return Ok(()),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(error.into()),
                    }
                }
                () = self.outbox.changed.notified() => {
                    for message in self.outbox.take() {
                        send(&mut sink, &message).await?;
                    }
                }
                Some(message) = others.recv() => send(&mut sink, &message).await?,
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        bail!("nothing was heard for {SILENCE:?}");
                    }
                    send(&mut sink, &NodeMessage::Ping).await?;
                }
            }
        }
    }

    fn receive(&self, agent: &Arc<Agent>, text: &str) -> Result<()> {
        match serde_json::from_str(text).context("the server speaks another protocol")? {
            ServerMessage::Pong => {}
            ServerMessage::Objects { full, changes, pod_network, .. } => {
                if let Some(pods) = pod_network {
                    agent.network.learn(pods);
                }
                agent.clone().assign(full, changes);
            }
            ServerMessage::Token { id, outcome } => agent.tokens.answered(&id, outcome),
            ServerMessage::OpenStream { id, request } => {
                let (agent, dialer, outbox) = (agent.clone(), self.dialer.clone(), self.outbox.clone());
                tokio::spawn(async move {
                    if let Err(error) = crate::streams::serve(&agent, &dialer, &id, request).await {
                        let message = format!("{error:#}");
                        tracing::debug!(stream = %id, error = %message, "a stream failed");
                        let code = if error.is::<crate::streams::Refused>() { 400 } else { 500 };
                        outbox.send(NodeMessage::StreamFailed { id, code, message });
                    }
                });
            }
        }
        Ok(())
    }
}

async fn send(
    sink: &mut (impl SinkExt<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin),
    message: &NodeMessage,
) -> Result<()> {
    let text = serde_json::to_string(message)?;
    tokio::time::timeout(SILENCE, sink.send(Message::text(text)))
        .await
        .context("the server does not read")??;
    Ok(())
}
