//! The node's own DNS: answers for `cluster.local` from what the server told, and asks the host's resolvers for the rest.
use super::DNS_ADDRESS;
use anyhow::Result;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const DOMAIN: &str = "cluster.local";
/// Short, since endpoints change.
const TTL_SECONDS: u32 = 5;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// What answers are made of.
pub struct Zone {
    pub services: Vec<Arc<Value>>,
    pub slices: Vec<Arc<Value>>,
}

/// An answer of our own.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Not a name of the cluster: ask upstream.
    NotOurs,
    NoSuchName,
    /// Empty: the name exists, but has nothing of that type.
    Records(Vec<RData>),
}

/// Kubernetes' DNS specification 1.1.0: services, headless services, their pods, SRV.
pub fn answer(zone: &Zone, name: &str, kind: RecordType) -> Answer {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let Some(inside) = name.strip_suffix(DOMAIN).and_then(|n| n.strip_suffix('.')) else {
        return if name == DOMAIN { Answer::Records(Vec::new()) } else { Answer::NotOurs };
    };
    let labels: Vec<&str> = inside.split('.').rev().collect();
    let (host, service, namespace) = match labels[..] {
        ["svc"] | ["svc", _] => return Answer::Records(Vec::new()),
        ["svc", namespace, service] => (None, service, namespace),
        ["svc", namespace, service, host] => (Some(Host::Pod(host)), service, namespace),
        ["svc", namespace, service, protocol, port] => (Some(Host::Port(port, protocol)), service, namespace),
        _ => return Answer::NoSuchName,
    };
    let found = zone
        .services
        .iter()
        .find(|s| s["metadata"]["name"] == service && s["metadata"]["namespace"] == namespace);
    let Some(found) = found else { return Answer::NoSuchName };
    match host {
        Some(Host::Port(port, protocol)) => ports(zone, found, port, protocol, kind),
        Some(Host::Pod(host)) => addresses(ready_addresses(zone, found, Some(host)), kind),
        None if found["spec"]["clusterIP"] == "None" => addresses(ready_addresses(zone, found, None), kind),
        None => {
            let ip = found["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
            addresses(ip.into_iter().collect(), kind)
        }
    }
}

enum Host<'a> {
    Pod(&'a str),
    Port(&'a str, &'a str),
}

fn addresses(found: Vec<Ipv4Addr>, kind: RecordType) -> Answer {
    match kind {
        _ if found.is_empty() => Answer::NoSuchName,
        RecordType::A | RecordType::ANY => {
            Answer::Records(found.into_iter().map(|ip| RData::A(A(ip))).collect())
        }
        _ => Answer::Records(Vec::new()),
    }
}

fn ready_addresses(zone: &Zone, service: &Value, host: Option<&str>) -> Vec<Ipv4Addr> {
    let all = service["spec"]["publishNotReadyAddresses"] == true;
    let slices = zone.slices.iter().filter(|slice| {
        slice["metadata"]["namespace"] == service["metadata"]["namespace"]
            && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    });
    let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints
        .filter(|e| all || e["conditions"]["ready"] != false)
        .filter_map(|e| {
            let ip: Ipv4Addr = e["addresses"][0].as_str()?.parse().ok()?;
            let own = e["hostname"].as_str().map_or_else(|| ip.to_string().replace('.', "-"), str::to_owned);
            host.is_none_or(|host| host == own).then_some(ip)
        })
        .collect()
}

fn ports(zone: &Zone, service: &Value, port: &str, protocol: &str, kind: RecordType) -> Answer {
    let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
        return Answer::NoSuchName;
    };
    let named = service["spec"]["ports"].as_array().into_iter().flatten().find(|p| {
        p["name"] == port && p["protocol"].as_str().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
    });
    let number = named.and_then(|p| p["port"].as_u64()).and_then(|n| u16::try_from(n).ok());
    let Some(number) = number else { return Answer::NoSuchName };
    if !matches!(kind, RecordType::SRV | RecordType::ANY) {
        return Answer::Records(Vec::new());
    }
    let meta = &service["metadata"];
    let base = format!(
        "{}.{}.svc.{DOMAIN}.",
        meta["name"].as_str().unwrap_or_default(),
        meta["namespace"].as_str().unwrap_or_default()
    );
    let hosts = match service["spec"]["clusterIP"] == "None" {
        true => ready_addresses(zone, service, None)
            .iter()
            .map(|ip| format!("{}.{base}", ip.to_string().replace('.', "-")))
            .collect(),
        false => vec![base],
    };
    let records = hosts
        .into_iter()
        .filter_map(|host| Some(RData::SRV(SRV::new(0, 100, number, Name::from_ascii(host).ok()?))));
    Answer::Records(records.collect())
}

