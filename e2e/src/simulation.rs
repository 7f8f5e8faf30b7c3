//! A whole cluster in one thread, with a clock of its own: the real controllers, scheduler, rules and store, nodes with the
//! real decisions about their pods, and everything that can go wrong, in an order that a seed decides. The same seed tells
//! the same story.
mod api;
mod expectations;
mod faults;
mod invariants;
mod machine;
mod people;
pub mod random;
mod rollouts;
mod server;
mod story;
mod workloads;

pub use story::{Failure, run, tell};
