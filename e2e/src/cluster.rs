//! A real cluster: `pilothouse up` in a directory of its own, on ports of its own.
use crate::{Kubectl, eventually};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The first start makes a database and imports an image.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Cluster {
    dir: PathBuf,
    child: Option<Child>,
    /// The agent, where it is a process of its own.
    agent: Option<Child>,
    node: String,
    /// Where the API is served: any free port at first, then always that one, so that clients find it again.
    listen: String,
    arguments: Vec<String>,
    /// The ready line of the last start.
    pub ready_line: String,
}

/// `target/release/pilothouse`, or what `PILOTHOUSE_BIN` names.
pub fn binary() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/pilothouse");
    std::env::var_os("PILOTHOUSE_BIN").map_or(built, PathBuf::from)
}

/// The top of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Cluster {
    /// Starts a cluster in a fresh directory below the system's temporary one. `arguments` follow `up`.
    pub fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let dir = Self::dir_of(name);
        fs::create_dir_all(&dir)?;
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        let node = format!("e2e-{name}-{}", std::process::id());
        let listen = "127.0.0.1:0".to_owned();
        let mut cluster =
            Self { dir, child: None, agent: None, node, listen, arguments, ready_line: String::new() };
        cluster.resume()?;
        cluster.listen = cluster.api()?.trim_start_matches("https://").to_owned();
        Ok(cluster)
    }

    /// Where [`Cluster::start`] puts a cluster; its data directory is `data` in there.
    pub fn dir_of(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pilothouse-e2e-{name}-{}", std::process::id()))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.dir.join("data/kubeconfig"))
    }

    pub fn admin_password(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("data/admin-password"))?.trim().to_owned())
    }

    /// The dashboard's address, from the ready line.
    pub fn dashboard(&self) -> Result<String> {
        let after =
            self.ready_line.split("dashboard ").nth(1).context("the ready line names no dashboard")?;
        Ok(after.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// The API's address, from the kubeconfig.
    pub fn api(&self) -> Result<String> {
        self.kubectl().ok(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])
    }

    /// Starts the program on the same directory again and waits for its ready line.
    pub fn resume(&mut self) -> Result<()> {
        let log = self.dir.join("up.log");
        let printed = File::create(&log)?;
        let child = Command::new(binary())
            .arg("up")
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args(["--listen", &self.listen, "--dashboard-listen", "127.0.0.1:0"])
            .args(["--node-name", &self.node])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()
            .with_context(|| format!("cannot start {}: run ./dev build first", binary().display()))?;
        let child = self.child.insert(child);
        self.ready_line = eventually("the ready line", READY_TIMEOUT, || {
            let text = fs::read_to_string(&log)?;
            if let Some(status) = child.try_wait()? {
                bail!("pilothouse ended ({status}): {text}");
            }
            let line = text.lines().find(|line| line.starts_with("pilothouse is ready"));
            Ok(line.map(str::to_owned))
        })?;
        Ok(())
    }

    /// From now on the agent is a process of its own: it goes on while the server is away.
    pub fn detach_agent(&mut self) -> Result<()> {
        let arguments = fs::read(format!("/proc/{}/cmdline", self.agent_pid()?))?;
        let arguments = String::from_utf8(arguments)?;
        self.stop()?;
        self.arguments.push("--no-agent".to_owned());
        self.resume()?;
        let log = File::options().create(true).append(true).open(self.dir.join("data/agent.log"))?;
        let agent = Command::new(binary())
            .args(arguments.trim_end_matches('\0').split('\0').skip(1))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Whether the agent that was detached has gone on ever since.
    pub fn agent_lives(&mut self) -> Result<bool> {
        let agent = self.agent.as_mut().context("the agent is the server's")?;
        Ok(agent.try_wait()?.is_none())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9`: nothing is said goodbye to.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ctrl-C, and waits for the end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
        eventually("the end of pilothouse", STOP_TIMEOUT, || Ok(child.try_wait()?)).map(drop)
    }

    /// The first process of the private PostgreSQL.
    pub fn postgres_pid(&self) -> Result<u32> {
        let file = self.dir.join("data/postgres/postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let first = text.lines().next().unwrap_or_default();
        first.trim().parse().with_context(|| format!("{} begins with {first:?}", file.display()))
    }

    /// The process of the local agent.
    pub fn agent_pid(&self) -> Result<u32> {
        if let Some(agent) = &self.agent {
            return Ok(agent.id());
        }
        let data = self.dir.join("data/node");
        let data = data.to_string_lossy();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            let mut words = arguments.split('\0');
            if words.next().is_some_and(|program| program.ends_with("pilothouse"))
                && words.next() == Some("agent")
                && arguments.contains(&*data)
            {
                return Ok(pid);
            }
        }
        bail!("no agent runs on {data}")
    }

    /// The containers of this cluster's pods: id and the pod's namespace/name/container.
    pub fn containers(&self, namespace: &str) -> Result<Vec<(String, String)>> {
        let output = Command::new("docker")
            .args(["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter"])
            .arg(format!("label=io.kubernetes.pod.namespace={namespace}"))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.map(|(id, name)| (id.to_owned(), name.to_owned())).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["up.log", "data/agent.log"] {
                let text = fs::read_to_string(self.dir.join(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                #[expect(clippy::print_stderr, reason = "a failed test shows what its cluster wrote")]
                {
                    eprintln!("--- {log}\n{}", tail.join("\n"));
                }
            }
        }
        let _ = self.stop();
        let _ = self.kill();
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // Containers outlive the agent, by design.
        let of_node = format!("label=pilothouse.io/node={}", self.node);
        if let Ok(left) = Command::new("docker").args(["ps", "-aq", "--filter", &of_node]).output() {
            let ids = String::from_utf8_lossy(&left.stdout).into_owned();
            if !ids.trim().is_empty() {
                let _ = Command::new("docker").args(["rm", "-f"]).args(ids.split_whitespace()).output();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
