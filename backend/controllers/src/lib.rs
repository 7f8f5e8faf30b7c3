//! Control loops as pure functions: `reconcile(key, cluster, now) -> Plan`. No tokio, no clock, no store.
//!
//! A controller decides and cannot fail. The server's shell feeds the view, runs one key at a time, carries the plan out
//! through the write path and waits until the view has caught up before it runs the key again.
pub mod cluster;
pub mod flow_control;
pub mod horizontal_pod_autoscaler;
pub mod node;
pub mod plan;
pub mod pod;

mod attach_detach;
mod cluster_role_aggregation;
mod cron_job;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod ephemeral_volume;
mod garbage_collection;
mod history;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod object;
mod persistent_volume;
mod persistent_volume_claim;
mod pod_disruption_budget;
mod pod_garbage_collection;
#[cfg(test)]
mod properties;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_cidr;
mod stateful_set;
mod ttl_after_finished;
mod volume_expansion;
mod volume_protection;
mod volume_provisioning;
mod workload;
#[cfg(test)]
mod world;

pub use cluster::{Cluster, Settings};
pub use persistent_volume::with_phase;
pub use plan::{Action, Part, Plan};

use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};

pub trait Controller: Send + Sync {
    /// As in `system:controller:<name>` and in events.
    fn name(&self) -> &'static str;
    /// Which keys of this controller a change concerns. `cluster` holds the change already.
    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key>;
    /// Every key there is: visited at start and on a slow timer.
    fn all_keys(&self, cluster: &Cluster) -> Vec<Key>;
    /// What to do so that the state moves towards what is desired. Empty when there is nothing to do.
    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan;
}

/// THE LIST: one line a controller.
pub fn all() -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(attach_detach::AttachDetach),
        Box::new(cluster_role_aggregation::ClusterRoleAggregation),
        Box::new(cron_job::CronJobs),
        Box::new(custom_resource_definition::CustomResourceDefinitions),
        Box::new(daemon_set::DaemonSets),
        Box::new(deployment::Deployments),
        Box::new(replica_set::REPLICA_SETS),
        Box::new(replication_controller::REPLICATION_CONTROLLERS),
        Box::new(endpoint_slice::EndpointSlices),
        Box::new(ephemeral_volume::EphemeralVolumes),
        Box::new(flow_control::FlowControl),
        Box::new(endpoint_slice_mirroring::EndpointSliceMirroring),
        Box::new(garbage_collection::GarbageCollection),
        Box::new(horizontal_pod_autoscaler::HorizontalPodAutoscalers),
        Box::new(job::Jobs),
        Box::new(namespace::Namespaces),
        Box::new(node_ipam::NodeIpam),
        Box::new(node_lifecycle::NodeLifecycle),
        Box::new(persistent_volume::PersistentVolumes),
        Box::new(persistent_volume_claim::PersistentVolumeClaims),
        Box::new(pod_disruption_budget::PodDisruptionBudgets),
        Box::new(pod_garbage_collection::PodGarbageCollection),
        Box::new(resource_quota::ResourceQuotas),
        Box::new(root_ca::RootCa),
        Box::new(service_account::ServiceAccounts),
        Box::new(service_cidr::ServiceCidrs),
        Box::new(stateful_set::StatefulSets),
        Box::new(ttl_after_finished::TtlAfterFinished),
        Box::new(volume_expansion::VolumeExpansion),
        Box::new(volume_protection::CLAIM),
        Box::new(volume_protection::VOLUME),
        Box::new(volume_provisioning::VolumeProvisioning),
    ]
}
