//! Services as nftables rules: a pure function from services and their endpoints to a table, and from one
//! table to the next.
use super::{API_ADDRESS, BRIDGE, feed};
use anyhow::{Context, Result};
use pilothouse_api::Ipv4Cidr;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// Packets with this mark leave with the node's address.
const MASQUERADE: &str = "0x4000";
/// Where a service wants a client to come back to the same pod and does not say for how long.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The table: chains by name with what stands in them, sets by name with what they are, and what is in them.
/// A change of one service changes its own chains and elements and nothing else, however many services there
/// are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    chains: BTreeMap<String, String>,
    /// Who came when: the kernel fills them, and they outlive a change of the rules.
    sets: BTreeMap<String, String>,
    /// Elements of [`HELD`], by the set's name.
    elements: BTreeMap<&'static str, BTreeSet<String>>,
}

const BY_ADDRESS: &str = "by_address";
const BY_NODE_PORT: &str = "by_node_port";
const NOBODY: &str = "nobody_at_address";
const NOBODY_AT_PORT: &str = "nobody_at_port";
const HAIRPINS: &str = "hairpins";
/// The sets and maps that we fill.
const HELD: &[(&str, &str, &str)] = &[
    (BY_ADDRESS, "map", "type ipv4_addr . inet_proto . inet_service : verdict;"),
    (BY_NODE_PORT, "map", "type inet_proto . inet_service : verdict;"),
    (NOBODY, "set", "type ipv4_addr . inet_proto . inet_service;"),
    (NOBODY_AT_PORT, "set", "type inet_proto . inet_service;"),
    // Pods that reach themselves through a service must see another address than their own.
    (HAIRPINS, "set", "type ipv4_addr . ipv4_addr;"),
];

/// The table as the kernel has it.
#[derive(Default)]
pub struct Kept(Option<Table>);

impl Kept {
    /// Makes the kernel's table this one, in one transaction.
    pub async fn apply(&mut self, table: Table) -> Result<()> {
        if self.0.as_ref() == Some(&table) {
            return Ok(());
        }
        // What a failed transaction left is not known: the next one starts over.
        let script = table.script(self.0.take().as_ref());
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        feed(command, &script).await.context("the kernel refused the service rules")?;
        self.0 = Some(table);
        Ok(())
    }
}

/// Whether the rules are still in the kernel.
pub async fn stand() -> bool {
    let mut command = Command::new("nft");
    command.args(["list", "chain", "ip", "pilothouse", "postrouting"]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LOOK_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output.stdout.windows(10).any(|words| words == b"masquerade"),
        // Not knowing is no reason to tear down what may stand.
        _ => true,
    }
}

impl Table {
    fn chain(&mut self, name: impl Into<String>, rules: impl Into<String>) {
        self.chains.insert(name.into(), rules.into());
    }

    fn element(&mut self, set: &'static str, element: String) {
        self.elements.entry(set).or_default().insert(element);
    }

    /// What turns `before` into this table; None: whatever is there. New chains come before what leads to
    /// them, and old ones go after it.
    fn script(&self, before: Option<&Self>) -> String {
        let mut script = String::new();
        if before.is_none() {
            script.push_str("table ip pilothouse {}\ndelete table ip pilothouse\ntable ip pilothouse {\n");
            for (name, kind, what) in HELD {
                let _ = writeln!(script, "  {kind} {name} {{ {what} }}");
            }
            for (name, hook) in BASE {
                let _ = writeln!(script, "  chain {name} {{\n{hook}  }}");
            }
            script.push_str("}\n");
        }
        let nothing = Self::default();
        let before = before.unwrap_or(&nothing);
        let mut add = |line: String| {
            let _ = writeln!(script, "{line}");
        };
        let is_base = |chain: &String| BASE.iter().any(|(base, _)| base == chain);
        for (set, what) in self.sets.iter().filter(|(set, what)| before.sets.get(*set) != Some(what)) {
            add(format!("add set ip pilothouse {set} {{ {what} }}"));
        }
        for chain in self.chains.keys().filter(|c| !before.chains.contains_key(*c) && !is_base(c)) {
            add(format!("add chain ip pilothouse {chain}"));
        }
        for (set, gone) in differences(&before.elements, &self.elements) {
            // A verdict map's element is deleted by its key.
            let keys: Vec<&str> = gone.iter().filter_map(|e| e.split(" : ").next()).collect();
            add(format!("delete element ip pilothouse {set} {{ {} }}", keys.join(", ")));
        }
        for (chain, rules) in
            self.chains.iter().filter(|(chain, rules)| before.chains.get(*chain) != Some(rules))
        {
            if before.chains.contains_key(chain) {
                add(format!("flush chain ip pilothouse {chain}"));
            }
            add(format!("table ip pilothouse {{\n  chain {chain} {{\n{rules}  }}\n}}"));
        }
        for (set, new) in differences(&self.elements, &before.elements) {
            let new: Vec<&str> = new.iter().map(|e| e.as_str()).collect();
            add(format!("add element ip pilothouse {set} {{ {} }}", new.join(", ")));
        }
        // Emptied first: they may lead to each other.
        let gone = || before.chains.keys().filter(|chain| !self.chains.contains_key(*chain));
        gone().for_each(|chain| add(format!("flush chain ip pilothouse {chain}")));
        gone().for_each(|chain| add(format!("delete chain ip pilothouse {chain}")));
        for set in before.sets.keys().filter(|set| !self.sets.contains_key(*set)) {
            add(format!("delete set ip pilothouse {set}"));
        }
        script
    }
}

