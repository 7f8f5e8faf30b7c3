//! A whole cluster in one thread, with a clock of its own: the real controllers, scheduler, rules and store, simulated
//! nodes, and everything that can go wrong, in an order that a seed decides. The same seed tells the same story.
mod api;
mod invariants;
mod node;
mod random;
mod server;
mod story;

pub use story::{Failure, run};
