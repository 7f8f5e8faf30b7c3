//! What nodes tell, written as theirs: the Node and its Lease, the status and end of pods, events, tokens for pods.
use super::Hub;
use super::event_budget::EventBudget;
use crate::auth::token_requests;
use crate::loops::reference;
use crate::objects::{Actor, Part, WriteOptions};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::k8s_openapi::api::core::v1 as core;
use pilothouse_api::lifecycle::{self, DeleteOptions};
use pilothouse_api::{Key, KindEntry, Reason, Status, meta, storage};
use pilothouse_protocol::{IssuedToken, NodeMessage, PodRef, needs, status};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const LEASES: &str = "leases.coordination.k8s.io";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i64 = 40;

/// Holds what a node sent to the shape it must have: code that reads it later need not fear it.
pub(super) fn check<T: DeserializeOwned>(what: &str, value: &Value) -> Result<(), Status> {
    let wrong = |why: String| Status::bad_request(format!("{what} is malformed: {why}"));
    if !value.is_object() {
        return Err(wrong("it is no object".into()));
    }
    T::deserialize(value).map(drop).map_err(|error| wrong(error.to_string()))
}

impl Hub {
    pub(super) async fn register(&self, actor: &Actor, name: &str, object: Value) -> Result<(), Status> {
        let objects = &self.0.objects;
        let entry = self.entry("nodes")?;
        check::<core::Node>("the Node", &object)?;
        if meta::name(&object) != name {
            return Err(Status::bad_request("a node registers itself only"));
        }
        self.renew(actor, name).await;
        let options = WriteOptions::default();
        match objects.create(actor, &entry, "", object.clone(), &options).await {
            Err(status) if status.reason == Reason::AlreadyExists => {}
            outcome => return outcome.map(drop),
        }
        let labels = object["metadata"]["labels"].clone();
        let volumes = object["metadata"]["annotations"][storage::LOCAL_VOLUMES].clone();
        let relabel = |old: &Value| {
            let mut new = old.clone();
            for (label, value) in labels.as_object().into_iter().flatten() {
                new["metadata"]["labels"][label] = value.clone();
            }
            if volumes.is_string() {
                new["metadata"]["annotations"][storage::LOCAL_VOLUMES] = volumes.clone();
            }
            Ok(new)
        };
        objects.update(actor, &entry, "", name, Part::Spec, &options, relabel).await?;
        self.node_status(actor, name, object["status"].clone()).await
    }

    async fn node_status(&self, actor: &Actor, name: &str, status: Value) -> Result<(), Status> {
        let objects = &self.0.objects;
        let entry = self.entry("nodes")?;
        check::<core::NodeStatus>("the Node's status", &status)?;
        let change = |old: &Value| {
            let mut new = old.clone();
            new["status"] = status::of_node(&old["status"], status.clone());
            Ok(new)
        };
        objects
            .update(actor, &entry, "", name, Part::Status, &WriteOptions::default(), change)
            .await
            .map(drop)
    }

