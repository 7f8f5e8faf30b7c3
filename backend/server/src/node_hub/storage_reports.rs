//! What nodes tell of their storage drivers: which they have, and how large a volume has become there.
use super::Hub;
use super::reports::check;
use crate::loops::reference;
use crate::objects::{Actor, Part, WriteOptions};
use pilothouse_api::k8s_openapi::api::storage::v1 as storage_v1;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::storage::{CLAIMS, CSI_NODES, VOLUMES};
use pilothouse_api::{Key, Reason, Status, meta};
use pilothouse_protocol::{PodRef, needs};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The Node's annotation with what each driver calls it: older attachers read it there.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

impl Hub {
    /// A driver came to a node or left it: the node's CSINode says so, and the Node's labels where it is.
    pub(super) async fn storage_driver(
        &self,
        actor: &Actor,
        node: &str,
        name: &str,
        driver: Option<Value>,
        topology: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        if let Some(driver) = &driver {
            check::<storage_v1::CSINodeDriver>("the driver", driver)?;
            if driver["name"] != name {
                return Err(Status::bad_request("a driver has one name"));
            }
            self.label(actor, node, driver, &topology).await?;
        }
        let objects = &self.0.objects;
        let entry = self.entry(CSI_NODES)?;
        let options = WriteOptions::default();
        let change = |old: &Value| {
            let mut new = old.clone();
            let mut all = old["spec"]["drivers"].as_array().cloned().unwrap_or_default();
            all.retain(|other| other["name"] != name);
            all.extend(driver.clone());
            all.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
            new["spec"]["drivers"] = all.into();
            Ok(new)
        };
        match objects.update(actor, &entry, "", node, Part::Spec, &options, change).await {
            Err(status) if status.reason == Reason::NotFound && driver.is_some() => {
                let owner = objects.store().get(&Key::new("nodes", "", node));
                let owner = owner.ok_or_else(|| Status::not_found("nodes", node))?;
                let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": &*owner.uid});
                let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
                    "metadata": {"name": node, "ownerReferences": [owner]}, "spec": {"drivers": [driver]}});
                objects.create(actor, &entry, "", object, &options).await.map(drop)
            }
            outcome => outcome.map(drop),
        }
    }

    async fn label(
        &self,
        actor: &Actor,
        node: &str,
        driver: &Value,
        topology: &BTreeMap<String, String>,
    ) -> Result<(), Status> {
        let name = driver["name"].as_str().unwrap_or_default();
        let change = |old: &Value| {
            let mut new = old.clone();
            for (key, value) in topology {
                let label = &old["metadata"]["labels"][key];
                if label.is_string() && label != value {
                    let why = format!("the node has {key}={label} already, not {value:?} as {name} says");
                    return Err(Status::bad_request(why));
                }
                new["metadata"]["labels"][key] = value.as_str().into();
            }
            let ids = old["metadata"]["annotations"][NODE_IDS].as_str().unwrap_or_default();
            let mut ids: BTreeMap<String, Value> = serde_json::from_str(ids).unwrap_or_default();
            ids.insert(name.to_owned(), driver["nodeID"].clone());
            new["metadata"]["annotations"][NODE_IDS] = json!(ids).to_string().into();
            Ok(new)
        };
        let entry = self.entry("nodes")?;
        let objects = &self.0.objects;
        objects.update(actor, &entry, "", node, Part::Spec, &WriteOptions::default(), change).await.map(drop)
    }

    /// The last step of an expansion is the node's: the claim has then what it asked for. The node writes no claims: it must
    /// have a pod with that claim, and be right about the volume.
    pub(super) async fn volume_expanded(
        &self,
        node: &str,
        pod: &PodRef,
        claim: &str,
        claim_uid: &str,
        capacity: &str,
        outcome: Result<(), String>,
    ) -> Result<(), Status> {
        let objects = &self.0.objects;
        let key = Key::new("pods", pod.namespace.clone(), pod.name.clone());
        let found =
            objects.store().get(&key).filter(|found| *found.uid == *pod.uid).map(|found| found.value());
        let own = found.filter(|found| {
            found["spec"]["nodeName"] == node && needs::claims_of(found).any(|name| name == claim)
        });
        let own = own.ok_or_else(|| Status::not_found("pods", &pod.name))?;
        let key = Key::new(CLAIMS, pod.namespace.clone(), claim);
        let found = objects.store().get(&key).filter(|found| *found.uid == *claim_uid);
        let found = found.ok_or_else(|| Status::not_found(CLAIMS, claim))?.value();
        let name = found["spec"]["volumeName"].as_str().unwrap_or_default();
        let volume = objects.store().get(&Key::new(VOLUMES, "", name)).map(|volume| volume.value());
        let volume = volume.ok_or_else(|| Status::not_found(VOLUMES, name))?;
        let event = |r#type: &str, reason: &str, message: String| {
            for about in [&own, &found] {
                self.0.events.record(reference(about), r#type, reason, message.clone(), "kubelet");
            }
        };
        if let Err(why) = outcome {
            let message = format!("NodeExpandVolume.NodeExpandVolume failed for volume {name:?} : {why}");
            event("Warning", "VolumeResizeFailed", message);
            return Ok(());
        }
        let amount = |text: &Value| text.as_str().and_then(Quantity::parse).unwrap_or(Quantity::ZERO);
        if amount(&volume["spec"]["capacity"]["storage"]) != amount(&capacity.into()) {
            return Ok(()); // it has grown again meanwhile: the node will tell of that
        }
        if amount(&found["status"]["capacity"]["storage"]) >= amount(&capacity.into()) {
            return Ok(()); // told twice
        }
        let change = |old: &Value| {
            if meta::uid(old) != claim_uid {
                return Err(Status::not_found(CLAIMS, claim));
            }
            Ok(grown(old, capacity))
        };
        let actor = Actor::system("controller:expand-controller");
        let entry = self.entry(CLAIMS)?;
        let options = WriteOptions::default();
        objects.update(&actor, &entry, &pod.namespace, claim, Part::Status, &options, change).await?;
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume {name:?} {node}");
        event("Normal", "FileSystemResizeSuccessful", message);
        Ok(())
    }
}

/// A claim whose expansion has come to its end.
fn grown(claim: &Value, capacity: &str) -> Value {
    let mut new = claim.clone();
    let status = &mut new["status"];
    status["capacity"]["storage"] = capacity.into();
    if let Some(conditions) = status["conditions"].as_array_mut() {
        let of_resize = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];
        conditions.retain(|condition| !of_resize.iter().any(|known| condition["type"] == *known));
    }
    if let Some(fields) = status.as_object_mut() {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        if fields.get("conditions").is_some_and(is_empty) {
            fields.remove("conditions");
        }
        if let Some(statuses) = fields.get_mut("allocatedResourceStatuses").and_then(Value::as_object_mut) {
            statuses.remove("storage");
            if statuses.is_empty() {
                fields.remove("allocatedResourceStatuses");
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expansion_that_has_ended_leaves_the_size_and_no_trace_of_itself() {
        let claim = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}});
        let expected = json!({"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}, "allocatedResources": {"storage": "2Gi"}}});
        assert_eq!(grown(&claim, "2Gi"), expected);
    }
}
