//! Logs, exec, attach and port-forward: each on a connection of its own, so that TCP holds a slow reader's stream back and
//! no other.
use crate::connection::{Dialer, Socket};
use crate::network::namespace;
use crate::pod_worker::Agent;
use crate::runtime::{Container, State};
use anyhow::{Context, Result, bail};
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, LogsOptionsBuilder, ResizeContainerTTYOptionsBuilder,
    ResizeExecOptionsBuilder,
};
use futures::{SinkExt, Stream, StreamExt};
use pilothouse_api::jiff::Timestamp;
use pilothouse_protocol::{LogOptions, PodRef, StreamRequest, channel};
use serde_json::{Value, json};
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

/// A request that cannot be served as the pod is now: the client's error, not ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

pub async fn serve(agent: &Agent, dialer: &Dialer, id: &str, request: StreamRequest) -> Result<()> {
    match request {
        StreamRequest::Logs { pod, container, options } => {
            let found = find(agent, &pod, &container, options.previous).await?;
            logs(agent, dialer.stream(id).await?, &found, options).await
        }
        StreamRequest::Exec { pod, container, command, stdin, stdout, stderr, tty } => {
            let found = running(agent, &pod, &container).await?;
            let options = CreateExecOptions {
                cmd: Some(command),
                attach_stdin: Some(stdin),
                attach_stdout: Some(stdout),
                attach_stderr: Some(stderr && !tty),
                tty: Some(tty),
                ..CreateExecOptions::default()
            };
            let client = &agent.runtime.client;
            let exec = client.create_exec(&found.id, options).await?.id;
            let start = StartExecOptions { detach: false, tty, output_capacity: None };
            let StartExecResults::Attached { output, input } = client.start_exec(&exec, Some(start)).await?
            else {
                bail!("the process was detached");
            };
            let resize = |width: u16, height: u16| {
                let options = ResizeExecOptionsBuilder::default().w(width.into()).h(height.into()).build();
                let (client, exec) = (client.clone(), exec.clone());
                tokio::spawn(async move { client.resize_exec(&exec, options).await });
            };
            let mut socket = dialer.stream(id).await?;
            let mapped = output.map(|part| part.map_err(anyhow::Error::from));
            if !pump(&mut socket, mapped, stdin.then_some(input), resize).await? {
                return Ok(());
            }
            let code = exit_code(client, &exec).await?;
            finish(socket, &exit_status(code)).await
        }
        StreamRequest::Attach { pod, container, stdin, stdout, stderr, .. } => {
            let found = running(agent, &pod, &container).await?;
            let options = AttachContainerOptionsBuilder::default()
                .stdin(stdin)
                .stdout(stdout)
                .stderr(stderr)
                .stream(true)
                .build();
            let AttachContainerResults { output, input } =
                agent.runtime.client.attach_container(&found.id, Some(options)).await?;
            let mut socket = dialer.stream(id).await?;
            let mapped = output.map(|part| part.map_err(anyhow::Error::from));
            let resize = |width: u16, height: u16| {
                let options =
                    ResizeContainerTTYOptionsBuilder::default().w(width.into()).h(height.into()).build();
                let (client, id) = (agent.runtime.client.clone(), found.id.clone());
                tokio::spawn(async move { client.resize_container_tty(&id, options).await });
            };
            if !pump(&mut socket, mapped, stdin.then_some(input), resize).await? {
                return Ok(());
            }
            finish(socket, &exit_status(0)).await
        }
        StreamRequest::PortForward { pod, port } => {
            let observed = agent.runtime.observe(&agent.uid_here(&pod)).await?;
            let pid =
                observed.sandbox.filter(|s| s.state == State::Running).context("the pod is not running")?.pid;
            let stream = connect_inside(pid, port)
                .await
                .with_context(|| format!("port {port} of the pod does not answer"))?;
            forward(dialer.stream(id).await?, stream).await
        }
    }
}

async fn find(agent: &Agent, pod: &PodRef, container: &str, previous: bool) -> Result<Container> {
    let observed = agent.runtime.observe(&agent.uid_here(pod)).await?;
    let found = if previous { observed.previous(container) } else { observed.latest(container) };
    let why = match previous {
        true => format!("previous terminated container {container:?} in pod {:?} not found", &*pod.name),
        false => {
            format!("container {container:?} in pod {:?} is waiting to start: ContainerCreating", &*pod.name)
        }
    };
    Ok(found.cloned().ok_or(Refused(why))?)
}

async fn running(agent: &Agent, pod: &PodRef, container: &str) -> Result<Container> {
    let found = find(agent, pod, container, false).await?;
    if found.state != State::Running {
        return Err(Refused(format!("container {container:?} in pod {:?} is not running", &*pod.name)).into());
    }
    Ok(found)
}

/// How a process ended. Its output can end a moment before the runtime knows.
async fn exit_code(client: &bollard::Docker, exec: &str) -> Result<i64> {
    for pause_milliseconds in [0, 5, 20, 100, 500, 2000] {
        tokio::time::sleep(std::time::Duration::from_millis(pause_milliseconds)).await;
        let inspected = client.inspect_exec(exec).await?;
        if let (Some(code), Some(false) | None) = (inspected.exit_code, inspected.running) {
            return Ok(code);
        }
    }
    bail!("the process closed its output, but goes on")
}

