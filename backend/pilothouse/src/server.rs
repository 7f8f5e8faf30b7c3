//! The control plane: database, keys, API server, controllers and scheduler, as `server` and `up` both run it.
use crate::data_dir::{self, DataDir, write_private};
use crate::options::ControlPlaneOptions;
use crate::{kubeconfig, pki, postgres::Postgres};
use anyhow::{Context, Result, anyhow, bail};
use pilothouse_api::{Ipv4Cidr, PodNetwork};
use pilothouse_server::audit::{Policy, Rotation};
use pilothouse_server::auth::oidc::{Configuration, sign_in};
use pilothouse_server::{ClusterNetwork, RunningServer};
use rand::RngExt;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const ADMIN: &str = "admin";
const PASSWORD_LENGTH: usize = 20;
const RESTART_TIMEOUT: Duration = Duration::from_secs(60);
/// A database that ends more often than this in the window has a reason that no restart removes.
const MOST_RESTARTS: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// The kubeconfig's token: long enough not to surprise a team, and renewed at each start.
const ADMIN_TOKEN_SECONDS: i64 = 365 * 86_400;

pub struct ControlPlane {
    pub dir: DataDir,
    pub database: Option<Postgres>,
    pub server: RunningServer,
    pub ca_pem: String,
}

/// `pilothouse server`.
pub async fn run(options: ControlPlaneOptions) -> Result<()> {
    let mut control_plane = start(&options).await?;
    println!("{}", control_plane.ready_line());
    let outcome = tokio::select! {
        () = asked_to_stop() => Ok(()),
        why = control_plane.keep_database() => Err(why),
    };
    control_plane.stop().await;
    outcome
}

/// Brings up everything but the agent. Progress goes to standard error, a line a step.
pub async fn start(options: &ControlPlaneOptions) -> Result<ControlPlane> {
    crate::limits::raise_open_files();
    if !options.dashboard_listen.ip().is_loopback() {
        bail!("--dashboard-listen {}: plain HTTP is served on loopback only", options.dashboard_listen);
    }
    // What is wrong in a file is told before anything is begun.
    let (audit, authentication) = (audit(options)?, authentication(options)?);
    let network = network(options.cluster_cidr, options.node_cidr_mask_size)?;
    let sign_in = sign_in(options, &authentication)?;
    let dir = DataDir::open(data_dir::locate(options.database.data_dir.clone())?)?;
    let keys = pki::open(&dir, options.listen, &options.tls_san)?;
    // Taken before the database starts: a port in use is the likeliest failure and should cost no time.
    let listener = bind(options.listen, "--listen").await?;
    let dashboard_listener = bind(options.dashboard_listen, "--dashboard-listen").await?;

    let (database, url) = match &options.database.database_url {
        Some(url) => (None, url.clone()),
        None => {
            if !dir.postgres().join("PG_VERSION").exists() {
                eprintln!("making a private PostgreSQL in {} …", dir.postgres().display());
            }
            let database = Postgres::start(&dir).await?;
            let url = database.url.clone();
            (Some(database), url)
        }
    };
    let database_options = pilothouse_store::PostgresOptions::new(url, keys.encryption_keys);
    let store = pilothouse_server::open_store(database_options).await.context("cannot open the database")?;
    let advertise = advertised(options, listener.local_addr()?);
    let server = pilothouse_server::start(pilothouse_server::ServerOptions {
        listener,
        dashboard_listener: Some(dashboard_listener),
        advertise,
        tls: keys.tls,
        ca_pem: keys.ca_pem.clone(),
        authority: keys.authority,
        front_proxy: keys.front_proxy,
        store,
        signing_key_pem: keys.token_key_pem.into_bytes(),
        network,
        audit,
        sign_in,
        authentication,
        seats: options.max_requests_inflight.saturating_add(options.max_mutating_requests_inflight),
    })
    .await?;
    let control_plane = ControlPlane { dir, database, server, ca_pem: keys.ca_pem };
    control_plane.welcome_admin().await?;
    Ok(control_plane)
}

impl ControlPlane {
    /// Where clients on this machine reach the API.
    pub fn api_url(&self) -> String {
        let addr = self.server.addr;
        let host = match addr.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        format!("https://{}", SocketAddr::new(host, addr.port()))
    }

    /// Writes the kubeconfig and, the first time, makes the administrator.
    async fn welcome_admin(&self) -> Result<()> {
        let token = self.server.issue_token(ADMIN, &["system:masters"], ADMIN_TOKEN_SECONDS)?;
        let text = kubeconfig::render(&self.api_url(), &self.ca_pem, &token);
        write_private(&self.dir.kubeconfig(), text.as_bytes())?;

        let path = self.dir.admin_password();
        if path.exists() && self.server.user_exists(ADMIN) {
            return Ok(());
        }
        // The file comes second: a crash in between makes a new password at the next start, never an unknown one.
        let password: String = rand::rng()
            .sample_iter(rand::distr::Alphanumeric)
            .take(PASSWORD_LENGTH)
            .map(char::from)
            .collect();
        self.server.set_user(ADMIN, &password, &["system:masters"]).await?;
        write_private(&path, format!("{password}\n").as_bytes())
    }

    /// The one line that people and scripts wait for.
    pub fn ready_line(&self) -> String {
        let dashboard = match self.server.dashboard_addr {
            Some(addr) => format!("http://{addr}/ui/"),
            None => format!("{}/ui/", self.api_url()),
        };
        format!(
            "pilothouse is ready: dashboard {dashboard} (user {ADMIN}, password in {}), kubeconfig {}",
            self.dir.admin_password().display(),
            self.dir.kubeconfig().display()
        )
    }

