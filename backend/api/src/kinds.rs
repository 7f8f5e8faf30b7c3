//! THE LIST: one line a kind.
use crate::kind::KindEntry;

mod api_service;
mod certificate_signing_request;
mod component_status;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod device_class;
mod endpoint_slice;
mod endpoints;
mod event;
mod flow_schema;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod limit_range;
pub mod metrics;
mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod priority_level_configuration;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_claim;
mod resource_claim_template;
mod resource_quota;
mod resource_slice;
mod review;
mod runtime_class;
mod secret;
mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
mod storage_class;
pub mod support;
#[cfg(test)]
mod tests;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod volume_attachment;
mod volume_attributes_class;

/// In the order of discovery. Of two versions that are stored as one, the first is the stored one.
#[rustfmt::skip] // one line a kind
pub fn all() -> Vec<KindEntry> {
    vec![
        KindEntry::of::<review::Binding>(),
        KindEntry::of::<component_status::ComponentStatus>(),
        KindEntry::of::<config_map::ConfigMap>(),
        KindEntry::of::<endpoints::Endpoints>(),
        KindEntry::of::<event::Event>(),
        KindEntry::of::<limit_range::LimitRange>(),
        KindEntry::of::<namespace::Namespace>(),
        KindEntry::of::<node::Node>(),
        KindEntry::of::<persistent_volume_claim::PersistentVolumeClaim>(),
        KindEntry::of::<persistent_volume::PersistentVolume>(),
        KindEntry::of::<pod::Pod>(),
        KindEntry::of::<pod_template::PodTemplate>(),
        KindEntry::of::<replication_controller::ReplicationController>(),
        KindEntry::of::<resource_quota::ResourceQuota>(),
        KindEntry::of::<secret::Secret>(),
        KindEntry::of::<service_account::ServiceAccount>(),
        KindEntry::of::<service::Service>(),
        KindEntry::of::<api_service::APIService>(),
        KindEntry::of::<controller_revision::ControllerRevision>(),
        KindEntry::of::<daemon_set::DaemonSet>(),
        KindEntry::of::<deployment::Deployment>(),
        KindEntry::of::<replica_set::ReplicaSet>(),
        KindEntry::of::<stateful_set::StatefulSet>(),
        KindEntry::of::<event::EventsEvent>(),
        KindEntry::of::<review::SelfSubjectReview>(),
        KindEntry::of::<review::TokenReview>(),
        KindEntry::of::<review::LocalSubjectAccessReview>(),
        KindEntry::of::<review::SelfSubjectAccessReview>(),
        KindEntry::of::<review::SelfSubjectRulesReview>(),
        KindEntry::of::<review::SubjectAccessReview>(),
        KindEntry::of::<horizontal_pod_autoscaler::HorizontalPodAutoscaler>(),
        KindEntry::of::<horizontal_pod_autoscaler::HorizontalPodAutoscalerV1>(),
        KindEntry::of::<cron_job::CronJob>(),
        KindEntry::of::<job::Job>(),
        KindEntry::of::<certificate_signing_request::CertificateSigningRequest>(),
        KindEntry::of::<ingress_class::IngressClass>(),
        KindEntry::of::<ingress::Ingress>(),
        KindEntry::of::<ip_address::IPAddress>(),
        KindEntry::of::<network_policy::NetworkPolicy>(),
        KindEntry::of::<service_cidr::ServiceCIDR>(),
        KindEntry::of::<pod_disruption_budget::PodDisruptionBudget>(),
        KindEntry::of::<rbac::ClusterRoleBinding>(),
        KindEntry::of::<rbac::ClusterRole>(),
        KindEntry::of::<rbac::RoleBinding>(),
        KindEntry::of::<rbac::Role>(),
        KindEntry::of::<csi_driver::CSIDriver>(),
        KindEntry::of::<csi_node::CSINode>(),
        KindEntry::of::<csi_storage_capacity::CSIStorageCapacity>(),
        KindEntry::of::<storage_class::StorageClass>(),
        KindEntry::of::<volume_attachment::VolumeAttachment>(),
        KindEntry::of::<volume_attributes_class::VolumeAttributesClass>(),
        KindEntry::of::<mutating_admission_policy::MutatingAdmissionPolicy>(),
        KindEntry::of::<mutating_admission_policy_binding::MutatingAdmissionPolicyBinding>(),
        KindEntry::of::<mutating_webhook_configuration::MutatingWebhookConfiguration>(),
        KindEntry::of::<validating_admission_policy::ValidatingAdmissionPolicy>(),
        KindEntry::of::<validating_admission_policy_binding::ValidatingAdmissionPolicyBinding>(),
        KindEntry::of::<validating_webhook_configuration::ValidatingWebhookConfiguration>(),
        KindEntry::of::<custom_resource_definition::CustomResourceDefinition>(),
        KindEntry::of::<priority_class::PriorityClass>(),
        KindEntry::of::<lease::Lease>(),
        KindEntry::of::<runtime_class::RuntimeClass>(),
        KindEntry::of::<endpoint_slice::EndpointSlice>(),
        KindEntry::of::<device_class::DeviceClass>(),
        KindEntry::of::<resource_claim::ResourceClaim>(),
        KindEntry::of::<resource_claim_template::ResourceClaimTemplate>(),
        KindEntry::of::<resource_slice::ResourceSlice>(),
        KindEntry::of::<metrics::NodeMetrics>(),
        KindEntry::of::<metrics::PodMetrics>(),
        KindEntry::of::<flow_schema::FlowSchema>(),
        KindEntry::of::<priority_level_configuration::PriorityLevelConfiguration>(),
    ]
}
