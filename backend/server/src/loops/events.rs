//! Events for people: written in the background, repeats counted instead of piled up, never in anybody's way.
use crate::objects::{Actor, Objects, Part, WriteOptions};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Status, lifecycle};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that may wait; more are dropped, which costs a line of history and nothing else.
const QUEUE: usize = 4096;
/// A repeat within this counts up the earlier event.
const REPEAT: Duration = Duration::from_secs(600);
/// Remembered repeats; forgetting one only starts a new event.
const REMEMBERED: usize = 4096;

/// Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Value>,
}

/// `v1.ObjectReference` to an object.
pub fn reference(object: &Value) -> Value {
    let meta = &object["metadata"];
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "name": meta["name"],
        "namespace": meta["namespace"].as_str().unwrap_or_default(), "uid": meta["uid"],
        "resourceVersion": meta["resourceVersion"],
    })
}

impl EventRecorder {
    pub fn start(objects: Objects, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(objects, receiver, shutdown));
        Self { sender }
    }

    /// `component` is who says it: `deployment-controller`.
    pub fn record(&self, about: Value, r#type: &str, reason: &str, message: String, component: &str) {
        self.send(json!({
            "involvedObject": about, "type": r#type, "reason": reason, "message": message,
            "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        }));
    }

    /// An event without metadata, as a node sends it.
    pub fn send(&self, event: Value) {
        if !event.is_object() {
            return; // a node's mistake, which must not end the task that writes everybody's events
        }
        if self.sender.try_send(event).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

async fn write_all(objects: Objects, mut receiver: mpsc::Receiver<Value>, shutdown: CancellationToken) {
    let mut written: HashMap<String, (String, Instant)> = HashMap::new();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = receiver.recv() => match event {
                Some(event) => event,
                None => return,
            },
        };
        if written.len() > REMEMBERED {
            written.retain(|_, (_, at)| at.elapsed() < REPEAT);
            if written.len() > REMEMBERED {
                written.clear();
            }
        }
        if let Err(error) = write(&objects, event, &mut written).await {
            tracing::debug!(%error, "an event was not written");
        }
    }
}

async fn write(
    objects: &Objects,
    event: Value,
    written: &mut HashMap<String, (String, Instant)>,
) -> Result<(), Status> {
    let Some(entry) = objects.registry().by_resource("events").cloned() else { return Ok(()) };
    let actor = Actor::system("event-recorder");
    let options = WriteOptions::default();
    let about = event["involvedObject"].clone();
    let namespace = match about["namespace"].as_str().unwrap_or_default() {
        "" => "default",
        namespace => namespace,
    };
    let now = lifecycle::seconds(Timestamp::now());
    let same = format!(
        "{}|{}|{}|{}|{}",
        about["uid"], about["fieldPath"], event["reason"], event["message"], event["source"]
    );
    if let Some((name, _)) = written.get(&same).filter(|(_, at)| at.elapsed() < REPEAT) {
        let change = |old: &Value| {
            let mut new = old.clone();
            new["count"] = (old["count"].as_i64().unwrap_or(1) + 1).into();
            new["lastTimestamp"] = now.as_str().into();
            Ok(new)
        };
        match objects.update(&actor, &entry, namespace, name, Part::Spec, &options, change).await {
            Ok(_) => return Ok(()),
            Err(status) if status.reason == pilothouse_api::Reason::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    let mut object = event;
    let base: String = about["name"].as_str().unwrap_or("unknown").chars().take(200).collect();
    let unique = Timestamp::now().as_nanosecond();
    object["apiVersion"] = "v1".into();
    object["kind"] = "Event".into();
    object["metadata"] = json!({"name": format!("{base}.{unique:x}"), "namespace": namespace});
    object["firstTimestamp"] = now.as_str().into();
    object["lastTimestamp"] = now.as_str().into();
    object["count"] = 1.into();
    let made = objects.create(&actor, &entry, namespace, object, &options).await?;
    written.insert(same, (made.key.name.to_string(), Instant::now()));
    Ok(())
}
