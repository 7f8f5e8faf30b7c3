//! ReplicationController: what a ReplicaSet does, under its older name and with a plain selector.
use crate::replica_set::Replicas;

pub const REPLICATION_CONTROLLERS: Replicas = Replicas {
    name: "replication-controller",
    kind: "ReplicationController",
    resource: "replicationcontrollers",
};

#[cfg(test)]
mod tests {
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn a_replication_controller_keeps_its_pods_alive_beside_a_replica_set_of_the_same_name() {
        let mut world = World::new();
        let template = json!({"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [{"name": "main", "image": "web"}]}});
        let controller = world.create(json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "web"},
            "spec": {"replicas": 2, "template": template},
        }));
        let template = json!({"metadata": {"labels": {"app": "new"}}, "spec": {"containers": [{"name": "main", "image": "web"}]}});
        world.create(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "new"}}, "template": template},
        }));
        world.converge();
        assert_eq!(world.get(&controller)["status"]["readyReplicas"], 2);
        assert_eq!(world.all("pods").len(), 3);
        let (victim, _) =
            world.all("pods").into_iter().find(|(_, p)| p["metadata"]["labels"]["app"] == "old").unwrap();
        world.delete(&victim, "Background");
        world.converge();
        assert_eq!(world.all("pods").len(), 3);
        world.edit(&controller, |c| c["spec"]["replicas"] = 0.into());
        world.converge();
        assert_eq!(world.all("pods").len(), 1);
        world.assert_at_rest();
    }
}
