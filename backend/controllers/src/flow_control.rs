//! Priority and fairness: the FlowSchemas and PriorityLevelConfigurations that every cluster has are kept, and a schema
//! that names no level there is says so. After
//! <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#defaults>.
use crate::cluster::Cluster;
use crate::object::{is_deleting, set_condition, text};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed, meta};
use serde_json::{Value, json};

pub const FLOW_SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
pub const PRIORITY_LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
/// `true`: the object's spec follows the server's own; `false`: an administrator has taken it over.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

pub struct FlowControl;

impl Controller for FlowControl {
    fn name(&self) -> &'static str {
        "priority-and-fairness-config-controller"
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            FLOW_SCHEMAS => vec![change.key.clone()],
            // Schemas may have been waiting for it.
            PRIORITY_LEVELS => {
                let mut keys: Vec<Key> = cluster.keys(FLOW_SCHEMAS).collect();
                keys.push(change.key.clone());
                keys
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        let mut keys: Vec<Key> = cluster.keys(FLOW_SCHEMAS).collect();
        // The server makes them at its first start, before there is a controller.
        if !keys.is_empty() {
            let own = defaults();
            keys.extend(own.iter().map(|(resource, object)| Key::new(*resource, "", meta::name(object))));
            keys.sort();
            keys.dedup();
        }
        keys
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let wanted = defaults()
            .into_iter()
            .find(|(resource, object)| *resource == &*key.resource && meta::name(object) == &*key.name);
        let Some(live) = cluster.get(key) else {
            if let Some((_, object)) = wanted {
                plan.create(key.clone(), object);
            }
            return plan;
        };
        if is_deleting(&live) {
            return plan;
        }
        if let Some((_, wanted)) = wanted.filter(|_| follows(&live))
            && !is_same(&live["spec"], &wanted["spec"])
        {
            let mut next = Value::clone(&live);
            next["spec"] = wanted["spec"].clone();
            plan.update(key.clone(), next, Part::Spec);
            return plan;
        }
        if &*key.resource == FLOW_SCHEMAS {
            tell_dangling(key, &live, cluster, now, &mut plan);
        }
        plan
    }
}

/// The two mandatory ones of each kind always do.
fn follows(live: &Value) -> bool {
    matches!(meta::name(live), "exempt" | "catch-all")
        || live["metadata"]["annotations"][AUTO_UPDATE] == "true"
}

/// All that `wanted` says holds; defaults may have been added.
fn is_same(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(field, value)| live.get(field).is_some_and(|own| is_same(own, value)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(a, b)| is_same(a, b))
        }
        (Value::Null, Value::Bool(false)) => true,
        _ => live == wanted,
    }
}

fn tell_dangling(key: &Key, live: &Value, cluster: &Cluster, now: Timestamp, plan: &mut Plan) {
    let level = text(&live["spec"]["priorityLevelConfiguration"], "name");
    let is_dangling = cluster.get(&Key::new(PRIORITY_LEVELS, "", level)).is_none();
    let (status, reason, message) = match is_dangling {
        true => (
            "True",
            "NotFound",
            format!(
                "This FlowSchema references the PriorityLevelConfiguration object named {level:?} but there is no such object"
            ),
        ),
        false => (
            "False",
            "Found",
            format!(
                "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
            ),
        ),
    };
    let conditions = live["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default();
    set_condition(&mut conditions, "Dangling", status, reason, &message, now);
    let mut next = live.clone();
    if !next["status"].is_object() {
        next["status"] = json!({});
    }
    next["status"]["conditions"] = conditions.into();
    if next != *live {
        plan.update(key.clone(), next, Part::Status);
    }
}

/// What always holds: administrators get through, and whoever fits nowhere has a little.
pub fn mandatory() -> Vec<(&'static str, Value)> {
    let own = |(_, object): &(&str, Value)| matches!(meta::name(object), "exempt" | "catch-all");
    defaults().into_iter().filter(own).collect()
}

/// Every object that a cluster has from its first moment, with its resource.
pub fn defaults() -> Vec<(&'static str, Value)> {
    levels().into_iter().chain(schemas()).collect()
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec,
    })
}

fn levels() -> Vec<(&'static str, Value)> {
    let level = |name: &str, spec: Value| (PRIORITY_LEVELS, object("PriorityLevelConfiguration", name, spec));
    let limited = |name: &str, shares: u32, lendable: u32, queues: u32, hand: u32| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        level(
            name,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue", "queuing": queuing},
            }}),
        )
    };
    vec![
        level(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
            }}),
        ),
        limited("system", 30, 33, 64, 6),
        limited("node-high", 40, 25, 64, 6),
        limited("leader-election", 10, 0, 16, 4),
        limited("workload-high", 40, 50, 128, 6),
        limited("workload-low", 100, 90, 128, 6),
        limited("global-default", 20, 50, 128, 6),
    ]
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn system_account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn resource(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"], "clusterScope": cluster})
}