    /// Starts the private database again when it ended by itself, and resolves with an error when that does not help;
    /// never for a database of the user's. Meanwhile clients are told to come again.
    pub async fn keep_database(&mut self) -> anyhow::Error {
        let Some(database) = &mut self.database else {
            return std::future::pending().await;
        };
        let log = self.dir.root().join("postgres.log");
        let mut restarts: VecDeque<Instant> = VecDeque::new();
        loop {
            let status = database.ended().await;
            tracing::warn!(%status, "the private PostgreSQL ended by itself: starting it again");
            let now = Instant::now();
            restarts.retain(|at| now - *at < RESTART_WINDOW);
            restarts.push_back(now);
            if restarts.len() > MOST_RESTARTS {
                return anyhow!(
                    "the private PostgreSQL ends again and again ({status}); see {}",
                    log.display()
                );
            }
            match restarted(&self.dir).await {
                Ok(new) => *database = new,
                Err(why) => return why.context("the private PostgreSQL ended and cannot be started again"),
            }
        }
    }

    pub async fn stop(self) {
        self.server.shutdown().await;
        if let Some(database) = self.database {
            database.stop().await;
        }
    }
}

/// What is left of a killed server holds its memory a moment longer, and a new one ends at once: tried for a while.
async fn restarted(dir: &DataDir) -> Result<Postgres> {
    let until = Instant::now() + RESTART_TIMEOUT;
    let mut pause = Duration::from_millis(100);
    loop {
        match Postgres::start(dir).await {
            Ok(database) => return Ok(database),
            Err(why) if Instant::now() > until => return Err(why),
            Err(why) => tracing::warn!("PostgreSQL does not start yet: {why:#}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// The cluster's address plan.
fn network(pods: Ipv4Cidr, node_prefix: u8) -> Result<ClusterNetwork> {
    let network = ClusterNetwork::default();
    let (address, prefix) = network.service_cidr;
    let services = Ipv4Cidr::new(address, prefix);
    if pods.overlaps(services) {
        bail!("--cluster-cidr {pods} has addresses of services in it, which are {services}");
    }
    let pods = PodNetwork::new(pods, node_prefix);
    let pods = pods.map_err(|why| anyhow!("--cluster-cidr and --node-cidr-mask-size: {why}"))?;
    Ok(ClusterNetwork { pods, ..network })
}

fn authentication(options: &ControlPlaneOptions) -> Result<Configuration> {
    let Some(path) = &options.authentication_config else { return Ok(Configuration::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Configuration::parse(&text).with_context(|| path.display().to_string())
}

fn sign_in(options: &ControlPlaneOptions, configuration: &Configuration) -> Result<Option<sign_in::Client>> {
    let Some(issuer) = &options.sign_in_issuer else { return Ok(None) };
    let secret = options.sign_in_client_secret_file.as_ref().map(|path| {
        let text = std::fs::read_to_string(path);
        text.map(|text| text.trim().to_owned()).with_context(|| format!("cannot read {}", path.display()))
    });
    let id = options.sign_in_client_id.as_deref();
    sign_in::Client::new(configuration, issuer, id, secret.transpose()?).map(Some)
}

fn audit(options: &ControlPlaneOptions) -> Result<Option<(Policy, Rotation)>> {
    let (Some(policy), Some(log)) = (&options.audit_policy_file, &options.audit_log_path) else {
        return Ok(None);
    };
    let text =
        std::fs::read_to_string(policy).with_context(|| format!("cannot read {}", policy.display()))?;
    let policy = Policy::parse(&text).with_context(|| policy.display().to_string())?;
    let rotation = Rotation {
        file_bytes: options.audit_log_maxsize.max(1) * 1024 * 1024,
        backups: options.audit_log_maxbackup,
        days: options.audit_log_maxage,
        ..Rotation::new(log.clone())
    };
    Ok(Some((policy, rotation)))
}

/// Where other machines reach the API: as told, else where it listens, else this machine's first address.
fn advertised(options: &ControlPlaneOptions, listening: SocketAddr) -> Option<SocketAddrV4> {
    let usable = |ip: &Ipv4Addr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local();
    let listens = match listening.ip() {
        IpAddr::V4(ip) => Some(ip).filter(usable),
        IpAddr::V6(_) => None,
    };
    // The address that packets to the outside would leave with; choosing it sends none.
    let of_machine = || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(ip) => Some(ip).filter(usable),
            IpAddr::V6(_) => None,
        }
    };
    let ip = options.advertise_address.or(listens).or_else(of_machine)?;
    Some(SocketAddrV4::new(ip, listening.port()))
}

async fn bind(addr: SocketAddr, option: &str) -> Result<tokio::net::TcpListener> {
    match tokio::net::TcpListener::bind(addr).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "{addr} is in use by another program: choose another address with {option}, port 0 picks a free one"
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {addr} ({option})")),
    }
}

/// Ctrl-C, or what a service manager sends.
pub async fn asked_to_stop() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGTERM");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_services_have_addresses_of_their_own() {
        let of = |pods: &str, node_prefix| network(pods.parse().unwrap(), node_prefix);
        assert_eq!(of("10.244.0.0/16", 24).unwrap(), ClusterNetwork::default());
        assert_eq!(of("10.128.0.0/10", 24).unwrap().pods.ranges(), 16_384);
        let told = of("10.64.0.0/10", 24).unwrap_err().to_string();
        assert!(told.contains("services") && told.contains("10.96.0.0/16"), "{told}");
        assert!(of("10.244.0.0/16", 12).is_err());
    }
}
