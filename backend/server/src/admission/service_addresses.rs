//! Service addresses: each Service has its own ClusterIP and NodePorts, taken at creation and free again after it. A
//! ServiceCIDR that is ready adds a range to the cluster's own.
use super::{Operation, Outcome, Request, Reservation, Rule, done};
use crate::feed::Observation;
use crate::state::ClusterNetwork;
use parking_lot::Mutex;
use pilothouse_api::{FieldErrors, Ipv4Cidr, Path, Status, meta};
use pilothouse_store::{Object, Store};
use rand::RngExt;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub const RESOURCES: &[&str] = &["services", RANGES];
const RANGES: &str = "servicecidrs.networking.k8s.io";
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Random picks before the range is searched from its start.
const RANDOM_TRIES: usize = 16;

/// One thing of which each Service needs its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Address {
    ClusterIp(Ipv4Addr),
    NodePort(u16),
}

/// What is taken, by the UID of the Service that has it. Kept in step with the store by its feed.
#[derive(Default)]
pub struct ServiceAddresses {
    taken: Mutex<HashMap<Address, Owner>>,
    /// Of the ServiceCIDRs that are ready, by name.
    ranges: Mutex<BTreeMap<String, Vec<Ipv4Cidr>>>,
}

struct Owner {
    uid: String,
    /// Reserved by a write that is under way.
    pending: bool,
}

impl ServiceAddresses {
    pub fn observe(&self, observation: Observation) {
        match observation {
            Observation::Reset => {
                self.taken.lock().retain(|_, owner| owner.pending);
                self.ranges.lock().clear();
            }
            Observation::Put(object) if *object.key.resource == *RANGES => {
                let ranges = offered(&object.value());
                let mut known = self.ranges.lock();
                match ranges.is_empty() {
                    true => known.remove(&*object.key.name),
                    false => known.insert(object.key.name.to_string(), ranges),
                };
            }
            Observation::Gone(object) if *object.key.resource == *RANGES => {
                self.ranges.lock().remove(&*object.key.name);
            }
            Observation::Put(object) => self.see(&object),
            Observation::Gone(object) => self.forget(&object),
        }
    }

    fn see(&self, object: &Object) {
        let service = object.value();
        let has: HashSet<Address> = addresses(&service).into_iter().collect();
        let mut taken = self.taken.lock();
        taken.retain(|address, owner| owner.pending || owner.uid != *object.uid || has.contains(address));
        for address in has {
            // The store is the truth: what it holds is taken, whoever reserved it here.
            taken.insert(address, Owner { uid: object.uid.to_string(), pending: false });
        }
    }

    fn forget(&self, object: &Object) {
        self.taken.lock().retain(|_, owner| owner.uid != *object.uid);
    }

    /// False: another Service has it.
    fn take(&self, address: Address, uid: &str) -> bool {
        let mut taken = self.taken.lock();
        match taken.get(&address) {
            Some(owner) => owner.uid == uid,
            None => {
                taken.insert(address, Owner { uid: uid.to_owned(), pending: true });
                true
            }
        }
    }

    fn give_back(&self, addresses: &[Address], uid: &str) {
        let mut taken = self.taken.lock();
        for address in addresses {
            if taken.get(address).is_some_and(|owner| owner.pending && owner.uid == uid) {
                taken.remove(address);
            }
        }
    }

    fn settle(&self, addresses: &[Address], uid: &str) {
        let mut taken = self.taken.lock();
        for address in addresses {
            if let Some(owner) = taken.get_mut(address).filter(|owner| owner.uid == uid) {
                owner.pending = false;
            }
        }
    }
}

/// Addresses a write took; dropped with the write unless it is kept.
struct Taken {
    all: Arc<ServiceAddresses>,
    uid: String,
    addresses: Vec<Address>,
}

impl Reservation for Taken {
    fn keep(mut self: Box<Self>, store: &Store, written: &Object) {
        let addresses = std::mem::take(&mut self.addresses);
        self.all.settle(&addresses, &self.uid);
        // The Service may be gone again before this line: then nobody else would free what it took.
        if store.get(&written.key).is_none_or(|now| now.uid != written.uid) {
            self.all.forget(written);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.all.give_back(&self.addresses, &self.uid);
    }
}

/// The admission rule.
pub struct Allocate {
    all: Arc<ServiceAddresses>,
    own: Ipv4Cidr,
    dns: Ipv4Addr,
}

impl Allocate {
    pub fn new(all: Arc<ServiceAddresses>, network: &ClusterNetwork) -> Self {
        let (address, prefix) = network.service_cidr;
        Self { all, own: Ipv4Cidr::new(address, prefix), dns: network.cluster_dns_ip }
    }

