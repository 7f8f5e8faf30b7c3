//! `pilothouse.io/local-path`: a directory on the disk of the node that the first pod goes to.
use super::{Maker, Order};
use crate::object::{annotation, name, text};
use pilothouse_api::storage::{LOCAL_PATH, LOCAL_VOLUMES};
use serde_json::{Value, json};

pub struct LocalPath;

impl Maker for LocalPath {
    fn name(&self) -> &'static str {
        LOCAL_PATH
    }

    fn is_local(&self) -> bool {
        true
    }

    fn access_modes(&self) -> &'static [&'static str] {
        &["ReadWriteOnce", "ReadWriteOncePod"]
    }

    /// Parameter `nodePath`: another directory for the class than the node's own.
    fn fill(&self, order: &Order<'_>, volume: &mut Value) -> Result<(), String> {
        let base = order.parameter("nodePath").or_else(|| annotation(order.node, LOCAL_VOLUMES));
        let base = base.ok_or_else(|| format!("node {:?} keeps no local volumes", name(order.node)))?;
        if !base.starts_with('/') || base.split('/').any(|part| part == "..") {
            return Err(format!("{base:?} is no absolute path"));
        }
        let namespace = text(&order.claim["metadata"], "namespace");
        let dir = format!("{}_{namespace}_{}", order.volume, name(order.claim));
        let spec = &mut volume["spec"];
        spec["local"] = json!({"path": format!("{}/{dir}", base.trim_end_matches('/'))});
        let hostname = order.node["metadata"]["labels"]["kubernetes.io/hostname"].as_str();
        let here = match hostname {
            Some(host) => {
                json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]})
            }
            None => {
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name(order.node)]}]})
            }
        };
        spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [here]}});
        Ok(())
    }
}
