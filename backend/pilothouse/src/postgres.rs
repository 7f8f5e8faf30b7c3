//! The private PostgreSQL of a data directory: made at the first run, started, watched and ended with the program.
use crate::data_dir::{DataDir, write_private};
use anyhow::{Context, Result, bail};
use rand::RngExt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const USER: &str = "pilothouse";
/// In the directory of keys.
pub const PASSWORD_FILE: &str = "postgres-password";

/// Sized for a control plane on a small machine: the watch cache answers reads, so PostgreSQL needs little memory.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("max_connections", "24"),
    ("shared_buffers", "24MB"),
    ("work_mem", "2MB"),
    ("maintenance_work_mem", "32MB"),
    ("synchronous_commit", "on"),
    ("wal_compression", "on"),
    ("max_wal_size", "1GB"),
    ("checkpoint_timeout", "15min"),
    ("autovacuum_max_workers", "1"),
    ("max_worker_processes", "2"),
    ("max_parallel_workers", "0"),
    ("max_wal_senders", "0"),
    ("wal_level", "minimal"),
    ("jit", "off"),
    ("logging_collector", "off"),
    ("log_min_messages", "warning"),
];

pub struct Postgres {
    child: Child,
    pub url: String,
    bin: PathBuf,
}

impl Postgres {
    /// Starts the server of `dir`, after making its files where there are none.
    pub async fn start(dir: &DataDir) -> Result<Self> {
        let bin = binaries()?;
        let data = dir.postgres();
        let identity = Identity::choose(&data).await?;
        if !data.join("PG_VERSION").exists() {
            initialise(&bin, dir, &identity).await?;
        }
        let url = url(dir)?;
        let socket_dir = socket_dir(&data);
        wait_for_predecessor(&data).await?;

        let log_path = dir.root().join("postgres.log");
        let log =
            fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = identity.command(&bin.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(&socket_dir);
        for (name, value) in SETTINGS {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start PostgreSQL")?;
        let mut server = Self { child, url, bin };
        server.wait_until_ready(&socket_dir, &log_path).await?;
        Ok(server)
    }

    async fn wait_until_ready(&mut self, socket_dir: &Path, log_path: &Path) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let socket = socket_dir.join(".s.PGSQL.5432");
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("PostgreSQL ended while starting ({status}); see {}", log_path.display());
            }
            // The socket exists before recovery is over; pg_isready tells the two apart.
            if socket.exists() && self.accepts_connections(socket_dir).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL was not ready within {START_TIMEOUT:?}; see {}", log_path.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn accepts_connections(&self, socket_dir: &Path) -> bool {
        let check = Command::new(self.bin.join("pg_isready"))
            .arg("-q")
            .arg("-h")
            .arg(socket_dir)
            .stdin(Stdio::null())
            .status()
            .await;
        check.is_ok_and(|status| status.success())
    }

    /// Resolves when PostgreSQL ended by itself.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Fast shutdown: connections are closed, everything is written.
    pub async fn stop(mut self) {
        if let Some(id) = self.child.id() {
            let pid = nix::unistd::Pid::from_raw(id.cast_signed());
            if nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).is_ok() {
                let _ = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
            }
        }
    }
}

/// As whom PostgreSQL runs: it refuses root.
enum Identity {
    /// We are not root.
    Own,
    /// Root outside, an ordinary user inside a user namespace: it reaches a directory below /root, holds no
    /// capability, and needs no account.
    Namespace,
    /// Where user namespaces are forbidden: the account of the distribution's package, or nobody.
    Account(nix::unistd::User),
}

impl Identity {
    async fn choose(data: &Path) -> Result<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            return Ok(Self::Own);
        }
        let owner =
            fs::metadata(data.join("PG_VERSION")).ok().map(|m| std::os::unix::fs::MetadataExt::uid(&m));
        if owner.is_none_or(|uid| uid == 0) && Self::Namespace.try_true().await {
            return Ok(Self::Namespace);
        }
        let account =
            ["postgres", "nobody"].iter().find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
        let Some(account) = account else {
            bail!(
                "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as"
            );
        };
        fs::create_dir_all(data)?;
        chown(data, Some(account.uid.as_raw()), Some(account.gid.as_raw()))?;
        let identity = Self::Account(account);
        let reachable = identity.command(Path::new("test")).arg("-x").arg(data).status().await;
        if !reachable.is_ok_and(|status| status.success()) {
            bail!(
                "PostgreSQL refuses to run as root and another user cannot reach {}: give --data-dir a directory that \
                 others may enter, such as /var/lib/pilothouse",
                data.display()
            );
        }
        Ok(identity)
    }

    /// Whether a process can be started that way here.
    async fn try_true(&self) -> bool {
        let status =
            self.command(Path::new("true")).stdin(Stdio::null()).stderr(Stdio::null()).status().await;
        status.is_ok_and(|status| status.success())
    }

    /// `setpriv --pdeathsig`: a database whose program was killed shuts down at once and cleanly.
    fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Namespace => {
                let mut command = Command::new("unshare");
                command.args([
                    "--user",
                    "--map-user=1000",
                    "--map-group=1000",
                    "setpriv",
                    "--pdeathsig",
                    "INT",
                ]);
                command
            }
            Self::Own | Self::Account(_) => {
                let mut command = Command::new("setpriv");
                if let Self::Account(account) = self {
                    command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
                    command.arg("--clear-groups");
                }
                command.args(["--pdeathsig", "INT"]);
                command
            }
        };
        command.arg(program).env("LC_ALL", "C").env_remove("DATABASE_URL");
        // Ctrl-C reaches the whole foreground process group; the database must outlive the server's last writes.
        command.process_group(0);
        command
    }
}

