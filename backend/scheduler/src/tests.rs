//! Where pods go, in what order, and what those are told that go nowhere.
mod volumes;

use crate::{Decision, Scheduler};
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::{Key, Observed};
use serde_json::{Value, json};
use std::sync::Arc;

/// A scheduler with a clock, fed as the shell feeds it.
#[derive(Default)]
struct Bench {
    scheduler: Scheduler,
    now: Timestamp,
    pods: std::collections::BTreeMap<String, Value>,
}

impl Bench {
    fn see(&mut self, resource: &str, name: &str, object: Option<Value>) {
        let namespace = if matches!(resource, "pods" | "persistentvolumeclaims") { "default" } else { "" };
        let key = Key::new(resource, namespace, name);
        let change = Observed {
            key,
            revision: 1,
            object: object.map(Arc::new),
            previous: None,
            bytes: Default::default(),
        };
        self.scheduler.observe(&change, self.now);
    }

    fn node(&mut self, name: &str, cpu: &str, more: Value) {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
        });
        merge(&mut node, more);
        self.see("nodes", name, Some(node));
    }

    fn pod(&mut self, name: &str, cpu: &str, more: Value) {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "namespace": "default"},
            "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]},
        });
        merge(&mut pod, more);
        self.pods.insert(name.to_owned(), pod.clone());
        self.see("pods", name, Some(pod));
    }

    /// A pod that runs on a node already.
    fn placed(&mut self, name: &str, node: &str, cpu: &str, mut more: Value) {
        more["spec"]["nodeName"] = node.into();
        self.pod(name, cpu, more);
    }

    fn gone(&mut self, name: &str) {
        self.see("pods", name, None);
    }

    fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(seconds.seconds()).unwrap();
    }

    /// `pod -> node`, or `pod: why not`.
    fn next(&mut self) -> Option<String> {
        Some(match self.scheduler.next(self.now)? {
            Decision::Bind { pod, node, .. } => format!("{} -> {node}", pod.name),
            Decision::BindVolumes { pod, node, claims, .. } => {
                let claims: Vec<String> =
                    claims.iter().map(|(claim, choice)| format!("{} by {choice:?}", claim.name)).collect();
                format!("{} waits on {node} for {}", pod.name, claims.join(", "))
            }
            Decision::Unschedulable { pod, message, .. } => format!("{}: {message}", pod.name),
            Decision::Preempt { pod, node, victims, .. } => {
                let names: Vec<&str> = victims.iter().map(|victim| &*victim.pod.name).collect();
                format!("{} -> {node} instead of {}", pod.name, names.join(", "))
            }
        })
    }

    fn all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, more) => *into = more,
    }
}

fn named(uid: &str, labels: Value) -> Value {
    json!({"metadata": {"labels": labels, "ownerReferences": [{"controller": true, "uid": uid}]}})
}

#[test]
fn a_pod_goes_where_its_requests_fit_and_is_told_why_not() {
    let mut bench = Bench::default();
    bench.node("small", "500m", json!({}));
    bench.node("large", "2", json!({}));
    bench.pod("a", "1500m", json!({}));
    bench.pod("b", "1", json!({}));
    let why = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert_eq!(
        bench.all(),
        ["a -> large".to_owned(), format!("b: 0/2 nodes are available: 2 Insufficient cpu. {why}")]
    );
    bench.gone("a");
    assert_eq!(bench.next(), None, "it rests first");
    bench.pass(1);
    assert_eq!(bench.all(), ["b -> large"]);
}

#[test]
fn reasons_are_counted_and_no_node_is_said_plainly() {
    let mut bench = Bench::default();
    bench.pod("a", "1", json!({}));
    assert_eq!(bench.all(), ["a: no nodes available to schedule pods"]);
    bench.node("cordoned", "4", json!({"spec": {"unschedulable": true}}));
    bench.node(
        "tainted",
        "4",
        json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
    );
    bench.node("small", "100m", json!({}));
    bench.pass(10);
    let told = bench.all().remove(0);
    let expected = "a: 0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable. ";
    assert!(told.starts_with(expected), "{told}");
}

#[test]
fn the_most_important_goes_first_then_who_waits_longest() {
    let mut bench = Bench::default();
    bench.node("n", "10", json!({}));
    bench.pod("early", "1", json!({}));
    bench.pass(1);
    bench.pod("late", "1", json!({}));
    bench.pod("high", "1", json!({"spec": {"priority": 9}}));
    assert_eq!(bench.all(), ["high -> n", "early -> n", "late -> n"]);
}

