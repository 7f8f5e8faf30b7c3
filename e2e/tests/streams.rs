//! Streams whose readers stand still: what runs beside them goes on, and nobody's memory grows.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Cluster, IMAGE, Kubectl, Namespace, Running, cluster};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdout, Command};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const BIG: usize = 200_000_000;
/// What server and agent together may grow by: buffers of the streams, far less than what waits to be read.
const ROOM_BYTES: u64 = 64 * 1024 * 1024;

/// Serves a large file, reads nothing on another port, and has much to say.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: noise}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: noise
    image: IMAGE
    command: [sh, -c]
    args:
    - head -c 200000000 /dev/zero > /tmp/big; echo small > /tmp/small;
      nc -l -p 9090 | sleep 1000 &
      httpd -p 8080 -h /tmp;
      yes this line is told again and again | head -n 200000;
      sleep 1000
    readinessProbe: {httpGet: {port: 8080, path: /small}, periodSeconds: 1}
";

#[test]
fn readers_that_stand_still_hold_up_nobody_else_and_fill_no_memory() -> Result<()> {
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    let cluster = Cluster::start("streams", &[])?;
    let ns = Namespace::create(&cluster, "streams")?;
    ns.ok_with_input(&["apply", "-f", "-"], &POD.replace("IMAGE", IMAGE))?;
    ns.ok(&["wait", "--for=condition=Ready", "pod/noise", "--timeout=90s"])?;
    goes_on(&ns)?;
    let before = resident_bytes(&cluster)?;

    // Each begins and is not read any further.
    let mut exec = ns.start(&["exec", "noise", "--", "cat", "/tmp/big"])?;
    let mut exec_reader = exec.take_stdout().context("no standard output")?;
    exec_reader.read_exact(&mut [0; 1000])?;
    let mut follow = ns.start(&["logs", "--follow", "noise"])?;
    let mut follow_reader = follow.take_stdout().context("no standard output")?;
    follow_reader.read_exact(&mut [0; 1000])?;
    let web = Forward::start(&ns, &["8080"])?;
    let mut download = web.get(0, "/big")?;
    download.read_exact(&mut [0; 1000])?;
    let deaf = Forward::start(&ns, &["9090", "8080"])?;
    let mut upload = deaf.connect(0)?;
    upload.set_write_timeout(Some(Duration::from_secs(2)))?;
    while upload.write_all(&[0; 100_000]).is_ok() {} // until nothing goes in any more

    for _ in 0..3 {
        goes_on(&ns)?;
        let grown = resident_bytes(&cluster)?.saturating_sub(before);
        ensure!(grown < ROOM_BYTES, "server and agent grew by {grown} bytes");
    }
    // What nobody in the pod reads is given up in the end, and what else comes through its kubectl goes on.
    let mut answer = String::new();
    deaf.get(1, "/small")?.read_to_string(&mut answer)?;
    ensure!(answer.ends_with("small\n"), "{answer}");

    // Nothing was lost on the way of those who stood still.
    let mut left = BIG - 1000;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let length = exec_reader.read(&mut buffer)?;
        ensure!(length > 0, "{left} bytes did not come");
        left -= length;
    }
    drop((exec, follow, download, web));
    goes_on(&ns)
}

/// Each kind of stream still does its work for others.
fn goes_on(ns: &Kubectl) -> Result<()> {
    ensure!(ns.ok(&["exec", "noise", "--", "cat", "/tmp/small"])? == "small\n");
    ensure!(ns.ok(&["logs", "noise", "--tail=1"])?.starts_with("this line"));
    let web = Forward::start(ns, &["8080"])?;
    let mut answer = String::new();
    web.get(0, "/small")?.read_to_string(&mut answer)?;
    ensure!(answer.ends_with("small\n"), "{answer}");
    Ok(())
}

/// Of server and agent together.
fn resident_bytes(cluster: &Cluster) -> Result<u64> {
    let mut sum = 0;
    for pid in [cluster.pid().context("the server has ended")?, cluster.agent_pid()?] {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        sum += kilobytes.parse::<u64>()? * 1024;
    }
    Ok(sum)
}

/// A `kubectl port-forward` to ports of the pod, all on one connection to the server.
struct Forward {
    _kubectl: Running,
    _printed: BufReader<ChildStdout>,
    /// Here, of each port in the pod.
    ports: Vec<u16>,
}

impl Forward {
    fn start(ns: &Kubectl, ports: &[&str]) -> Result<Self> {
        let pairs: Vec<String> = ports.iter().map(|port| format!(":{port}")).collect();
        let mut arguments = vec!["port-forward", "pod/noise", "--address=127.0.0.1"];
        arguments.extend(pairs.iter().map(String::as_str));
        let mut kubectl = ns.start_command(ns.command(&arguments))?;
        let mut printed = BufReader::new(kubectl.take_stdout().context("no standard output")?);
        let here = ports.iter().map(|_| {
            let mut line = String::new();
            printed.read_line(&mut line)?;
            let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next());
            Ok(port.with_context(|| format!("no port in {line:?}"))?.parse()?)
        });
        let ports = here.collect::<Result<_>>()?;
        Ok(Self { _kubectl: kubectl, _printed: printed, ports })
    }

    fn connect(&self, which: usize) -> Result<TcpStream> {
        let port = self.ports.get(which).context("no such port")?;
        let stream = TcpStream::connect(("127.0.0.1", *port))?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    fn get(&self, which: usize, path: &str) -> Result<TcpStream> {
        let mut stream = self.connect(which)?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        Ok(stream)
    }
}
