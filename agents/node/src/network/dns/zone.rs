//! The names of `cluster.local` (Kubernetes' DNS specification 1.1.0): services, headless services and their
//! pods, SRV, PTR.
use super::super::SERVICE_NETWORK;
use super::DOMAIN;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use pilothouse_api::Ipv4Cidr;
use serde_json::Value;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

const SPECIFICATION: &str = "1.1.0";

/// By namespace and name.
type Place = (String, String);

/// What answers are made of.
#[derive(Default)]
pub struct Zone {
    services: HashMap<Place, Arc<Value>>,
    /// By the service they belong to.
    slices: HashMap<Place, Vec<Arc<Value>>>,
    /// The name of an address.
    names: HashMap<Ipv4Addr, String>,
    /// The cluster's own addresses: nobody else knows what they are called.
    own: Vec<Ipv4Cidr>,
}

/// An answer of our own.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Not a name of the cluster: ask upstream.
    NotOurs,
    NoSuchName,
    /// Empty: the name exists, but has nothing of that type.
    Records(Vec<RData>),
    /// An ExternalName service.
    Alias(Name),
}

/// A pod behind a headless service.
struct Endpoint<'a> {
    ip: Ipv4Addr,
    /// Its label in the service's domain.
    label: String,
    slice: &'a Value,
}

fn text<'a>(object: &'a Value, section: &str, field: &str) -> &'a str {
    object[section][field].as_str().unwrap_or_default()
}

fn place(object: &Value, name: &str) -> Place {
    (text(object, "metadata", "namespace").to_owned(), name.to_owned())
}

fn dashed(ip: Ipv4Addr) -> String {
    ip.to_string().replace('.', "-")
}

fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

fn domain(service: &Value) -> String {
    format!("{}.{}.svc.{DOMAIN}.", text(service, "metadata", "name"), text(service, "metadata", "namespace"))
}

impl Zone {
    /// `pods` are the addresses of all pods.
    pub fn new(services: Vec<Arc<Value>>, slices: Vec<Arc<Value>>, pods: Ipv4Cidr) -> Self {
        let mut zone = Self { own: vec![pods, SERVICE_NETWORK], ..Self::default() };
        for slice in slices {
            let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
            let place = place(&slice, service.unwrap_or_default());
            zone.slices.entry(place).or_default().push(slice);
        }
        for service in services {
            zone.services.insert(place(&service, text(&service, "metadata", "name")), service);
        }
        let mut names = HashMap::new();
        for service in zone.services.values() {
            let domain = domain(service);
            match text(service, "spec", "clusterIP").parse() {
                Ok(ip) => drop(names.insert(ip, domain)),
                Err(_) if is_headless(service) => {
                    let own = zone.endpoints(service, None);
                    names.extend(own.into_iter().map(|e| (e.ip, format!("{}.{domain}", e.label))));
                }
                Err(_) => {}
            }
        }
        zone.names = names;
        zone
    }