    /// The node's heartbeat.
    pub(super) async fn renew(&self, actor: &Actor, name: &str) {
        let objects = &self.0.objects;
        let Ok(entry) = self.entry(LEASES) else { return };
        let now = Timestamp::now();
        let micros = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": format!("{micros:.6}")});
        // The Lease goes with its Node. A node that registers renews it before there is a Node, so each renewal looks.
        let owners = || {
            let node = objects.store().get(&Key::new("nodes", "", name));
            node.map(|node| json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": &*node.uid}]))
        };
        let change = |old: &Value| {
            let mut new = old.clone();
            new["spec"] = spec.clone();
            if let Some(owners) = owners().filter(|_| old["metadata"]["ownerReferences"].is_null()) {
                new["metadata"]["ownerReferences"] = owners;
            }
            Ok(new)
        };
        let options = WriteOptions::default();
        let renewed =
            objects.update(actor, &entry, LEASE_NAMESPACE, name, Part::Spec, &options, change).await;
        let outcome = match renewed {
            Err(status) if status.reason == Reason::NotFound => {
                let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
                if let Some(owners) = owners() {
                    lease["metadata"]["ownerReferences"] = owners;
                }
                objects.create(actor, &entry, LEASE_NAMESPACE, lease, &options).await
            }
            outcome => outcome,
        };
        if let Err(error) = outcome {
            tracing::warn!(node = name, %error, "a node's lease could not be renewed");
        }
    }

    pub(super) async fn receive(
        &self,
        actor: &Actor,
        node: &str,
        budget: &mut EventBudget,
        message: NodeMessage,
    ) {
        let outcome = match message {
            NodeMessage::NodeStatus { status } => self.node_status(actor, node, status).await,
            NodeMessage::VolumeDone { name, uid, is_removed, outcome } => {
                self.volume_done(node, &name, &uid, is_removed, outcome).await
            }
            NodeMessage::StorageDriver { name, driver, topology } => {
                self.storage_driver(actor, node, &name, driver, topology).await
            }
            NodeMessage::VolumeExpanded { pod, claim, claim_uid, capacity, outcome } => {
                self.volume_expanded(node, &pod, &claim, &claim_uid, &capacity, outcome).await
            }
            NodeMessage::Mirror { pod } => self.mirror(actor, node, pod).await,
            NodeMessage::Event { event, .. } => {
                self.event(node, budget, event);
                Ok(())
            }
            NodeMessage::Usage(usage) => {
                self.0.metrics.observe(node, usage);
                Ok(())
            }
            NodeMessage::StreamFailed { id, code, message } => {
                self.stream_failed(node, &id, code, message);
                Ok(())
            }
            // The line itself answers these, or has them written.
            NodeMessage::Register { .. }
            | NodeMessage::Ping
            | NodeMessage::TokenRequest { .. }
            | NodeMessage::PodStatus { .. }
            | NodeMessage::PodTerminated { .. } => Ok(()),
        };
        note(node, outcome);
    }

    /// Writes what a node told of one of its pods.
    pub(super) async fn receive_pod(&self, actor: &Actor, node: &str, report: NodeMessage) {
        let outcome = match report {
            NodeMessage::PodStatus { namespace, name, uid, status } => {
                self.pod_status(actor, node, &namespace, &name, &uid, status).await
            }
            NodeMessage::PodTerminated { namespace, name, uid } => {
                self.pod_terminated(actor, node, &namespace, &name, &uid).await
            }
            _ => Ok(()),
        };
        note(node, outcome);
    }

    async fn pod_status(
        &self,
        actor: &Actor,
        node: &str,
        namespace: &str,
        name: &str,
        uid: &str,
        status: Value,
    ) -> Result<(), Status> {
        let objects = &self.0.objects;
        let entry = self.entry("pods")?;
        check::<core::PodStatus>("the pod's status", &status)?;
        let change = |old: &Value| {
            if meta::uid(old) != uid || old["spec"]["nodeName"] != node {
                return Err(Status::not_found("pods", name));
            }
            let mut new = old.clone();
            new["status"] = status::of_pod(&old["status"], status.clone());
            Ok(new)
        };
        objects
            .update(actor, &entry, namespace, name, Part::Status, &WriteOptions::default(), change)
            .await
            .map(drop)
    }

    async fn pod_terminated(
        &self,
        actor: &Actor,
        node: &str,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), Status> {
        let objects = &self.0.objects;
        let key = Key::new("pods", namespace, name);
        let own = objects.store().get(&key).is_some_and(|pod| pod.value()["spec"]["nodeName"] == node);
        if !own {
            return Ok(());
        }
        let entry = self.entry("pods")?;
        let delete = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some(uid.to_owned()),
            ..DeleteOptions::default()
        };
        objects.delete(actor, &entry, namespace, name, &delete, &WriteOptions::default()).await.map(drop)
    }

    /// A volume was made or removed by the node whose duty it was. The node writes no volumes: what it says decides one step.
    async fn volume_done(
        &self,
        node: &str,
        name: &str,
        uid: &str,
        is_removed: bool,
        outcome: Result<(), String>,
    ) -> Result<(), Status> {
        let objects = &self.0.objects;
        let actor = Actor::system("controller:volume-provisioner");
        let is_asked = |volume: &Value| {
            let is_deleting = !volume["metadata"]["deletionTimestamp"].is_null();
            meta::uid(volume) == uid && storage::duty_of(volume) == Some(node) && is_deleting == is_removed
        };
        let volume = objects.store().get(&Key::new(storage::VOLUMES, "", name)).map(|found| found.value());
        let volume = volume.filter(is_asked).ok_or_else(|| Status::not_found(storage::VOLUMES, name))?;
        let claim = volume["spec"]["claimRef"].clone();
        let maker = volume["metadata"]["annotations"][storage::PROVISIONED_BY].as_str().unwrap_or_default();
        let event = |about: Value, r#type: &str, reason: &str, message: String| {
            self.0.events.record(about, r#type, reason, message, maker);
        };
        if let Err(why) = outcome {
            match is_removed {
                true => event(reference(&volume), "Warning", "VolumeFailedDelete", why),
                false => {
                    let class = storage::class_of(&volume);
                    let message = format!("failed to provision volume with StorageClass {class:?}: {why}");
                    event(claim, "Warning", "ProvisioningFailed", message);
                }
            }
            return Ok(());
        }
        let part = if is_removed { Part::Spec } else { Part::Status };
        let change = |old: &Value| match () {
            () if !is_asked(old) => Err(Status::not_found(storage::VOLUMES, name)),
            () if is_removed => Ok(storage::without_finalizer(old, storage::DUTY_FINALIZER)),
            () => Ok(pilothouse_controllers::with_phase(old, "Available", "", Timestamp::now())),
        };
        let entry = self.entry(storage::VOLUMES)?;
        objects.update(&actor, &entry, "", name, part, &WriteOptions::default(), change).await?;
        if !is_removed {
            event(
                claim,
                "Normal",
                "ProvisioningSucceeded",
                format!("Successfully provisioned volume {name}"),
            );
        }
        Ok(())
    }

