//! Pods with claims: where their volumes are, or can be had.
use super::Bench;
use pilothouse_api::storage::{BIND_COMPLETED, CLAIMS, CLASSES, SELECTED_NODE, VOLUMES};
use serde_json::{Value, json};

impl Bench {
    fn class(&mut self, name: &str, provisioner: &str, mode: &str) {
        self.see(
            CLASSES,
            name,
            Some(json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})),
        );
    }

    fn claim(&mut self, name: &str, class: &str, more: Value) {
        let mut claim = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"], "storageClassName": class},
        });
        super::merge(&mut claim, more);
        self.see(CLAIMS, name, Some(claim));
    }

    fn bound_claim(&mut self, name: &str, volume: &str, more: Value) {
        let mut bound =
            json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": volume}});
        super::merge(&mut bound, more);
        self.claim(name, "any", bound);
    }

    fn volume(&mut self, name: &str, node: &str, more: Value) {
        let here = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
        let mut volume = json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                "nodeAffinity": {"required": {"nodeSelectorTerms": here}}},
            "status": {"phase": "Available"},
        });
        super::merge(&mut volume, more);
        self.see(VOLUMES, name, Some(volume));
    }

    fn pod_with(&mut self, name: &str, claim: &str) {
        self.pod(
            name,
            "1",
            json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}),
        );
    }

    fn nodes(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.node(name, "4", json!({})));
    }
}

const HELPLESS: &str = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

#[test]
fn a_pod_follows_its_bound_volume() {
    let mut bench = Bench::default();
    bench.nodes(&["n1", "n2"]);
    bench.volume("pv", "n2", json!({"status": {"phase": "Bound"}}));
    bench.bound_claim("data", "pv", json!({}));
    bench.pod_with("a", "data");
    assert_eq!(bench.all(), ["a -> n2"]);
    bench.volume("far", "n9", json!({"status": {"phase": "Bound"}}));
    bench.bound_claim("lost", "far", json!({}));
    bench.pod_with("b", "lost");
    let why = format!(
        "b: 0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity. {HELPLESS}"
    );
    assert_eq!(bench.all(), [why]);
    bench.node("n9", "4", json!({}));
    bench.pass(2);
    assert_eq!(bench.all(), ["b -> n9"], "a node that reaches the volume helps");
}

#[test]
fn a_pod_whose_claim_is_missing_or_unbound_waits_for_just_that() {
    let mut bench = Bench::default();
    bench.nodes(&["n1", "n2"]);
    bench.class("now", "x", "Immediate");
    bench.pod_with("a", "data");
    let told = |why: &str| vec![format!("a: 0/2 nodes are available: {why}. {HELPLESS}")];
    assert_eq!(bench.all(), told("persistentvolumeclaim \"data\" not found"));
    bench.claim("other", "now", json!({}));
    assert_eq!(bench.next(), None, "another's claim is no news");
    bench.claim("data", "now", json!({}));
    assert_eq!(bench.all(), told("pod has unbound immediate PersistentVolumeClaims"));
    bench.volume("pv", "n1", json!({"status": {"phase": "Bound"}}));
    bench.bound_claim("data", "pv", json!({}));
    assert_eq!(bench.all(), ["a -> n1"], "tried at once");
}

#[test]
fn a_claim_that_waits_for_its_pod_is_given_a_node_and_the_pod_follows() {
    let mut bench = Bench::default();
    bench.nodes(&["n1"]);
    bench.class("late", "x", "WaitForFirstConsumer");
    bench.claim("data", "late", json!({}));
    bench.pod_with("a", "data");
    assert_eq!(bench.all(), ["a waits on n1 for data by Make"]);
    let chosen = json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}});
    bench.claim("data", "late", chosen);
    assert_eq!(bench.next(), None, "the volume is being made");
    bench.node("n2", "64", json!({}));
    bench.pass(20);
    assert_eq!(bench.next(), None, "nothing else is chosen meanwhile");
    bench.volume("pv", "n1", json!({"status": {"phase": "Bound"}}));
    bench.bound_claim("data", "pv", json!({}));
    assert_eq!(bench.all(), ["a -> n1"]);
}

