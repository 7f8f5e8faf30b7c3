//! A server that only says what a test tells it to, over the real protocol and TLS.
#![allow(dead_code)] // each test program uses a part of it
pub mod registry;

use futures::{SinkExt, StreamExt};
use pilothouse_node::AgentOptions;
use pilothouse_node::fault::{self, Point};
use pilothouse_node::settings::{EvictionRules, Settings};
use pilothouse_protocol::{
    CONNECT_PATH, IssuedToken, NodeMessage, ObjectChange, PROTOCOL, PodRef, ServerMessage, StreamRequest,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_util::sync::CancellationToken;

pub const IMAGE: &str = "pilothouse.example/busybox:1";
const PATIENCE: Duration = Duration::from_secs(40);

type Frames = Vec<Vec<u8>>;
type Streams = Arc<parking_lot::Mutex<HashMap<String, oneshot::Sender<Frames>>>>;

/// What the server knows; a newly connected agent gets all of it.
#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    statuses: HashMap<String, Value>,
    terminated: Vec<String>,
    registered: bool,
    /// The node's own status, told last.
    node: Value,
    /// Reason and message of every event.
    events: Vec<(String, String)>,
    tokens: u32,
    /// How long the tokens given out hold.
    token_seconds: i64,
}

pub struct FakeServer {
    name: String,
    address: std::net::SocketAddr,
    ca_pem: String,
    state: Arc<parking_lot::Mutex<State>>,
    outgoing: broadcast::Sender<ServerMessage>,
    streams: Streams,
    unread: Arc<parking_lot::Mutex<HashMap<String, oneshot::Sender<Socket>>>>,
    changed: mpsc::Receiver<()>,
    agent: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

/// Runs a test in a network namespace of its own, so that it meets no other agent's network on this machine.
pub fn run(test: impl Future<Output = ()>) {
    assert!(nix::unistd::Uid::effective().is_root(), "this test builds a network, which needs root");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// Runs `docker`; what it printed.
pub fn docker(arguments: &[&str]) -> String {
    let output =
        std::process::Command::new("docker").args(arguments).output().expect("this test needs Docker");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An image with Debian's static busybox, made once.
pub fn ensure_image() {
    docker(&["version"]);
    if std::process::Command::new("docker")
        .args(["image", "inspect", IMAGE])
        .output()
        .unwrap()
        .status
        .success()
    {
        return;
    }
    let tar = "mkdir -p bin tmp && cp /bin/busybox bin/ && for a in sh; do ln -sf busybox bin/$a; done && tar c bin tmp";
    let script = format!("set -e; d=$(mktemp -d); cd $d; {tar} | docker import - {IMAGE}; rm -r $d");
    let made = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(made.success(), "the test image could not be made: is busybox-static installed?");
}

pub async fn eventually(mut holds: impl AsyncFnMut() -> bool, what: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The answer to a GET, or nothing.
pub async fn get(address: &str) -> String {
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(Duration::from_secs(3), asking).await.ok().flatten().unwrap_or_default()
}

/// Whether a connection is refused, and not left without an answer.
pub async fn refused(address: &str) -> bool {
    let connecting =
        tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(address)).await;
    matches!(connecting, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

pub fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

pub fn reference(pod: &Value) -> PodRef {
    let text = |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap().into() };
    PodRef { namespace: text("namespace"), name: text("name"), uid: text("uid") }
}

pub fn text(frames: &[Vec<u8>]) -> String {
    String::from_utf8(frames.concat()).unwrap()
}

/// What came on one channel of an exec stream.
pub fn channel(frames: &[Vec<u8>], number: u8) -> String {
    let parts: Vec<&[u8]> = frames.iter().filter(|f| f.first() == Some(&number)).map(|f| &f[1..]).collect();
    String::from_utf8(parts.concat()).unwrap()
}

fn change(resource: &str, object: &Value, gone: bool) -> ObjectChange {
    let text = |field: &str| -> Arc<str> { object["metadata"][field].as_str().unwrap_or_default().into() };
    let raw = RawValue::from_string(object.to_string()).unwrap();
    ObjectChange {
        resource: resource.into(),
        namespace: text("namespace"),
        name: text("name"),
        object: (!gone).then_some(raw),
    }
}

impl FakeServer {
    pub async fn start(name: &str) -> Self {
        ensure_image();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let tls =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (outgoing, _) = broadcast::channel(256);
        let (tell, changed) = mpsc::channel(1024);
        let node = format!("test-{name}-{}", std::process::id());
        let server = Self {
            name: node.clone(),
            address: listener.local_addr().unwrap(),
            ca_pem: made.cert.pem(),
            state: Arc::new(parking_lot::Mutex::new(State { token_seconds: 3600, ..State::default() })),
            outgoing: outgoing.clone(),
            streams: Arc::default(),
            unread: Arc::default(),
            changed,
            agent: None,
        };
        let object =
            json!({"metadata": {"name": node}, "spec": {"podCIDR": "10.244.201.0/24"}, "status": {}});
        server.state.lock().objects.insert(("nodes".into(), node), object);
        let (state, streams, unread) = (server.state.clone(), server.streams.clone(), server.unread.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, state, streams, outgoing, tell) =
                    (acceptor.clone(), state.clone(), streams.clone(), outgoing.clone(), tell.clone());
                let unread = unread.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let mut path = String::new();
                    #[allow(clippy::result_large_err)]
                    let callback = |request: &Request, mut response: Response| {
                        path = request.uri().path().to_owned();
                        assert_eq!(request.headers()["authorization"], "Bearer secret");
                        response.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
                        Ok(response)
                    };
                    let Ok(socket) = tokio_tungstenite::accept_hdr_async(tls, callback).await else {
                        return;
                    };
                    if path == CONNECT_PATH {
                        control(socket, state, outgoing.subscribe(), tell).await;
                    } else {
                        let id = path.rsplit('/').next().unwrap_or_default().to_owned();
                        let opened = unread.lock().remove(&id);
                        match opened {
                            Some(opened) => drop(opened.send(socket)),
                            None => {
                                let done = streams.lock().remove(&id);
                                collect(socket, done).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn start_agent(&mut self) {
        self.start_agent_with(untroubled());
    }

    pub fn start_agent_with(&mut self, settings: Settings) {
        self.state.lock().registered = false;
        let (url, dir) = (format!("https://{}", self.address), std::env::temp_dir().join(&self.name));
        let options = options(url, self.ca_pem.clone(), self.name.clone(), dir, settings);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { pilothouse_node::run(options, shutdown).await.unwrap() }
        });
        self.agent = Some((shutdown, running));
    }

    pub async fn stop_agent(&mut self) {
        let (shutdown, running) = self.agent.take().unwrap();
        shutdown.cancel();
        running.await.unwrap();
        self.state.lock().statuses.clear();
    }

    /// An agent in a process of its own, which dies at a point; see [`be_the_agent`].
    pub fn agent_process(&self, dies_at: Option<Point>) -> Child {
        let mut state = self.state.lock();
        (state.registered, state.statuses) = (false, HashMap::new());
        drop(state);
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "faults::the_agent_of_the_other_tests"]).stdout(std::process::Stdio::null());
        let data_dir = std::env::temp_dir().join(&self.name);
        let told = json!({"url": format!("https://{}", self.address), "ca": self.ca_pem, "name": self.name, "dir": data_dir});
        command.env(AGENT, told.to_string());
        if let Some(point) = dies_at {
            command.env(fault::VARIABLE, point.name());
        }
        command.spawn().unwrap()
    }

    /// Waits for a status that `is_right`, or the agent's death: true.
    pub async fn until_dead_or(
        &mut self,
        agent: &mut Child,
        pod: &Value,
        is_right: impl Fn(&Value) -> bool,
    ) -> bool {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let mut died = false;
        let state = self.state.clone();
        let what = format!("the status of {uid}, or the agent's death");
        eventually(
            async || {
                died = agent.try_wait().unwrap().is_some();
                died || state.lock().statuses.get(uid).is_some_and(&is_right)
            },
            &what,
        )
        .await;
        died
    }

    pub async fn until_dead(&mut self, agent: &mut Child) {
        eventually(async || agent.try_wait().unwrap().is_some(), "the agent dies").await;
    }

    pub fn end(&self, agent: &mut Child) {
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    async fn until<T>(&mut self, what: &str, mut find: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = find(&self.state.lock()) {
                return found;
            }
            let told = tokio::time::timeout_at(deadline, self.changed.recv()).await;
            assert!(told.is_ok(), "not in time: {what}; statuses: {:#?}", self.state.lock().statuses);
        }
    }

    pub async fn registered(&mut self) {
        self.until("the agent registers", |state| state.registered.then_some(())).await;
    }

    pub fn pod(&self, name: &str, mut spec: Value) -> Value {
        spec["nodeName"] = self.name.as_str().into();
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = 1.into();
        }
        let uid = format!("{name}-{}-{}", std::process::id(), self.address.port());
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": uid}, "spec": spec, "status": {}})
    }

    pub async fn put(&self, resource: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.state.lock().objects.insert((resource.into(), name.into()), object.clone());
        let _ = self.outgoing.send(ServerMessage::Objects {
            full: false,
            revision: 1,
            changes: vec![change(resource, object, false)],
            pod_network: None,
        });
    }

    pub async fn assign(&self, pod: &Value) {
        self.put("pods", pod).await;
    }

    pub async fn service(
        &self,
        name: &str,
        ip: &str,
        port: u16,
        node_port: u16,
        endpoint: &str,
        target: u16,
    ) {
        let slice = json!({"metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "", "port": target, "protocol": "TCP"}],
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}]});
        self.put("endpointslices.discovery.k8s.io", &slice).await;
        let ports = json!([{"port": port, "protocol": "TCP", "nodePort": node_port}]);
        self.put("services", &json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": ip, "ports": ports}})).await;
    }

    pub async fn delete(&self, pod: &Value, grace_seconds: i64) {
        let mut pod = pod.clone();
        pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace_seconds.into();
        self.put("pods", &pod).await;
    }

    /// Waits for a status that `is_right`.
    pub async fn status(&mut self, pod: &Value, is_right: impl Fn(&Value) -> bool) -> Value {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        self.until(&format!("the status of {uid}"), |state| {
            state.statuses.get(uid).filter(|s| is_right(s)).cloned()
        })
        .await
    }

    /// Waits for an event with that reason, and gives its message.
    pub async fn event(&mut self, reason: &str) -> String {
        self.until(&format!("the event {reason}"), |state| {
            state.events.iter().find(|(r, _)| r == reason).map(|(_, message)| message.clone())
        })
        .await
    }

    /// Waits for a status of the node that `is_right`.
    pub async fn node_status(&mut self, is_right: impl Fn(&Value) -> bool) -> Value {
        self.until("the node's status", |state| Some(state.node.clone()).filter(|node| is_right(node))).await
    }

    pub fn give_short_tokens(&self, seconds: i64) {
        self.state.lock().token_seconds = seconds;
    }

    pub async fn terminated(&mut self, pod: &Value) {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        self.until("the pod's end", |state| state.terminated.iter().any(|t| t == uid).then_some(())).await;
        let name = pod["metadata"]["name"].as_str().unwrap();
        self.state.lock().objects.remove(&("pods".into(), name.into()));
        let _ = self.outgoing.send(ServerMessage::Objects {
            full: false,
            revision: 2,
            changes: vec![change("pods", pod, true)],
            pod_network: None,
        });
    }

    pub fn node(&self) -> &str {
        &self.name
    }

    /// Where the agent keeps what is a pod's.
    pub fn pod_dir(&self, pod: &Value) -> std::path::PathBuf {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        std::env::temp_dir().join(&self.name).join("pods").join(uid)
    }

    /// What a script in the pod's container `main` printed.
    pub async fn sh(&self, pod: &Value, script: &str) -> String {
        let script = format!(
            "PATH=/bin; for a in cat id grep df dd hostname tail touch; do alias $a=\"/bin/busybox $a\"; done\n{script}"
        );
        let request = StreamRequest::Exec {
            pod: reference(pod),
            container: "main".into(),
            command: ["/bin/busybox", "sh", "-c", &script].map(str::to_owned).to_vec(),
            stdin: false,
            stdout: true,
            stderr: true,
            tty: false,
        };
        channel(&self.stream(request).await, pilothouse_protocol::channel::STDOUT)
    }

    /// Opens a stream and reads nothing of it, as long as what is returned lives.
    pub async fn stream_unread(&self, request: StreamRequest) -> Unread {
        let (opened, socket) = oneshot::channel();
        let id = uuid::Uuid::new_v4().to_string();
        self.unread.lock().insert(id.clone(), opened);
        self.outgoing.send(ServerMessage::OpenStream { id, request }).unwrap();
        Unread(tokio::time::timeout(PATIENCE, socket).await.expect("the stream opens").unwrap())
    }

    /// Opens a stream; its binary frames until it ends.
    pub async fn stream(&self, request: StreamRequest) -> Frames {
        let (done, frames) = oneshot::channel();
        let id = uuid::Uuid::new_v4().to_string();
        self.streams.lock().insert(id.clone(), done);
        self.outgoing.send(ServerMessage::OpenStream { id, request }).unwrap();
        tokio::time::timeout(PATIENCE, frames).await.expect("the stream ends in time").unwrap()
    }
}

/// However full the disk of the machine is that runs the tests.
fn untroubled() -> Settings {
    Settings { eviction: EvictionRules::parse("", "", "", "").unwrap(), ..Settings::default() }
}

/// A stream that is there, and not read.
pub struct Unread(#[allow(dead_code)] Socket);

/// What the process of [`FakeServer::agent_process`] is told by.
const AGENT: &str = "PILOTHOUSE_TEST_AGENT";

/// In a process that was started for it: the agent, until it is killed. Else nothing.
pub fn be_the_agent() {
    let Ok(told) = std::env::var(AGENT) else { return };
    let told: Value = serde_json::from_str(&told).unwrap();
    let text = |field: &str| told[field].as_str().unwrap().to_owned();
    let options = options(text("url"), text("ca"), text("name"), text("dir").into(), untroubled());
    let running = pilothouse_node::run(options, CancellationToken::new());
    tokio::runtime::Runtime::new().unwrap().block_on(running).unwrap();
}

fn options(
    server_url: String,
    ca_pem: String,
    node_name: String,
    data_dir: PathBuf,
    settings: Settings,
) -> AgentOptions {
    let docker_host = std::env::var("DOCKER_HOST").unwrap_or("unix:///var/run/docker.sock".into());
    AgentOptions {
        server_url,
        ca_pem,
        credential: "secret".into(),
        node_name,
        data_dir,
        docker_host,
        settings,
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>;

async fn control(
    mut socket: Socket,
    state: Arc<parking_lot::Mutex<State>>,
    mut outgoing: broadcast::Receiver<ServerMessage>,
    tell: mpsc::Sender<()>,
) {
    let changes =
        state.lock().objects.iter().map(|((resource, _), object)| change(resource, object, false)).collect();
    let full = ServerMessage::Objects { full: true, revision: 1, changes, pod_network: None };
    let text = |message: &ServerMessage| Message::text(serde_json::to_string(message).unwrap());
    if socket.send(text(&full)).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            Ok(message) = outgoing.recv() => if socket.send(text(&message)).await.is_err() { return },
            frame = socket.next() => {
                let Some(Ok(frame)) = frame else { return };
                let Message::Text(frame) = frame else { continue };
                match serde_json::from_str(&frame).unwrap() {
                    NodeMessage::Register { node } => {
                        let mut state = state.lock();
                        (state.registered, state.node) = (true, node["status"].clone());
                    }
                    NodeMessage::PodStatus { uid, status, .. } => drop(state.lock().statuses.insert(uid.to_string(), status)),
                    NodeMessage::PodTerminated { uid, .. } => state.lock().terminated.push(uid.to_string()),
                    NodeMessage::Ping => drop(socket.send(text(&ServerMessage::Pong)).await),
                    NodeMessage::Mirror { pod } => state.lock().events.push(("Mirror".into(), pod["metadata"]["name"].to_string())),
                    NodeMessage::StreamFailed { message, .. } => panic!("a stream failed: {message}"),
                    NodeMessage::Event { event, .. } => {
                        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                        state.lock().events.push((text("reason"), text("message")));
                    }
                    NodeMessage::NodeStatus { status } => state.lock().node = status,
                    NodeMessage::Usage(_) => {}
                    NodeMessage::StorageDriver { .. } | NodeMessage::VolumeExpanded { .. } => {}
                    NodeMessage::VolumeDone { name, outcome, .. } => panic!("volume {name} came to {outcome:?}, unasked"),
                    NodeMessage::TokenRequest { id, pod, .. } => {
                        let (number, seconds) = {
                            let mut state = state.lock();
                            state.tokens += 1;
                            (state.tokens, state.token_seconds)
                        };
                        let until = jiff::Timestamp::now().as_second() + seconds;
                        let expires_at = jiff::Timestamp::from_second(until).unwrap().to_string();
                        let issued = IssuedToken { token: format!("token-{number}-{}", pod.name), expires_at };
                        drop(socket.send(text(&ServerMessage::Token { id, outcome: Ok(issued) })).await);
                    }
                }
                let _ = tell.try_send(());
            }
        }
    }
}

async fn collect(mut socket: Socket, done: Option<oneshot::Sender<Frames>>) {
    let mut frames = Frames::new();
    while let Some(Ok(frame)) = socket.next().await {
        if let Message::Binary(bytes) = frame {
            frames.push(bytes.to_vec());
        }
    }
    if let Some(done) = done {
        let _ = done.send(frames);
    }
}
