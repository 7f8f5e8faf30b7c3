//! The pods' network on this node: a bridge, a cable to each pod, and rules that turn service addresses into
//! pods'.
pub mod api_proxy;
pub mod dns;
mod keeper;
mod rules;

pub use keeper::serve;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use pilothouse_api::{Ipv4Cidr, PodNetwork};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Notify;

pub const BRIDGE: &str = "ph0";
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The service `default/kubernetes`.
pub const API_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const SERVICE_NETWORK: Ipv4Cidr = Ipv4Cidr::new(Ipv4Addr::new(10, 96, 0, 0), 16);
/// `ip`, `nft` and `iptables` answer at once, or something holds them.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// The network as the rest of the agent sees it.
#[derive(Default)]
pub struct Network {
    /// The addresses of all pods, where the server says so.
    pods: Mutex<Option<Ipv4Cidr>>,
    /// None until the node's range is known and the bridge stands.
    pub addresses: Mutex<Option<Addresses>>,
    /// Services, endpoints or the node's range.
    pub changed: Notify,
    /// What names resolve to.
    pub zone: Mutex<Arc<dns::Zone>>,
    /// Why the network is not as it should be.
    pub trouble: Mutex<Option<String>>,
}

impl Network {
    pub fn is_up(&self) -> bool {
        self.addresses.lock().is_some()
    }

    /// Takes what the server says of the addresses of all pods.
    pub fn learn(&self, pods: Ipv4Cidr) {
        if self.pods.lock().replace(pods) != Some(pods) {
            self.changed.notify_one();
        }
    }

    /// The addresses of all pods of the cluster.
    pub fn pods(&self) -> Ipv4Cidr {
        self.pods.lock().unwrap_or(PodNetwork::DEFAULT_CIDR)
    }
}

/// A node's range of pod addresses and who holds which.
pub struct Addresses {
    network: u32,
    last: u32,
    /// Who holds which, by pod UID.
    taken: BTreeMap<u32, String>,
}

impl Addresses {
    /// `cidr` as in `10.244.1.0/24`.
    /// `held`: addresses that sandboxes have, and their pods' UIDs.
    pub fn new(cidr: &str, held: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let (network, prefix) =
            cidr.split_once('/').with_context(|| format!("{cidr:?} is no address range"))?;
        let network: Ipv4Addr = network.parse()?;
        let prefix: u32 = prefix.parse()?;
        if !(8..=30).contains(&prefix) {
            bail!("a pod range of /{prefix} is not usable");
        }
        let network = u32::from(network);
        let taken = held
            .into_iter()
            .filter_map(|(a, uid)| Some((u32::from(a.parse::<Ipv4Addr>().ok()?), uid)))
            .collect();
        Ok(Self { network, last: network + (1 << (32 - prefix)) - 2, taken })
    }

    /// The bridge's own address, which pods send everything to.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    /// The address that the pod holds already, else a free one.
    pub fn take(&mut self, uid: &str) -> Option<Ipv4Addr> {
        if let Some((held, _)) = self.taken.iter().find(|(_, holder)| *holder == uid) {
            return Some(Ipv4Addr::from(*held));
        }
        let free = (self.network + 2..=self.last).find(|address| !self.taken.contains_key(address))?;
        self.taken.insert(free, uid.to_owned());
        Some(Ipv4Addr::from(free))
    }

    /// The address that a pod holds.
    pub fn of(&self, uid: &str) -> Option<Ipv4Addr> {
        self.taken.iter().find(|(_, holder)| *holder == uid).map(|(held, _)| Ipv4Addr::from(*held))
    }

    pub fn give_back(&mut self, uid: &str) {
        self.taken.retain(|_, holder| holder != uid);
    }
}

