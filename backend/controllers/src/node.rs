//! What controllers ask of every node at once, kept ready.
use crate::object::{is_deleting, labels};
use pilothouse_api::placement::{Labels, Taint};
use serde_json::Value;

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
}
