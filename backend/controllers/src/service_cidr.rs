//! ServiceCIDR: it offers its addresses once it is ready, and goes only when no Service would be left with an address that
//! is in no range any more.
use crate::cluster::Cluster;
use crate::object::*;
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::storage::{has_finalizer, without_finalizer};
use pilothouse_api::{Ipv4Cidr, Key, Observed};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

pub struct ServiceCidrs;

const RANGES: &str = "servicecidrs.networking.k8s.io";
const SERVICES: &str = "services";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// A server may not have heard yet that the range goes, and give an address of it away.
const DELETION_GRACE_SECONDS: i64 = 10;

impl Controller for ServiceCidrs {
    fn name(&self) -> &'static str {
        "service-cidrs-controller"
    }

    /// There are few ranges; of Services only those matter that may set one free.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        let going = cluster.keys(RANGES).filter(|key| cluster.is_deleting(key));
        match &*change.key.resource {
            RANGES => going.chain([change.key.clone()]).collect(),
            SERVICES => going.collect(),
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(RANGES).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(range) = cluster.get(key) else { return plan };
        let is_held = has_finalizer(&range, FINALIZER);
        if !is_deleting(&range) {
            if is_held {
                let message = "Kubernetes Service CIDR is ready";
                set_ready(key, &range, ("True", "", message), now, &mut plan);
                return plan;
            }
            let mut next = Value::clone(&range);
            let mut all = next["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            all.push(FINALIZER.into());
            next["metadata"]["finalizers"] = all.into();
            plan.update(key.clone(), next, Part::Spec);
        } else if is_held && is_needed(key, &range, cluster) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a \
                           new ServiceCIDR";
            set_ready(key, &range, ("False", "Terminating", message), now, &mut plan);
        } else if is_held {
            let since = time(&range["metadata"]["deletionTimestamp"]).unwrap_or(now);
            match later(since, DELETION_GRACE_SECONDS) {
                at if at > now => plan.check_again(at),
                _ => plan.update(key.clone(), without_finalizer(&range, FINALIZER), Part::Spec),
            }
        }
        plan
    }
}

fn set_ready(key: &Key, range: &Value, ready: (&str, &str, &str), now: Timestamp, plan: &mut Plan) {
    let (status, reason, message) = ready;
    let mut conditions = range["status"]["conditions"].as_array().cloned().unwrap_or_default();
    set_condition(&mut conditions, "Ready", status, reason, message, now);
    if let Some(next) = with_status(range, json!({"conditions": conditions})) {
        plan.update(key.clone(), next, Part::Status);
    }
}

/// Whether a Service has an address of the range that no other one has.
fn is_needed(key: &Key, range: &Value, cluster: &Cluster) -> bool {
    let others: Vec<Ipv4Cidr> = cluster
        .all(RANGES)
        .filter(|(other, object)| other != key && !is_deleting(object))
        .flat_map(|(_, object)| cidrs(&object))
        .collect();
    let own = cidrs(range);
    let only_own = |address: Ipv4Addr| {
        own.iter().any(|range| range.contains(address)) && !others.iter().any(|other| other.contains(address))
    };
    let mut addresses =
        cluster.all(SERVICES).filter_map(|(_, service)| text(&service["spec"], "clusterIP").parse().ok());
    addresses.any(only_own)
}

fn cidrs(range: &Value) -> Vec<Ipv4Cidr> {
    let all = range["spec"]["cidrs"].as_array().into_iter().flatten();
    all.filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn range(name: &str, cidr: &str) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
    }

    fn ready<'a>(world: &'a World, key: &Key) -> &'a str {
        text(condition(world.get(key), "Ready").unwrap_or(&Value::Null), "status")
    }

    #[test]
    fn a_range_goes_once_no_service_needs_it_and_servers_have_had_time_to_hear_of_it() {
        let mut world = World::new();
        let key = world.create(range("more", "10.97.0.0/24"));
        let service = world.create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"clusterIP": "10.97.0.9", "ports": [{"port": 80}]}}));
        world.settle();
        assert_eq!(ready(&world, &key), "True");
        world.delete(&key, "Background");
        world.settle();
        assert_eq!(ready(&world, &key), "False");
        world.delete(&service, "Background");
        world.settle();
        assert!(world.objects.contains_key(&key));
        world.pass(DELETION_GRACE_SECONDS + 1);
        world.settle();
        assert!(!world.objects.contains_key(&key));
    }

    #[test]
    fn a_range_within_another_sets_no_service_out() {
        let mut world = World::new();
        let key = world.create(range("inner", "10.97.1.0/24"));
        world.create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"clusterIP": "10.97.1.9", "ports": [{"port": 80}]}}));
        world.settle();
        world.delete(&key, "Background");
        world.pass(DELETION_GRACE_SECONDS + 1);
        world.settle();
        assert!(world.objects.contains_key(&key));
        world.create(range("outer", "10.97.0.0/16"));
        world.settle();
        assert!(!world.objects.contains_key(&key));
    }
}
