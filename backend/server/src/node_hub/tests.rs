//! The hub as agents meet it: real WebSockets on the loopback.
use super::*;
use crate::auth::Claims;
use crate::objects::WriteOptions;
use crate::{ClusterNetwork, ClusterStore, build, routes};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

type Agent = WebSocketStream<TcpStream>;

struct Server {
    app: AppState,
    address: String,
}

async fn server() -> Server {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let (app, followers) =
        build(ClusterStore::memory(), pem.as_bytes(), ClusterNetwork::default(), "").unwrap();
    followers.into_iter().for_each(|follower| drop(tokio::spawn(follower)));
    crate::auth::bootstrap::run(&app, None).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = routes::router(app.clone(), CancellationToken::new());
    tokio::spawn(async move { axum::serve(listener, router).await });
    tokio::spawn(app.hub.clone().run(CancellationToken::new()));
    Server { app, address }
}

impl Server {
    async fn dial(&self, node: &str, path: &str) -> Result<Agent, tungstenite::Error> {
        let claims = Claims::new(&format!("system:node:{node}"), &["system:nodes"], 600);
        let token = self.app.auth.issue(&claims).unwrap();
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
        let tcp = TcpStream::connect(&self.address).await.unwrap();
        tokio_tungstenite::client_async(request, tcp).await.map(|(socket, _)| socket)
    }

    /// An agent that has its full set.
    async fn join(&self, node: &str) -> Agent {
        loop {
            let mut agent = self.dial(node, pilothouse_protocol::CONNECT_PATH).await.unwrap();
            let object =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": {}});
            say(&mut agent, &NodeMessage::Register { node: object }).await;
            if let Some(ServerMessage::Objects { full, .. }) = hear(&mut agent).await {
                assert!(full);
                return agent;
            }
        }
    }
}

async fn say(agent: &mut Agent, message: &NodeMessage) {
    agent.send(tungstenite::Message::text(serde_json::to_string(message).unwrap())).await.unwrap();
}

