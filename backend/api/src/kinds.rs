//! THE LIST: one line a kind.
use crate::kind::KindEntry;

mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod namespace;
mod node;
mod pod;
mod rbac;
mod replica_set;
mod review;
mod secret;
mod service;
mod service_account;
pub mod support;

pub fn all() -> Vec<KindEntry> {
    vec![
        KindEntry::of::<review::Binding>(),
        KindEntry::of::<config_map::ConfigMap>(),
        KindEntry::of::<endpoints::Endpoints>(),
        KindEntry::of::<event::Event>(),
        KindEntry::of::<namespace::Namespace>(),
        KindEntry::of::<node::Node>(),
        KindEntry::of::<pod::Pod>(),
        KindEntry::of::<secret::Secret>(),
        KindEntry::of::<service::Service>(),
        KindEntry::of::<service_account::ServiceAccount>(),
        KindEntry::of::<deployment::Deployment>(),
        KindEntry::of::<replica_set::ReplicaSet>(),
        KindEntry::of::<event::EventsEvent>(),
        KindEntry::of::<review::TokenReview>(),
        KindEntry::of::<review::SelfSubjectReview>(),
        KindEntry::of::<review::SubjectAccessReview>(),
        KindEntry::of::<review::LocalSubjectAccessReview>(),
        KindEntry::of::<review::SelfSubjectAccessReview>(),
        KindEntry::of::<review::SelfSubjectRulesReview>(),
        KindEntry::of::<lease::Lease>(),
        KindEntry::of::<endpoint_slice::EndpointSlice>(),
        KindEntry::of::<rbac::Role>(),
        KindEntry::of::<rbac::ClusterRole>(),
        KindEntry::of::<rbac::RoleBinding>(),
        KindEntry::of::<rbac::ClusterRoleBinding>(),
    ]
}