/// What is in each set of `one` and not of `other`.
fn differences<'a>(
    one: &'a BTreeMap<&'static str, BTreeSet<String>>,
    other: &'a BTreeMap<&'static str, BTreeSet<String>>,
) -> Vec<(&'static str, Vec<&'a String>)> {
    let none = BTreeSet::new();
    let all = one.iter().map(|(set, elements)| {
        let others = other.get(set).unwrap_or(&none);
        (*set, elements.iter().filter(|e| !others.contains(*e)).collect::<Vec<_>>())
    });
    all.filter(|(_, elements)| !elements.is_empty()).collect()
}

/// The chains that packets come through. Priorities are numbers: older nft knows fewer names for them.
const BASE: &[(&str, &str)] = &[
    ("prerouting", "    type nat hook prerouting priority -101; policy accept;\n"),
    ("output", "    type nat hook output priority -101; policy accept;\n"),
    ("forward", "    type filter hook forward priority -1; policy accept;\n"),
    ("input", "    type filter hook input priority -1; policy accept;\n"),
    ("reject_output", "    type filter hook output priority -1; policy accept;\n"),
    ("postrouting", "    type nat hook postrouting priority 99; policy accept;\n"),
];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    ip: String,
    port: i64,
    /// On this node.
    local: bool,
}

/// One port of one service.
#[derive(Debug)]
struct Target {
    chain: String,
    cluster_ip: String,
    /// Addresses of other machines that lead here.
    external_ips: Vec<String>,
    balancer_ips: Vec<String>,
    /// Whom the load balancer's addresses serve; empty: everybody.
    balancer_sources: Vec<String>,
    port: i64,
    node_port: i64,
    protocol: String,
    affinity_seconds: Option<i64>,
    /// Who comes from outside, or from inside, is served by this node's pods only.
    external_local: bool,
    internal_local: bool,
    endpoints: Vec<Endpoint>,
}

impl Target {
    fn at(&self, address: &str) -> String {
        format!("{address} . {} . {}", self.protocol, self.port)
    }

    fn external(&self) -> impl Iterator<Item = &String> {
        self.external_ips.iter().chain(&self.balancer_ips)
    }
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Of the node's addresses only this one; empty: all.
    host_ip: String,
    host_port: i64,
    protocol: String,
    pod_ip: String,
    port: i64,
}

impl HostPort {
    /// What the containers of a pod at `pod_ip` ask for.
    pub fn of(pod: &Value, pod_ip: &str) -> Vec<Self> {
        let spec = &pod["spec"];
        if spec["hostNetwork"] == true {
            return Vec::new();
        }
        let lists = ["initContainers", "containers"].into_iter();
        let containers = lists.flat_map(|list| spec[list].as_array().into_iter().flatten());
        let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let asked = ports.filter_map(|port| {
            let host_port = port["hostPort"].as_i64().filter(|port| *port > 0)?;
            let host_ip = port["hostIP"].as_str().filter(|ip| is_ipv4(ip) && *ip != "0.0.0.0");
            Some(Self {
                host_ip: host_ip.unwrap_or_default().to_owned(),
                host_port,
                protocol: port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
                pod_ip: pod_ip.to_owned(),
                port: port["containerPort"].as_i64()?,
            })
        });
        asked.collect()
    }
}

