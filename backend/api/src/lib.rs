//! What an object is: kinds with their defaults, rules and columns, and everything that can be said of objects
//! without I/O. Builds for wasm; used by every other crate.
pub mod apply;
#[cfg(test)]
mod arbitrary;
#[cfg(feature = "schema")]
pub mod cel;
#[cfg(feature = "schema")]
pub mod custom;
pub mod decode;
pub mod disruption;
pub mod json_path;
pub mod key;
pub mod kind;
pub mod kinds;
pub mod lifecycle;
pub mod marks;
pub mod meta;
pub mod metrics;
pub mod observed;
pub mod patch;
pub mod placement;
pub mod pod_network;
#[cfg(feature = "schema")]
pub mod policy;
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod resize;
pub mod scale;
#[cfg(feature = "schema")]
pub mod schema;
pub mod selector;
pub mod status;
pub mod storage;
pub mod table;
pub mod usage;
pub mod validation;

/// The one door to Kubernetes' types (API v1.36).
pub use k8s_openapi;
pub use k8s_openapi::jiff;

pub use key::{Key, Revision};
pub use kind::{Column, Kind, KindEntry, Scope, Subresource, TypeError, Verb};
pub use observed::Observed;
pub use pod_network::{Ipv4Cidr, PodNetwork};
pub use registry::Registry;
pub use status::{Reason, Status};
pub use validation::{FieldError, FieldErrors, Path};
