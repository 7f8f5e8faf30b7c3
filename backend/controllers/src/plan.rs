//! What a controller wants done.
use crate::horizontal_pod_autoscaler::Memory;
use pilothouse_api::Key;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use serde_json::{Value, json};

/// Which half of an object an update writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Spec,
    Status,
    /// Its number of replicas, as through its `scale` subresource; the rest is as it was.
    Scale,
    /// Both, past the rules for clients: what only the server may do.
    Whole,
}

/// One write. Objects of updates carry the resource version they were computed from: a conflict drops the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create {
        key: Key,
        object: Value,
    },
    Update {
        key: Key,
        object: Value,
        part: Part,
    },
    Delete {
        key: Key,
        options: DeleteOptions,
    },
    /// An Event about `about` (`v1.ObjectReference`), of type `Normal` or `Warning`.
    Event {
        about: Value,
        r#type: &'static str,
        reason: &'static str,
        message: String,
    },
}

impl Action {
    /// The object that it writes; None for an event.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::Event { .. } => None,
        }
    }
}

/// The outcome of one reconciliation. No two actions write the same object, so the order does not matter and a plan that
/// was carried out in part leaves nothing that the next run cannot continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// When to look again though nothing changes: the earliest of those asked for.
    pub check_again_at: Option<Timestamp>,
    /// What an autoscaler is to remember of this once it is done: nothing of it is anybody's state.
    pub memory: Option<Memory>,
    /// What holds now and people were told: type, reason and message of the event, which is not told again while it stays so.
    pub told: Option<(&'static str, &'static str, String)>,
}

impl Plan {
    pub fn create(&mut self, key: Key, object: Value) {
        self.actions.push(Action::Create { key, object });
    }

    pub fn update(&mut self, key: Key, object: Value, part: Part) {
        self.actions.push(Action::Update { key, object, part });
    }

    /// Deletes just the object that was seen, as it was seen: if it changed meanwhile, it may be wanted after all.
    pub fn delete(&mut self, key: Key, seen: &Value) {
        let text = |field: &str| seen["metadata"][field].as_str().map(str::to_owned);
        let options = DeleteOptions {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..DeleteOptions::default()
        };
        self.actions.push(Action::Delete { key, options });
    }

    /// Deletes the object of that UID, in whatever state.
    pub fn delete_whatever(&mut self, key: Key, uid: &str, grace_period_seconds: Option<i64>) {
        let options =
            DeleteOptions { uid: Some(uid.to_owned()), grace_period_seconds, ..DeleteOptions::default() };
        self.actions.push(Action::Delete { key, options });
    }

    pub fn event(
        &mut self,
        about: &Value,
        r#type: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let meta = &about["metadata"];
        let reference = json!({
            "apiVersion": about["apiVersion"], "kind": about["kind"], "name": meta["name"],
            "namespace": meta["namespace"].as_str().unwrap_or_default(), "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        });
        self.actions.push(Action::Event { about: reference, r#type, reason, message: message.into() });
    }

    /// What an event tells while this holds; [`Plan::tell_news`] makes one of it when it is news.
    pub fn tell(&mut self, r#type: &'static str, reason: &'static str, message: impl Into<String>) {
        self.told = Some((r#type, reason, message.into()));
    }

    /// `before` is what was told of the key the last time.
    pub fn tell_news(&mut self, about: &Value, before: Option<&str>) {
        if let Some((r#type, reason, message)) = self.told.clone()
            && before != Some(message.as_str())
        {
            self.event(about, r#type, reason, message);
        }
    }

    pub fn check_again(&mut self, at: Timestamp) {
        self.check_again_at = Some(self.check_again_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}
