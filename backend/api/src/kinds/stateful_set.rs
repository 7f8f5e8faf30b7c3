//! StatefulSet: pods with names and volumes of their own, in order.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct StatefulSet;

impl Kind for StatefulSet {
    type Object = apps::StatefulSet;
    const SINGULAR: &'static str = "statefulset";
    const SHORT_NAMES: &'static [&'static str] = &["sts"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[SCALE, status("apps", "v1", "StatefulSet")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "podManagementPolicy", "OrderedReady");
        let strategy = child(spec, "updateStrategy");
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            fill(child(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
        fill(retention, "whenDeleted", "Retain");
        fill(retention, "whenScaled", "Retain");
        for claim in items(spec, "volumeClaimTemplates") {
            fill(claim, "apiVersion", "v1");
            fill(claim, "kind", "PersistentVolumeClaim");
            fill(child(claim, "spec"), "volumeMode", "Filesystem");
            fill(child(claim, "status"), "phase", "Pending");
        }
        pod_spec::default_template(spec);
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn validate_name(name: &str) -> Result<(), String> {
        crate::meta::dns_label(name)
    }

    fn validate(object: &apps::StatefulSet, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        let policies = ["OrderedReady", "Parallel"];
        one_of(spec.pod_management_policy.as_deref(), &policies, &path.child("podManagementPolicy"), errors);
        let strategy = spec.update_strategy.as_ref();
        let kind = strategy.and_then(|s| s.type_.as_deref());
        let update = path.child("updateStrategy");
        one_of(kind, &["OnDelete", "RollingUpdate"], &update.child("type"), errors);
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        validate_count(
            rolling.and_then(|r| r.partition),
            &update.child("rollingUpdate").child("partition"),
            errors,
        );
        validate_count(spec.replicas, &path.child("replicas"), errors);
        validate_count(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
        let start = spec.ordinals.as_ref().and_then(|o| o.start);
        validate_count(start, &path.child("ordinals").child("start"), errors);
        pod_validation::validate_selected_template(
            &spec.selector,
            &with_claims(spec),
            &["Always"],
            &path,
            errors,
        );
    }

    fn validate_update(object: &apps::StatefulSet, old: &apps::StatefulSet, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&object.spec, &old.spec) else {
            return;
        };
        let mut allowed = new.clone();
        allowed.replicas = old.replicas;
        allowed.template.clone_from(&old.template);
        allowed.update_strategy.clone_from(&old.update_strategy);
        allowed.min_ready_seconds = old.min_ready_seconds;
        allowed.ordinals.clone_from(&old.ordinals);
        allowed.revision_history_limit = old.revision_history_limit;
        allowed
            .persistent_volume_claim_retention_policy
            .clone_from(&old.persistent_volume_claim_retention_policy);
        if allowed != *old {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Ready"), text("Age"), wide("Containers"), wide("Images")]
    }

    fn cells(object: &apps::StatefulSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let ready = object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let (names, images) = container_cells(&spec.template.spec.unwrap_or_default());
        vec![
            name_cell(&object.metadata),
            format!("{ready}/{}", spec.replicas.unwrap_or(0)).into(),
            age_cell(&object.metadata, now),
            names,
            images,
        ]
    }
}

/// The template with the volumes that its claims will bring, which mounts may refer to.
fn with_claims(spec: &apps::StatefulSetSpec) -> k8s_openapi::api::core::v1::PodTemplateSpec {
    let mut template = spec.template.clone();
    let Some(pod) = &mut template.spec else {
        return template;
    };
    let volumes = pod.volumes.get_or_insert_default();
    for claim in spec.volume_claim_templates.iter().flatten() {
        let name = claim.metadata.name.clone().unwrap_or_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(k8s_openapi::api::core::v1::Volume {
            name,
            empty_dir: Some(Default::default()),
            ..Default::default()
        });
    }
    template
}
