//! The past templates of a DaemonSet or StatefulSet, as ControllerRevisions: what `kubectl rollout history` lists and
//! `kubectl rollout undo` writes back.
use crate::Plan;
use crate::cluster::{CONTROLLER_REVISIONS, Cluster};
use crate::object::*;
use crate::plan::Part;
use pilothouse_api::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const HASH_LENGTH: usize = 10;

#[derive(Clone)]
pub struct Revision {
    pub key: Key,
    pub object: Arc<Value>,
}

impl Revision {
    pub fn name(&self) -> &str {
        &self.key.name
    }

    fn number(&self) -> i64 {
        count(&self.object["revision"])
    }

    /// The template that was, as a pod is made of it.
    pub fn template(&self) -> Value {
        let mut template = self.object["data"]["spec"]["template"].clone();
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        template
    }
}

/// The revisions of one owner, oldest first.
pub struct History {
    pub revisions: Vec<Revision>,
    /// How often a new revision's name was taken by another template's: part of the next name.
    pub collisions: i64,
}

impl History {
    /// None while revisions are taken over or let go: the history goes on once that is seen.
    pub fn observe(owner: &Value, key: &Key, cluster: &Cluster, plan: &mut Plan) -> Option<Self> {
        let selector = cluster.selector(key)?;
        let before = plan.actions.len();
        let mut revisions = Vec::new();
        for (revision_key, object) in cluster.controlled(uid(owner), CONTROLLER_REVISIONS) {
            revisions.push(Revision { key: revision_key.clone(), object });
        }
        let orphans = cluster.orphans(CONTROLLER_REVISIONS, &key.namespace).filter(|_| !is_deleting(owner));
        for revision_key in orphans {
            let Some(object) = cluster.get(revision_key).filter(|object| !is_deleting(object)) else {
                continue;
            };
            if selector.matches_object(&object) {
                plan.update(revision_key.clone(), adopted(&object, owner), Part::Spec);
            }
        }
        if plan.actions.len() > before {
            return None;
        }
        revisions.sort_by(|a, b| (a.number(), &a.key).cmp(&(b.number(), &b.key)));
        Some(Self { revisions, collisions: count(&owner["status"]["collisionCount"]) })
    }

    /// The revision of today's template. None where it is yet to be made, or to be made the newest again: that is
    /// planned, or the name was taken and `collisions` has grown.
    pub fn newest(
        &mut self,
        owner: &Value,
        hash_label: &str,
        cluster: &Cluster,
        plan: &mut Plan,
    ) -> Option<Revision> {
        let data = data(owner);
        let last = self.revisions.last().map_or(0, Revision::number);
        let same = self.revisions.iter().rev().find(|revision| revision.object["data"] == data);
        match same {
            Some(same) if same.number() == last => Some(same.clone()),
            Some(same) => {
                let mut next = Value::clone(&same.object);
                next["revision"] = (last + 1).into();
                plan.update(same.key.clone(), next, Part::Spec);
                None
            }
            None => {
                self.create(owner, data, last + 1, hash_label, cluster, plan);
                None
            }
        }
    }

    fn create(
        &mut self,
        owner: &Value,
        data: Value,
        number: i64,
        label: &str,
        cluster: &Cluster,
        plan: &mut Plan,
    ) {
        let salt = if self.collisions > 0 { self.collisions.to_string() } else { String::new() };
        let hash = letters(hash(&[&data.to_string(), &salt]), HASH_LENGTH);
        let name = format!("{}-{hash}", name(owner));
        let namespace = text(&owner["metadata"], "namespace");
        let key = Key::new(CONTROLLER_REVISIONS, namespace, name.as_str());
        if cluster.contains(&key) {
            self.collisions += 1;
            return;
        }
        let mut labels =
            owner["spec"]["template"]["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.insert(label.into(), hash.into());
        let mut notes = owner["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        notes.remove("kubectl.kubernetes.io/last-applied-configuration");
        let revision = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": number, "data": data,
            "metadata": {
                "name": name, "namespace": namespace, "labels": labels, "annotations": notes,
                "ownerReferences": [controller_reference(owner)],
            },
        });
        plan.create(key, revision);
    }

    /// Drops the oldest revisions beyond the limit; those of `live`, by name, are not counted and stay.
    pub fn clean_up(&self, owner: &Value, live: &BTreeSet<&str>, plan: &mut Plan) {
        let limit =
            usize::try_from(owner["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
        let past = |revision: &&Revision| !live.contains(revision.name()) && !is_deleting(&revision.object);
        let past: Vec<&Revision> = self.revisions.iter().filter(past).collect();
        for revision in past.iter().take(past.len().saturating_sub(limit)) {
            plan.delete(revision.key.clone(), &revision.object);
        }
    }
}

/// What a revision keeps: a patch that brings the template back.
fn data(owner: &Value) -> Value {
    let mut template = owner["spec"]["template"].clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}
