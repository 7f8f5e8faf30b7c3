//! The command line: subcommands and their options.
use crate::hollow::span;
use crate::node_flags::NodeFlags;
use clap::{Args, Parser, Subcommand};
use pilothouse_api::{Ipv4Cidr, PodNetwork};
use pilothouse_hollow::Span;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Parser)]
#[command(
    name = "pilothouse",
    version,
    about = "Kubernetes in one program: API server, controllers, scheduler, node agent and dashboard",
    after_help = "Start here:  pilothouse up\n\nIt prints the dashboard's address and the kubeconfig's path once everything serves."
)]
pub struct Cli {
    /// What to log, as in `info` or `warn,pilothouse_server=debug`
    #[arg(long, global = true, default_value = "warn", env = "PILOTHOUSE_LOG")]
    pub log: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process has one of it")]
pub enum Command {
    /// Run a whole cluster in the foreground: control plane, private PostgreSQL and one local agent
    Up(UpOptions),
    /// Run the control plane alone
    Server(ControlPlaneOptions),
    /// Run a node's agent, which dials a server and runs pods through Docker
    Agent(AgentOptions),
    /// Keep thousands of simulated nodes in one process, for tests of scale: they run pods by the same decisions as real
    /// nodes, on a runtime that only takes its time
    #[command(after_long_help = HOLLOW_HELP)]
    Hollow(HollowOptions),
    /// Write a cluster's state and keys to a file, while it runs or not; keep the file like a password
    Backup(BackupOptions),
    /// Fill a new data directory from a backup
    Restore(BackupOptions),
}

#[derive(Args, Clone)]
pub struct DatabaseOptions {
    /// Where state lives [default: $XDG_DATA_HOME/pilothouse]
    #[arg(long, value_name = "DIR", env = "PILOTHOUSE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// An existing PostgreSQL to use instead of a private one
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

#[derive(Args, Clone)]
pub struct BackupOptions {
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// The backup
    pub file: PathBuf,
}

#[derive(Args, Clone)]
pub struct ControlPlaneOptions {
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// Address and port of the TLS endpoint that serves everything; port 0 picks one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Where the dashboard is also served in plain HTTP, loopback only; port 0 picks one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6480")]
    pub dashboard_listen: SocketAddr,
    /// Further names or addresses for the generated certificate
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// What to write of requests: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where the audit log goes, as JSON lines; -: to standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which the audit log is set aside for a new one
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// How many full audit logs are kept; 0: all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub audit_log_maxbackup: usize,
    /// How many days full audit logs are kept; 0: for ever
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// Whose tokens are taken: an AuthenticationConfiguration of apiserver.config.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// At which of its issuers people may also sign in to the dashboard
    #[arg(long, value_name = "URL", requires = "authentication_config")]
    pub sign_in_issuer: Option<String>,
    /// The dashboard's client id there [default: the issuer's first audience]
    #[arg(long, value_name = "ID", requires = "sign_in_issuer")]
    pub sign_in_client_id: Option<String>,
    /// The client's secret, where it has one
    #[arg(long, value_name = "FILE", requires = "sign_in_issuer")]
    pub sign_in_client_secret_file: Option<PathBuf>,
    /// Requests that run at once, together with those of the next: what levels of priority share among them
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// See --max-requests-inflight
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// Addresses of pods, of which each node gets a range; the same on every server of a cluster
    #[arg(long, value_name = "CIDR", default_value_t = PodNetwork::DEFAULT_CIDR)]
    pub cluster_cidr: Ipv4Cidr,
    /// How large a node's range is: 24 leaves it 253 addresses for pods
    #[arg(long, value_name = "BITS", default_value_t = PodNetwork::DEFAULT_NODE_PREFIX)]
    pub node_cidr_mask_size: u8,
    /// Address at which other machines reach this server [default: the one of --listen, else this machine's first]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<Ipv4Addr>,
}

#[derive(Args, Clone)]
pub struct UpOptions {
    #[command(flatten)]
    pub control_plane: ControlPlaneOptions,
    /// Run the control plane alone, without a node on this machine
    #[arg(long)]
    pub no_agent: bool,
    #[command(flatten)]
    pub node: NodeOptions,
}

#[derive(Args, Clone)]
pub struct NodeOptions {
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Docker's or Podman's socket
    #[arg(long, value_name = "ADDRESS", env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    pub docker_host: String,
    #[command(flatten)]
    pub flags: NodeFlags,
}

#[derive(Args, Clone)]
pub struct AgentOptions {
    /// The server's address
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:6443")]
    pub server: String,
    /// The CA certificate that signed the server's
    #[arg(long, value_name = "FILE")]
    pub ca_file: PathBuf,
    /// The node's credential
    #[arg(long, value_name = "FILE")]
    pub credential_file: PathBuf,
    /// Where the node keeps its state
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub node: NodeOptions,
}

const HOLLOW_HELP: &str = "\
Nodes join as kubelets do: with a bootstrap token that may ask for node certificates and nothing else, each has a certificate
of its own signed, which may do no more than what concerns that node and its pods. Once per cluster:

  kubectl create clusterrolebinding hollow-asks --clusterrole=system:node-bootstrapper \\
    --group=system:bootstrappers:hollow
  kubectl create clusterrolebinding hollow-is-approved \\
    --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient --group=system:bootstrappers:hollow
  kubectl -n kube-system create secret generic bootstrap-token-abcdef --type=bootstrap.kubernetes.io/token \\
    --from-literal=token-id=abcdef --from-literal=token-secret=0123456789abcdef \\
    --from-literal=usage-bootstrap-authentication=true --from-literal=auth-extra-groups=system:bootstrappers:hollow

and `abcdef.0123456789abcdef` in the file of --join-token-file; take a secret of your own.
Simulated nodes carry the label pilothouse.io/hollow=true. A node takes one connection and some 40 KB here, 60 KB in the server; logs and exec are refused.
More than 256 nodes need a server with a larger --cluster-cidr.
When the process ends, its nodes fall silent as real ones would: delete them with kubectl delete nodes -l pilothouse.io/hollow.";

#[derive(Args, Clone)]
pub struct HollowOptions {
    /// How many nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub nodes: u32,
    /// The server's address
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:6443")]
    pub server: String,
    /// The CA certificate that signed the server's
    #[arg(long, value_name = "FILE")]
    pub ca_file: PathBuf,
    /// A bootstrap token that may ask for node certificates
    #[arg(long, value_name = "FILE")]
    pub join_token_file: PathBuf,
    /// Nodes are named so, followed by their number
    #[arg(long, value_name = "TEXT", default_value = "hollow-")]
    pub prefix: String,
    /// The address that nodes give as theirs
    #[arg(long, value_name = "IP", default_value = "192.0.2.1")]
    pub host_ip: Ipv4Addr,
    /// Processors a node says it has
    #[arg(long, value_name = "N", default_value = "8")]
    pub cpu: String,
    /// Memory a node says it has
    #[arg(long, value_name = "AMOUNT", default_value = "32Gi")]
    pub memory: String,
    /// Pods a node says it takes
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub pods: u32,
    /// What making a pod's sandbox takes, in milliseconds: a number or a span
    #[arg(long, value_name = "SPAN", default_value = "80..250", value_parser = span)]
    pub sandbox_millis: Span,
    /// What starting a container takes, in milliseconds
    #[arg(long, value_name = "SPAN", default_value = "100..400", value_parser = span)]
    pub start_millis: Span,
    /// Seconds until a container that was started is ready
    #[arg(long, value_name = "SPAN", default_value = "0..1", value_parser = span)]
    pub ready_seconds: Span,
    /// Seconds that containers of pods run which are not restarted for ever
    #[arg(long, value_name = "SPAN", default_value = "5..15", value_parser = span)]
    pub run_seconds: Span,
    /// Of a thousand such runs so many fail
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub failures: u64,
    /// Another seed draws other times for the same pods
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}