/// The next message; None when the line has ended.
async fn hear(agent: &mut Agent) -> Option<ServerMessage> {
    loop {
        let frame = tokio::time::timeout(Duration::from_secs(20), agent.next())
            .await
            .expect("the line goes on in silence");
        match frame {
            Some(Ok(tungstenite::Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(tungstenite::Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

#[test]
fn a_node_is_told_nothing_before_the_store_was_read() {
    let mut told = false;
    assert!(!Assignments::new(pilothouse_api::PodNetwork::DEFAULT_CIDR).with_full("n1", |_| told = true));
    assert!(!told);
}

#[tokio::test]
async fn a_node_that_reads_too_slowly_loses_its_line_and_starts_over() {
    let server = server().await;
    let mut slow = server.join("n1").await;
    // Nothing else runs meanwhile, so the queue fills up.
    for _ in 0..QUEUE * 2 {
        server.app.hub.tell(To::Node("n1"), &ServerMessage::Pong);
    }
    assert!(!server.app.hub.is_connected("n1"));
    while hear(&mut slow).await.is_some() {}
    server.join("n1").await;
    assert!(server.app.hub.is_connected("n1"));
}

#[tokio::test]
async fn a_node_learns_the_addresses_of_all_pods_first() {
    let server = server().await;
    let mut agent = server.dial("n1", pilothouse_protocol::CONNECT_PATH).await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {}});
    say(&mut agent, &NodeMessage::Register { node }).await;
    let first = hear(&mut agent).await;
    let Some(ServerMessage::Objects { pod_network, .. }) = first else { panic!("{first:?}") };
    assert_eq!(pod_network, Some(ClusterNetwork::default().pods.cidr()));
}

#[tokio::test]
async fn the_lease_of_a_node_names_its_node_as_owner() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    settle(&mut agent, &NodeMessage::Ping).await;
    let (lease, node) =
        (server.get("leases.coordination.k8s.io", "kube-node-lease", "n1"), server.get("nodes", "", "n1"));
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"]});
    assert_eq!(lease["metadata"]["ownerReferences"], json!([owner]));
}

#[tokio::test]
async fn a_new_line_of_a_node_ends_the_one_before() {
    let server = server().await;
    let mut first = server.join("n1").await;
    let mut second = server.join("n1").await;
    while hear(&mut first).await.is_some() {}
    assert!(server.app.hub.is_connected("n1"));
    say(&mut second, &NodeMessage::Ping).await;
    while !matches!(hear(&mut second).await.unwrap(), ServerMessage::Pong) {}
}

#[tokio::test]
async fn a_stream_is_for_the_node_that_was_asked_and_only_once() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    let pod = pilothouse_protocol::PodRef { namespace: "default".into(), name: "a".into(), uid: "1".into() };
    let hub = server.app.hub.clone();
    let asking =
        tokio::spawn(async move { hub.open("n1", StreamRequest::PortForward { pod, port: 80 }).await });
    let id = loop {
        if let ServerMessage::OpenStream { id, .. } = hear(&mut agent).await.unwrap() {
            break id;
        }
    };
    let path = format!("{}/{id}", pilothouse_protocol::STREAM_PATH);
    assert!(server.dial("n2", &path).await.is_err());
    let mut stream = server.dial("n1", &path).await.unwrap();
    let mut server_end = asking.await.unwrap().unwrap();
    assert!(server.dial("n1", &path).await.is_err());
    stream.send(tungstenite::Message::binary(b"hi".to_vec())).await.unwrap();
    assert!(matches!(server_end.next().await, Some(Ok(Message::Binary(bytes))) if &bytes[..] == b"hi"));
}

#[tokio::test]
async fn a_status_of_an_earlier_or_foreign_pod_changes_nothing() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    let objects = &server.app.objects;
    let entry = objects.registry().by_resource("pods").cloned().unwrap();
    let actor = Actor::system("test");
    let mut uids = Vec::new();
    for (name, node) in [("mine", "n1"), ("foreign", "n2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        let made = objects.create(&actor, &entry, "default", pod, &WriteOptions::default()).await.unwrap();
        uids.push(made.uid.clone());
    }
    let status = |name: &str, uid: &str| NodeMessage::PodStatus {
        namespace: "default".into(),
        name: name.into(),
        uid: uid.into(),
        status: json!({"phase": "Running"}),
    };
    let phase = |name: &str| {
        objects.store().get(&pilothouse_api::Key::new("pods", "default", name)).unwrap().value()["status"]["phase"].clone()
    };
    say(&mut agent, &status("mine", "another-uid")).await;
    say(&mut agent, &status("foreign", &uids[1])).await;
    say(&mut agent, &status("nobody", "x")).await;
    say(
        &mut agent,
        &NodeMessage::PodTerminated {
            namespace: "default".into(),
            name: "foreign".into(),
            uid: uids[1].clone(),
        },
    )
    .await;
    say(&mut agent, &NodeMessage::Ping).await;
    while !matches!(hear(&mut agent).await.unwrap(), ServerMessage::Pong) {}
    assert_ne!(phase("mine"), "Running");
    say(&mut agent, &status("mine", &uids[0])).await;
    until(|| phase("mine") == "Running").await;
    assert_ne!(phase("foreign"), "Running");
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it comes to be so");
}

/// Sends and waits until the server has dealt with it.
async fn settle(agent: &mut Agent, message: &NodeMessage) {
    say(agent, message).await;
    say(agent, &NodeMessage::Ping).await;
    while !matches!(hear(agent).await.expect("the line goes on"), ServerMessage::Pong) {}
}

impl Server {
    async fn make(&self, resource: &str, namespace: &str, object: serde_json::Value) -> String {
        let entry = self.app.objects.registry().by_resource(resource).cloned().unwrap();
        let actor = Actor::system("test");
        let options = WriteOptions::default();
        self.app.objects.create(&actor, &entry, namespace, object, &options).await.unwrap().uid.to_string()
    }

    async fn pod(&self, name: &str, node: &str) -> String {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        self.make("pods", "default", pod).await
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> serde_json::Value {
        let found = self.app.store.get(&pilothouse_api::Key::new(resource, namespace, name));
        found.map(|found| found.value()).unwrap_or_default()
    }
}

#[tokio::test]
async fn what_is_malformed_is_dropped_and_the_line_goes_on() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    let uid = server.pod("a", "n1").await;
    let statuses = [
        json!("text"),
        json!([1]),
        json!({"conditions": "text"}),
        json!({"conditions": ["text"]}),
        json!(null),
    ];
    for status in statuses {
        let message = NodeMessage::PodStatus {
            namespace: "default".into(),
            name: "a".into(),
            uid: uid.as_str().into(),
            status: status.clone(),
        };
        settle(&mut agent, &message).await;
        settle(&mut agent, &NodeMessage::NodeStatus { status: status.clone() }).await;
        settle(&mut agent, &NodeMessage::Event { namespace: "default".into(), event: status }).await;
    }
    assert_eq!(server.get("pods", "default", "a")["status"]["phase"], "Pending");
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    settle(&mut agent, &NodeMessage::NodeStatus { status }).await;
    assert_eq!(server.get("nodes", "", "n1")["status"]["conditions"][0]["type"], "Ready");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_for_a_stream_along() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    let pod = pilothouse_protocol::PodRef { namespace: "default".into(), name: "a".into(), uid: "1".into() };
    let hub = server.app.hub.clone();
    let asking =
        tokio::spawn(async move { hub.open("n1", StreamRequest::PortForward { pod, port: 80 }).await });
    while !matches!(hear(&mut agent).await.unwrap(), ServerMessage::OpenStream { .. }) {}
    assert_eq!(server.app.hub.0.streams.lock().len(), 1);
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert!(server.app.hub.0.streams.lock().is_empty());
}

#[tokio::test]
async fn a_streams_failure_keeps_its_code() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    for (sent, expected) in [(404, 404), (400, 400), (500, 500)] {
        let pod =
            pilothouse_protocol::PodRef { namespace: "default".into(), name: "a".into(), uid: "1".into() };
        let hub = server.app.hub.clone();
        let asking =
            tokio::spawn(async move { hub.open("n1", StreamRequest::PortForward { pod, port: 80 }).await });
        let id = loop {
            if let ServerMessage::OpenStream { id, .. } = hear(&mut agent).await.unwrap() {
                break id;
            }
        };
        say(&mut agent, &NodeMessage::StreamFailed { id, code: sent, message: "no".into() }).await;
        let status = asking.await.unwrap().err().unwrap();
        assert_eq!(status.code(), expected, "{}", status.message);
    }
}

#[tokio::test]
async fn a_pods_token_is_its_service_accounts_and_only_its_node_gets_it() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    server
        .make(
            "serviceaccounts",
            "default",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}),
        )
        .await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"nodeName": "n1", "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]}});
    let uid = server.make("pods", "default", pod).await;
    let foreign = server.pod("b", "n2").await;
    let mut ask = async |name: &str, uid: &str| {
        let pod =
            pilothouse_protocol::PodRef { namespace: "default".into(), name: name.into(), uid: uid.into() };
        let request = NodeMessage::TokenRequest {
            id: "1".into(),
            pod,
            audiences: Vec::new(),
            expiration_seconds: 3607,
        };
        say(&mut agent, &request).await;
        loop {
            if let ServerMessage::Token { outcome, .. } = hear(&mut agent).await.unwrap() {
                return outcome;
            }
        }
    };
    let issued = ask("a", &uid).await.unwrap();
    let who = server.app.auth.authenticate_token(&issued.token, &[crate::auth::tokens::ISSUER]).unwrap();
    assert_eq!(who.user, "system:serviceaccount:default:robot");
    assert_eq!(who.extra["authentication.kubernetes.io/pod-name"], ["a"]);
    assert!(issued.expires_at.parse::<pilothouse_api::jiff::Timestamp>().is_ok());
    assert!(ask("b", &foreign).await.is_err() && ask("a", "another").await.is_err());
}

