//! Volumes come to the nodes of their pods and leave when nobody needs them there any more.
use crate::world::World;
use pilothouse_api::Key;
use pilothouse_api::storage::*;
use serde_json::{Value, json};

const DRIVER: &str = "disk.example.com";

/// A world with nodes `n1` and `n2`, and a claim that is bound to a volume of the driver.
fn world(access_mode: &str) -> World {
    let mut world = World::new();
    world.add_node("n2");
    world.create(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {
        "accessModes": [access_mode], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "", "volumeName": "pv"}}));
    world.create(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "accessModes": [access_mode], "capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "default", "name": "data"},
        "csi": {"driver": DRIVER, "volumeHandle": "vol-1"}}}));
    world.settle();
    world
}

fn pod(world: &mut World, name: &str, node: &str) -> Key {
    let key = world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node, "containers": [{"name": "main", "image": "web"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}));
    world.settle();
    key
}

fn attachments(world: &World) -> Vec<String> {
    let all = world.all(ATTACHMENTS);
    all.iter().map(|(_, a)| a["spec"]["nodeName"].as_str().unwrap().to_owned()).collect()
}

fn node(name: &str) -> Key {
    Key::new("nodes", "", name)
}

/// What the node reports of the volume.
fn uses(world: &mut World, name: &str, used: bool) {
    let list: Vec<String> = used.then(|| name_in_use(DRIVER, "vol-1")).into_iter().collect();
    world.edit_status(&node(name), |n| n["status"]["volumesInUse"] = json!(list));
    world.settle();
}

/// The pod's object goes, whatever its node does.
fn end(world: &mut World, pod: &Key) {
    world.store(pod, None);
    world.settle();
}

fn ready(world: &mut World, name: &str, status: &str) {
    world.edit_status(&node(name), |n| {
        n["status"]["conditions"] = json!([{"type": "Ready", "status": status}]);
    });
    world.settle();
}

#[test]
fn a_volume_is_attached_for_a_pod_and_stays_until_the_node_has_let_go() {
    let mut world = world("ReadWriteOnce");
    assert_eq!(attachments(&world), Vec::<String>::new());
    let web = pod(&mut world, "web", "n1");
    let key = Key::new(ATTACHMENTS, "", attachment_name(DRIVER, "vol-1", "n1"));
    let spec = &world.get(&key)["spec"];
    assert_eq!(
        (&spec["attacher"], &spec["source"]),
        (&json!(DRIVER), &json!({"persistentVolumeName": "pv"}))
    );
    world.edit_status(&key, |a| a["status"] = json!({"attached": true}));
    world.settle();
    let told = &world.get(&node("n1"))["status"]["volumesAttached"];
    assert_eq!(*told, json!([{"name": "kubernetes.io/csi/disk.example.com^vol-1", "devicePath": ""}]));
    uses(&mut world, "n1", true);
    end(&mut world, &web);
    assert_eq!(attachments(&world), ["n1"], "its node still has it mounted");
    uses(&mut world, "n1", false);
    assert_eq!(attachments(&world), Vec::<String>::new());
    assert_eq!(world.get(&node("n1"))["status"]["volumesAttached"], json!([]));
    world.assert_at_rest();
}

#[test]
fn a_volume_for_one_node_is_not_given_to_a_second() {
    let mut world = world("ReadWriteOnce");
    let first = pod(&mut world, "first", "n1");
    pod(&mut world, "second", "n2");
    assert_eq!(attachments(&world), ["n1"]);
    let told =
        "FailedAttachVolume Multi-Attach error for volume \"pv\" Volume is already used by pod(s) first";
    assert!(world.events.iter().any(|event| event == told), "{:?}", world.events);
    end(&mut world, &first);
    assert_eq!(attachments(&world), ["n2"]);
    let mut shared = self::world("ReadWriteMany");
    pod(&mut shared, "first", "n1");
    pod(&mut shared, "second", "n2");
    assert_eq!(attachments(&shared).len(), 2);
}

#[test]
fn a_driver_that_attaches_nothing_is_asked_for_nothing() {
    let mut world = world("ReadWriteOnce");
    world.create(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER}, "spec": {"attachRequired": false}}));
    pod(&mut world, "web", "n1");
    assert_eq!(attachments(&world), Vec::<String>::new());
}

#[test]
fn a_lost_node_gives_its_volume_up_after_six_minutes_or_when_it_is_said_to_be_off() {
    for (taint, minutes) in
        [(Value::Null, 6), (json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]), 0)]
    {
        let mut world = world("ReadWriteOnce");
        let web = pod(&mut world, "web", "n1");
        uses(&mut world, "n1", true);
        world.alive.remove("n1");
        ready(&mut world, "n1", "Unknown");
        end(&mut world, &web);
        assert_eq!(attachments(&world), ["n1"]);
        if taint.is_array() {
            world.edit(&node("n1"), |n| n["spec"]["taints"] = taint.clone());
            world.settle();
        }
        pod(&mut world, "next", "n2");
        if minutes > 0 {
            world.pass(minutes * 60 - 1);
            world.settle();
            assert_eq!(attachments(&world), ["n1"]);
            world.pass(2);
            world.settle();
        }
        assert_eq!(attachments(&world), ["n2"], "{taint}");
    }
}

#[test]
fn a_volume_that_is_wanted_again_stays() {
    let mut world = world("ReadWriteOnce");
    let web = pod(&mut world, "web", "n1");
    uses(&mut world, "n1", true);
    end(&mut world, &web);
    let key = Key::new(ATTACHMENTS, "", attachment_name(DRIVER, "vol-1", "n1"));
    assert!(world.get(&key)["metadata"]["annotations"].is_object());
    pod(&mut world, "again", "n1");
    let left = &world.get(&key)["metadata"]["annotations"];
    assert!(left.as_object().is_none_or(serde_json::Map::is_empty), "{left}");
}

#[test]
fn an_attachment_that_somebody_else_made_stays() {
    let mut world = world("ReadWriteOnce");
    for (name, volume) in [("theirs", "pv"), ("of-no-volume", "none")] {
        world.create(
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
            "spec": {"attacher": DRIVER, "nodeName": "n1", "source": {"persistentVolumeName": volume}}}),
        );
    }
    world.settle();
    assert_eq!(attachments(&world), ["n1", "n1"]);
    let own = attachment_name(DRIVER, "vol-2", "n1");
    world.create(
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": own},
        "spec": {"attacher": DRIVER, "nodeName": "n1", "source": {"persistentVolumeName": "gone"}}}),
    );
    world.settle();
    assert_eq!(attachments(&world), ["n1", "n1"], "a volume that is no more is nobody's");
}
