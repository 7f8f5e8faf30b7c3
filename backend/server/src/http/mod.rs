//! HTTP: requests in, Kubernetes' answers out. Handlers are generic over kinds.
mod accept;
pub mod discovery;
pub mod exchange;
pub mod gate;
mod health;
mod list_options;
mod metrics;
mod read;
pub mod reply;
pub mod resources;
mod subresources;
mod timeout;
mod watch;
mod write;

pub use discovery::Documents;
pub use health::{healthy, ready};
pub use timeout::check_timeout;

#[cfg(test)]
mod tests;