#[test]
fn an_assumed_pod_takes_its_room_until_its_binding_fails() {
    let mut bench = Bench::default();
    bench.node("n", "1", json!({}));
    bench.pod("a", "1", json!({}));
    bench.pod("b", "1", json!({}));
    assert_eq!(bench.next().unwrap(), "a -> n");
    assert!(bench.next().unwrap().starts_with("b: 0/1 nodes are available: 1 Insufficient cpu."));
    let a = bench.pods["a"].clone();
    bench.scheduler.binding_failed(&Key::new("pods", "default", "a"), "a", Some(Arc::new(a)), bench.now);
    bench.pass(1);
    let after = bench.all();
    assert_eq!(after[0], "a -> n");
    assert!(after[1].starts_with("b: "), "{after:?}");
}

#[test]
fn a_pod_seen_bound_or_gone_is_not_decided_again() {
    let mut bench = Bench::default();
    bench.node("n", "1", json!({}));
    bench.pod("a", "1", json!({}));
    assert_eq!(bench.next().unwrap(), "a -> n");
    bench.placed("a", "n", "1", json!({}));
    let a = Arc::new(bench.pods["a"].clone());
    bench.scheduler.binding_failed(&Key::new("pods", "default", "a"), "a", Some(a), bench.now);
    bench.pass(600);
    assert_eq!(bench.next(), None);
    bench.pod("b", "1", json!({}));
    bench.gone("b");
    bench.pass(600);
    assert_eq!(bench.next(), None);
}

#[test]
fn pods_of_other_schedulers_gated_and_dying_pods_are_left_alone() {
    let mut bench = Bench::default();
    bench.node("n", "10", json!({}));
    bench.pod("theirs", "1", json!({"spec": {"schedulerName": "other"}}));
    bench.pod("gated", "1", json!({"spec": {"schedulingGates": [{"name": "wait"}]}}));
    bench.pod("dying", "1", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    bench.pod("ended", "1", json!({"status": {"phase": "Succeeded"}}));
    assert_eq!(bench.next(), None);
    bench.pod("gated", "1", json!({}));
    assert_eq!(bench.all(), ["gated -> n"]);
}

#[test]
fn a_refused_pod_waits_for_what_helps_it_ever_longer_and_is_tried_in_the_end_anyway() {
    let mut bench = Bench::default();
    bench.node("n", "1", json!({}));
    bench.pod("a", "2", json!({}));
    assert_eq!(bench.all().len(), 1);
    let heartbeat = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    bench.node("n", "1", heartbeat);
    bench.pass(20);
    assert_eq!(bench.next(), None, "a heartbeat changes nothing");
    bench.pass(281);
    assert_eq!(bench.all().len(), 1, "after five minutes it is tried again");
    bench.node("n", "3", json!({}));
    assert_eq!(bench.scheduler.next_at(), Some(bench.now.checked_add(2.seconds()).unwrap()));
    bench.pass(2);
    assert_eq!(bench.all(), ["a -> n"]);
}

#[test]
fn what_the_scheduler_tells_a_pod_does_not_wake_it() {
    let mut bench = Bench::default();
    bench.node("n", "1", json!({}));
    bench.pod("a", "2", json!({}));
    assert_eq!(bench.all().len(), 1);
    bench.pod("a", "2", json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}}));
    bench.pass(60);
    assert_eq!(bench.next(), None);
    bench.pod("a", "500m", json!({}));
    assert_eq!(bench.all(), ["a -> n"], "but asking for less does");
}

#[test]
fn pods_of_one_workload_spread_over_hosts_and_zones() {
    let mut bench = Bench::default();
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        bench.node(name, "8", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}));
    }
    for i in 0..4 {
        bench.pod(&format!("w{i}"), "100m", named("set", json!({"app": "w"})));
    }
    let nodes: Vec<String> =
        bench.all().iter().map(|line| line.split(" -> ").nth(1).unwrap().to_owned()).collect();
    let on = |node: &str| nodes.iter().filter(|n| *n == node).count();
    assert_eq!(on("b1"), 2, "{nodes:?}");
    assert_eq!((on("a1"), on("a2")), (1, 1), "{nodes:?}");
}

