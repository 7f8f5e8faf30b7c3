//! Simulated nodes: the same protocol and the same decisions as a real agent's, without a runtime under them. [`Node`] is
//! one as a plain value, for simulations with a clock of their own; [`run()`] keeps thousands of them in one process.
mod behavior;
mod line;
mod node;
mod pod;
mod run;

pub use behavior::{Behavior, Span};
pub use line::Size;
pub use node::{Node, Said};
pub use pod::{Next, Pod};
pub use run::{Options, run};
