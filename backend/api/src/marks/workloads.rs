//! Marks of the types of the groups apps, autoscaling, batch and policy (Kubernetes v1.36).
use super::{Field, field};

#[rustfmt::skip] // one line a field
pub(super) const TYPES: &[(&str, &[Field])] = &[
    ("apps.v1.ControllerRevision", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("apps.v1.DaemonSet", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("apps.v1.DaemonSetSpec"),
        field("status").of("apps.v1.DaemonSetStatus"),
    ]),
    ("apps.v1.DaemonSetSpec", &[
        field("selector").of("meta.v1.LabelSelector"),
        field("template").of("core.v1.PodTemplateSpec"),
    ]),
    ("apps.v1.DaemonSetStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("apps.v1.Deployment", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("apps.v1.DeploymentSpec"),
        field("status").of("apps.v1.DeploymentStatus"),
    ]),
    ("apps.v1.DeploymentSpec", &[
        field("selector").of("meta.v1.LabelSelector"),
        field("strategy").retain_keys(),
        field("template").of("core.v1.PodTemplateSpec"),
    ]),
    ("apps.v1.DeploymentStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("apps.v1.ReplicaSet", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("apps.v1.ReplicaSetSpec"),
        field("status").of("apps.v1.ReplicaSetStatus"),
    ]),
    ("apps.v1.ReplicaSetSpec", &[
        field("selector").of("meta.v1.LabelSelector"),
        field("template").of("core.v1.PodTemplateSpec"),
    ]),
    ("apps.v1.ReplicaSetStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("apps.v1.StatefulSet", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("apps.v1.StatefulSetSpec"),
        field("status").of("apps.v1.StatefulSetStatus"),
    ]),
    ("apps.v1.StatefulSetSpec", &[
        field("selector").of("meta.v1.LabelSelector"),
        field("template").of("core.v1.PodTemplateSpec"),
        field("volumeClaimTemplates").atomic(),
    ]),
    ("apps.v1.StatefulSetStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("autoscaling.v1.HorizontalPodAutoscaler", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("autoscaling.v1.HorizontalPodAutoscalerSpec"),
    ]),
    ("autoscaling.v1.HorizontalPodAutoscalerSpec", &[
        field("scaleTargetRef").of("autoscaling.v1.CrossVersionObjectReference"),
    ]),
    ("autoscaling.v1.Scale", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("autoscaling.v2.ExternalMetricSource", &[
        field("metric").of("autoscaling.v2.MetricIdentifier"),
    ]),
    ("autoscaling.v2.ExternalMetricStatus", &[
        field("metric").of("autoscaling.v2.MetricIdentifier"),
    ]),
    ("autoscaling.v2.HPAScalingRules", &[
        field("policies").atomic(),
    ]),
    ("autoscaling.v2.HorizontalPodAutoscaler", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("autoscaling.v2.HorizontalPodAutoscalerSpec"),
        field("status").of("autoscaling.v2.HorizontalPodAutoscalerStatus"),
    ]),
    ("autoscaling.v2.HorizontalPodAutoscalerBehavior", &[
        field("scaleDown").of("autoscaling.v2.HPAScalingRules"),
        field("scaleUp").of("autoscaling.v2.HPAScalingRules"),
    ]),
    ("autoscaling.v2.HorizontalPodAutoscalerSpec", &[
        field("behavior").of("autoscaling.v2.HorizontalPodAutoscalerBehavior"),
        field("metrics").atomic(),
    ]),
    ("autoscaling.v2.HorizontalPodAutoscalerStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
        field("currentMetrics").atomic(),
    ]),
    ("autoscaling.v2.MetricIdentifier", &[
        field("selector").of("meta.v1.LabelSelector"),
    ]),
    ("autoscaling.v2.MetricSpec", &[
        field("external").of("autoscaling.v2.ExternalMetricSource"),
        field("object").of("autoscaling.v2.ObjectMetricSource"),
        field("pods").of("autoscaling.v2.PodsMetricSource"),
    ]),
    ("autoscaling.v2.MetricStatus", &[
        field("external").of("autoscaling.v2.ExternalMetricStatus"),
        field("object").of("autoscaling.v2.ObjectMetricStatus"),
        field("pods").of("autoscaling.v2.PodsMetricStatus"),
    ]),
    ("autoscaling.v2.ObjectMetricSource", &[
        field("metric").of("autoscaling.v2.MetricIdentifier"),
    ]),
    ("autoscaling.v2.ObjectMetricStatus", &[
        field("metric").of("autoscaling.v2.MetricIdentifier"),
    ]),
    ("autoscaling.v2.PodsMetricSource", &[
        field("metric").of("autoscaling.v2.MetricIdentifier"),
    ]),
    ("autoscaling.v2.PodsMetricStatus", &[
        field("metric").of("autoscaling.v2.MetricIdentifier"),
    ]),
    ("batch.v1.CronJob", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("batch.v1.CronJobSpec"),
        field("status").of("batch.v1.CronJobStatus"),
    ]),
    ("batch.v1.CronJobSpec", &[
        field("jobTemplate").of("batch.v1.JobTemplateSpec"),
    ]),
    ("batch.v1.CronJobStatus", &[
        field("active").atomic(),
    ]),
    ("batch.v1.Job", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("batch.v1.JobSpec"),
        field("status").of("batch.v1.JobStatus"),
    ]),
    ("batch.v1.JobSpec", &[
        field("podFailurePolicy").of("batch.v1.PodFailurePolicy"),
        field("selector").of("meta.v1.LabelSelector"),
        field("successPolicy").of("batch.v1.SuccessPolicy"),
        field("template").of("core.v1.PodTemplateSpec"),
    ]),
    ("batch.v1.JobStatus", &[
        field("conditions").atomic().merge("type"),
        field("uncountedTerminatedPods").of("batch.v1.UncountedTerminatedPods"),
    ]),
    ("batch.v1.JobTemplateSpec", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("batch.v1.JobSpec"),
    ]),
    ("batch.v1.PodFailurePolicy", &[
        field("rules").atomic(),
    ]),
    ("batch.v1.PodFailurePolicyOnExitCodesRequirement", &[
        field("values").set(),
    ]),
    ("batch.v1.PodFailurePolicyRule", &[
        field("onExitCodes").of("batch.v1.PodFailurePolicyOnExitCodesRequirement"),
        field("onPodConditions").atomic(),
    ]),
    ("batch.v1.SuccessPolicy", &[
        field("rules").atomic(),
    ]),
    ("batch.v1.UncountedTerminatedPods", &[
        field("failed").set(),
        field("succeeded").set(),
    ]),
    ("policy.v1.Eviction", &[
        field("deleteOptions").of("meta.v1.DeleteOptions"),
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("policy.v1.PodDisruptionBudget", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("policy.v1.PodDisruptionBudgetSpec"),
        field("status").of("policy.v1.PodDisruptionBudgetStatus"),
    ]),
    ("policy.v1.PodDisruptionBudgetSpec", &[
        field("selector").replace().of("meta.v1.LabelSelector"),
    ]),
    ("policy.v1.PodDisruptionBudgetStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
];
