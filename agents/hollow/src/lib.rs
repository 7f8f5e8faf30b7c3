//! Simulated nodes: the same protocol and the same decisions as a real agent's, without a runtime under them.
mod behavior;
mod node;
mod pod;

pub use behavior::{Behavior, Span};
pub use node::{Node, Said};
pub use pod::{Next, Pod};