async fn logs(agent: &Agent, mut socket: Socket, container: &Container, options: LogOptions) -> Result<()> {
    let since = options.since_time.and_then(|t| t.parse::<Timestamp>().ok()).map(|t| t.as_second());
    let since = since.or(options.since_seconds.map(|s| Timestamp::now().as_second() - s)).unwrap_or(0);
    let tail = options.tail_lines.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let query = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(options.follow && container.state == State::Running)
        .timestamps(options.timestamps)
        .since(i32::try_from(since.max(0)).unwrap_or(i32::MAX))
        .tail(&tail)
        .build();
    let mut left = options.limit_bytes.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
    let mut lines = std::pin::pin!(agent.runtime.client.logs(&container.id, Some(query)));
    loop {
        tokio::select! {
            part = lines.next() => {
                let Some(part) = part else { break };
                let mut bytes = part?.into_bytes();
                bytes.truncate(left);
                left -= bytes.len();
                socket.send(Message::binary(bytes)).await?;
                if left == 0 {
                    break;
                }
            }
            // The reader says nothing; when it leaves, so do we.
            frame = socket.next() => if !matches!(frame, Some(Ok(Message::Ping(_) | Message::Pong(_)))) {
                return Ok(());
            }
        }
    }
    socket.close(None).await?;
    Ok(())
}

/// Carries output and input until the process ends. False: the client left. The two directions do not wait for each other:
/// a process that reads nothing until its output is read would stand still for ever.
async fn pump(
    socket: &mut Socket,
    mut output: impl Stream<Item = Result<LogOutput>> + Unpin,
    mut input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    resize: impl Fn(u16, u16),
) -> Result<bool> {
    let (mut sink, mut frames) = socket.split();
    let outgoing = async {
        while let Some(part) = output.next().await {
            let (number, bytes) = match part? {
                LogOutput::StdErr { message } => (channel::STDERR, message),
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message } => (channel::STDOUT, message),
            };
            let mut frame = Vec::with_capacity(bytes.len() + 1);
            frame.push(number);
            frame.extend_from_slice(&bytes);
            sink.send(Message::binary(frame)).await?;
        }
        Ok(true)
    };
    let incoming = async {
        loop {
            match frames.next().await {
                Some(Ok(Message::Binary(bytes))) => receive(&bytes, &mut input, &resize).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(false),
            }
        }
    };
    tokio::select! {
        ended = outgoing => ended,
        left = incoming => left,
    }
}

/// One frame of the client's.
async fn receive(
    bytes: &[u8],
    input: &mut Option<Pin<Box<dyn AsyncWrite + Send>>>,
    resize: &impl Fn(u16, u16),
) {
    match bytes.split_first() {
        Some((&channel::STDIN, data)) => {
            if let Some(stdin) = input {
                // A process that does not read its input is no error of the stream.
                let _ = stdin.write_all(data).await;
                let _ = stdin.flush().await;
            }
        }
        Some((&channel::RESIZE, size)) => {
            let size: Value = serde_json::from_slice(size).unwrap_or_default();
            let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
            if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
                resize(width, height);
            }
        }
        Some((&channel::CLOSE, [channel::STDIN])) => {
            if let Some(mut stdin) = input.take() {
                let _ = stdin.shutdown().await;
            }
        }
        _ => {}
    }
}

/// The `Status` that ends an exec, as `kubectl` reads exit codes from it.
fn exit_status(code: i64) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

async fn finish(mut socket: Socket, status: &Value) -> Result<()> {
    let mut frame = vec![channel::ERROR];
    frame.extend_from_slice(status.to_string().as_bytes());
    socket.send(Message::binary(frame)).await?;
    socket.close(None).await?;
    Ok(())
}

/// A connection made inside the pod's network, so that listeners on its loopback are reached too.
async fn connect_inside(pid: i64, port: u16) -> Result<tokio::net::TcpStream> {
    let connecting = move || {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let stream = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    Ok(tokio::net::TcpStream::from_std(namespace::inside(pid, connecting).await?)?)
}

/// Each side's end is told to the other, which may go on speaking.
async fn forward(socket: Socket, stream: tokio::net::TcpStream) -> Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (mut sink, mut frames) = socket.split();
    let outgoing = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            // Empty at the end, which is how the end is told.
            let length = reader.read(&mut buffer).await?;
            sink.send(Message::binary(buffer[..length].to_vec())).await?;
            if length == 0 {
                return anyhow::Ok(());
            }
        }
    };
    let incoming = async {
        loop {
            match frames.next().await {
                Some(Ok(Message::Binary(bytes))) if bytes == pilothouse_protocol::END_OF_INPUT => {
                    writer.shutdown().await?;
                    return anyhow::Ok(());
                }
                Some(Ok(Message::Binary(bytes))) => writer.write_all(&bytes).await?,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => bail!("the client left"),
            }
        }
    };
    tokio::try_join!(outgoing, incoming)?;
    sink.close().await?;
    Ok(())
}
