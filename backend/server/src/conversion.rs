//! Objects of a kind in the shape of another of its versions: by the kind's own rules, or by the webhook that a
//! CustomResourceDefinition names. Follows Kubernetes' "Versions in CustomResourceDefinitions".
use crate::feed::Observation;
use crate::remote::{Client, Endpoint};
use parking_lot::RwLock;
use pilothouse_api::{KindEntry, Reason, Status, meta};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Kubernetes' limit for one conversion.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is asked at once, unless a single object is longer: so that an answer keeps within the client's limit.
const QUESTION_BYTES: usize = 2 * 1024 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Conversions(Arc<Inner>);

struct Inner {
    client: Client,
    /// By the resource that a definition is named after.
    webhooks: RwLock<HashMap<Arc<str>, Arc<Webhook>>>,
}

struct Webhook {
    endpoint: Endpoint,
    /// Of `ConversionReview`: `v1` or `v1beta1`; None where the definition names neither.
    version: Option<&'static str>,
    /// What it was made from.
    basis: Value,
}

impl Conversions {
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Inner { client, webhooks: RwLock::default() }))
    }

    /// Is told of CustomResourceDefinitions.
    pub fn observe(&self, observation: &Observation) {
        let mut webhooks = self.0.webhooks.write();
        match observation {
            Observation::Reset => webhooks.clear(),
            Observation::Gone(object) => drop(webhooks.remove(&object.key.name)),
            Observation::Put(object) => {
                let conversion = &object.value()["spec"]["conversion"];
                match conversion["strategy"] == "Webhook" {
                    true if webhooks
                        .get(&object.key.name)
                        .is_some_and(|known| known.basis == *conversion) => {}
                    true => {
                        let webhook = Arc::new(Webhook::new(conversion));
                        webhooks.insert(object.key.name.clone(), webhook);
                    }
                    false => drop(webhooks.remove(&object.key.name)),
                }
            }
        }
    }

    fn webhook(&self, entry: &KindEntry) -> Option<Arc<Webhook>> {
        if !entry.rules.is_custom() {
            return None;
        }
        self.0.webhooks.read().get(&entry.stored_as).cloned()
    }

    /// Stored objects as clients of `entry` see them. Errors: the webhook fails.
    pub async fn shown(&self, entry: &KindEntry, mut objects: Vec<Value>) -> Result<Vec<Value>, Status> {
        self.ask(entry, &mut objects).await?;
        for object in &mut objects {
            entry.rules.from_stored(object);
            identify(entry, object);
        }
        Ok(objects)
    }

    /// An object that a client of `entry` sent, in the shape of the version that is stored.
    pub async fn stored(
        &self,
        entry: &KindEntry,
        stored: &KindEntry,
        object: &mut Value,
    ) -> Result<(), Status> {
        if stored.version == entry.version && stored.group == entry.group {
            return Ok(());
        }
        let mut all = [object.take()];
        self.ask(stored, &mut all).await?;
        let [converted] = all;
        *object = converted;
        entry.rules.to_stored(object);
        identify(stored, object);
        Ok(())
    }

    /// An object in the shape of another version of its kind.
    pub async fn between(&self, from: &KindEntry, to: &KindEntry, object: &Value) -> Result<Value, Status> {
        let mut all = [object.clone()];
        if from.version != to.version || from.group != to.group {
            self.ask(to, &mut all).await?;
            from.rules.to_stored(&mut all[0]);
            to.rules.from_stored(&mut all[0]);
            identify(to, &mut all[0]);
        }
        let [converted] = all;
        Ok(converted)
    }

    /// An object and what it was before.
    pub async fn both(
        &self,
        from: &KindEntry,
        to: &KindEntry,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(Option<Value>, Option<Value>), Status> {
        let mut found = [None, None];
        for (slot, object) in found.iter_mut().zip([object, old]) {
            if let Some(object) = object {
                *slot = Some(self.between(from, to, object).await?);
            }
        }
        let [object, old] = found;
        Ok((object, old))
    }

    /// Has those converted that are not in the version of `to` yet, where that takes a webhook.
    async fn ask(&self, to: &KindEntry, objects: &mut [Value]) -> Result<(), Status> {
        let Some(webhook) = self.webhook(to) else { return Ok(()) };
        let wanted = to.api_version();
        let others: Vec<usize> =
            (0..objects.len()).filter(|i| objects[*i]["apiVersion"] != wanted.as_str()).collect();
        let Some(first) = others.first().map(|i| &objects[*i]) else { return Ok(()) };
        let from = first["apiVersion"].as_str().unwrap_or_default().to_owned();
        let failed = |why: String| {
            Status::new(
                Reason::InternalError,
                format!("conversion webhook for {from}, Kind={} {why}", to.kind),
            )
        };
        let mut converted = Vec::with_capacity(others.len());
        for part in parts(others.iter().map(|i| objects[*i].clone())) {
            let answer = self.convert(&webhook, &wanted, part).await;
            converted.extend(answer.map_err(|why| failed(format!("failed: {why}")))?);
        }
        if converted.len() != others.len() {
            let (found, expected) = (converted.len(), others.len());
            return Err(failed(format!("returned {found} objects, expected {expected}")));
        }
        for (n, (i, converted)) in others.into_iter().zip(converted).enumerate() {
            let told = |why: String| failed(format!("returned invalid converted object at index {n}: {why}"));
            objects[i] = checked(&objects[i], converted, to).map_err(told)?;
        }
        Ok(())
    }

    async fn convert(
        &self,
        webhook: &Webhook,
        version: &str,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, String> {
        let Some(review) = webhook.version else {
            return Err("no supported conversion review versions".into());
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let question = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": {"uid": uid, "desiredAPIVersion": version, "objects": objects},
        });
        let body = self.0.client.ask(&webhook.endpoint, TIMEOUT, &question).await?;
        answer(review, &uid, &body)
    }
}

