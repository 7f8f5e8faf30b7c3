//! The control plane's I/O shell: HTTPS for the Kubernetes API, the dashboard and the nodes; and the loops.
pub mod admission;
mod aggregation;
pub mod audit;
pub mod auth;
pub mod certificates;
mod console;
mod conversion;
mod custom_kinds;
mod feed;
pub mod flow_control;
mod http;
mod listen;
pub mod loops;
mod metrics;
pub mod node_hub;
pub mod objects;
mod outbound;
mod remote;
mod routes;
mod service_backends;
pub mod state;
#[cfg(test)]
mod testing;

pub use aggregation::FrontProxy;
pub use remote::Identity;
pub use state::{AppState, ClusterNetwork, ClusterStore, SharedRegistry};

use admission::{Admission, Policies, ServiceAddresses, Webhooks, service_addresses};
use anyhow::{Context, Result};
use auth::{Auth, Claims};
use objects::Objects;
use pilothouse_api::{Key, Registry};
use pilothouse_store::{OpenError, PostgresOptions, Store};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long open requests may take when the server is asked to stop; watches end at once.
const DRAIN: Duration = Duration::from_secs(3);

pub struct ServerOptions {
    /// Where TLS is served: the API, the dashboard, the nodes.
    pub listener: TcpListener,
    /// Where the dashboard is also served in plain HTTP; loopback only.
    pub dashboard_listener: Option<TcpListener>,
    /// Where other machines reach the TLS listener: what the service `kubernetes` names as its endpoint.
    pub advertise: Option<SocketAddrV4>,
    pub tls: rustls::ServerConfig,
    pub ca_pem: String,
    /// Signs what CertificateSigningRequests ask for.
    pub authority: Arc<dyn certificates::Authority>,
    pub store: ClusterStore,
    /// How the server proves to aggregated API servers that it speaks for its callers.
    pub front_proxy: FrontProxy,
    /// PKCS#8 PEM of the key that signs tokens.
    pub signing_key_pem: Vec<u8>,
    pub network: ClusterNetwork,
    /// What is written of requests, and where; None: nothing.
    pub audit: Option<(audit::Policy, audit::Rotation)>,
    /// Whose tokens are taken beside the cluster's own.
    pub authentication: auth::oidc::Configuration,
    /// Where people may sign in to the dashboard beside it.
    pub sign_in: Option<auth::oidc::sign_in::Client>,
    /// How many requests run at once.
    pub seats: u32,
}

/// The kinds of a new server.
pub(crate) fn registry() -> SharedRegistry {
    SharedRegistry::new(Registry::builtin())
}

/// Opens the database together with the registry whose fields its index offers.
pub async fn open_store(options: PostgresOptions) -> Result<ClusterStore, OpenError> {
    let registry = registry();
    let store = Store::postgres(options, registry.index()).await?;
    Ok(ClusterStore { store, registry })
}