/// Makes the bridge and lets the kernel forward. Idempotent.
pub async fn set_up(cidr: &str, gateway: Ipv4Addr) -> Result<()> {
    if ip(&format!("link show dev {BRIDGE}\n")).await.is_err() {
        ip(&format!("link add {BRIDGE} type bridge\n")).await.context("cannot make the pods' bridge")?;
    }
    let prefix = cidr.split_once('/').map_or("24", |(_, prefix)| prefix);
    // The route to the services is for machines without a default route: the rules look at a packet only if
    // it can leave.
    ip(&format!(
        "addr replace {gateway}/{prefix} dev {BRIDGE}\naddr replace {DNS_ADDRESS}/32 dev {BRIDGE}\naddr replace {API_ADDRESS}/32 dev {BRIDGE}\nlink set {BRIDGE} up\n\
         route replace {SERVICE_NETWORK} dev {BRIDGE} src {gateway}\n"
    ))
    .await?;
    let settings = [
        ("net/ipv4/ip_forward", "1"),
        // A NodePort on 127.0.0.1 leads out of the loopback interface.
        ("net/ipv4/conf/all/route_localnet", "1"),
        // Pods talk to each other through us, by design: do not tell them of a shorter way.
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/ph0/send_redirects", "0"),
    ];
    for (name, value) in settings {
        let path = format!("/proc/sys/{name}");
        std::fs::write(&path, value).with_context(|| format!("cannot set {path}"))?;
    }
    accept_forwarding().await;
    Ok(())
}

/// Docker sets the FORWARD policy to DROP; pods need a way through.
async fn accept_forwarding() {
    for direction in ["-i", "-o"] {
        let rule = ["FORWARD", direction, BRIDGE, "-j", "ACCEPT"];
        if iptables("-C", &rule).await || iptables("-I", &rule).await {
            continue;
        }
        tracing::warn!("no forwarding rule could be added: another program's firewall may stop pods");
    }
}

async fn iptables(action: &str, rule: &[&str]) -> bool {
    let mut command = Command::new("iptables");
    command.args(["-w", "5", action]).args(rule).stderr(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(COMMAND_TIMEOUT, command.status()).await;
    done.is_ok_and(|done| done.is_ok_and(|status| status.success()))
}

fn host_end(address: Ipv4Addr) -> String {
    format!("ph{:08x}", u32::from(address))
}

/// Whether a pod's cable was laid to its end: the agent may have died on the way.
pub fn is_connected(address: &str) -> bool {
    let Ok(address) = address.parse::<Ipv4Addr>() else { return false };
    let name = host_end(address);
    // Not from /sys: what it shows is of the network namespace that mounted it.
    let links = nix::ifaddrs::getifaddrs().into_iter().flatten();
    links
        .into_iter()
        .any(|link| link.interface_name == name && link.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
}

/// Lays the cable of a pod whose sandbox runs as `pid`. Every packet goes through the node, so that its
/// connection tracking sees both directions of a service's traffic.
pub async fn connect(pid: i64, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    let host_end = host_end(address);
    let _ = ip(&format!("link del {host_end}\n")).await; // of a sandbox that died
    ip(&format!(
        "link add {host_end} type veth peer name eth0 netns {pid}\nlink set {host_end} master {BRIDGE}\n\
         link set {host_end} type bridge_slave hairpin on\n"
    ))
    .await
    .context("cannot lay the pod's cable")?;
    let inside = format!(
        "link set lo up\naddr add {address}/32 dev eth0\nlink set eth0 up\nroute add {gateway} dev eth0 scope link\n\
         route add default via {gateway} src {address}\n"
    );
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n", "ip", "-batch", "-"]);
    feed(command, &inside).await.context("cannot set the pod's address")?;
    // Last: see `is_connected`.
    ip(&format!("link set {host_end} up\n")).await
}

async fn ip(batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    feed(command, batch).await
}

/// Runs a command with `input`; what it says on failure is the error.
async fn feed(mut command: Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output()).await??;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let mut addresses =
            Addresses::new("10.244.3.0/29", [("10.244.3.2".to_owned(), "old".to_owned())]).unwrap();
        assert_eq!(addresses.gateway().to_string(), "10.244.3.1");
        let mut take = |uid: &str| addresses.take(uid).map(|a| a.to_string());
        let given = ["a", "b", "b", "old", "c", "d", "e"].map(|uid| take(uid).unwrap_or_default());
        let (three, four) = ("10.244.3.3", "10.244.3.4");
        assert_eq!(given, [three, four, four, "10.244.3.2", "10.244.3.5", "10.244.3.6", ""]);
        addresses.give_back("b");
        assert_eq!(addresses.take("e").unwrap().to_string(), "10.244.3.4");
    }
}
