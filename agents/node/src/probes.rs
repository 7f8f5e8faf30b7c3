//! Probes: whether a container has started, lives, and may be sent requests.
use crate::runtime::docker::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures::StreamExt;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What probes read of an answer at most.
const READ_LIMIT: usize = 10 * 1024;

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

/// One try; the error is what the event says.
pub async fn probe(
    docker: &Docker,
    container: &Value,
    id: &str,
    pod_ip: &str,
    probe: &Value,
) -> Result<(), String> {
    let timeout = seconds(probe, "timeoutSeconds", 1).max(Duration::from_secs(1));
    let trying = async {
        if probe["exec"].is_object() {
            exec(docker, id, &probe["exec"]["command"]).await
        } else if probe["httpGet"].is_object() {
            http(container, pod_ip, &probe["httpGet"]).await
        } else if probe["tcpSocket"].is_object() {
            let socket = &probe["tcpSocket"];
            let host = socket["host"].as_str().unwrap_or(pod_ip);
            let port = port(container, &socket["port"]).ok_or("unknown port")?;
            TcpStream::connect((host, port))
                .await
                .map(drop)
                .map_err(|e| format!("dial tcp {host}:{port}: {e}"))
        } else {
            Err("this kind of probe is not supported yet".into())
        }
    };
    tokio::time::timeout(timeout, trying)
        .await
        .unwrap_or_else(|_| Err(format!("timed out after {timeout:?}")))
}

/// A number, or the name of one of the container's ports.
pub fn port(container: &Value, port: &Value) -> Option<u16> {
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
    u16::try_from(number).ok()
}

async fn http(container: &Value, pod_ip: &str, get: &Value) -> Result<(), String> {
    let host = get["host"].as_str().unwrap_or(pod_ip);
    let port = port(container, &get["port"]).ok_or("unknown port")?;
    let path = get["path"].as_str().unwrap_or("/");
    let fail = |e: std::io::Error| format!("Get \"http://{host}:{port}{path}\": {e}");
    if get["scheme"] == "HTTPS" {
        return Err("HTTPS probes are not supported yet".into());
    }
    let mut headers = String::new();
    let mut named_host = false;
    for header in get["httpHeaders"].as_array().into_iter().flatten() {
        let (name, value) =
            (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
        named_host |= name.eq_ignore_ascii_case("host");
        headers.push_str(&format!("{name}: {value}\r\n"));
    }
    if !named_host {
        headers.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    let mut stream = TcpStream::connect((host, port)).await.map_err(fail)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\n{headers}User-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(fail)?;
    let mut answer = Vec::new();
    stream.take(READ_LIMIT as u64).read_to_end(&mut answer).await.map_err(fail)?;
    let line = String::from_utf8_lossy(&answer);
    let code = line.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
    match code {
        Some(200..400) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err("the answer was not HTTP".into()),
    }
}

async fn exec(docker: &Docker, id: &str, command: &Value) -> Result<(), String> {
    let command: Vec<String> =
        command.as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)).collect();
    let options = CreateExecOptions {
        cmd: Some(command),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let client = &docker.client;
    let exec = client.create_exec(id, options).await.map_err(|e| e.to_string())?.id;
    let mut said = Vec::new();
    if let StartExecResults::Attached { mut output, .. } =
        client.start_exec(&exec, None).await.map_err(|e| e.to_string())?
    {
        while let Some(Ok(part)) = output.next().await {
            if said.len() < READ_LIMIT {
                said.extend_from_slice(&part.into_bytes());
            }
        }
    }
    match client.inspect_exec(&exec).await.map_err(|e| e.to_string())?.exit_code {
        Some(0) => Ok(()),
        code => Err(format!(
            "command exited with {}: {}",
            code.unwrap_or(-1),
            String::from_utf8_lossy(&said).trim()
        )),
    }
}
