//! The messages between server and agent.
//!
//! The agent dials `GET /node/v1/connect` (WebSocket, text frames of JSON) with its node credential and sends
//! [`NodeMessage`]s; the server answers with [`ServerMessage`]s. Byte streams (logs, exec, attach, port-forward) do not
//! share that connection: the server asks for one with [`ServerMessage::OpenStream`], and the agent dials
//! `GET /node/v1/streams/{id}` for it alone, so that TCP's own back-pressure holds each stream apart from the others.
pub mod needs;
pub mod status;

use pilothouse_api::Ipv4Cidr;
use pilothouse_api::metrics::NodeUsage;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const CONNECT_PATH: &str = "/node/v1/connect";
pub const STREAM_PATH: &str = "/node/v1/streams";
/// Sent as the WebSocket subprotocol; a server that does not know it refuses the connection.
pub const PROTOCOL: &str = "v1.node.pilothouse.io";

/// Server to agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", content = "body")]
pub enum ServerMessage {
    /// What this node needs to know: its own Node, the pods bound to it, the ConfigMaps, Secrets and PersistentVolume(Claim)s
    /// those pods lead to, the PersistentVolumes it is to make or to remove, the VolumeAttachments to it, and every Service, EndpointSlice
    /// and CSIDriver. The first message is the `full` set; what it does not
    /// list is gone. Later ones are changes.
    #[serde(rename_all = "camelCase")]
    Objects {
        full: bool,
        revision: u64,
        changes: Vec<ObjectChange>,
        /// The addresses of all pods of the cluster; a full set names them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod_network: Option<Ipv4Cidr>,
    },
    /// Dial [`STREAM_PATH`]`/{id}` and serve `request` there.
    #[serde(rename_all = "camelCase")]
    OpenStream { id: String, request: StreamRequest },
    /// Answers [`NodeMessage::TokenRequest`]: the token, or why there is none.
    #[serde(rename_all = "camelCase")]
    Token { id: String, outcome: Result<IssuedToken, String> },
    /// Answers [`NodeMessage::Ping`].
    Pong,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectChange {
    /// `pods`, `services`, `endpointslices.discovery.k8s.io`, `configmaps`, `secrets`, `nodes`, `persistentvolumeclaims`,
    /// `persistentvolumes`, `volumeattachments.storage.k8s.io`, `csidrivers.storage.k8s.io`.
    pub resource: Arc<str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// None: the object is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<RawValue>>,
}

/// Agent to server. Everything about a pod carries its UID: a status for an earlier pod of the same name is dropped by
/// the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", content = "body")]
pub enum NodeMessage {
    /// The first message: the Node object as the agent would create it (name, labels, taints, `status` with capacity,
    /// addresses, nodeInfo, conditions).
    Register { node: Value },
    /// The Node's `status`, on change and every few minutes.
    NodeStatus { status: Value },
    /// Renews the node's Lease. Every 10 s.
    Ping,
    /// What the node and its containers use. Every 10 s; only the newest counts.
    Usage(NodeUsage),
    /// The pod's whole `status`.
    PodStatus { namespace: Arc<str>, name: Arc<str>, uid: Arc<str>, status: Value },
    /// All containers of a pod with a deletion timestamp have ended and its resources are released: remove the object.
    PodTerminated { namespace: Arc<str>, name: Arc<str>, uid: Arc<str> },
    /// What a PersistentVolume stands for was made, or removed, as `storage::duty_of` asks of the node; or why not.
    #[serde(rename_all = "camelCase")]
    VolumeDone { name: Arc<str>, uid: Arc<str>, is_removed: bool, outcome: Result<(), String> },
    /// A storage driver registered on the node: its entry in the CSINode, and the labels that tell where the node is. None: it left.
    StorageDriver { name: Arc<str>, driver: Option<Value>, topology: BTreeMap<String, String> },
    /// The volume of a pod's claim is as large here as the PersistentVolume says, or why not.
    #[serde(rename_all = "camelCase")]
    VolumeExpanded {
        pod: PodRef,
        claim: Arc<str>,
        claim_uid: Arc<str>,
        /// A quantity.
        capacity: Arc<str>,
        outcome: Result<(), String>,
    },
    /// Shows a pod that the node itself brings (a static pod), under an annotation that names its UID there.
    Mirror { pod: Value },
    /// A core/v1 Event about a pod or the node, without metadata: `involvedObject`, `reason`, `message`, `type`,
    /// `source`. The server fills in name and times, and counts repeats.
    Event { namespace: Arc<str>, event: Value },
    /// A token of the pod's service account, bound to the pod. No audiences: for the API itself.
    #[serde(rename_all = "camelCase")]
    TokenRequest { id: String, pod: PodRef, audiences: Vec<String>, expiration_seconds: i64 },
    /// The stream cannot be served: no such container, not running.
    StreamFailed { id: String, code: u16, message: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    pub token: String,
    /// RFC 3339.
    pub expires_at: String,
}

/// A frame that ends one direction of a port-forward.
pub const END_OF_INPUT: &[u8] = &[];

/// What a stream is for. Pods are named with their UID.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum StreamRequest {
    /// Binary frames without channel byte: the log's bytes. Ends when the log ends or the reader leaves.
    #[serde(rename_all = "camelCase")]
    Logs { pod: PodRef, container: String, options: LogOptions },
    /// Frames of `v5.channel.k8s.io`, just as the client speaks them; see [`channel`].
    #[serde(rename_all = "camelCase")]
    Exec {
        pod: PodRef,
        container: String,
        command: Vec<String>,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        tty: bool,
    },
    #[serde(rename_all = "camelCase")]
    Attach { pod: PodRef, container: String, stdin: bool, stdout: bool, stderr: bool, tty: bool },
    /// Binary frames without channel byte: the bytes of one TCP connection to `port` inside the pod. Each side's
    /// [`END_OF_INPUT`] says that no more will come from it, while the other may go on.
    #[serde(rename_all = "camelCase")]
    PortForward { pod: PodRef, port: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

/// `PodLogOptions` of core/v1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since_seconds: Option<i64>,
    /// RFC 3339.
    pub since_time: Option<String>,
    pub tail_lines: Option<i64>,
    pub limit_bytes: Option<i64>,
}

/// The first byte of each frame of an exec or attach stream (Kubernetes' `v5.channel.k8s.io`).
pub mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    /// A `Status` as JSON: how the process ended.
    pub const ERROR: u8 = 3;
    /// `{"Width":…,"Height":…}`.
    pub const RESIZE: u8 = 4;
    /// Followed by the number of the channel that ended.
    pub const CLOSE: u8 = 255;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_cross_the_line_as_they_are() {
        let object = r#"{"metadata":{"name":"a"},"n":1.50}"#;
        let change = ObjectChange {
            resource: "pods".into(),
            namespace: "b".into(),
            name: "a".into(),
            object: RawValue::from_string(object.to_owned()).ok(),
        };
        let full =
            ServerMessage::Objects { full: true, revision: 7, changes: vec![change], pod_network: None };
        let sent = serde_json::to_string(&full).unwrap();
        match serde_json::from_str(&sent).unwrap() {
            ServerMessage::Objects { full: true, revision: 7, changes, .. } => {
                assert_eq!(changes[0].object.as_ref().unwrap().get(), object);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            serde_json::from_str(&serde_json::to_string(&ServerMessage::Pong).unwrap()).unwrap(),
            ServerMessage::Pong
        ));
    }
}