/// The table for what is served now. `node` is this node's name, `pods` are the addresses of all pods.
pub fn render(
    services: &[Arc<Value>],
    slices: &[Arc<Value>],
    doors: &[HostPort],
    node: &str,
    pods: Ipv4Cidr,
) -> Table {
    let mut table = Table::default();
    let targets = targets(services, slices, node);
    host_ports(&mut table, doors, &targets);
    for target in targets {
        let node_port = format!("{} . {}", target.protocol, target.node_port);
        if target.endpoints.is_empty() {
            for address in std::iter::once(&target.cluster_ip).chain(target.external()) {
                table.element(NOBODY, target.at(address));
            }
            if target.node_port > 0 {
                table.element(NOBODY_AT_PORT, node_port);
            }
            continue;
        }
        for endpoint in &target.endpoints {
            table.element(HAIRPINS, format!("{0} . {0}", endpoint.ip));
        }
        let chain = &target.chain;
        balance(&mut table, chain, &target, &target.endpoints);
        let local: Vec<Endpoint> = target.endpoints.iter().filter(|e| e.local).cloned().collect();
        if target.internal_local || target.external_local {
            balance(&mut table, &format!("{chain}_local"), &target, &local);
        }
        let inside = if target.internal_local { format!("{chain}_local") } else { chain.clone() };
        table.element(BY_ADDRESS, format!("{} : goto {inside}", target.at(&target.cluster_ip)));
        if target.node_port == 0 && target.external().next().is_none() {
            continue;
        }
        table.chain(format!("{chain}_ext"), from_outside(&target, pods));
        for address in &target.external_ips {
            table.element(BY_ADDRESS, format!("{} : goto {chain}_ext", target.at(address)));
        }
        let door = if target.balancer_sources.is_empty() { "ext" } else { "lb" };
        for address in &target.balancer_ips {
            table.element(BY_ADDRESS, format!("{} : goto {chain}_{door}", target.at(address)));
        }
        if door == "lb" {
            let sources = target.balancer_sources.join(", ");
            table.chain(
                format!("{chain}_lb"),
                format!("    ip saddr != {{ {sources} }} drop\n    goto {chain}_ext\n"),
            );
        }
        if target.node_port > 0 {
            table.element(BY_NODE_PORT, format!("{node_port} : goto {chain}_ext"));
        }
    }
    let services = format!(
        "    ip daddr . meta l4proto . th dport vmap @{BY_ADDRESS}\n\
         \x20   fib daddr type local meta l4proto . th dport vmap @{BY_NODE_PORT}\n"
    );
    let refused = format!(
        "    ip daddr . meta l4proto . th dport @{NOBODY} reject\n\
         \x20   fib daddr type local meta l4proto . th dport @{NOBODY_AT_PORT} reject\n"
    );
    let leaving = format!(
        "    meta mark & {MASQUERADE} == {MASQUERADE} masquerade\n\
         \x20   ip saddr . ip daddr @{HAIRPINS} masquerade\n\
         \x20   ip saddr 127.0.0.0/8 oifname \"{BRIDGE}\" masquerade\n\
         \x20   ip saddr {pods} ip daddr != {pods} oifname != \"{BRIDGE}\" masquerade\n"
    );
    table.chain("services", services);
    table.chain("nobody", refused);
    table.chain("prerouting", "    jump services\n");
    table.chain("output", "    jump services\n");
    table.chain("forward", "    jump nobody\n");
    table.chain("input", "    jump nobody\n");
    table.chain("reject_output", "    jump nobody\n");
    table.chain("postrouting", leaving);
    table
}

/// Node ports of services go before those of pods.
fn host_ports(table: &mut Table, doors: &[HostPort], targets: &[Target]) {
    let mut claimed: BTreeSet<String> =
        targets.iter().map(|target| format!("{} . {}", target.protocol, target.node_port)).collect();
    for door in doors {
        let HostPort { host_ip, host_port, protocol, pod_ip, port } = door;
        let place = format!("{protocol} . {host_port}");
        if !claimed.insert(format!("{host_ip}{place}")) {
            continue;
        }
        let chain = format!("port_{:016x}", hash(&format!("{host_ip} {place} {pod_ip} {port}")));
        table.chain(chain.as_str(), format!("    meta l4proto {protocol} dnat ip to {pod_ip}:{port}\n"));
        table.element(HAIRPINS, format!("{pod_ip} . {pod_ip}"));
        match host_ip.is_empty() {
            true => table.element(BY_NODE_PORT, format!("{place} : goto {chain}")),
            false => table.element(BY_ADDRESS, format!("{host_ip} . {place} : goto {chain}")),
        }
    }
}