impl Webhook {
    fn new(conversion: &Value) -> Self {
        let versions = conversion["webhook"]["conversionReviewVersions"].as_array().into_iter().flatten();
        let version = versions.filter_map(Value::as_str).find_map(|version| match version {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        let endpoint = Endpoint::new(&conversion["webhook"]["clientConfig"]);
        Self { endpoint, version, basis: conversion.clone() }
    }
}

/// A list in parts, each of a size that one question may have.
fn parts(objects: impl Iterator<Item = Value>) -> Vec<Vec<Value>> {
    let (mut parts, mut bytes) = (Vec::<Vec<Value>>::new(), 0);
    for object in objects {
        let size = object.to_string().len();
        match parts.last_mut().filter(|_| bytes + size <= QUESTION_BYTES) {
            Some(part) => part.push(object),
            None => {
                parts.push(vec![object]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    parts
}

fn identify(entry: &KindEntry, object: &mut Value) {
    object["apiVersion"] = entry.api_version().into();
    object["kind"] = entry.kind.as_str().into();
}

/// The objects of a `ConversionReview`'s answer. Errors: there are none, in Kubernetes' words.
fn answer(version: &str, uid: &str, body: &[u8]) -> Result<Vec<Value>, String> {
    let mut review: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let wanted = format!("apiextensions.k8s.io/{version}");
    if version == "v1" && (review["kind"] != "ConversionReview" || review["apiVersion"] != wanted.as_str()) {
        let text = |field: &str| review[field].as_str().unwrap_or_default().to_owned();
        let (found, kind) = (text("apiVersion"), text("kind"));
        return Err(format!(
            "expected webhook response of {wanted}, Kind=ConversionReview, got {found}, Kind={kind}"
        ));
    }
    let response = &mut review["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let given = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = &response["result"];
    if result["status"] != "Success" {
        return Err(match result["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => {
                let status = result["status"].as_str().unwrap_or_default();
                format!("response.result.status was '{status}', not 'Success'")
            }
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A webhook changes the shape of an object and no more: of the metadata only labels and annotations are its own.
fn checked(before: &Value, mut after: Value, to: &KindEntry) -> Result<Value, String> {
    let text = |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (version, expected) = (text(&after, "apiVersion"), to.api_version());
    if version != expected {
        return Err(format!("invalid groupVersion (expected {expected}, received {version})"));
    }
    let (kind, expected) = (text(&after, "kind"), text(before, "kind"));
    if kind != expected {
        return Err(format!("invalid kind (expected {expected}, received {kind})"));
    }
    for (field, read) in
        [("name", meta::name as fn(&Value) -> &str), ("namespace", meta::namespace), ("UID", meta::uid)]
    {
        if read(before) != read(&after) {
            return Err(format!("must have the same {field}: {} != {}", read(before), read(&after)));
        }
    }
    let mut metadata = before["metadata"].clone();
    for field in ["labels", "annotations"] {
        match after["metadata"][field].take() {
            Value::Null => drop(metadata.as_object_mut().map(|fields| fields.remove(field))),
            own => metadata[field] = own,
        }
    }
    after["metadata"] = metadata;
    Ok(after)
}

#[cfg(test)]
mod tests;