    /// Shows a node's own pod. One of another name or manifest is the node's to take away first.
    async fn mirror(&self, actor: &Actor, node: &str, pod: Value) -> Result<(), Status> {
        check::<core::Pod>("the mirror pod", &pod)?;
        let own = pod["spec"]["nodeName"] == node;
        if !own || !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
            return Err(Status::bad_request("a node may create mirrors of its own static pods only"));
        }
        if needs::named_by(&pod).next().is_some() || !pod["spec"]["serviceAccountName"].is_null() {
            // It would let a node read what it names (`NodeRestriction`).
            return Err(Status::bad_request(
                "a mirror pod may not refer to a service account or other objects",
            ));
        }
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let entry = self.entry("pods")?;
        let options = WriteOptions::default();
        match self.0.objects.create(actor, &entry, &namespace, pod, &options).await {
            Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    pub(super) fn entry(&self, resource: &str) -> Result<Arc<KindEntry>, Status> {
        let found = self.0.objects.registry().by_resource(resource).cloned();
        found.ok_or_else(|| Status::internal(format!("there is no kind {resource}")))
    }

    /// A node speaks of itself and its own pods, and not without end.
    fn event(&self, node: &str, budget: &mut EventBudget, mut event: Value) {
        let about = &event["involvedObject"];
        let text = |field: &str| about[field].as_str().unwrap_or_default();
        let own = match text("kind") {
            "Node" => text("name") == node,
            "Pod" => {
                let pod = self.0.objects.store().get(&Key::new("pods", text("namespace"), text("name")));
                // A last word may come after the pod is gone.
                pod.is_none_or(|pod| pod.value()["spec"]["nodeName"] == node)
            }
            _ => false,
        };
        if !own || !budget.take(text("uid"), Instant::now()) {
            tracing::debug!(%node, "an event of a node was dropped");
            return;
        }
        event["source"] = json!({"component": "kubelet", "host": node});
        if let Err(error) = check_event(&event) {
            tracing::warn!(%node, %error, "an event of a node is malformed");
            return;
        }
        self.0.events.send(event);
    }

    fn stream_failed(&self, node: &str, id: &str, code: u16, message: String) {
        let mut streams = self.0.streams.lock();
        if streams.get(id).is_none_or(|(asked, _)| asked != node) {
            return;
        }
        let Some((_, waiting)) = streams.remove(id) else { return };
        let status = match code {
            404 => Status::new(Reason::NotFound, message),
            400 => Status::bad_request(message),
            _ => Status::internal(message),
        };
        let _ = waiting.send(Err(status)); // who waited may have left
    }

    /// A token of the service account of one of the node's own pods.
    pub(super) fn token(
        &self,
        node: &str,
        pod: &PodRef,
        audiences: Vec<String>,
        seconds: i64,
    ) -> Result<IssuedToken, Status> {
        let store = self.0.objects.store();
        let key = Key::new("pods", pod.namespace.clone(), pod.name.clone());
        let found = store.get(&key).filter(|found| *found.uid == *pod.uid).map(|found| found.value());
        let found = found.filter(|found| found["spec"]["nodeName"] == node);
        let found = found.ok_or_else(|| Status::not_found("pods", &pod.name))?;
        let name = found["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let account = store.get(&Key::new("serviceaccounts", pod.namespace.clone(), name));
        let account = account.ok_or_else(|| Status::not_found("serviceaccounts", name))?;
        let bound_to = Some(token_requests::Reference {
            kind: "Pod".into(),
            api_version: "v1".into(),
            name: pod.name.to_string(),
            uid: pod.uid.to_string(),
        });
        let request = token_requests::Request { audiences, seconds: Some(seconds), bound_to };
        let granted = token_requests::grant(store, &account, &request)?;
        let token = self.0.auth.issue(&granted.claims).map_err(Status::internal)?;
        let until = Timestamp::from_second(granted.renew_before).unwrap_or(Timestamp::MAX);
        Ok(IssuedToken { token, expires_at: lifecycle::seconds(until) })
    }
}

fn note(node: &str, outcome: Result<(), Status>) {
    match outcome {
        Ok(()) => {}
        // The pod is gone, or another took its name: the node will hear of it.
        Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
        Err(error) => tracing::warn!(node, %error, "what a node told could not be written"),
    }
}

/// As [`check`]; an event without its name and times is not yet what `core::Event` is.
fn check_event(event: &Value) -> Result<(), Status> {
    let mut whole = event.clone();
    if !whole.is_object() {
        return Err(Status::bad_request("an event is no object"));
    }
    whole["metadata"] = json!({});
    check::<core::Event>("the event", &whole)
}