#[test]
fn node_selectors_and_affinity_are_kept_and_preferences_win() {
    let mut bench = Bench::default();
    bench.node("ssd", "4", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    bench.node("hdd", "8", json!({"metadata": {"labels": {"disk": "hdd"}}}));
    bench.pod("must", "1", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    let preference = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": preference}]}});
    bench.pod("would", "1", json!({"spec": {"affinity": affinity}}));
    bench.pod("cannot", "1", json!({"spec": {"nodeSelector": {"disk": "tape"}}}));
    let all = bench.all();
    assert_eq!(all[..2], ["must -> ssd", "would -> ssd"]);
    assert!(
        all[2].starts_with(
            "cannot: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
        ),
        "{}",
        all[2]
    );
}

#[test]
fn a_host_port_is_one_pods() {
    let mut bench = Bench::default();
    bench.node("n", "8", json!({}));
    let port = |number: i64, ip: &str| json!({"spec": {"containers": [{"name": "m", "ports": [{"containerPort": 80, "hostPort": number, "hostIP": ip}]}]}});
    bench.pod("a", "1", port(80, "127.0.0.1"));
    bench.pod("b", "1", port(80, "127.0.0.2"));
    bench.pod("c", "1", port(80, "0.0.0.0"));
    bench.pod("d", "1", port(81, "0.0.0.0"));
    let all = bench.all();
    assert_eq!((&*all[0], &*all[1], &*all[3]), ("a -> n", "b -> n", "d -> n"));
    assert!(all[2].starts_with("c: 0/1 nodes are available: 1 node(s) didn't have free ports"), "{}", all[2]);
}

#[test]
fn a_spread_rule_bounds_the_skew_between_domains() {
    let mut bench = Bench::default();
    for (name, zone) in [("a", "a"), ("b", "b")] {
        bench.node(name, "64", json!({"metadata": {"labels": {"zone": zone}}}));
    }
    let rule = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "w"}}});
    let pod = json!({"metadata": {"labels": {"app": "w"}}, "spec": {"topologySpreadConstraints": [rule]}});
    for i in 0..4 {
        bench.pod(&format!("w{i}"), "1", pod.clone());
    }
    let all = bench.all();
    assert_eq!(all.iter().filter(|line| line.ends_with("-> a")).count(), 2, "{all:?}");
    bench.node("b", "64", json!({"metadata": {"labels": {"zone": "b"}}, "spec": {"unschedulable": true}}));
    bench.pod("w4", "1", pod.clone());
    bench.pod("w5", "1", pod);
    let all = bench.all();
    assert_eq!(all[0], "w4 -> a");
    assert!(
        all[1].contains(
            "1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable."
        ),
        "{}",
        all[1]
    );
}

#[test]
fn pods_keep_near_and_apart_as_they_ask_also_from_those_that_came_first() {
    let mut bench = Bench::default();
    bench.node("a", "8", json!({}));
    bench.node("b", "8", json!({}));
    let term = |app: &str| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let rule =
        |kind: &str, app: &str| json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}});
    bench.pod("web", "1", json!({"metadata": {"labels": {"app": "web"}}}));
    let home = bench.all().remove(0).replace("web -> ", "");
    let other = if home == "a" { "b" } else { "a" };
    bench.pod("near", "1", json!({"spec": {"affinity": rule("podAffinity", "web")}}));
    bench.pod("apart", "1", json!({"spec": {"affinity": rule("podAntiAffinity", "web")}}));
    assert_eq!(bench.all(), [format!("near -> {home}"), format!("apart -> {other}")]);
    // `apart` keeps later web pods out of its node.
    bench.node(&home, "1", json!({}));
    bench.pod("web2", "1", json!({"metadata": {"labels": {"app": "web"}}}));
    let told = bench.all().remove(0);
    assert!(told.contains("node(s) didn't satisfy existing pods anti-affinity rules"), "{told}");
    // The first of a group that wants to be together may start it.
    bench.pod(
        "first",
        "1",
        json!({"metadata": {"labels": {"app": "group"}}, "spec": {"affinity": rule("podAffinity", "group")}}),
    );
    assert_eq!(bench.all(), [format!("first -> {other}")]);
    bench.pod("lonely", "1", json!({"spec": {"affinity": rule("podAffinity", "nobody")}}));
    let told = bench.all();
    assert!(told.iter().any(|line| line.contains("1 node(s) didn't match pod affinity rules")), "{told:?}");
}