/// What comes to a node port or an address from outside.
fn from_outside(target: &Target, pods: Ipv4Cidr) -> String {
    let chain = &target.chain;
    if !target.external_local {
        return format!("    meta mark set {MASQUERADE}\n    goto {chain}\n");
    }
    // The client's address is kept, so only this node's pods can answer; who is inside has the choice of all.
    format!(
        "    ip saddr {pods} goto {chain}\n\
         \x20   fib saddr type local meta mark set {MASQUERADE} goto {chain}\n\
         \x20   goto {chain}_local\n"
    )
}

/// A chain that picks one of `endpoints`.
fn balance(table: &mut Table, chain: &str, target: &Target, endpoints: &[Endpoint]) {
    if endpoints.is_empty() {
        // Elsewhere they are: a client should try again there, not hear that nobody listens.
        return table.chain(chain, "    drop\n");
    }
    let (protocol, count) = (&target.protocol, endpoints.len());
    let Some(seconds) = target.affinity_seconds else {
        let map: Vec<String> =
            endpoints.iter().enumerate().map(|(i, e)| format!("{i} : {} . {}", e.ip, e.port)).collect();
        let map = map.join(", ");
        let rule =
            format!("    meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {map} }}\n");
        return table.chain(chain, rule);
    };
    let mut rules = String::new();
    let mut picks = Vec::new();
    for (i, endpoint) in endpoints.iter().enumerate() {
        let key = format!(
            "{:016x}",
            hash(&format!("{}/{}:{}/{seconds}", target.chain, endpoint.ip, endpoint.port))
        );
        let (set, own) = (format!("aff_{key}"), format!("ep_{key}"));
        let _ = writeln!(rules, "    ip saddr @{set} goto {own}");
        picks.push(format!("{i} : goto {own}"));
        table.chain(
            own,
            format!(
                "    update @{set} {{ ip saddr }}\n    meta l4proto {protocol} dnat ip to {}:{}\n",
                endpoint.ip, endpoint.port
            ),
        );
        table.sets.insert(set, format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;"));
    }
    let _ = writeln!(rules, "    numgen random mod {count} vmap {{ {} }}", picks.join(", "));
    table.chain(chain, rules);
}

fn targets(services: &[Arc<Value>], slices: &[Arc<Value>], node: &str) -> Vec<Target> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for slice in slices {
        let meta = &slice["metadata"];
        let service = meta["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default();
        by_service.entry((meta["namespace"].as_str().unwrap_or_default(), service)).or_default().push(slice);
    }
    let mut targets = Vec::new();
    for service in services {
        let (meta, spec) = (&service["metadata"], &service["spec"]);
        let (namespace, name) =
            (meta["namespace"].as_str().unwrap_or_default(), meta["name"].as_str().unwrap_or_default());
        let ip = spec["clusterIP"].as_str().unwrap_or_default();
        // The API's address is this node's own: see `api_proxy`.
        if spec["type"] == "ExternalName" || !is_ipv4(ip) || ip == API_ADDRESS.to_string() {
            continue;
        }
        let behind = by_service.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
        let texts = |list: &Value, field: Option<&str>| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            let items = items.filter_map(|i| field.map_or(i, |field| &i[field]).as_str());
            items
                .filter(|text| is_ipv4(text.split('/').next().unwrap_or_default()))
                .map(str::to_owned)
                .collect()
        };
        let affinity = (spec["sessionAffinity"] == "ClientIP").then(|| {
            let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
            seconds.as_i64().unwrap_or(DEFAULT_AFFINITY_SECONDS)
        });
        for port in spec["ports"].as_array().into_iter().flatten() {
            let number = port["port"].as_i64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            targets.push(Target {
                chain: format!("svc_{:016x}", hash(&format!("{namespace}/{name}/{number}/{protocol}"))),
                cluster_ip: ip.to_owned(),
                external_ips: texts(&spec["externalIPs"], None),
                balancer_ips: texts(&service["status"]["loadBalancer"]["ingress"], Some("ip")),
                balancer_sources: texts(&spec["loadBalancerSourceRanges"], None),
                port: number,
                node_port: port["nodePort"].as_i64().unwrap_or(0),
                affinity_seconds: affinity,
                external_local: spec["externalTrafficPolicy"] == "Local",
                internal_local: spec["internalTrafficPolicy"] == "Local",
                endpoints: endpoints(behind, port["name"].as_str().unwrap_or_default(), node),
                protocol,
            });
        }
    }
    targets.sort_by(|a, b| a.chain.cmp(&b.chain));
    // Two services must not claim one place: the first in order has it, as a map has each key once.
    let mut claimed = BTreeSet::new();
    targets.retain(|target| claimed.insert(target.at(&target.cluster_ip)));
    for target in &mut targets {
        let (protocol, port) = (target.protocol.clone(), target.port);
        let mut claim = |address: &String| claimed.insert(format!("{address} . {protocol} . {port}"));
        target.external_ips.retain(&mut claim);
        target.balancer_ips.retain(&mut claim);
        if !claimed.insert(format!("{protocol} . {}", target.node_port)) {
            target.node_port = 0;
        }
    }
    targets
}

