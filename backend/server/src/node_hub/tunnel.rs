//! A port of a pod as a stream of bytes, over its node's line.
use super::{Hub, NodeStream};
use axum::extract::ws::Message;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use pilothouse_api::Status;
use pilothouse_protocol::{END_OF_INPUT, PodRef, StreamRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What may be under way between the two sides.
const BUFFER: usize = 64 * 1024;

impl Hub {
    pub async fn tunnel(&self, node: &str, pod: PodRef, port: u16) -> Result<DuplexStream, Status> {
        let stream = self.open(node, StreamRequest::PortForward { pod, port }).await?;
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        tokio::spawn(pump(theirs, stream));
        Ok(ours)
    }
}

/// Joins the request's side with the node's until one of them is gone.
async fn pump(side: DuplexStream, node: NodeStream) {
    let (mut reader, mut writer) = tokio::io::split(side);
    let (mut to_node, mut from_node) = node.split();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length) = reader.read(&mut buffer).await {
            // Empty at the end, which is how the end is told.
            let frame = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
            if to_node.send(frame).await.is_err() || length == 0 {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let down = async {
        while let Some(Ok(message)) = from_node.next().await {
            match message {
                Message::Binary(bytes) if bytes == END_OF_INPUT => break,
                Message::Binary(bytes) => {
                    if writer.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! { () = up => {}, () = down => {} }
}
