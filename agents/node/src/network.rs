//! The pods' network on this node: a bridge, a cable to each pod, and rules that turn service addresses into
//! pods'.
pub mod api_proxy;
pub mod dns;
mod keeper;
mod links;
pub mod namespace;
mod rules;

pub use keeper::serve;

use anyhow::{Context, Result, bail};
use links::Links;
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
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
/// The pod's end of its cable.
const POD_END: &str = "eth0";
/// The kernel, `nft` and `iptables` answer at once, or something holds them.
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
    /// `held`: addresses that sandboxes have, and their pods' UIDs.
    pub fn new(range: Ipv4Cidr, held: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let prefix = range.prefix();
        if !(8..=30).contains(&prefix) {
            bail!("a pod range of /{prefix} is not usable");
        }
        let network = u32::from(range.first());
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
pub async fn set_up(range: Ipv4Cidr, gateway: Ipv4Addr) -> Result<()> {
    let links = Links::open()?;
    if links.find(BRIDGE).await?.is_none() {
        links.add_bridge(BRIDGE).await.context("cannot make the pods' bridge")?;
    }
    let bridge = links.find(BRIDGE).await?.context("the pods' bridge is gone again")?;
    links.give_address(bridge, gateway, range.prefix()).await?;
    for own in [DNS_ADDRESS, API_ADDRESS] {
        links.give_address(bridge, own, 32).await?;
    }
    links.bring_up(bridge).await?;
    // For machines without a default route: the rules look at a packet only if it can leave.
    links.route(SERVICE_NETWORK, bridge, None, Some(gateway)).await?;
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

/// A pod's hardware address follows from its address. The node remembers for a while which one an address has: were it another
/// with the next pod that gets the address, nothing would reach that pod until the node asks again.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // One that no maker gives to a card.
    [0x0a, 0x58, a, b, c, d]
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
    let links = Links::open()?;
    let name = host_end(address);
    if let Some(old) = links.find(&name).await? {
        let _ = links.delete(old).await; // of a sandbox that died; the kernel may be about to
    }
    let bridge = links.find(BRIDGE).await?.context("the pods' bridge is gone")?;
    links
        .add_cable(&name, bridge, POD_END, hardware_address(address), pid)
        .await
        .context("cannot lay the pod's cable")?;
    let link = links.find(&name).await?.context("the pod's cable is gone again")?;
    links.turn_hairpin_on(link).await?;
    let inside = namespace::inside(pid, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(give_address(address, gateway))
    });
    inside.await.context("cannot set the pod's address")?;
    // Last: see `is_connected`.
    links.bring_up(link).await
}

/// Inside the pod's namespace.
async fn give_address(address: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    // Pods have no IPv6 addresses: not even those that links give themselves, by which they would reach each other past every
    // rule. A kernel without IPv6 has no such setting.
    match std::fs::write(NO_IPV6, "1") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot set {NO_IPV6}"));
        }
        _ => {}
    }
    let links = Links::open()?;
    links.bring_up(links::LOOPBACK).await?;
    let link = links.find(POD_END).await?.context("the pod's end of the cable is gone")?;
    links.give_address(link, address, 32).await?;
    links.bring_up(link).await?;
    links.route(Ipv4Cidr::new(gateway, 32), link, None, None).await?;
    links.route(Ipv4Cidr::new(Ipv4Addr::UNSPECIFIED, 0), link, Some(gateway), Some(address)).await
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
    fn whichever_pod_has_an_address_is_found_by_the_same_hardware_address() {
        let hardware = hardware_address("10.244.3.2".parse().unwrap());
        assert_eq!(hardware, [0x0a, 0x58, 10, 244, 3, 2]);
        assert_eq!(hardware[0] & 0b11, 0b10, "local, and of one link");
    }

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let mut addresses =
            Addresses::new("10.244.3.0/29".parse().unwrap(), [("10.244.3.2".to_owned(), "old".to_owned())])
                .unwrap();
        assert_eq!(addresses.gateway().to_string(), "10.244.3.1");
        let mut take = |uid: &str| addresses.take(uid).map(|a| a.to_string());
        let given = ["a", "b", "b", "old", "c", "d", "e"].map(|uid| take(uid).unwrap_or_default());
        let (three, four) = ("10.244.3.3", "10.244.3.4");
        assert_eq!(given, [three, four, four, "10.244.3.2", "10.244.3.5", "10.244.3.6", ""]);
        addresses.give_back("b");
        assert_eq!(addresses.take("e").unwrap().to_string(), "10.244.3.4");
    }
}
