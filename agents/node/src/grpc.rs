//! Unary gRPC calls over HTTP/2 ("gRPC over HTTP2", version 1): what probes ask of services and the node of its drivers.
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// What is read of an answer at most: gRPC's own default.
const READ_LIMIT: usize = 4 << 20;
/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
pub const UNKNOWN: u32 = 2;
pub const NOT_FOUND: u32 = 5;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;

/// How a call failed: gRPC's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", name(*code))]
pub struct Fault {
    pub code: u32,
    pub message: String,
}

fn name(code: u32) -> &'static str {
    let names = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(code).ok().and_then(|code| names.get(code)).unwrap_or(&"Unknown")
}

/// Whom is asked for what.
pub struct Call<'a> {
    /// `host:port`, or `localhost` over a socket.
    pub authority: &'a str,
    /// `/package.Service/Method`.
    pub method: &'a str,
    pub user_agent: &'a str,
    /// How long the answer may take. The service is told.
    pub timeout: Duration,
}

/// One call over a connection of its own.
pub async fn call<A: Message + Default>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    call: &Call<'_>,
    request: &impl Message,
) -> Result<A, Fault> {
    match tokio::time::timeout(call.timeout, exchange(stream, call, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault { code: DEADLINE_EXCEEDED, message: "context deadline exceeded".into() }),
    }
}

async fn exchange<A: Message + Default>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    call: &Call<'_>,
    request: &impl Message,
) -> Result<A, Fault> {
    let broken = |error: &dyn std::fmt::Display| Fault { code: UNAVAILABLE, message: error.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{}{}", call.authority, call.method))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", call.user_agent)
        .header("grpc-timeout", format!("{}m", call.timeout.as_millis()))
        .body(Full::new(framed(request)))
        .map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, READ_LIMIT).collect().await.map_err(|error| broken(&error))?;
    connection.abort();
    let status = body.trailers().and_then(status).or_else(|| status(&head.headers));
    let status = status.unwrap_or_else(|| Fault {
        code: UNKNOWN,
        message: format!("the answer has no status (HTTP {})", head.status.as_u16()),
    });
    if status.code != 0 {
        return Err(status);
    }
    let bytes = body.to_bytes();
    let malformed = |why: String| Fault { code: UNKNOWN, message: format!("the answer is malformed: {why}") };
    match bytes.first() {
        Some(0) if bytes.len() >= PREFIX => {
            A::decode(bytes.slice(PREFIX..)).map_err(|error| malformed(error.to_string()))
        }
        Some(1) => Err(malformed("it is compressed".into())),
        _ => Err(malformed("it is cut off".into())),
    }
}

/// A message as it is sent: not compressed.
pub fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

fn status(headers: &HeaderMap) -> Option<Fault> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").map(|value| unescaped(value.as_bytes())).unwrap_or_default();
    Some(Fault { code, message })
}

/// Percent signs stand for bytes outside of printable ASCII.
fn unescaped(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Words {
        #[prost(string, tag = "1")]
        text: String,
    }

    #[test]
    fn messages_are_framed_with_their_length() {
        assert_eq!(framed(&Words::default())[..], [0, 0, 0, 0, 0]);
        assert_eq!(framed(&Words { text: "ab".into() })[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }

    #[test]
    fn a_status_is_told_in_its_own_words() {
        let headers = HeaderMap::from_iter(
            [("grpc-status", "13"), ("grpc-message", "disk%20is%3a caf%C3%A9 100%")]
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())),
        );
        let fault = status(&headers).unwrap();
        assert_eq!(fault.to_string(), "rpc error: code = Internal desc = disk is: café 100%");
        assert_eq!(status(&HeaderMap::new()), None);
    }
}