#[test]
fn a_more_important_pod_gets_room_from_the_least_important_and_keeps_it() {
    let mut bench = Bench::default();
    bench.node("a", "2", json!({}));
    bench.node("b", "2", json!({}));
    let priority = |p: i64| json!({"spec": {"priority": p}});
    bench.placed("a1", "a", "1", priority(5));
    bench.placed("a2", "a", "1", priority(1));
    bench.placed("b1", "b", "2", priority(7));
    bench.pod("urgent", "1", priority(10));
    assert_eq!(bench.all(), ["urgent -> a instead of a2"]);
    bench.pod("urgent", "1", json!({"spec": {"priority": 10}, "status": {"nominatedNodeName": "a"}}));
    bench.placed(
        "a2",
        "a",
        "1",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"priority": 1}}),
    );
    bench.gone("a2");
    bench.pod("quick", "1", priority(2));
    let all = bench.all();
    assert!(
        all[0].starts_with("quick: 0/2 nodes are available: 2 Insufficient cpu."),
        "the room is promised: {all:?}"
    );
    bench.pass(1);
    assert_eq!(bench.all(), ["urgent -> a"]);
}

#[test]
fn nobody_is_sent_away_in_vain_or_for_a_pod_that_never_preempts() {
    let mut bench = Bench::default();
    bench.node("n", "2", json!({}));
    bench.placed("equal", "n", "2", json!({"spec": {"priority": 5}}));
    bench.pod("a", "1", json!({"spec": {"priority": 5}}));
    bench.pod("b", "4", json!({"spec": {"priority": 9}}));
    bench.pod("c", "1", json!({"spec": {"priority": 9, "preemptionPolicy": "Never"}}));
    let all = bench.all();
    assert!(all.iter().all(|line| !line.contains("instead of")), "{all:?}");
    assert!(
        all.iter().any(|line| line.ends_with("preemption: not eligible due to preemptionPolicy=Never.")),
        "{all:?}"
    );
}

#[test]
fn init_containers_sidecars_and_overhead_count() {
    let rows = [
        (json!({"containers": [{"r": "1"}, {"r": "2"}]}), 3000),
        (json!({"containers": [{"r": "1"}], "initContainers": [{"r": "4"}, {"r": "2"}]}), 4000),
        (
            json!({"containers": [{"r": "1"}], "initContainers": [{"r": "1", "restartPolicy": "Always"}, {"r": "2"}]}),
            3000,
        ),
        (
            json!({"containers": [{"r": "2"}], "initContainers": [{"r": "1"}, {"r": "1", "restartPolicy": "Always"}]}),
            3000,
        ),
        (json!({"containers": [{"r": "1"}], "overhead": {"cpu": "250m"}}), 1250),
    ];
    for (mut spec, expected) in rows {
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["resources"] = json!({"requests": {"cpu": container["r"]}});
            }
        }
        let pod = crate::PodInfo::new(Key::new("pods", "default", "a"), &json!({"spec": spec}));
        assert_eq!(pod.requests.milli_cpu, expected, "{spec}");
    }
}

#[test]
fn a_thousand_pods_leave_no_node_overcommitted_and_counts_return_to_nothing() {
    let mut bench = Bench::default();
    for i in 0..200 {
        bench.node(&format!("n{i}"), "4", json!({}));
    }
    for i in 0..1000 {
        bench.pod(
            &format!("p{i}"),
            if i % 3 == 0 { "1" } else { "500m" },
            named(&format!("s{}", i % 7), json!({"app": format!("a{}", i % 7)})),
        );
    }
    let placed = bench.all();
    assert_eq!(placed.len(), 1000);
    assert!(placed.iter().all(|line| line.contains(" -> ")));
    for node in bench.scheduler.snapshot().nodes() {
        assert!(node.requested.milli_cpu <= 4000, "{} has {}", node.name, node.requested.milli_cpu);
    }
    assert_eq!(bench.scheduler.snapshot().count(), 200);
    for i in 0..1000 {
        bench.gone(&format!("p{i}"));
    }
    assert!(
        bench.scheduler.snapshot().nodes().all(|node| node.requested.milli_cpu == 0 && node.pods.is_empty())
    );
    assert!(bench.scheduler.snapshot().holds_no_pod());
}