fn is_ipv4(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

/// Ready endpoints of a port; where none is ready, those that still serve while they end.
fn endpoints(slices: &[&Value], port_name: &str, node: &str) -> Vec<Endpoint> {
    let of = |ready: &dyn Fn(&Value) -> bool| {
        let mut found = Vec::new();
        for slice in slices {
            let port = slice["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|p| p["name"].as_str().unwrap_or_default() == port_name);
            let Some(port) = port.and_then(|p| p["port"].as_i64()) else { continue };
            for endpoint in
                slice["endpoints"].as_array().into_iter().flatten().filter(|e| ready(&e["conditions"]))
            {
                let ip = endpoint["addresses"][0].as_str().filter(|ip| is_ipv4(ip));
                let local = endpoint["nodeName"] == node;
                found.extend(ip.map(|ip| Endpoint { ip: ip.to_owned(), port, local }));
            }
        }
        found.sort();
        found.dedup();
        found
    };
    let ready = of(&|c| c["ready"] != false);
    if ready.is_empty() { of(&|c| c["serving"] == true && c["terminating"] == true) } else { ready }
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilothouse_api::PodNetwork;
    use serde_json::json;

    fn render(services: &[Arc<Value>], slices: &[Arc<Value>], doors: &[HostPort], node: &str) -> Table {
        super::render(services, slices, doors, node, PodNetwork::DEFAULT_CIDR)
    }

    #[test]
    fn what_leaves_the_clusters_own_addresses_leaves_with_the_nodes() {
        let rules = super::render(&[], &[], &[], "here", "10.128.0.0/10".parse().unwrap()).script(None);
        assert!(rules.contains("ip saddr 10.128.0.0/10 ip daddr != 10.128.0.0/10 oifname"), "{rules}");
    }

    fn service(name: &str, ip: &str, more: Value) -> Arc<Value> {
        let mut spec = json!({"clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080 + i32::from(name != "web")}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(json!({"metadata": {"namespace": "a", "name": name}, "spec": spec}))
    }

    fn slice() -> Arc<Value> {
        Arc::new(json!({"metadata": {"namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080, "name": ""}], "endpoints": [
                {"addresses": ["10.244.0.2"], "nodeName": "here", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.2"], "nodeName": "there", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]}))
    }

    fn script(more: Value) -> String {
        render(&[service("web", "10.96.0.7", more)], &[slice()], &[], "here").script(None)
    }

    #[test]
    fn services_lead_to_their_ready_endpoints_and_reject_without_any() {
        let services = [service("web", "10.96.0.7", json!({})), service("empty", "10.96.0.8", json!({}))];
        let rules = render(&services, &[slice()], &[], "here").script(None);
        assert!(
            rules.contains("numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.1.2 . 8080 }"),
            "{rules}"
        );
        assert!(rules.contains("10.96.0.7 . tcp . 80 : goto svc_"), "{rules}");
        assert!(rules.contains("tcp . 30080 : goto svc_"), "{rules}");
        assert!(
            rules.contains("add element ip pilothouse nobody_at_address { 10.96.0.8 . tcp . 80 }"),
            "{rules}"
        );
        assert!(!rules.contains("10.244.0.3"), "{rules}");
    }

    #[test]
    fn with_the_local_policy_only_this_nodes_pods_answer_outsiders() {
        let rules = script(json!({"externalTrafficPolicy": "Local"}));
        assert!(
            rules.contains(
                "_local {\n    meta l4proto tcp dnat ip to numgen random mod 1 map { 0 : 10.244.0.2 . 8080 }"
            ),
            "{rules}"
        );
        assert!(rules.contains("ip saddr 10.244.0.0/16 goto svc_"), "{rules}");
        let elsewhere = render(
            &[service("web", "10.96.0.7", json!({"externalTrafficPolicy": "Local"}))],
            &[slice()],
            &[],
            "other",
        );
        assert!(elsewhere.script(None).contains("_local {\n    drop\n"), "{elsewhere:?}");
    }

    #[test]
    fn who_came_before_is_remembered_across_changes() {
        let sticky = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
        let before = render(&[service("web", "10.96.0.7", sticky.clone())], &[slice()], &[], "here");
        let first = before.script(None);
        assert!(
            first.contains("flags dynamic,timeout; timeout 60s;") && first.contains("update @aff_"),
            "{first}"
        );
        let services = [service("web", "10.96.0.7", sticky), service("new", "10.96.0.9", json!({}))];
        let next = render(&services, &[slice()], &[], "here").script(Some(&before));
        let expected = "add element ip pilothouse nobody_at_address { 10.96.0.9 . tcp . 80 }\n\
                        add element ip pilothouse nobody_at_port { tcp . 30081 }\n";
        assert_eq!(next, expected, "only what is new");
        let gone = render(&[], &[], &[], "here").script(Some(&before));
        assert_eq!(gone.matches("delete set").count(), 2, "{gone}");
        assert_eq!(gone.matches("delete chain").count(), 4, "{gone}");
    }

    /// A service with so many sticky endpoints, of which every change is one transaction.
    #[test]
    fn the_kernel_takes_every_step_from_one_table_to_the_next() {
        if !nix::unistd::Uid::effective().is_root() {
            return; // `docker_pod` tries the same through a whole agent
        }
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let sticky = json!({"sessionAffinity": "ClientIP"});
            let longer = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}});
            let local = json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]});
            let plain = || service("web", "10.96.0.7", json!({}));
            type Objects = Vec<Arc<Value>>;
            let tables: Vec<(Objects, Objects)> = vec![
                (vec![], vec![]),
                (vec![plain()], vec![]),
                (vec![plain()], vec![slice()]),
                (vec![service("web", "10.96.0.7", sticky.clone())], vec![slice()]),
                (vec![service("web", "10.96.0.7", longer)], vec![slice()]),
                (vec![service("web", "10.96.0.7", local)], vec![slice()]),
                (vec![service("web", "10.96.0.7", sticky), service("other", "10.96.0.8", json!({}))], vec![slice()]),
                (vec![plain()], vec![]),
                (vec![], vec![]),
            ];
            let mut before: Option<Table> = None;
            for (services, slices) in tables {
                let next = render(&services, &slices, &[], "here");
                let script = next.script(before.as_ref());
                let mut nft = std::process::Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
                std::io::Write::write_all(&mut nft.stdin.take().unwrap(), script.as_bytes()).unwrap();
                assert!(nft.wait().unwrap().success(), "{script}");
                before = Some(next);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_port_of_the_node_leads_to_the_pod_that_asked_for_it() {
        let pod = json!({"spec": {"containers": [{"ports": [
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.7"},
            {"containerPort": 1}]}]}});
        let doors = HostPort::of(&pod, "10.244.0.9");
        let rules = render(&[], &[], &doors, "here").script(None);
        assert!(
            rules.contains("dnat ip to 10.244.0.9:80\n") && rules.contains("{ tcp . 8080 : goto port_"),
            "{rules}"
        );
        assert!(rules.contains("{ 192.0.2.7 . udp . 5353 : goto port_"), "{rules}");
    }

    #[test]
    fn a_load_balancer_serves_whom_it_may() {
        let mut service =
            (*service("web", "10.96.0.7", json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}))).clone();
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}});
        let rules = render(&[Arc::new(service)], &[slice()], &[], "here").script(None);
        assert!(rules.contains("ip saddr != { 192.0.2.0/24 } drop"), "{rules}");
        assert!(rules.contains("203.0.113.5 . tcp . 80 : goto svc_"), "{rules}");
    }
}