#[tokio::test]
async fn a_node_cannot_give_itself_labels_that_isolate_others() {
    let server = server().await;
    let mut agent = server.dial("n1", pilothouse_protocol::CONNECT_PATH).await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "status": {},
        "metadata": {"name": "n1", "labels": {"node-restriction.kubernetes.io/team": "a"}}});
    say(&mut agent, &NodeMessage::Register { node }).await;
    while hear(&mut agent).await.is_some() {}
    assert!(server.get("nodes", "", "n1").is_null());
}

#[tokio::test]
async fn a_node_writes_events_about_its_own_only() {
    let server = server().await;
    let mut agent = server.join("n1").await;
    for (name, node) in [("mine", "n1"), ("foreign", "n2")] {
        let uid = server.pod(name, node).await;
        let about = json!({"kind": "Pod", "namespace": "default", "name": name, "uid": uid});
        let event = json!({"involvedObject": about, "type": "Normal", "reason": "Started", "message": "m"});
        settle(&mut agent, &NodeMessage::Event { namespace: "default".into(), event }).await;
    }
    let written = || -> Vec<String> {
        let (_, all) = server.app.store.everything();
        let events = all.iter().filter(|object| &*object.key.resource == "events");
        events
            .map(|event| event.value()["involvedObject"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    until(|| !written().is_empty()).await;
    assert_eq!(written(), ["mine"]);
}

#[tokio::test]
async fn a_volume_is_offered_once_its_node_has_made_it_and_not_when_another_says_so() {
    use pilothouse_api::storage::{DUTY, DUTY_FINALIZER, VOLUMES};
    let server = server().await;
    let (mut maker, mut other) = (server.join("n1").await, server.join("n2").await);
    let objects = &server.app.objects;
    let entry = objects.registry().by_resource(VOLUMES).cloned().unwrap();
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "pvc-1", "annotations": {DUTY: "n1"}, "finalizers": [DUTY_FINALIZER]},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Delete",
            "nfs": {"server": "s", "path": "/x"}}});
    let made =
        objects.create(&Actor::system("test"), &entry, "", volume, &WriteOptions::default()).await.unwrap();
    let told = loop {
        match hear(&mut maker).await.unwrap() {
            ServerMessage::Objects { changes, .. } if changes.iter().any(|c| &*c.resource == VOLUMES) => {
                break changes;
            }
            _ => {}
        }
    };
    assert_eq!(&*told[0].name, "pvc-1");
    let done = |uid: &str, is_removed: bool| NodeMessage::VolumeDone {
        name: "pvc-1".into(),
        uid: uid.into(),
        is_removed,
        outcome: Ok(()),
    };
    say(&mut other, &done(&made.uid, false)).await;
    say(&mut other, &NodeMessage::Ping).await;
    while !matches!(hear(&mut other).await.unwrap(), ServerMessage::Pong) {}
    for wrong in [done("another", false), done(&made.uid, true)] {
        say(&mut maker, &wrong).await;
    }
    say(&mut maker, &NodeMessage::Ping).await;
    while !matches!(hear(&mut maker).await.unwrap(), ServerMessage::Pong) {}
    let key = pilothouse_api::Key::new(VOLUMES, "", "pvc-1");
    let phase = |server: &Server| server.app.store.get(&key).unwrap().value()["status"]["phase"].clone();
    assert_eq!(phase(&server), "Pending");
    say(&mut maker, &done(&made.uid, false)).await;
    say(&mut maker, &NodeMessage::Ping).await;
    while !matches!(hear(&mut maker).await.unwrap(), ServerMessage::Pong) {}
    assert_eq!(phase(&server), "Available");
}
