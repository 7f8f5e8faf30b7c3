//! How drivers come to be known: a socket appears in the registration directory, and is asked who is behind it.
use super::messages::{Ability, Empty, NodeCapabilities, NodeInfo, PluginInfo, RegistrationStatus};
use super::{Driver, call};
use crate::agent::Agent;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const DIRECTORY: &str = "plugins_registry";
/// How often the directory is looked through: it is empty or short, and drivers seldom come.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Before a driver that could not be registered is asked again; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
const GET_INFO: &str = "/pluginregistration.Registration/GetInfo";
const NOTIFY: &str = "/pluginregistration.Registration/NotifyRegistrationStatus";
/// The only kind of plugin that the node takes.
const CSI_PLUGIN: &str = "CSIPlugin";

/// The socket as a file: one that was made anew is another, whatever its name.
type Identity = (u64, i64, i64);

struct Seen {
    identity: Identity,
    state: State,
}

enum State {
    Registered(String),
    Failed { tries: u32, again_at: Instant },
}

/// Runs for ever.
pub async fn follow(agent: Arc<Agent>) {
    let dir = agent.drivers.root.join(DIRECTORY);
    let mut seen: HashMap<PathBuf, Seen> = HashMap::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let found = sockets(&dir);
        seen.retain(|path, seen| {
            let stays = found.get(path) == Some(&seen.identity);
            if let (false, State::Registered(name)) = (stays, &seen.state) {
                tracing::info!(driver = name, "a storage driver left");
                agent.drivers.remove(name);
            }
            stays
        });
        for (path, identity) in found {
            let tries = match seen.get(&path).map(|seen| &seen.state) {
                Some(State::Registered(_)) => continue,
                Some(State::Failed { again_at, .. }) if *again_at > Instant::now() => continue,
                Some(State::Failed { tries, .. }) => *tries,
                None => 0,
            };
            let state = match register(&agent, &path).await {
                Ok(name) => State::Registered(name),
                Err(why) => {
                    tracing::warn!(socket = %path.display(), why, "a plugin could not be registered");
                    let pause = (FIRST_PAUSE * 2_u32.pow(tries.min(10))).min(LONGEST_PAUSE);
                    State::Failed { tries: tries + 1, again_at: Instant::now() + pause }
                }
            };
            seen.insert(path, Seen { identity, state });
        }
    }
}

fn sockets(dir: &Path) -> BTreeMap<PathBuf, Identity> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        let meta = entry.metadata().ok().filter(|meta| meta.file_type().is_socket() && !is_hidden)?;
        Some((entry.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec())))
    });
    found.collect()
}

/// Asks the plugin who it is and tells it what came of it. The driver's name.
async fn register(agent: &Agent, socket: &Path) -> Result<String, String> {
    let info: PluginInfo =
        call(socket, GET_INFO, TIMEOUT, &Empty {}).await.map_err(|fault| fault.to_string())?;
    let outcome = take(socket, &info).await;
    let status = RegistrationStatus {
        plugin_registered: outcome.is_ok(),
        error: outcome.as_ref().err().cloned().unwrap_or_default(),
    };
    if let Ok(driver) = &outcome {
        tracing::info!(driver = driver.name, node_id = driver.node_id, "a storage driver registered");
        agent.drivers.add(driver.clone());
        agent.wake_all(); // pods may have waited for it
    }
    let told: Result<Empty, _> = call(socket, NOTIFY, TIMEOUT, &status).await;
    let driver = outcome?;
    if let Err(fault) = told {
        agent.drivers.remove(&driver.name);
        return Err(fault.to_string());
    }
    Ok(driver.name)
}

async fn take(socket: &Path, info: &PluginInfo) -> Result<Driver, String> {
    if info.r#type != CSI_PLUGIN {
        return Err(format!(
            "no handler registered for plugin type: {} at socket {}",
            info.r#type,
            socket.display()
        ));
    }
    let speaks = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(speaks) {
        return Err(format!("none of the versions {:?} is supported", info.supported_versions));
    }
    let endpoint = match info.endpoint.trim_start_matches("unix://") {
        "" => socket.to_owned(),
        endpoint => PathBuf::from(endpoint),
    };
    let mut driver = Driver {
        name: info.name.clone(),
        endpoint,
        node_id: String::new(),
        most_volumes: None,
        topology: BTreeMap::new(),
        abilities: Default::default(),
    };
    let failed = |fault: crate::grpc::Fault| fault.to_string();
    let told: NodeInfo =
        call(&driver.endpoint, "/csi.v1.Node/NodeGetInfo", TIMEOUT, &Empty {}).await.map_err(failed)?;
    if told.node_id.is_empty() {
        return Err("the driver does not say what it calls this node".into());
    }
    driver.node_id = told.node_id;
    driver.most_volumes = u32::try_from(told.max_volumes_per_node).ok().filter(|most| *most > 0);
    driver.topology = told.accessible_topology.unwrap_or_default().segments.into_iter().collect();
    let can: NodeCapabilities =
        call(&driver.endpoint, "/csi.v1.Node/NodeGetCapabilities", TIMEOUT, &Empty {})
            .await
            .map_err(failed)?;
    let abilities = can.capabilities.into_iter().filter_map(|one| Ability::try_from(one.rpc?.r#type).ok());
    driver.abilities = abilities.collect();
    Ok(driver)
}