    pub fn answer(&self, name: &str, kind: RecordType) -> Answer {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(address) = name.strip_suffix(".in-addr.arpa") {
            return self.reverse(address, kind);
        }
        let Some(inside) = name.strip_suffix(DOMAIN).and_then(|n| n.strip_suffix('.')) else {
            return if name == DOMAIN { Answer::Records(Vec::new()) } else { Answer::NotOurs };
        };
        let labels: Vec<&str> = inside.split('.').rev().collect();
        match labels[..] {
            ["svc" | "pod"] | ["svc" | "pod", _] => Answer::Records(Vec::new()),
            ["dns-version"] => {
                records(kind, RecordType::TXT, [RData::TXT(TXT::new(vec![SPECIFICATION.into()]))])
            }
            ["pod", _, address] => match address.replace('-', ".").parse() {
                Ok(ip) => addresses(vec![ip], kind),
                Err(_) => Answer::NoSuchName,
            },
            ["svc", namespace, service] => self.service(namespace, service, None, kind),
            ["svc", namespace, service, host] => self.service(namespace, service, Some(host), kind),
            ["svc", namespace, service, protocol, port] => {
                self.ports(namespace, service, port, protocol, kind)
            }
            _ => Answer::NoSuchName,
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.services.get(&(namespace.to_owned(), name.to_owned())).map(|found| &**found)
    }

    fn service(&self, namespace: &str, name: &str, host: Option<&str>, kind: RecordType) -> Answer {
        let Some(service) = self.find(namespace, name) else { return Answer::NoSuchName };
        if service["spec"]["type"] == "ExternalName" {
            let target = text(service, "spec", "externalName").trim_end_matches('.');
            return match Name::from_ascii(format!("{target}.")) {
                Ok(target) if host.is_none() => Answer::Alias(target),
                _ => Answer::NoSuchName,
            };
        }
        if host.is_some() || is_headless(service) {
            let found = self.endpoints(service, host).into_iter().map(|e| e.ip).collect();
            return addresses(found, kind);
        }
        addresses(text(service, "spec", "clusterIP").parse().into_iter().collect(), kind)
    }

    /// A service's pods that may be sent requests.
    fn endpoints(&self, service: &Value, host: Option<&str>) -> Vec<Endpoint<'_>> {
        let all = service["spec"]["publishNotReadyAddresses"] == true;
        let slices = self.slices.get(&place(service, text(service, "metadata", "name")));
        let mut found = Vec::new();
        for slice in slices.into_iter().flatten() {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let ready = all || endpoint["conditions"]["ready"] != false;
                let ip = endpoint["addresses"][0].as_str().and_then(|ip| ip.parse().ok());
                let Some(ip) = ip.filter(|_| ready) else { continue };
                let label = endpoint["hostname"].as_str().map_or_else(|| dashed(ip), str::to_ascii_lowercase);
                if host.is_none_or(|host| host == label) {
                    found.push(Endpoint { ip, label, slice });
                }
            }
        }
        found
    }

    fn ports(&self, namespace: &str, name: &str, port: &str, protocol: &str, kind: RecordType) -> Answer {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Answer::NoSuchName;
        };
        let Some(service) = self.find(namespace, name) else { return Answer::NoSuchName };
        let number = |ports: &Value| {
            let named = ports.as_array().into_iter().flatten().find(|p| {
                p["name"] == port && p["protocol"].as_str().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
            });
            named.and_then(|p| u16::try_from(p["port"].as_u64()?).ok())
        };
        let base = domain(service);
        let hosts: Vec<(String, u16)> = if is_headless(service) {
            // Clients reach the pods themselves, so the port is theirs.
            let all = self.endpoints(service, None).into_iter();
            all.filter_map(|e| Some((format!("{}.{base}", e.label), number(&e.slice["ports"])?))).collect()
        } else {
            number(&service["spec"]["ports"]).map(|number| (base, number)).into_iter().collect()
        };
        if hosts.is_empty() {
            return Answer::NoSuchName;
        }
        let all = hosts.into_iter();
        let all = all.filter_map(|(host, port)| {
            Some(RData::SRV(SRV::new(0, 100, port, Name::from_ascii(host).ok()?)))
        });
        records(kind, RecordType::SRV, all)
    }

    fn reverse(&self, address: &str, kind: RecordType) -> Answer {
        let bytes: Vec<u8> = address.split('.').rev().filter_map(|part| part.parse().ok()).collect();
        let Ok([a, b, c, d]) = <[u8; 4]>::try_from(bytes) else { return Answer::NotOurs };
        let ip = Ipv4Addr::new(a, b, c, d);
        match self.names.get(&ip).and_then(|name| Name::from_ascii(name).ok()) {
            Some(name) => records(kind, RecordType::PTR, [RData::PTR(PTR(name))]),
            None if self.own.iter().any(|own| own.contains(ip)) => Answer::NoSuchName,
            None => Answer::NotOurs,
        }
    }
}

fn records(asked: RecordType, kind: RecordType, all: impl IntoIterator<Item = RData>) -> Answer {
    match asked == kind || asked == RecordType::ANY {
        true => Answer::Records(all.into_iter().collect()),
        false => Answer::Records(Vec::new()),
    }
}