#[test]
fn two_pods_are_not_promised_one_volume() {
    let mut bench = Bench::default();
    bench.nodes(&["n1", "n2"]);
    bench.class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer");
    bench.volume("v1", "n1", json!({}));
    for name in ["c1", "c2"] {
        bench.claim(name, "local", json!({}));
    }
    bench.pod_with("a", "c1");
    bench.pod_with("b", "c2");
    let why = format!(
        "b: 0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. {HELPLESS}"
    );
    assert_eq!(bench.all(), ["a waits on n1 for c1 by Volume(\"v1\")".to_owned(), why]);
    bench.volume("v2", "n2", json!({}));
    bench.pass(2);
    assert_eq!(bench.all(), ["b waits on n2 for c2 by Volume(\"v2\")"]);
}

#[test]
fn what_could_not_be_written_is_tried_again_with_the_volume_free() {
    let mut bench = Bench::default();
    bench.nodes(&["n1"]);
    bench.class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer");
    bench.volume("v1", "n1", json!({}));
    bench.claim("c1", "local", json!({}));
    bench.pod_with("a", "c1");
    let decision = ["a waits on n1 for c1 by Volume(\"v1\")"];
    assert_eq!(bench.all(), decision);
    bench.scheduler.volumes_failed("a", [pilothouse_api::Key::new(CLAIMS, "default", "c1")].into_iter());
    bench.pass(2);
    assert_eq!(bench.all(), decision);
}

#[test]
fn a_claim_for_one_pod_is_one_pods_at_a_time() {
    let mut bench = Bench::default();
    bench.nodes(&["n1"]);
    bench.volume("pv", "n1", json!({"status": {"phase": "Bound"}}));
    bench.bound_claim("data", "pv", json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
    bench.pod_with("a", "data");
    bench.pod_with("b", "data");
    let all = bench.all();
    assert_eq!(all[0], "a -> n1");
    assert!(
        all[1].contains(
            "1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
        ),
        "{all:?}"
    );
    bench.gone("a");
    bench.pass(2);
    assert_eq!(bench.all(), ["b -> n1"]);
}

#[test]
fn a_driver_that_tells_what_it_has_left_gets_no_claim_beyond_that() {
    let mut bench = Bench::default();
    for (name, rack) in [("n1", "a"), ("n2", "b")] {
        bench.node(name, "4", json!({"metadata": {"labels": {"rack": rack}}}));
    }
    bench.class("disk", "disk.example.com", "WaitForFirstConsumer");
    let told = json!({"spec": {"storageCapacity": true}});
    bench.see("csidrivers.storage.k8s.io", "disk.example.com", Some(told));
    let left = |rack: &str, capacity: &str| json!({"storageClassName": "disk", "nodeTopology": {"matchLabels": {"rack": rack}}, "capacity": capacity});
    bench.see("csistoragecapacities.storage.k8s.io", "a", Some(left("a", "1Gi")));
    bench.see("csistoragecapacities.storage.k8s.io", "b", Some(left("b", "512Mi")));
    bench.claim("small", "disk", json!({}));
    bench.claim("large", "disk", json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
    bench.pod_with("p1", "small");
    bench.pod_with("p2", "large");
    let all = bench.all();
    assert_eq!(all[0], "p1 waits on n1 for small by Make");
    assert!(all[1].contains("2 node(s) didn't find available persistent volumes to bind"), "{all:?}");
    bench.see("csistoragecapacities.storage.k8s.io", "b", Some(left("b", "4Gi")));
    bench.pass(10);
    assert_eq!(bench.all().last().map(String::as_str), Some("p2 waits on n2 for large by Make"));
}

#[test]
fn zones_and_the_limits_of_drivers_hold() {
    let mut bench = Bench::default();
    bench.node("a1", "4", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}}));
    bench.node("b1", "4", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}}));
    bench.see(
        "csinodes.storage.k8s.io",
        "b1",
        Some(json!({"spec": {"drivers": [{"name": "ebs", "allocatable": {"count": 1}}]}})),
    );
    for n in 1..=2 {
        let (volume, claim) = (format!("pv{n}"), format!("c{n}"));
        bench.volume(&volume, "x", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b__c"}},
            "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}]}},
                "csi": {"driver": "ebs", "volumeHandle": volume}}, "status": {"phase": "Bound"}}));
        bench.bound_claim(&claim, &volume, json!({}));
        bench.pod_with(&format!("p{n}"), &claim);
    }
    let all = bench.all();
    assert_eq!(all[0], "p1 -> b1");
    assert!(
        all[1].contains("1 node(s) exceed max volume count, 1 node(s) had no available volume zone"),
        "{all:?}"
    );
}
