//! What end-to-end tests stand on: a real cluster in its own directory, real `kubectl`, a real browser.
pub mod browser;
pub mod cluster;
pub mod docker;
pub mod eventually;
pub mod issuer;
pub mod kubectl;
pub mod namespace;
pub mod rust_client;
pub mod simulation;

pub use browser::Browser;
pub use cluster::Cluster;
pub use docker::Docker;
pub use eventually::eventually;
pub use issuer::Issuer;
pub use kubectl::{Kubectl, Output, Running};
pub use namespace::Namespace;

/// The image that `examples/build-images.sh` builds: a static busybox, no registry needed.
pub const IMAGE: &str = "pilothouse.example/busybox:1";