    /// The cluster's own range first.
    fn ranges(&self) -> Vec<Ipv4Cidr> {
        let others =
            self.all.ranges.lock().values().flatten().copied().filter(|range| *range != self.own).collect();
        [vec![self.own], others].concat()
    }

    fn allocate(&self, request: &Request<'_>, service: &mut Value) -> Result<(), Status> {
        let mut taken = Taken { all: self.all.clone(), uid: request.uid.to_owned(), addresses: Vec::new() };
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let old = request.old.and_then(|old| old["spec"].as_object());
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
        let mut errors = FieldErrors::default();
        match &*kind {
            "ExternalName" => drop_addresses(spec, old),
            _ => self.cluster_ip(request, spec, old, &mut taken, &mut errors),
        }
        if matches!(&*kind, "NodePort" | "LoadBalancer") {
            self.node_ports(request, spec, old, &mut taken, &mut errors);
        }
        if !errors.is_empty() {
            let name = if request.name.is_empty() { meta::name(service) } else { request.name };
            return Err(Status::invalid("Service", "", name, &errors));
        }
        if !request.dry_run {
            request.hold(Box::new(taken));
        }
        Ok(())
    }

    fn cluster_ip(
        &self,
        request: &Request<'_>,
        spec: &mut Map<String, Value>,
        old: Option<&Map<String, Value>>,
        taken: &mut Taken,
        errors: &mut FieldErrors,
    ) {
        let text = |spec: &Map<String, Value>| {
            let listed = spec.get("clusterIPs").and_then(|ips| ips.get(0)).and_then(Value::as_str);
            let single = spec.get("clusterIP").and_then(Value::as_str).filter(|ip| !ip.is_empty());
            single.or(listed).unwrap_or_default().to_owned()
        };
        let mut wanted = text(spec);
        if wanted.is_empty() {
            // An update that leaves it out keeps it.
            wanted = old.map(text).unwrap_or_default();
        }
        if wanted != "None" {
            let path = Path::new("spec").child("clusterIPs");
            let found = match wanted.parse::<Ipv4Addr>() {
                Ok(address) => self.take_cluster_ip(address, request.uid),
                Err(_) if wanted.is_empty() => self.any_cluster_ip(request.uid),
                // Not an address: for validation to tell.
                Err(_) => return,
            };
            match found {
                Ok(address) => {
                    taken.addresses.push(Address::ClusterIp(address));
                    wanted = address.to_string();
                }
                Err(why) => return errors.invalid(&path, json!([wanted]), why),
            }
        }
        spec.insert("clusterIP".into(), wanted.clone().into());
        spec.insert("clusterIPs".into(), json!([wanted]));
    }

    fn take_cluster_ip(&self, address: Ipv4Addr, uid: &str) -> Result<Ipv4Addr, String> {
        let ranges = self.ranges();
        if !ranges.iter().any(|range| usable(*range, address.to_bits().wrapping_sub(range.first().to_bits())))
        {
            let ranges: Vec<String> = ranges.iter().map(Ipv4Cidr::to_string).collect();
            return Err(format!(
                "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of \
                 valid IPs is {}",
                ranges.join(", ")
            ));
        }
        match self.all.take(Address::ClusterIp(address), uid) {
            true => Ok(address),
            false => Err(format!("failed to allocate IP {address}: provided IP is already allocated")),
        }
    }

    fn any_cluster_ip(&self, uid: &str) -> Result<Ipv4Addr, String> {
        let found = self.ranges().into_iter().find_map(|range| self.any_of(range, uid));
        found.ok_or_else(|| "failed to allocate a serviceIP: range is full".into())
    }

    /// The lower part of the range is left to Services that ask for their address (KEP-3070).
    fn any_of(&self, range: Ipv4Cidr, uid: &str) -> Option<Ipv4Addr> {
        let size = size(range);
        if size < 4 {
            return None;
        }
        let lower = (size / 16).clamp(16, 256).min(size / 2);
        let last = size - 2;
        let mut rng = rand::rng();
        let random = (0..RANDOM_TRIES).map(|_| rng.random_range(lower..=last)).collect::<Vec<_>>();
        let mut all = random.into_iter().chain(lower..=last).chain(1..lower);
        all.find_map(|offset| {
            let address = Ipv4Addr::from(range.first().to_bits() + offset);
            (address != self.dns && self.all.take(Address::ClusterIp(address), uid)).then_some(address)
        })
    }

