//! Claims and volumes at random, under views that lag: never two claims on one volume, never one claim on two.
use crate::world::World;
use pilothouse_api::Key;
use pilothouse_api::storage::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    Claim(u8, u8),
    Volume(u8, u8, bool),
    DeleteClaim(u8),
    DeleteVolume(u8),
    Select(u8),
    Make,
    Settle,
    Steps(usize),
    Blind,
    See,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..5_u8, 1..4_u8).prop_map(|(n, size)| Op::Claim(n, size)),
        4 => (0..5_u8, 1..4_u8, any::<bool>()).prop_map(|(n, size, kept)| Op::Volume(n, size, kept)),
        2 => (0..5_u8).prop_map(Op::DeleteClaim),
        1 => (0..5_u8).prop_map(Op::DeleteVolume),
        2 => (0..5_u8).prop_map(Op::Select),
        2 => Just(Op::Make),
        4 => Just(Op::Settle),
        5 => (1..6_usize).prop_map(Op::Steps),
        3 => Just(Op::Blind),
        3 => Just(Op::See),
    ]
}

fn claim_key(n: u8) -> Key {
    Key::new(CLAIMS, "default", format!("c{n}"))
}

fn classes(n: u8) -> &'static str {
    if n.is_multiple_of(2) { "disk" } else { "local-path" }
}

/// What a server would refuse, the story leaves out.
fn run(world: &mut World, op: &Op) {
    match op {
        Op::Claim(n, size) => drop(world.try_create(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": format!("c{n}")},
            "spec": {"resources": {"requests": {"storage": format!("{size}Gi")}}, "accessModes": ["ReadWriteOnce"], "storageClassName": classes(*n)},
        }))),
        Op::Volume(n, size, kept) => {
            let mut spec = json!({"capacity": {"storage": format!("{size}Gi")}, "accessModes": ["ReadWriteOnce"], "storageClassName": classes(*n),
                "hostPath": {"path": "/x"}});
            if *kept {
                spec["claimRef"] = json!({"namespace": "default", "name": format!("c{n}")});
            }
            drop(world.try_create(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("v{n}")}, "spec": spec})));
        }
        Op::DeleteClaim(n) if world.objects.contains_key(&claim_key(*n)) => world.delete(&claim_key(*n), "Background"),
        Op::DeleteVolume(n) if world.objects.contains_key(&Key::new(VOLUMES, "", format!("v{n}"))) => {
            world.delete(&Key::new(VOLUMES, "", format!("v{n}")), "Background");
        }
        Op::Select(n) if world.objects.contains_key(&claim_key(*n)) => {
            world.edit(&claim_key(*n), |c| c["metadata"]["annotations"][SELECTED_NODE] = "n1".into());
        }
        Op::DeleteClaim(_) | Op::DeleteVolume(_) | Op::Select(_) => {}
        Op::Make => nodes_work(world),
        Op::Settle => {
            see(world);
            world.settle_checked(&mut |world, _| check(world));
        }
        Op::Steps(n) => {
            for _ in 0..*n {
                world.step_checked(&mut |world, _| check(world));
            }
        }
        Op::Blind => world.is_blind = true,
        Op::See => see(world),
    }
}

fn see(world: &mut World) {
    world.is_blind = false;
    world.catch_up();
}

/// Nodes make and remove what they are to.
fn nodes_work(world: &mut World) {
    for (key, volume) in world.all(VOLUMES) {
        match (duty_of(&volume), volume["metadata"]["deletionTimestamp"].is_null()) {
            (Some(_), true) => world.edit_status(&key, |v| v["status"]["phase"] = "Available".into()),
            (Some(_), false) => world.edit(&key, |v| *v = without_finalizer(v, DUTY_FINALIZER)),
            (None, _) => {}
        }
    }
}

/// Of claims that think themselves bound, no two have one volume, and the volume names its claim.
fn check(world: &World) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let volumes: BTreeMap<String, Value> =
        world.all(VOLUMES).into_iter().map(|(key, volume)| (key.name.to_string(), volume)).collect();
    for (key, claim) in world.all(CLAIMS).iter().filter(|(_, claim)| claim["status"]["phase"] == "Bound") {
        let name = claim["spec"]["volumeName"].as_str().unwrap().to_owned();
        assert!(taken.insert(name.clone()), "volume {name} is bound twice");
        if let Some(volume) = volumes.get(&name) {
            assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"], "{key} and {name}");
        }
    }
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn no_volume_is_ever_bound_to_two_claims(ops in prop::collection::vec(op(), 1..50)) {
        let mut world = World::new();
        world.edit(&Key::new("nodes", "", "n1"), |n| n["metadata"]["annotations"][LOCAL_VOLUMES] = "/data".into());
        world.create(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"},
            "provisioner": LOCAL_PATH, "volumeBindingMode": "WaitForFirstConsumer"}));
        for op in &ops {
            run(&mut world, op);
            check(&world);
        }
        see(&mut world);
        for _ in 0..5 {
            world.visit_everything();
            world.settle();
            nodes_work(&mut world);
        }
        world.settle();
        world.assert_at_rest();
        check(&world);
        // Whoever waits has nothing to wait for but a node.
        let free: Vec<Value> = world.all(VOLUMES).into_iter().map(|(_, v)| v).filter(|v| Offer::new(v).is_free()).collect();
        for (key, claim) in world.all(CLAIMS).iter().filter(|(_, c)| !is_bound(c) && c["spec"]["storageClassName"] == "disk") {
            let demand = Demand::new(claim);
            assert!(!free.iter().any(|volume| Offer::new(volume).suits(&demand)), "{key} waits beside a volume that suits");
        }
    }
}
