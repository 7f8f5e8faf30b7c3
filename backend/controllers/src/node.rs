//! What controllers ask of every node at once, kept ready.
use crate::object::{is_deleting, labels};
use pilothouse_api::placement::{Labels, Taint};
use serde_json::Value;

/// An administrator says that a node is off: what it held is to be had at once.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

#[derive(Debug, PartialEq)]
pub struct Node {
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub is_deleting: bool,
}

impl Node {
    pub fn new(node: &Value) -> Self {
        Self { labels: labels(node), taints: Taint::of_node(node), is_deleting: is_deleting(node) }
    }
    pub fn is_out_of_service(&self) -> bool {
        self.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
    }
}
