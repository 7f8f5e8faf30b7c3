//! The node's own DNS: answers for `cluster.local` from what the server told, and asks the host's resolvers
//! for the rest.
mod zone;

pub use zone::Zone;

use super::DNS_ADDRESS;
use anyhow::Result;
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use zone::Answer;

pub const DOMAIN: &str = "cluster.local";
/// Short, since endpoints change.
const TTL_SECONDS: u32 = 5;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions that are answered at the same time; more are dropped, and clients ask again.
const AT_ONCE: usize = 512;
/// What a datagram carries without and with EDNS (the size that crosses every network in one piece).
const PLAIN_BYTES: u16 = 512;
const EDNS_BYTES: u16 = 1232;
/// Aliases of aliases.
const MOST_ALIASES: usize = 8;
const HOST_RESOLVERS: &str = "/etc/resolv.conf";
/// Where systemd keeps the resolvers behind its own, which pods cannot reach.
const REAL_RESOLVERS: &str = "/run/systemd/resolve/resolv.conf";
/// What resolvers take of one resolv.conf.
const MOST_NAMESERVERS: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Udp,
    Tcp,
}

/// Serves until the task is dropped. `zone` gives the newest state.
pub async fn serve(zone: impl Fn() -> Arc<Zone> + Send + Sync + Clone + 'static) -> Result<()> {
    let address = SocketAddr::from((DNS_ADDRESS, 53));
    let (udp, tcp) = (Arc::new(UdpSocket::bind(address).await?), TcpListener::bind(address).await?);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let Ok(turn) = turns.clone().try_acquire_owned() else { continue };
                let (query, udp, zone) = (buffer[..length].to_vec(), udp.clone(), zone.clone());
                tokio::spawn(async move {
                    if let Some(reply) = reply(&query, &zone(), Transport::Udp).await {
                        let _ = udp.send_to(&reply, from).await;
                    }
                    drop(turn);
                });
            }
            accepted = tcp.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let Ok(turn) = turns.clone().try_acquire_owned() else { continue };
                let zone = zone.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(TCP_TIMEOUT, serve_tcp(stream, zone)).await;
                    drop(turn);
                });
            }
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, zone: impl Fn() -> Arc<Zone>) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.ok()?;
        let reply = reply(&query, &zone(), Transport::Tcp).await?;
        stream.write_u16(u16::try_from(reply.len()).ok()?).await.ok()?;
        stream.write_all(&reply).await.ok()?;
    }
}

async fn reply(query: &[u8], zone: &Zone, transport: Transport) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    // An answer to an answer would go to and fro for ever.
    if request.metadata.message_type == MessageType::Response {
        return None;
    }
    let question = request.queries.first()?.clone();
    let mut response = request.clone().into_response();
    response.metadata.recursion_available = true;
    response.edns = request.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES);
        edns
    });
    match zone.answer(&question.name().to_ascii(), question.query_type()) {
        Answer::NotOurs => return forward(query, transport).await,
        Answer::Alias(target) => {
            response.metadata.authoritative = true;
            follow(zone, &question, target, &mut response).await;
        }
        Answer::NoSuchName => deny(&mut response, ResponseCode::NXDomain),
        Answer::Records(records) if records.is_empty() => deny(&mut response, ResponseCode::NoError),
        Answer::Records(mut records) => {
            // Clients take the first: each pod is the first for some.
            records.shuffle(&mut rand::rng());
            response.metadata.authoritative = true;
            let record = |data| Record::from_rdata(question.name().clone(), TTL_SECONDS, data);
            response.answers.extend(records.into_iter().map(record));
        }
    }
    let asked = request.edns.as_ref().map_or(PLAIN_BYTES, |e| e.max_payload().clamp(PLAIN_BYTES, EDNS_BYTES));
    sized(&response, if transport == Transport::Tcp { u16::MAX } else { asked })
}

/// What does not fit is asked for again over TCP.
fn sized(response: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = response.to_vec().ok()?;
    if bytes.len() <= usize::from(limit) {
        return Some(bytes);
    }
    response.truncate().to_vec().ok()
}

