//! From a pod's claim to the PersistentVolume behind it.
use crate::environment::Sources;
use anyhow::{Result, bail};
use serde_json::Value;
use std::sync::Arc;

/// The volume a claim is bound to.
pub struct Claimed {
    pub claim: Arc<Value>,
    pub volume: Arc<Value>,
    /// The pod wants to read only.
    pub read_only: bool,
}

impl Claimed {
    pub fn name(&self) -> &str {
        self.volume["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// The PersistentVolume of a pod's volume that names a claim; None for other volumes.
pub fn resolve(pod: &Value, entry: &Value, sources: &Sources<'_>) -> Result<Option<Claimed>> {
    let Some(name) = pilothouse_protocol::needs::claim_of(pod, entry) else { return Ok(None) };
    let place = format!("{}/{name}", sources.namespace);
    let Some(claim) = sources.find("persistentvolumeclaims", &name) else {
        bail!("error processing PVC {place}: persistentvolumeclaims {name:?} not found");
    };
    if entry["ephemeral"].is_object() && !is_owned_by(&claim, pod) {
        bail!("error processing PVC {place}: PVC was not created for pod; its owner is another");
    }
    if claim["status"]["phase"] != "Bound" {
        bail!("error processing PVC {place}: PVC is not bound");
    }
    let volume = claim["spec"]["volumeName"].as_str().unwrap_or_default();
    let Some(found) = (sources.any)("persistentvolumes", "", volume) else {
        bail!("error processing PVC {place}: PV {volume} not found");
    };
    if found["spec"]["claimRef"]["uid"] != claim["metadata"]["uid"] {
        bail!("error processing PVC {place}: PV {volume} is bound to another claim");
    }
    let read_only = entry["persistentVolumeClaim"]["readOnly"] == true || reads_only(&claim);
    Ok(Some(Claimed { claim, volume: found, read_only }))
}

/// A claim that asks to be read by many is not written by any.
fn reads_only(claim: &Value) -> bool {
    let modes = claim["spec"]["accessModes"].as_array().map(Vec::as_slice).unwrap_or_default();
    !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany")
}

fn is_owned_by(claim: &Value, pod: &Value) -> bool {
    let owners = claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().any(|owner| owner["uid"] == pod["metadata"]["uid"] && owner["controller"] == true)
}
