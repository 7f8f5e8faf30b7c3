//! One change as the pure crates see it: what an object was and what it is now.
use crate::{Key, Revision};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub key: Key,
    pub revision: Revision,
    /// None: the object is gone.
    pub object: Option<Arc<Value>>,
    /// None: the object is new, or what it was is not known.
    pub previous: Option<Arc<Value>>,
    /// The JSON of `object` where it is at hand: a view that keeps these shares them with the store instead of keeping
    /// a tree. Empty: not at hand.
    pub bytes: Bytes,
}

impl Observed {
    /// The object, or for one that is gone its last state.
    pub fn latest(&self) -> Option<&Value> {
        self.object.as_deref().or(self.previous.as_deref())
    }
}