    fn node_ports(
        &self,
        request: &Request<'_>,
        spec: &mut Map<String, Value>,
        old: Option<&Map<String, Value>>,
        taken: &mut Taken,
        errors: &mut FieldErrors,
    ) {
        let off = spec.get("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
        if off && spec.get("type").and_then(Value::as_str) == Some("LoadBalancer") {
            return;
        }
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
        // TCP and UDP of one port may share a node port.
        let mut mine: HashSet<(u64, String)> = HashSet::new();
        for (i, port) in ports.iter_mut().enumerate() {
            let Some(port) = port.as_object_mut() else { continue };
            let path = Path::new("spec").child("ports").index(i).child("nodePort");
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
            let mut wanted = port.get("nodePort").and_then(Value::as_u64).unwrap_or_default();
            if wanted == 0 {
                wanted = old_node_port(old, port, &protocol);
            }
            let found = match u16::try_from(wanted) {
                Ok(0) => self.any_node_port(request.uid, &mine),
                Ok(number) => {
                    self.take_node_port(number, request.uid, mine.contains(&(wanted, protocol.clone())))
                }
                Err(_) => Err(not_a_node_port()),
            };
            match found {
                Ok(number) => {
                    mine.insert((number.into(), protocol));
                    taken.addresses.push(Address::NodePort(number));
                    port.insert("nodePort".into(), number.into());
                }
                Err(why) => errors.invalid(&path, wanted, why),
            }
        }
    }

    fn take_node_port(&self, number: u16, uid: &str, twice: bool) -> Result<u16, String> {
        if !NODE_PORTS.contains(&number) {
            return Err(not_a_node_port());
        }
        match !twice && self.all.take(Address::NodePort(number), uid) {
            true => Ok(number),
            false => Err("provided port is already allocated".into()),
        }
    }

    fn any_node_port(&self, uid: &str, mine: &HashSet<(u64, String)>) -> Result<u16, String> {
        let mut rng = rand::rng();
        let random = (0..RANDOM_TRIES).map(|_| rng.random_range(NODE_PORTS)).collect::<Vec<_>>();
        for number in random.into_iter().chain(NODE_PORTS) {
            let own = mine.iter().any(|(port, _)| *port == u64::from(number));
            // A port this Service had before would also be granted: only free ones are new.
            let free = !self.all.taken.lock().contains_key(&Address::NodePort(number));
            if !own && free && self.all.take(Address::NodePort(number), uid) {
                return Ok(number);
            }
        }
        Err("range is full".into())
    }
}

impl Rule for Allocate {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if writes && request.subresource.is_empty() && *request.entry.resource == *"services" {
            return done(self.allocate(request, object));
        }
        done(Ok(()))
    }
}

/// How many addresses it has, as far as they are counted.
fn size(range: Ipv4Cidr) -> u32 {
    1u32 << (32 - u32::from(range.prefix().clamp(8, 32)))
}

/// The first address names the network, the last one everybody in it.
fn usable(range: Ipv4Cidr, offset: u32) -> bool {
    offset > 0 && offset < size(range) - 1
}

/// The ranges that a ServiceCIDR has to give.
fn offered(object: &Value) -> Vec<Ipv4Cidr> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let is_ready = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    if !is_ready || !object["metadata"]["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let ranges = object["spec"]["cidrs"].as_array().into_iter().flatten();
    // The cluster's addresses are of IPv4.
    ranges.filter_map(|range| range.as_str()?.parse().ok()).collect()
}

fn not_a_node_port() -> String {
    format!(
        "provided port is not in the valid range. The range of valid ports is {}-{}",
        NODE_PORTS.start(),
        NODE_PORTS.end()
    )
}

/// What a Service that became an ExternalName no longer has.
fn drop_addresses(spec: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let Some(old) = old else { return };
    for field in ["clusterIP", "clusterIPs"] {
        if spec.get(field).is_some() && spec.get(field) == old.get(field) {
            spec.remove(field);
        }
    }
}

fn old_node_port(old: Option<&Map<String, Value>>, port: &Map<String, Value>, protocol: &str) -> u64 {
    let ports = old.and_then(|old| old.get("ports")).and_then(Value::as_array);
    let same = |other: &&Value| {
        other["port"] == *port.get("port").unwrap_or(&Value::Null)
            && other["protocol"].as_str().unwrap_or("TCP") == protocol
    };
    ports
        .and_then(|ports| ports.iter().find(same))
        .and_then(|old| old["nodePort"].as_u64())
        .unwrap_or_default()
}

fn addresses(service: &Value) -> Vec<Address> {
    let spec = &service["spec"];
    let ip = spec["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).map(Address::ClusterIp);
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports =
        ports.filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok()).filter(|port| *port != 0);
    ip.into_iter().chain(ports.map(Address::NodePort)).collect()
}
