//! Claims and volumes find each other, are kept while used, and go as the policy says.
use crate::cluster::PODS;
use crate::world::World;
use pilothouse_api::Key;
use pilothouse_api::storage::*;
use serde_json::{Value, json};

fn volume(world: &mut World, name: &str, size: &str, more: Value) -> Key {
    let mut spec = json!({
        "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "disk", "hostPath": {"path": "/data"},
    });
    merge(&mut spec, more);
    world.create(
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}),
    )
}

fn claim(world: &mut World, name: &str, size: &str, more: Value) -> Key {
    let mut spec = json!({
        "resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
    });
    merge(&mut spec, more);
    world.create(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}))
}

fn merge(into: &mut Value, more: Value) {
    for (field, value) in more.as_object().into_iter().flatten() {
        into[field] = value.clone();
    }
}

fn class(world: &mut World, name: &str, provisioner: &str, mode: &str, parameters: Value) -> Key {
    world.create(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": mode, "parameters": parameters, "allowVolumeExpansion": true,
    }))
}

fn phase<'a>(world: &'a World, key: &Key) -> &'a str {
    world.get(key)["status"]["phase"].as_str().unwrap_or_default()
}

fn bound_to<'a>(world: &'a World, claim: &Key) -> &'a str {
    match phase(world, claim) {
        "Bound" => world.get(claim)["spec"]["volumeName"].as_str().unwrap_or_default(),
        _ => "",
    }
}

/// What the scheduler does with a claim that waits for a pod.
fn select(world: &mut World, claim: &Key, node: &str) {
    world.edit(claim, |c| c["metadata"]["annotations"][SELECTED_NODE] = node.into());
    world.settle();
}

/// What the node does that is to make a volume.
fn make(world: &mut World, volume: &Key) {
    assert!(duty_of(world.get(volume)).is_some(), "{}", world.get(volume));
    world.edit_status(volume, |v| v["status"]["phase"] = "Available".into());
    world.settle();
}

fn local_node(world: &mut World, name: &str) {
    let node = Key::new("nodes", "", name);
    world.edit(&node, |n| n["metadata"]["annotations"][LOCAL_VOLUMES] = "/data/volumes".into());
    world.settle();
}

fn pod(world: &mut World, name: &str, claim: &str) -> Key {
    let pod = world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "containers": [{"name": "main", "image": "i"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}));
    world.run_pod(&pod, true);
    world.settle();
    pod
}

#[test]
fn a_claim_gets_the_smallest_volume_that_suits_and_both_say_so() {
    let mut world = World::new();
    let large = volume(&mut world, "large", "10Gi", json!({}));
    let fitting = volume(&mut world, "fitting", "5Gi", json!({}));
    volume(&mut world, "small", "1Gi", json!({}));
    volume(&mut world, "foreign", "5Gi", json!({"storageClassName": "other"}));
    world.settle();
    assert_eq!(phase(&world, &large), "Available");
    let data = claim(&mut world, "data", "4Gi", json!({}));
    world.settle();
    assert_eq!(bound_to(&world, &data), "fitting");
    let (claim_now, volume_now) = (world.get(&data), world.get(&fitting));
    assert_eq!(claim_now["status"]["capacity"]["storage"], "5Gi");
    assert_eq!(claim_now["metadata"]["annotations"][BIND_COMPLETED], "yes");
    assert_eq!(claim_now["metadata"]["annotations"][BOUND_BY_CONTROLLER], "yes");
    assert_eq!(volume_now["spec"]["claimRef"]["uid"], claim_now["metadata"]["uid"]);
    assert_eq!((phase(&world, &fitting), phase(&world, &large)), ("Bound", "Available"));
    world.assert_at_rest();
}

#[test]
fn a_claim_without_a_volume_says_once_why_and_takes_the_first_that_comes() {
    let mut world = World::new();
    let none = claim(&mut world, "none", "1Gi", json!({"storageClassName": ""}));
    let missing = claim(&mut world, "missing", "1Gi", json!({"storageClassName": "gone"}));
    world.settle();
    world.visit_everything();
    world.settle();
    let told: Vec<&String> = world.events.iter().collect();
    assert_eq!(
        told,
        [
            "ProvisioningFailed storageclass.storage.k8s.io \"gone\" not found",
            "FailedBinding no persistent volumes available for this claim and no storage class is set",
        ]
    );
    volume(&mut world, "v", "1Gi", json!({"storageClassName": ""}));
    world.settle();
    assert_eq!((bound_to(&world, &none), phase(&world, &missing)), ("v", "Pending"));
}