/// Says no, and for how long that holds.
fn deny(response: &mut Message, code: ResponseCode) {
    response.metadata.authoritative = true;
    response.metadata.response_code = code;
    let name = |text: &str| Name::from_ascii(text).unwrap_or_default();
    let (own, host) = (format!("ns.dns.{DOMAIN}."), format!("hostmaster.{DOMAIN}."));
    let authority = SOA::new(name(&own), name(&host), 1, 7200, 1800, 86_400, TTL_SECONDS);
    let zone = name(&format!("{DOMAIN}."));
    response.authorities.push(Record::from_rdata(zone, TTL_SECONDS, RData::SOA(authority)));
}

/// The alias, and what it leads to as far as that can be found out.
async fn follow(zone: &Zone, question: &Query, mut target: Name, response: &mut Message) {
    let kind = question.query_type();
    let mut owner = question.name().clone();
    for _ in 0..MOST_ALIASES {
        response.answers.push(Record::from_rdata(owner, TTL_SECONDS, zone::alias(target.clone())));
        if kind == RecordType::CNAME {
            return;
        }
        owner = target;
        match zone.answer(&owner.to_ascii(), kind) {
            Answer::Alias(next) => target = next,
            Answer::Records(records) => {
                let record = |data| Record::from_rdata(owner.clone(), TTL_SECONDS, data);
                return response.answers.extend(records.into_iter().map(record));
            }
            Answer::NoSuchName => return,
            Answer::NotOurs => {
                let mut upstream = Message::query();
                upstream.metadata.recursion_desired = true;
                upstream.add_query(Query::query(owner, kind));
                let Ok(bytes) = upstream.to_vec() else { return };
                let told =
                    forward(&bytes, Transport::Udp).await.and_then(|told| Message::from_vec(&told).ok());
                return response.answers.extend(told.into_iter().flat_map(|told| told.answers));
            }
        }
    }
}

/// The host's resolvers in turn, over what the client came by.
async fn forward(query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let config = tokio::fs::read_to_string(HOST_RESOLVERS).await.unwrap_or_default();
    for server in Resolvers::parse(&config).nameservers {
        let Ok(server) = server.parse::<IpAddr>() else { continue };
        if server == IpAddr::V4(DNS_ADDRESS) {
            continue; // ourselves
        }
        let place = SocketAddr::new(server, 53);
        let asked = async {
            match transport {
                Transport::Udp => ask(place, query).await,
                Transport::Tcp => ask_at_length(place, query).await,
            }
        };
        if let Ok(Ok(reply)) = tokio::time::timeout(UPSTREAM_TIMEOUT, asked).await {
            return Some(reply);
        }
    }
    let mut failed = Message::from_vec(query).ok()?.into_response();
    failed.metadata.response_code = ResponseCode::ServFail;
    failed.to_vec().ok()
}

async fn ask(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn ask_at_length(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(query.len()).unwrap_or(u16::MAX)).await?;
    stream.write_all(query).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

/// What a resolv.conf says.
#[derive(Debug, Default, PartialEq)]
struct Resolvers {
    nameservers: Vec<String>,
    searches: Vec<String>,
    /// Name and value, which may be empty.
    options: Vec<(String, String)>,
}

impl Resolvers {
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => found.nameservers.extend(words.next()),
                Some("search" | "domain") => found.searches = words.collect(),
                Some("options") => words.for_each(|word| {
                    let (name, value) = word.split_once(':').unwrap_or((&word, ""));
                    found.options.push((name.to_owned(), value.to_owned()));
                }),
                _ => {}
            }
        }
        found
    }

    /// The host's, as a pod can reach them.
    fn of_host() -> Self {
        let read = |path: &str| Self::parse(&std::fs::read_to_string(path).unwrap_or_default());
        let own = read(HOST_RESOLVERS);
        let loopback = |ip: &String| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if own.nameservers.iter().all(loopback) {
            let real = read(REAL_RESOLVERS);
            if !real.nameservers.is_empty() {
                return real;
            }
        }
        own
    }

    fn render(self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in self.nameservers.iter().take(MOST_NAMESERVERS) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let options = self.options.into_iter();
        let options =
            options.map(|(name, value)| if value.is_empty() { name } else { format!("{name}:{value}") });
        let options: Vec<String> = options.collect();
        if !options.is_empty() {
            text.push_str(&format!("options {}\n", options.join(" ")));
        }
        text
    }
}

