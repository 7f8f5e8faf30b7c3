//! Services as nftables rules: one pure function from services and their endpoints to a script.
use super::{API_ADDRESS, BRIDGE, POD_NETWORK};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

/// Packets with this mark leave with the node's address.
const MASQUERADE: &str = "0x4000";

/// One port of one service.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    chain: String,
    addresses: Vec<String>,
    port: i64,
    node_port: i64,
    protocol: String,
    sticky_seconds: Option<i64>,
    /// Ready pods: address and port.
    endpoints: Vec<(String, i64)>,
}

/// The whole table, replacing what was there.
pub fn render(services: &[Arc<Value>], slices: &[Arc<Value>]) -> String {
    let targets = targets(services, slices);
    let mut chains = String::new();
    let mut by_address = Vec::new();
    let mut by_node_port = Vec::new();
    let mut nobody = Vec::new();
    let mut hairpins = BTreeSet::new();
    for target in &targets {
        if target.endpoints.is_empty() {
            nobody.extend(
                target.addresses.iter().map(|a| format!("{a} . {} . {}", target.protocol, target.port)),
            );
            continue;
        }
        hairpins.extend(target.endpoints.iter().map(|(ip, _)| format!("{ip} . {ip}")));
        chain(&mut chains, target);
        let goto = format!("goto {}", target.chain);
        by_address.extend(
            target.addresses.iter().map(|a| format!("{a} . {} . {} : {goto}", target.protocol, target.port)),
        );
        if target.node_port > 0 {
            by_node_port
                .push(format!("{} . {} : goto {}_ext", target.protocol, target.node_port, target.chain));
            let _ = write!(
                chains,
                "  chain {0}_ext {{\n    meta mark set {MASQUERADE}\n    goto {0}\n  }}\n",
                target.chain
            );
        }
    }
    let services_chain = verdict_rules(&by_address, &by_node_port);
    let reject = match nobody.is_empty() {
        true => String::new(),
        false => format!("    ip daddr . meta l4proto . th dport {{ {} }} reject\n", nobody.join(", ")),
    };
    let hairpin = match hairpins.is_empty() {
        true => String::new(),
        false => format!(
            "    ip saddr . ip daddr {{ {} }} masquerade\n",
            hairpins.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    format!(
        "table ip pilothouse {{}}\ndelete table ip pilothouse\ntable ip pilothouse {{\n{chains}\
  chain services {{\n{services_chain}  }}\n\
  chain prerouting {{\n    type nat hook prerouting priority -101; policy accept;\n    jump services\n  }}\n\
  chain output {{\n    type nat hook output priority -101; policy accept;\n    jump services\n  }}\n\
  chain nobody {{\n{reject}  }}\n\
  chain forward {{\n    type filter hook forward priority -1; policy accept;\n    jump nobody\n  }}\n\
  chain reject_output {{\n    type filter hook output priority -1; policy accept;\n    jump nobody\n  }}\n\
  chain postrouting {{\n    type nat hook postrouting priority 99; policy accept;\n\
    meta mark & {MASQUERADE} == {MASQUERADE} masquerade\n{hairpin}\
    ip saddr 127.0.0.0/8 oifname \"{BRIDGE}\" masquerade\n\
    ip saddr {POD_NETWORK} ip daddr != {POD_NETWORK} oifname != \"{BRIDGE}\" masquerade\n  }}\n}}\n"
    )
}

fn verdict_rules(by_address: &[String], by_node_port: &[String]) -> String {
    let mut rules = String::new();
    if !by_address.is_empty() {
        let _ =
            writeln!(rules, "    ip daddr . meta l4proto . th dport vmap {{ {} }}", by_address.join(", "));
    }
    if !by_node_port.is_empty() {
        let _ = writeln!(
            rules,
            "    fib daddr type local meta l4proto . th dport vmap {{ {} }}",
            by_node_port.join(", ")
        );
    }
    rules
}

fn chain(chains: &mut String, target: &Target) {
    let count = target.endpoints.len();
    let pick = match target.sticky_seconds {
        Some(_) => format!("jhash ip saddr mod {count}"),
        None => format!("numgen random mod {count}"),
    };
    let map: Vec<String> =
        target.endpoints.iter().enumerate().map(|(i, (ip, port))| format!("{i} : {ip} . {port}")).collect();
    let _ = write!(
        chains,
        "  chain {} {{\n    meta l4proto {} dnat ip to {pick} map {{ {} }}\n  }}\n",
        target.chain,
        target.protocol,
        map.join(", ")
    );
}

fn targets(services: &[Arc<Value>], slices: &[Arc<Value>]) -> Vec<Target> {
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
        if matches!(ip, "" | "None") || ip == API_ADDRESS.to_string() {
            continue;
        }
        let behind = by_service.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
        let external = spec["externalIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let addresses: Vec<String> = std::iter::once(ip).chain(external).map(str::to_owned).collect();
        for port in spec["ports"].as_array().into_iter().flatten() {
            let number = port["port"].as_i64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            targets.push(Target {
                chain: format!("svc_{:016x}", hash(&format!("{namespace}/{name}/{number}/{protocol}"))),
                addresses: addresses.clone(),
                port: number,
                node_port: port["nodePort"].as_i64().unwrap_or(0),
                sticky_seconds: spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64(),
                endpoints: endpoints(behind, port["name"].as_str().unwrap_or_default()),
                protocol,
            });
        }
    }
    targets.sort();
    targets
}

/// Ready endpoints of a port; where none is ready, those that still serve while they end.
fn endpoints(slices: &[&Value], port_name: &str) -> Vec<(String, i64)> {
    let of = |ready: &dyn Fn(&Value) -> bool| {
        let mut found = Vec::new();
        for slice in slices {
            let port = slice["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|p| p["name"].as_str().unwrap_or_default() == port_name);
            let Some(number) = port.and_then(|p| p["port"].as_i64()) else { continue };
            for endpoint in
                slice["endpoints"].as_array().into_iter().flatten().filter(|e| ready(&e["conditions"]))
            {
                found.extend(endpoint["addresses"][0].as_str().map(|ip| (ip.to_owned(), number)));
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
    use serde_json::json;

    #[test]
    fn services_lead_to_their_ready_endpoints_and_reject_without_any() {
        let service = |name: &str, ip: &str| {
            Arc::new(json!({"metadata": {"namespace": "a", "name": name}, "spec": {
            "clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}}))
        };
        let slice =
            Arc::new(json!({"metadata": {"namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080, "name": ""}], "endpoints": [
                {"addresses": ["10.244.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]}));
        let rules = render(&[service("web", "10.96.0.7"), service("empty", "10.96.0.8")], &[slice]);
        assert!(rules.contains("numgen random mod 1 map { 0 : 10.244.0.2 . 8080 }"), "{rules}");
        assert!(rules.contains("10.96.0.7 . tcp . 80 : goto svc_"), "{rules}");
        assert!(rules.contains("tcp . 30080 : goto svc_"), "{rules}");
        assert!(rules.contains("{ 10.96.0.8 . tcp . 80 } reject"), "{rules}");
        assert!(!rules.contains("10.244.0.3"), "{rules}");
    }
}