#[test]
fn a_volume_kept_for_a_claim_is_taken_by_no_other_and_goes_first() {
    let mut world = World::new();
    volume(
        &mut world,
        "kept",
        "9Gi",
        json!({"claimRef": {"namespace": "default", "name": "data"}, "storageClassName": "odd"}),
    );
    volume(&mut world, "free", "1Gi", json!({}));
    let other = claim(&mut world, "other", "2Gi", json!({"storageClassName": "odd"}));
    let data = claim(&mut world, "data", "1Gi", json!({}));
    world.settle();
    assert_eq!((bound_to(&world, &data), phase(&world, &other)), ("kept", "Pending"));
    assert!(world.get(&data)["metadata"]["annotations"][BOUND_BY_CONTROLLER].is_string());
    assert!(
        world.get(&Key::new(VOLUMES, "", "kept"))["metadata"]["annotations"][BOUND_BY_CONTROLLER].is_null()
    );
}

#[test]
fn a_claim_that_names_its_volume_gets_that_or_hears_why_not() {
    let mut world = World::new();
    volume(&mut world, "small", "1Gi", json!({}));
    volume(&mut world, "good", "3Gi", json!({}));
    let wrong = claim(&mut world, "wrong", "2Gi", json!({"volumeName": "small"}));
    let right = claim(&mut world, "right", "2Gi", json!({"volumeName": "good"}));
    world.settle();
    let late = claim(&mut world, "late", "2Gi", json!({"volumeName": "good"}));
    world.settle();
    assert_eq!(
        (bound_to(&world, &right), phase(&world, &wrong), phase(&world, &late)),
        ("good", "Pending", "Pending")
    );
    let mismatch = "VolumeMismatch Cannot bind to requested volume \"small\": requested PV is too small";
    assert!(world.events.iter().any(|event| event == mismatch), "{:?}", world.events);
    assert!(
        world.events.iter().any(|e| e.starts_with("FailedBinding volume \"good\" already bound")),
        "{:?}",
        world.events
    );
}

#[test]
fn a_claim_in_use_and_a_bound_volume_stay_until_they_are_free() {
    let mut world = World::new();
    let v = volume(&mut world, "v", "1Gi", json!({}));
    let data = claim(&mut world, "data", "1Gi", json!({}));
    world.settle();
    let pod = pod(&mut world, "p", "data");
    world.delete(&data, "Background");
    world.delete(&v, "Background");
    world.settle();
    assert_eq!((phase(&world, &data), phase(&world, &v)), ("Bound", "Bound"), "both wait");
    world.delete(&pod, "Background");
    world.end_pod(&pod);
    world.settle();
    assert!(!world.objects.contains_key(&data));
    assert!(!world.objects.contains_key(&v), "nothing holds it any more");
}

#[test]
fn a_claim_that_lost_its_volume_says_so_for_good() {
    let mut world = World::new();
    let v = volume(&mut world, "v", "1Gi", json!({}));
    let data = claim(&mut world, "data", "1Gi", json!({}));
    world.settle();
    world.delete(&v, "Background");
    world.edit(&v, |v| v["metadata"]["finalizers"] = json!([])); // by force
    world.settle();
    assert_eq!(phase(&world, &data), "Lost");
    assert!(
        world
            .events
            .iter()
            .any(|event| event.starts_with("ClaimLost Bound claim has lost its PersistentVolume"))
    );
    world.assert_at_rest();
}

#[test]
fn a_released_volume_is_kept_or_fails_to_be_deleted_where_nobody_can() {
    let mut world = World::new();
    let kept = volume(&mut world, "kept", "1Gi", json!({}));
    let data = claim(&mut world, "data", "1Gi", json!({}));
    world.settle();
    world.delete(&data, "Background");
    world.settle();
    assert_eq!(phase(&world, &kept), "Released");
    let again = claim(&mut world, "data", "1Gi", json!({}));
    world.settle();
    assert_eq!(phase(&world, &again), "Pending", "it holds another claim's data");
    let doomed = volume(&mut world, "doomed", "1Gi", json!({"persistentVolumeReclaimPolicy": "Delete"}));
    world.settle();
    assert_eq!(bound_to(&world, &again), "doomed");
    world.delete(&again, "Background");
    world.settle();
    assert_eq!(phase(&world, &doomed), "Failed");
    world.assert_at_rest();
}

#[test]
fn the_default_class_is_given_to_claims_that_left_it_open_once_there_is_one() {
    let mut world = World::new();
    let open = world
        .create(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "open"},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]}}));
    world.settle();
    let class = class(&mut world, "std", LOCAL_PATH, "WaitForFirstConsumer", json!({}));
    world.edit(&class, |c| c["metadata"]["annotations"][DEFAULT_CLASS[0]] = "true".into());
    world.settle();
    assert_eq!(world.get(&open)["spec"]["storageClassName"], "std");
}