/// Where the private server of `dir` is reached once it runs.
pub fn url(dir: &DataDir) -> Result<String> {
    let password =
        fs::read_to_string(password_file(dir)).context("the private database's password is missing")?;
    let socket_dir = socket_dir(&dir.postgres());
    let host = percent_encode(&socket_dir.to_string_lossy());
    Ok(format!("postgres://{USER}:{}@localhost/postgres?host={host}", password.trim()))
}

async fn initialise(bin: &Path, dir: &DataDir, identity: &Identity) -> Result<()> {
    let data = dir.postgres();
    fs::create_dir_all(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    let password: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect();
    write_private(&password_file(dir), password.as_bytes())?;
    let handed_over = hand_over(&password, identity)?;
    let output = identity
        .command(&bin.join("initdb"))
        .arg("-D")
        .arg(&data)
        .args(["-U", USER, "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", "--pwfile"])
        .arg(&handed_over)
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(START_TIMEOUT, output).await.context("initdb hangs");
    fs::remove_file(&handed_over)?;
    let output = output?.context("cannot run initdb")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("initdb failed: {}", said.lines().last().unwrap_or("it said nothing"));
    }
    Ok(())
}

/// initdb reads the password as the user it runs as, who may not reach our directory: a file for that user alone,
/// for as long as initdb runs.
fn hand_over(password: &str, identity: &Identity) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("pilothouse-initdb-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    write_private(&path, password.as_bytes())?;
    if let Identity::Account(account) = identity {
        chown(&path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))?;
    }
    Ok(path)
}

/// A database whose program was killed a moment ago is still writing: two on one directory would be refused.
async fn wait_for_predecessor(data: &Path) -> Result<()> {
    let pid_file = data.join("postmaster.pid");
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        let Ok(text) = fs::read_to_string(&pid_file) else { return Ok(()) };
        let alive = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()).is_some_and(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(&*data.to_string_lossy())
        });
        if !alive {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("a PostgreSQL is still running on {}: end it first", data.display());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A Unix socket's path is at most 107 bytes, so a deep data directory keeps its socket elsewhere.
fn socket_dir(data: &Path) -> PathBuf {
    const LONGEST: usize = 107 - "/.s.PGSQL.5432.lock".len();
    if data.as_os_str().len() <= LONGEST {
        return data.to_path_buf();
    }
    let digest = data.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let short = std::env::temp_dir().join(format!("pilothouse-{digest:016x}"));
    // Made for us alone: /tmp is everyone's. A directory of another owner makes PostgreSQL fail to bind.
    let _ = std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(&short);
    short
}

fn password_file(dir: &DataDir) -> PathBuf {
    dir.pki().join(PASSWORD_FILE)
}

/// Where `initdb` and `postgres` lie: on PATH, else the newest of Debian's directories.
pub fn binaries() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .filter_map(|dir| fs::canonicalize(dir.join("initdb")).ok())
        .filter_map(|file| file.parent().map(Path::to_path_buf));
    let mut packaged: Vec<PathBuf> = ["/usr/lib/postgresql", "/usr/pgsql"]
        .iter()
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    packaged.sort_by_key(|dir| {
        let version = dir.parent().and_then(|d| d.file_name()).and_then(|n| n.to_str()).unwrap_or_default();
        std::cmp::Reverse(version.parse::<u32>().unwrap_or_default())
    });
    let whole =
        |dir: &PathBuf| ["initdb", "postgres", "pg_isready"].iter().all(|file| dir.join(file).exists());
    on_path.chain(packaged).find(whole).context(
        "PostgreSQL's server is not installed (no initdb found): `apt-get install postgresql`, or give --database-url",
    )
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