fn addresses(found: Vec<Ipv4Addr>, kind: RecordType) -> Answer {
    match found.is_empty() {
        true => Answer::NoSuchName,
        false => records(kind, RecordType::A, found.into_iter().map(|ip| RData::A(A(ip)))),
    }
}

/// The record of an alias.
pub fn alias(target: Name) -> RData {
    RData::CNAME(CNAME(target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilothouse_api::PodNetwork;
    use serde_json::json;

    fn zone() -> Zone {
        let service = |name: &str, ip: &str| {
            Arc::new(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
            "clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}))
        };
        let external = Arc::new(json!({"metadata": {"name": "out", "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "example.org"}}));
        let slice = Arc::new(
            json!({"metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "ports": [{"name": "http", "port": 5432, "protocol": "TCP"}], "endpoints": [
            {"addresses": ["10.244.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.0.4"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]}),
        );
        Zone::new(
            vec![service("web", "10.96.0.7"), service("db", "None"), external],
            vec![slice],
            PodNetwork::DEFAULT_CIDR,
        )
    }

    fn a(ips: &[&str]) -> Answer {
        Answer::Records(ips.iter().map(|ip| RData::A(A(ip.parse().unwrap()))).collect())
    }

    fn srv(rows: &[(&str, u16)]) -> Answer {
        let name = |host: &str| Name::from_ascii(host).unwrap();
        Answer::Records(
            rows.iter().map(|(host, port)| RData::SRV(SRV::new(0, 100, *port, name(host)))).collect(),
        )
    }

    #[test]
    fn names_resolve_as_kubernetes_dns_specification_says() {
        let ptr = |name: &str| Answer::Records(vec![RData::PTR(PTR(Name::from_ascii(name).unwrap()))]);
        let rows = [
            ("web.shop.svc.cluster.local.", RecordType::A, a(&["10.96.0.7"])),
            ("WEB.shop.svc.cluster.local", RecordType::A, a(&["10.96.0.7"])),
            ("web.shop.svc.cluster.local", RecordType::AAAA, a(&[])),
            ("db.shop.svc.cluster.local", RecordType::A, a(&["10.244.0.2", "10.244.0.4"])),
            ("db-0.db.shop.svc.cluster.local", RecordType::A, a(&["10.244.0.2"])),
            ("10-244-0-4.db.shop.svc.cluster.local", RecordType::A, a(&["10.244.0.4"])),
            ("10-244-0-3.db.shop.svc.cluster.local", RecordType::A, Answer::NoSuchName),
            ("no.shop.svc.cluster.local", RecordType::A, Answer::NoSuchName),
            ("shop.svc.cluster.local", RecordType::A, a(&[])),
            ("10-244-0-9.shop.pod.cluster.local", RecordType::A, a(&["10.244.0.9"])),
            ("example.org", RecordType::A, Answer::NotOurs),
            (
                "out.shop.svc.cluster.local",
                RecordType::A,
                Answer::Alias(Name::from_ascii("example.org.").unwrap()),
            ),
            (
                "_http._tcp.web.shop.svc.cluster.local",
                RecordType::SRV,
                srv(&[("web.shop.svc.cluster.local.", 80)]),
            ),
            (
                "_http._tcp.db.shop.svc.cluster.local",
                RecordType::SRV,
                srv(&[
                    ("db-0.db.shop.svc.cluster.local.", 5432),
                    ("10-244-0-4.db.shop.svc.cluster.local.", 5432),
                ]),
            ),
            ("_no._tcp.web.shop.svc.cluster.local", RecordType::SRV, Answer::NoSuchName),
            ("7.0.96.10.in-addr.arpa.", RecordType::PTR, ptr("web.shop.svc.cluster.local.")),
            ("2.0.244.10.in-addr.arpa", RecordType::PTR, ptr("db-0.db.shop.svc.cluster.local.")),
            ("9.0.244.10.in-addr.arpa", RecordType::PTR, Answer::NoSuchName),
            ("9.9.9.9.in-addr.arpa", RecordType::PTR, Answer::NotOurs),
        ];
        for (name, kind, expected) in rows {
            assert_eq!(zone().answer(name, kind), expected, "{name}");
        }
    }
}