/// A server that serves; dropping it does not stop it.
pub struct RunningServer {
    pub addr: SocketAddr,
    pub dashboard_addr: Option<SocketAddr>,
    state: AppState,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// Everything below HTTP: indexes, admission, the write path. Gives the tasks that keep indexes in step.
pub fn build(
    store: ClusterStore,
    signing_key_pem: &[u8],
    network: ClusterNetwork,
    ca_pem: &str,
) -> Result<(AppState, Vec<futures::future::BoxFuture<'static, ()>>)> {
    let ClusterStore { store, registry } = store;
    let auth = Auth::new(store.clone(), signing_key_pem)?;
    let mut followers = auth.follow()?;
    let client = remote::Client::new(store.clone());
    let conversions = conversion::Conversions::new(client.clone());
    let mut kinds = custom_kinds::CustomKinds::new(registry.clone());
    let told = conversions.clone();
    let observe = move |observation| {
        // Who sees a version must find the way to it.
        told.observe(&observation);
        kinds.observe(observation);
    };
    followers.push(Box::pin(feed::follow(&store, &[custom_kinds::DEFINITIONS], observe)?));
    let addresses = Arc::new(ServiceAddresses::default());
    let seen = addresses.clone();
    followers.push(Box::pin(feed::follow(&store, service_addresses::RESOURCES, move |o| seen.observe(o))?));
    let aggregation = aggregation::Aggregation::new(client.clone());
    let told = aggregation.clone();
    followers.push(Box::pin(feed::follow(&store, &[aggregation::RESOURCE], move |o| told.observe(&o))?));
    let context = admission::Context {
        store: store.clone(),
        registry: registry.clone(),
        conversions: conversions.clone(),
    };
    let webhooks = Webhooks::new(context.clone(), auth.clone(), client.clone());
    let told = webhooks.clone();
    followers
        .push(Box::pin(feed::follow(&store, admission::webhooks::RESOURCES, move |o| told.observe(&o))?));
    let flow_control = flow_control::FlowControl::default();
    let told = flow_control.clone();
    followers.push(Box::pin(feed::follow(&store, flow_control::RESOURCES, move |o| told.observe(&o))?));
    followers.push(Box::pin(flow_control.clone().run()));
    let policies = Policies::new(context.clone(), auth.clone());
    let told = policies.clone();
    followers
        .push(Box::pin(feed::follow(&store, admission::policies::RESOURCES, move |o| told.observe(&o))?));
    let admission = Admission::new(&context, &network, addresses, webhooks.clone(), policies.clone(), &auth);
    let objects = Objects::new(store.clone(), registry.clone(), admission, conversions);
    let metrics = metrics::Metrics::default();
    let hub = node_hub::Hub::new(objects.clone(), auth.clone(), metrics.clone(), network.pods.cidr());
    client.connect_through(hub.clone());
    let state = state::Handles {
        store,
        registry,
        objects,
        auth,
        hub,
        metrics,
        webhooks,
        policies,
        aggregation,
        audit: audit::Audit::default(),
        flow_control,
        network: Arc::new(network),
        ca_pem: ca_pem.into(),
        documents: Arc::default(),
    };
    Ok((state.into(), followers))
}

/// Brings the server up: what must exist is made, then requests are taken, then the loops run.
pub async fn start(options: ServerOptions) -> Result<RunningServer> {
    let (mut state, mut followers) =
        build(options.store, &options.signing_key_pem, options.network, &options.ca_pem)?;
    if let Some((policy, rotation)) = options.audit {
        state.audit = audit::Audit::start(policy, rotation).await?;
    }
    state.flow_control.set_seats(options.seats);
    let issuers = auth::oidc::Issuers::new(options.authentication)?;
    state.auth.trust(issuers.clone());
    if let Some(client) = options.sign_in {
        state.auth.offer(client);
    }
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    followers.push(Box::pin(issuers.run()));
    for follower in followers {
        let stop = shutdown.clone();
        tasks.spawn(async move {
            tokio::select! { () = follower => {}, () = stop.cancelled() => {} }
        });
    }
    state.aggregation.identify(options.front_proxy);
    let made = async {
        auth::bootstrap::run(&state, options.advertise).await?;
        anyhow::Ok(aggregation::publish(&state).await?)
    };
    made.await.context("cannot make the objects that every cluster has")?;
    let addr = options.listener.local_addr()?;
    let dashboard_addr = options.dashboard_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let app = routes::router(state.clone(), shutdown.clone());
    let apis = loops::MetricsApis::new(app.clone(), state.auth.clone());
    tasks.spawn(listen::tls(options.listener, options.tls, app.clone(), shutdown.clone()));
    if let Some(listener) = options.dashboard_listener {
        tasks.spawn(listen::plain(listener, app, shutdown.clone()));
    }
    tasks.spawn(state.hub.clone().run(shutdown.clone()));
    let board = state.store.note_board(uuid::Uuid::new_v4().to_string());
    tasks.spawn(state.metrics.clone().run(board, shutdown.clone()));
    let settings =
        pilothouse_controllers::Settings { root_ca: options.ca_pem.into(), pods: state.network.pods };
    let signing = loops::Signing {
        auth: state.auth.clone(),
        authority: options.authority,
        ca_pem: state.ca_pem.clone(),
    };
    tasks.spawn(loops::run(
        state.objects.clone(),
        state.aggregation.clone(),
        state.metrics.clone(),
        apis,
        settings,
        signing,
        shutdown.clone(),
    ));
    Ok(RunningServer { addr, dashboard_addr, state, shutdown, tasks })
}

impl RunningServer {
    pub fn issue_token(&self, user: &str, groups: &[&str], seconds: i64) -> Result<String> {
        self.state.auth.issue(&Claims::new(user, groups, seconds))
    }

    pub fn user_exists(&self, name: &str) -> bool {
        self.state.auth.users().get(name).is_some()
    }

    /// Makes a user who signs in with a password, or gives an existing one a new password.
    pub async fn set_user(&self, name: &str, password: &str, groups: &[&str]) -> Result<()> {
        auth::users::set(&self.state.objects, name, password, groups).await
    }

    /// Resolves when the node is Ready.
    pub async fn node_ready(&self, name: &str) {
        let mut revision = self.state.store.revision();
        loop {
            let node =
                self.state.store.get(&Key::new("nodes", "", name)).map(|n| n.value()).unwrap_or_default();
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if ready && !node["spec"]["podCIDR"].is_null() && self.state.hub.is_connected(name) {
                return;
            }
            let _ = self.state.store.wait_for(revision + 1).await;
            revision = self.state.store.revision();
        }
    }

    /// Stops taking requests, ends watches and loops, and waits a little for the rest.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(DRAIN, self.tasks.wait()).await;
        let _ = tokio::time::timeout(DRAIN, self.state.audit.flush()).await;
    }
}