/// The resolv.conf of a pod.
pub fn resolv_conf(pod: &Value) -> String {
    resolvers(pod, Resolvers::of_host).render()
}

fn resolvers(pod: &Value, host: impl Fn() -> Resolvers) -> Resolvers {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let policy = pod["spec"]["dnsPolicy"].as_str().unwrap_or("ClusterFirst");
    let mut found = match policy {
        "None" => Resolvers::default(),
        "Default" => host(),
        "ClusterFirst" if pod["spec"]["hostNetwork"] == true => host(),
        _ => {
            let own = [format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.to_owned()];
            Resolvers {
                nameservers: vec![DNS_ADDRESS.to_string()],
                searches: own.into_iter().chain(host().searches).collect(),
                options: vec![("ndots".into(), "5".into())],
            }
        }
    };
    let own = &pod["spec"]["dnsConfig"];
    let texts = |field: &str| {
        own[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
    };
    let add = |list: &mut Vec<String>, more: Vec<String>| {
        for item in more {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    };
    add(&mut found.nameservers, texts("nameservers").collect());
    add(&mut found.searches, texts("searches").collect());
    for option in own["options"].as_array().into_iter().flatten() {
        let text = |field: &str| option[field].as_str().unwrap_or_default().to_owned();
        found.options.retain(|(name, _)| *name != text("name"));
        found.options.push((text("name"), text("value")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use serde_json::json;

    fn zone(endpoints: u8) -> Zone {
        let service = json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None"}});
        let endpoints: Vec<Value> = (0..endpoints)
            .map(|i| json!({"addresses": [format!("10.244.0.{i}")], "conditions": {"ready": true}}))
            .collect();
        let slice = json!({"metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}, "endpoints": endpoints});
        Zone::new(vec![Arc::new(service)], vec![Arc::new(slice)], pilothouse_api::PodNetwork::DEFAULT_CIDR)
    }

    async fn ask(zone: &Zone, name: &str, edns: Option<u16>, transport: Transport) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        if let Some(bytes) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            query.edns = Some(edns);
        }
        let told = reply(&query.to_vec().unwrap(), zone, transport).await.unwrap();
        Message::from_vec(&told).unwrap()
    }

    #[tokio::test]
    async fn what_does_not_fit_a_datagram_is_truncated_and_whole_over_tcp() {
        let name = "db.shop.svc.cluster.local.";
        let rows = [
            (5, None, Transport::Udp, false, 5),
            (60, None, Transport::Udp, true, 0),
            (60, Some(4096), Transport::Udp, false, 60),
            (200, Some(4096), Transport::Udp, true, 0),
            (200, None, Transport::Tcp, false, 200),
        ];
        for (count, edns, transport, truncated, answers) in rows {
            let told = ask(&zone(count), name, edns, transport).await;
            assert_eq!((told.metadata.truncation, told.answers.len()), (truncated, answers), "{count}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_not_there_is_denied_for_a_while() {
        let told = ask(&zone(1), "no.shop.svc.cluster.local.", None, Transport::Udp).await;
        assert_eq!(told.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!((told.authorities.len(), told.answers.len()), (1, 0));
    }

    #[test]
    fn a_pods_resolvers_follow_its_policy_and_its_own_settings() {
        let host = || Resolvers::parse("nameserver 192.0.2.1\nsearch corp.example\noptions rotate\n");
        let of =
            |spec: Value| resolvers(&json!({"metadata": {"namespace": "shop"}, "spec": spec}), host).render();
        assert_eq!(
            of(
                json!({"dnsConfig": {"searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}})
            ),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example a.example\n\
             nameserver 10.96.0.10\noptions ndots:2 edns0\n"
        );
        let hosts = "search corp.example\nnameserver 192.0.2.1\noptions rotate\n";
        assert_eq!(of(json!({"dnsPolicy": "Default"})), hosts);
        assert_eq!(of(json!({"hostNetwork": true})), hosts);
        assert!(
            of(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})).contains("10.96.0.10")
        );
        assert_eq!(
            of(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}})),
            "nameserver 9.9.9.9\n"
        );
    }
}
