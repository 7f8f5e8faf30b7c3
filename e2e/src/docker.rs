//! A Docker daemon of a test's own: one that may be stopped and killed.
use crate::eventually;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// It waits some seconds for its containers.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Of its bridge, which nothing uses: an address for documentation (RFC 5737).
const BRIDGE_ADDRESS: &str = "192.0.2.1/24";

pub struct Docker {
    dir: PathBuf,
    /// A daemon that is told to do without a bridge removes `docker0`, which is the machine's own daemon's.
    bridge: String,
    child: Option<Child>,
}

impl Docker {
    /// Starts a daemon in a fresh directory, which is short: sockets lie in it. `arguments` are further ones for `dockerd`.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("ph-docker-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let bridge = format!("ph{}", std::process::id());
        for arguments in [
            &["link", "add", "name", &*bridge, "type", "bridge"][..],
            &["address", "add", BRIDGE_ADDRESS, "dev", &*bridge],
        ] {
            let status = Command::new("ip").args(arguments).status()?;
            ensure!(status.success(), "ip {arguments:?}: {status}");
        }
        let mut docker = Self { dir, bridge, child: None };
        docker.resume(arguments)?;
        Ok(docker)
    }

    /// Starts it on the same directory again and waits until it answers.
    pub fn resume(&mut self, arguments: &[&str]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("dockerd.log"))?;
        let name = self.dir.file_name().unwrap_or_default().to_os_string();
        let mut plugins = name.clone();
        plugins.push("-plugins");
        // It ends with the test, whatever becomes of that.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "dockerd", "--host", &self.host(), "--shutdown-timeout", "10"])
            .arg("--data-root")
            .arg(self.dir.join("data"))
            .arg("--exec-root")
            .arg(self.dir.join("exec"))
            .arg("--pidfile")
            .arg(self.dir.join("pid"))
            // A machine's own daemon may share its containerd with this one, and has the rules for itself.
            .arg("--containerd-namespace")
            .arg(&name)
            .arg("--containerd-plugins-namespace")
            .arg(&plugins)
            .args(["--bridge", &self.bridge, "--iptables=false", "--ip-masq=false", "--ip-forward=false"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        let child = self.child.insert(child);
        let mut ended = None;
        let dir = self.dir.clone();
        let host = format!("unix://{}", dir.join("docker.sock").display());
        eventually("the daemon answers", START_TIMEOUT, || {
            ended = child.try_wait()?;
            if ended.is_some() {
                return Ok(Some(()));
            }
            let asked = Command::new("docker").args(["--host", &host, "version"]).output()?;
            Ok(asked.status.success().then_some(()))
        })?;
        if let Some(status) = ended {
            bail!("dockerd ended ({status}): {}", fs::read_to_string(dir.join("dockerd.log"))?);
        }
        Ok(())
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("docker").args(["--host", &self.host()]).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(text.trim().to_owned())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// As a service manager stops it.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        Command::new("kill").arg(child.id().to_string()).status()?;
        eventually("the end of dockerd", STOP_TIMEOUT, || Ok(child.try_wait()?)).map(drop)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(left) = self.ok(&["ps", "-aq"])
            && !left.is_empty()
        {
            let mut all = vec!["rm", "-f"];
            all.extend(left.split_whitespace());
            let _ = self.ok(&all);
        }
        let _ = self.stop();
        let _ = self.kill();
        // The daemon mounts its data on itself and leaves it so.
        let _ =
            Command::new("umount").arg("--lazy").arg(self.dir.join("data")).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
