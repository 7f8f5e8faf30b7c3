//! HTTP: requests in, Kubernetes' answers out. Handlers are generic over kinds.
pub mod discovery;
pub mod gate;
mod read;
pub mod reply;
pub mod resources;
mod subresources;
mod watch;
mod write;

pub use discovery::Documents;
