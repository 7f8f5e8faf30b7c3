//! What an operator may set of a node; everything else it finds out.
pub use crate::eviction::thresholds::{DEFAULT_HARD, Rules as EvictionRules, seconds};
pub use crate::image_disposal::Rules as ImageRules;

use pilothouse_api::meta;
use pilothouse_api::usage::{Amounts, quantity};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Kubernetes' default for pods on a node.
const MAX_PODS: u32 = 110;
/// Kubelet's default.
const ROOT_DIR: &str = "/var/lib/kubelet";
/// Label prefixes that a node may give itself, of those that are Kubernetes' own (`NodeRestriction`).
const OWN_LABELS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Seconds that pods have to end when the machine shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownGrace {
    pub total: i64,
    /// Of these, what is left to critical pods.
    pub critical: i64,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub eviction: EvictionRules,
    pub images: ImageRules,
    /// What the node is labelled with when it registers.
    pub labels: BTreeMap<String, String>,
    /// What a new node is tainted with.
    pub taints: Vec<Value>,
    /// What is kept from pods, for the machine's own programs.
    pub reserved: Amounts,
    pub max_pods: u32,
    /// Manifests of pods that run whether or not there is a server.
    pub static_pods: Option<PathBuf>,
    /// Where storage drivers look for the node: kubelet's root directory, which their manifests name.
    pub root_dir: PathBuf,
    /// None: pods are not the agent's to end when the machine shuts down.
    pub shutdown_grace: Option<ShutdownGrace>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            eviction: EvictionRules::default(),
            images: ImageRules::default(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            reserved: Amounts::new(),
            max_pods: MAX_PODS,
            static_pods: None,
            root_dir: ROOT_DIR.into(),
            shutdown_grace: None,
        }
    }
}

/// `key=value,key=value`, as in `--node-labels`.
pub fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no key=value"))?;
        meta::qualified_name(key).map_err(|why| format!("label {key:?}: {why}"))?;
        meta::label_value(value).map_err(|why| format!("label value {value:?}: {why}"))?;
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
        let kubernetes = within("kubernetes.io") || within("k8s.io");
        if kubernetes && !OWN_LABELS.iter().any(|own| within(own)) {
            return Err(format!("label {key:?}: a node may not label itself with names of Kubernetes"));
        }
        all.insert(key.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// `key=value:Effect,key:Effect`, as in `--register-with-taints`.
pub fn taints(text: &str) -> Result<Vec<Value>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, effect) =
                part.rsplit_once(':').ok_or_else(|| format!("taint {part:?} is no key=value:Effect"))?;
            if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
                return Err(format!("taint {part:?}: {effect:?} is no effect"));
            }
            let (key, value) = name.split_once('=').unwrap_or((name, ""));
            meta::qualified_name(key).map_err(|why| format!("taint {key:?}: {why}"))?;
            meta::label_value(value).map_err(|why| format!("taint value {value:?}: {why}"))?;
            let mut taint = json!({"key": key, "effect": effect});
            if !value.is_empty() {
                taint["value"] = value.into();
            }
            Ok(taint)
        })
        .collect()
}

/// `cpu=100m,memory=256Mi,ephemeral-storage=1Gi`, as in `--system-reserved`.
pub fn reserved(text: &str) -> Result<Amounts, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (resource, amount) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is no resource=amount"))?;
            if !["cpu", "memory", "ephemeral-storage", "pid"].contains(&resource) {
                return Err(format!("{resource:?} cannot be reserved"));
            }
            let parsed = quantity(&amount.into()).filter(|q| !q.is_negative());
            Ok((resource.to_owned(), parsed.ok_or_else(|| format!("{amount:?} is no amount"))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_is_told_at_its_start_is_checked() {
        assert_eq!(labels("disk=ssd,example.com/rack=7").unwrap().len(), 2);
        assert!(labels("node.kubernetes.io/instance-type=big").is_ok());
        assert!(labels("node-role.kubernetes.io/admin=").unwrap_err().contains("names of Kubernetes"));
        assert!(labels("a b=c").is_err() && labels("a").is_err());
        let tainted = taints("dedicated=gpu:NoSchedule,slow:PreferNoSchedule").unwrap();
        assert_eq!(tainted[0], json!({"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}));
        assert_eq!(tainted[1], json!({"key": "slow", "effect": "PreferNoSchedule"}));
        assert!(taints("a=b").is_err() && taints("a:Never").is_err());
        assert_eq!(reserved("cpu=100m").unwrap()["cpu"].milli(), 100);
        assert!(reserved("gpu=1").is_err() && reserved("cpu=x").is_err());
    }
}