#[test]
fn a_local_volume_is_made_on_the_node_of_the_first_pod_and_goes_with_its_claim() {
    let mut world = World::new();
    local_node(&mut world, "n1");
    class(&mut world, "local-path", LOCAL_PATH, "WaitForFirstConsumer", json!({}));
    let data = claim(&mut world, "data", "1Gi", json!({"storageClassName": "local-path"}));
    world.settle();
    assert_eq!(
        world.events,
        ["WaitForFirstConsumer waiting for first consumer to be created before binding"]
    );
    select(&mut world, &data, "n1");
    let name = format!("pvc-{}", world.get(&data)["metadata"]["uid"].as_str().unwrap());
    let volume = Key::new(VOLUMES, "", name.as_str());
    let made = world.get(&volume).clone();
    assert_eq!(made["spec"]["local"]["path"], format!("/data/volumes/{name}_default_data"));
    assert_eq!(duty_of(&made), Some("n1"));
    assert_eq!(phase(&world, &data), "Pending", "its directory is not there yet");
    make(&mut world, &volume);
    assert_eq!((bound_to(&world, &data), phase(&world, &volume)), (name.as_str(), "Bound"));
    world.edit(&data, |c| c["spec"]["resources"]["requests"]["storage"] = "2Gi".into());
    world.settle();
    assert_eq!(world.get(&data)["status"]["capacity"]["storage"], "2Gi", "a directory has no walls");
    world.assert_at_rest();
    world.delete(&data, "Background");
    world.settle();
    let going = world.get(&volume).clone();
    assert_eq!((going["status"]["phase"].as_str(), duty_of(&going)), (Some("Released"), Some("n1")));
    world.edit(&volume, |v| *v = without_finalizer(v, DUTY_FINALIZER));
    world.settle();
    assert!(!world.objects.contains_key(&volume));
}

#[test]
fn a_volume_whose_claim_or_node_went_before_it_was_made_goes_too() {
    let mut world = World::new();
    world.add_node("n2");
    local_node(&mut world, "n2");
    class(&mut world, "local-path", LOCAL_PATH, "WaitForFirstConsumer", json!({}));
    let data = claim(&mut world, "data", "1Gi", json!({"storageClassName": "local-path"}));
    select(&mut world, &data, "n2");
    assert_eq!(world.all(VOLUMES).len(), 1);
    world.delete(&Key::new("nodes", "", "n2"), "Background");
    world.settle();
    world.visit_everything();
    world.settle();
    assert_eq!(world.all(VOLUMES).len(), 0, "{:?}", world.all(VOLUMES));
    assert!(
        world.get(&data)["metadata"]["annotations"][SELECTED_NODE].is_null(),
        "the scheduler chooses again"
    );
}

#[test]
fn volumes_that_all_nodes_reach_are_made_by_any_and_their_classes_parameters_are_read() {
    let mut world = World::new();
    class(
        &mut world,
        "files",
        NFS,
        "Immediate",
        json!({"server": "s", "share": "/export", "subDir": "${pvc.metadata.namespace}/${pvc.metadata.name}"}),
    );
    class(&mut world, "efs", EFS, "Immediate", json!({"fileSystemId": "fs-1", "region": "eu-west-1"}));
    class(
        &mut world,
        "buckets",
        S3,
        "Immediate",
        json!({"secretName": "keys", "endpoint": "http://s3:9000"}),
    );
    class(&mut world, "broken", NFS, "Immediate", json!({"server": "s"}));
    for name in ["files", "efs", "buckets", "broken"] {
        claim(&mut world, name, "1Gi", json!({"storageClassName": name}));
    }
    world.settle();
    let of = |world: &World, class: &str| {
        let volumes = world.all(VOLUMES).into_iter().find(|(_, v)| v["spec"]["storageClassName"] == class);
        volumes.map(|(_, volume)| volume).unwrap_or_default()
    };
    assert_eq!(of(&world, "files")["spec"]["nfs"], json!({"server": "s", "path": "/export/default/files"}));
    assert_eq!(of(&world, "files")["metadata"]["annotations"][NFS_SHARE], "/export");
    let efs = of(&world, "efs");
    assert_eq!(efs["spec"]["nfs"]["server"], "fs-1.efs.eu-west-1.amazonaws.com");
    assert_eq!(efs["spec"]["mountOptions"][0], "nfsvers=4.1");
    let bucket = of(&world, "buckets");
    assert_eq!(bucket["spec"]["csi"]["volumeHandle"], bucket["metadata"]["name"]);
    assert_eq!(
        bucket["spec"]["csi"]["nodePublishSecretRef"],
        json!({"name": "keys", "namespace": "default"})
    );
    let told = "failed to provision volume with StorageClass \"broken\": parameter \"share\" of the storage class is required";
    assert!(world.events.iter().any(|event| event.ends_with(told)), "{:?}", world.events);
}

#[test]
fn an_ephemeral_volume_has_a_claim_that_goes_with_its_pod() {
    let mut world = World::new();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}}});
    let pod = world.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "main", "image": "i"}], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]}}));
    world.settle();
    let claim = Key::new(CLAIMS, "default", "p-scratch");
    assert_eq!(world.get(&claim)["metadata"]["labels"]["a"], "b");
    assert_eq!(
        world.get(&claim)["metadata"]["ownerReferences"][0]["uid"],
        world.get(&pod)["metadata"]["uid"]
    );
    world.delete(&pod, "Background");
    if world.objects.contains_key(&pod) {
        world.end_pod(&pod);
    }
    world.settle();
    assert!(!world.objects.contains_key(&claim) && world.all(PODS).is_empty());
}
