//! HTTP: requests in, Kubernetes' answers out. Handlers are generic over kinds.
pub mod discovery;
pub mod reply;
pub mod resources;
mod read;
mod subresources;
mod watch;
mod write;