/// Whatever they ask for.
fn all(subjects: &[Value]) -> Value {
    let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    json!({"subjects": subjects, "resourceRules": [resource(&["*"], "*", &["*"], true)], "nonResourceRules": paths})
}

fn only(subjects: &[Value], rules: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": rules})
}

fn schemas() -> Vec<(&'static str, Value)> {
    let schema = |name: &str, level: &str, precedence: i32, by: &str, rule: Value| {
        let mut spec = json!({
            "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}, "rules": [rule],
        });
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        (FLOW_SCHEMAS, object("FlowSchema", name, spec))
    };
    let everybody = [group("system:unauthenticated"), group("system:authenticated")];
    let nodes = [group("system:nodes")];
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let accounts = [system_account("*")];
    let endpoints = [
        manager.clone(),
        system_account("endpoint-controller"),
        system_account("endpointslicemirroring-controller"),
    ];
    let writes = ["get", "create", "update"];
    let leases = resource(&writes, "coordination.k8s.io", &["leases"], false);
    let health = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let node_rules = [
        resource(&["*"], "", &["nodes", "nodes/status"], true),
        resource(&["*"], "coordination.k8s.io", &["leases"], false),
    ];
    vec![
        schema("exempt", "exempt", 1, "", all(&[group("system:masters")])),
        schema("probes", "exempt", 2, "", json!({"subjects": everybody, "nonResourceRules": health})),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            only(
                &[&[manager.clone(), scheduler.clone()][..], &accounts].concat(),
                std::slice::from_ref(&leases),
            ),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            only(&endpoints, &[resource(&writes, "", &["endpoints"], false)]),
        ),
        schema("workload-leader-election", "leader-election", 200, "ByUser", only(&accounts, &[leases])),
        schema("system-node-high", "node-high", 400, "ByUser", only(&nodes, &node_rules)),
        schema("system-nodes", "system", 500, "ByUser", all(&nodes)),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", all(&[manager])),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", all(&[scheduler])),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", all(&accounts)),
        schema("service-accounts", "workload-low", 9000, "ByUser", all(&[group("system:serviceaccounts")])),
        schema("global-default", "global-default", 9900, "ByUser", all(&everybody)),
        schema("catch-all", "catch-all", 10_000, "ByUser", all(&everybody)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::condition;
    use crate::world::World;

    fn world() -> World {
        let mut world = World::new();
        defaults().into_iter().for_each(|(_, object)| drop(world.create(object)));
        world.converge();
        world
    }

    fn dangling(world: &World, key: &Key) -> String {
        condition(world.get(key), "Dangling").map(|c| text(c, "status").to_owned()).unwrap_or_default()
    }

    #[test]
    fn the_objects_every_cluster_has_come_back_when_they_are_deleted_or_changed() {
        let mut world = world();
        world.assert_at_rest();
        let (catch_all, low) =
            (Key::new(FLOW_SCHEMAS, "", "catch-all"), Key::new(PRIORITY_LEVELS, "", "workload-low"));
        assert_eq!(dangling(&world, &catch_all), "False");
        world.delete(&low, "Background");
        world.edit(&catch_all, |schema| {
            schema["spec"]["matchingPrecedence"] = 9_999.into();
            // Nobody takes this one over.
            schema["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        });
        world.converge();
        assert_eq!(world.get(&catch_all)["spec"]["matchingPrecedence"], 10_000);
        assert_eq!(world.get(&low)["spec"]["limited"]["nominalConcurrencyShares"], 100);
        // Taken over by an administrator.
        world.edit(&low, |level| {
            level["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
            level["spec"]["limited"]["nominalConcurrencyShares"] = 7.into();
        });
        world.converge();
        assert_eq!(world.get(&low)["spec"]["limited"]["nominalConcurrencyShares"], 7);
        world.assert_at_rest();
    }

    #[test]
    fn a_schema_without_its_level_dangles_until_there_is_one() {
        let mut world = world();
        let spec = json!({"matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "shop"}});
        let key = world.create(object("FlowSchema", "shop", spec));
        world.converge();
        assert_eq!(dangling(&world, &key), "True");
        let spec = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}});
        world.create(object("PriorityLevelConfiguration", "shop", spec));
        world.converge();
        assert_eq!(dangling(&world, &key), "False");
    }
}