/// Serves until the task is dropped. `zone` gives the newest state.
pub async fn serve(zone: impl Fn() -> Zone + Send + Sync + Clone + 'static) -> Result<()> {
    let address = SocketAddr::from((DNS_ADDRESS, 53));
    let (udp, tcp) = (Arc::new(UdpSocket::bind(address).await?), TcpListener::bind(address).await?);
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let (query, udp, zone) = (buffer[..length].to_vec(), udp.clone(), zone.clone());
                tokio::spawn(async move {
                    if let Some(reply) = reply(&query, &zone()).await {
                        let _ = udp.send_to(&reply, from).await;
                    }
                });
            }
            accepted = tcp.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                tokio::spawn(tokio::time::timeout(TCP_TIMEOUT, serve_tcp(stream, zone.clone())));
            }
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, zone: impl Fn() -> Zone) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.ok()?;
        let reply = reply(&query, &zone()).await?;
        stream.write_u16(u16::try_from(reply.len()).ok()?).await.ok()?;
        stream.write_all(&reply).await.ok()?;
    }
}

async fn reply(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    let question = request.queries.first()?.clone();
    let mut response = request.clone().into_response();
    response.metadata.recursion_available = true;
    match answer(zone, &question.name().to_ascii(), question.query_type()) {
        Answer::NotOurs => return forward(query).await,
        Answer::NoSuchName => {
            response.metadata.authoritative = true;
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        Answer::Records(records) => {
            response.metadata.authoritative = true;
            for data in records {
                response.add_answer(Record::from_rdata(question.name().clone(), TTL_SECONDS, data));
            }
        }
    }
    response.to_vec().ok()
}

/// The host's resolvers in turn.
async fn forward(query: &[u8]) -> Option<Vec<u8>> {
    let config = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let servers = config
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .filter_map(|s| s.trim().parse().ok());
    for server in servers {
        let asked = async {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).await.ok()?;
            socket.connect(SocketAddr::new(server, 53)).await.ok()?;
            socket.send(query).await.ok()?;
            let mut buffer = vec![0; 4096];
            let length = socket.recv(&mut buffer).await.ok()?;
            buffer.truncate(length);
            Some(buffer)
        };
        if let Ok(Some(reply)) = tokio::time::timeout(UPSTREAM_TIMEOUT, asked).await {
            return Some(reply);
        }
    }
    let mut failed = Message::from_vec(query).ok()?.into_response();
    failed.metadata.response_code = ResponseCode::ServFail;
    failed.to_vec().ok()
}

/// The resolv.conf of a pod.
pub fn resolv_conf(pod: &Value) -> String {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let host = || std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let policy = pod["spec"]["dnsPolicy"].as_str().unwrap_or("ClusterFirst");
    let mut text = match policy {
        "None" => String::new(),
        "Default" => host(),
        "ClusterFirst" if pod["spec"]["hostNetwork"] == true => host(),
        _ => format!(
            "search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\nnameserver {DNS_ADDRESS}\noptions ndots:5\n"
        ),
    };
    let own = &pod["spec"]["dnsConfig"];
    for server in own["nameservers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let searches: Vec<&str> =
        own["searches"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn zone() -> Zone {
        let service = |name: &str, ip: &str| {
            Arc::new(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
            "clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}))
        };
        let slice = Arc::new(
            json!({"metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}, "endpoints": [
            {"addresses": ["10.244.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]}),
        );
        Zone { services: vec![service("web", "10.96.0.7"), service("db", "None")], slices: vec![slice] }
    }

    #[test]
    fn names_resolve_as_kubernetes_dns_specification_says() {
        let a = |ip: &str| Answer::Records(vec![RData::A(A(ip.parse().unwrap()))]);
        let rows = [
            ("web.shop.svc.cluster.local.", RecordType::A, a("10.96.0.7")),
            ("WEB.shop.svc.cluster.local", RecordType::A, a("10.96.0.7")),
            ("web.shop.svc.cluster.local", RecordType::AAAA, Answer::Records(vec![])),
            ("db.shop.svc.cluster.local", RecordType::A, a("10.244.0.2")),
            ("db-0.db.shop.svc.cluster.local", RecordType::A, a("10.244.0.2")),
            ("no.shop.svc.cluster.local", RecordType::A, Answer::NoSuchName),
            ("example.org", RecordType::A, Answer::NotOurs),
        ];
        for (name, kind, expected) in rows {
            assert_eq!(answer(&zone(), name, kind), expected, "{name}");
        }
        let srv = answer(&zone(), "_http._tcp.web.shop.svc.cluster.local", RecordType::SRV);
        assert!(
            matches!(srv, Answer::Records(records) if matches!(&records[..], [RData::SRV(s)] if s.port == 80))
        );
    }
}
