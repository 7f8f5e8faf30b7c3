//! Marks of the types of core/v1 (Kubernetes v1.36).
use super::{Field, field};

#[rustfmt::skip] // one line a field
pub(super) const TYPES: &[(&str, &[Field])] = &[
    ("core.v1.Affinity", &[
        field("nodeAffinity").of("core.v1.NodeAffinity"),
        field("podAffinity").of("core.v1.PodAffinity"),
        field("podAntiAffinity").of("core.v1.PodAntiAffinity"),
    ]),
    ("core.v1.Binding", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("target").of("core.v1.ObjectReference"),
    ]),
    ("core.v1.CSIPersistentVolumeSource", &[
        field("controllerExpandSecretRef").of("core.v1.SecretReference"),
        field("controllerPublishSecretRef").of("core.v1.SecretReference"),
        field("nodeExpandSecretRef").of("core.v1.SecretReference"),
        field("nodePublishSecretRef").of("core.v1.SecretReference"),
        field("nodeStageSecretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.CSIVolumeSource", &[
        field("nodePublishSecretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.Capabilities", &[
        field("add").atomic(),
        field("drop").atomic(),
    ]),
    ("core.v1.CephFSPersistentVolumeSource", &[
        field("monitors").atomic(),
        field("secretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.CephFSVolumeSource", &[
        field("monitors").atomic(),
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.CinderPersistentVolumeSource", &[
        field("secretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.CinderVolumeSource", &[
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.ClusterTrustBundleProjection", &[
        field("labelSelector").of("meta.v1.LabelSelector"),
    ]),
    ("core.v1.ComponentStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("core.v1.ConfigMap", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("core.v1.ConfigMapProjection", &[
        field("items").atomic(),
    ]),
    ("core.v1.ConfigMapVolumeSource", &[
        field("items").atomic(),
    ]),
    ("core.v1.Container", &[
        field("args").atomic(),
        field("command").atomic(),
        field("env").keyed(&["name"]).merge("name").of("core.v1.EnvVar"),
        field("envFrom").atomic(),
        field("lifecycle").of("core.v1.Lifecycle"),
        field("livenessProbe").of("core.v1.Probe"),
        field("ports").keyed(&["containerPort", "protocol"]).merge("containerPort").of("core.v1.ContainerPort"),
        field("readinessProbe").of("core.v1.Probe"),
        field("resizePolicy").atomic(),
        field("resources").of("core.v1.ResourceRequirements"),
        field("restartPolicyRules").atomic(),
        field("securityContext").of("core.v1.SecurityContext"),
        field("startupProbe").of("core.v1.Probe"),
        field("volumeDevices").keyed(&["devicePath"]).merge("devicePath"),
        field("volumeMounts").keyed(&["mountPath"]).merge("mountPath"),
    ]),
    ("core.v1.ContainerImage", &[
        field("names").atomic(),
    ]),
    ("core.v1.ContainerRestartRule", &[
        field("exitCodes").of("core.v1.ContainerRestartRuleOnExitCodes"),
    ]),
    ("core.v1.ContainerRestartRuleOnExitCodes", &[
        field("values").set(),
    ]),
    ("core.v1.ContainerStatus", &[
        field("allocatedResourcesStatus").keyed(&["name"]).merge("name").of("core.v1.ResourceStatus"),
        field("resources").of("core.v1.ResourceRequirements"),
        field("user").of("core.v1.ContainerUser"),
        field("volumeMounts").keyed(&["mountPath"]).merge("mountPath"),
    ]),
    ("core.v1.ContainerUser", &[
        field("linux").of("core.v1.LinuxContainerUser"),
    ]),
    ("core.v1.DownwardAPIProjection", &[
        field("items").atomic(),
    ]),
    ("core.v1.DownwardAPIVolumeFile", &[
        field("fieldRef").of("core.v1.ObjectFieldSelector"),
        field("resourceFieldRef").of("core.v1.ResourceFieldSelector"),
    ]),
    ("core.v1.DownwardAPIVolumeSource", &[
        field("items").atomic(),
    ]),
    ("core.v1.EndpointAddress", &[
        field("targetRef").of("core.v1.ObjectReference"),
    ]),
    ("core.v1.EndpointSubset", &[
        field("addresses").atomic(),
        field("notReadyAddresses").atomic(),
        field("ports").atomic(),
    ]),
    ("core.v1.Endpoints", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("subsets").atomic(),
    ]),
    ("core.v1.EnvVar", &[
        field("valueFrom").of("core.v1.EnvVarSource"),
    ]),
    ("core.v1.EnvVarSource", &[
        field("configMapKeyRef").of("core.v1.ConfigMapKeySelector"),
        field("fieldRef").of("core.v1.ObjectFieldSelector"),
        field("fileKeyRef").of("core.v1.FileKeySelector"),
        field("resourceFieldRef").of("core.v1.ResourceFieldSelector"),
        field("secretKeyRef").of("core.v1.SecretKeySelector"),
    ]),
    ("core.v1.EphemeralContainer", &[
        field("args").atomic(),
        field("command").atomic(),
        field("env").keyed(&["name"]).merge("name").of("core.v1.EnvVar"),
        field("envFrom").atomic(),
        field("lifecycle").of("core.v1.Lifecycle"),
        field("livenessProbe").of("core.v1.Probe"),
        field("ports").keyed(&["containerPort", "protocol"]).merge("containerPort").of("core.v1.ContainerPort"),
        field("readinessProbe").of("core.v1.Probe"),
        field("resizePolicy").atomic(),
        field("resources").of("core.v1.ResourceRequirements"),
        field("restartPolicyRules").atomic(),
        field("securityContext").of("core.v1.SecurityContext"),
        field("startupProbe").of("core.v1.Probe"),
        field("volumeDevices").keyed(&["devicePath"]).merge("devicePath"),
        field("volumeMounts").keyed(&["mountPath"]).merge("mountPath"),
    ]),
    ("core.v1.EphemeralVolumeSource", &[
        field("volumeClaimTemplate").of("core.v1.PersistentVolumeClaimTemplate"),
    ]),
    ("core.v1.Event", &[
        field("involvedObject").of("core.v1.ObjectReference"),
        field("metadata").of("meta.v1.ObjectMeta"),
        field("related").of("core.v1.ObjectReference"),
    ]),
    ("core.v1.ExecAction", &[
        field("command").atomic(),
    ]),
    ("core.v1.FCVolumeSource", &[
        field("targetWWNs").atomic(),
        field("wwids").atomic(),
    ]),
    ("core.v1.FlexPersistentVolumeSource", &[
        field("secretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.FlexVolumeSource", &[
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.HTTPGetAction", &[
        field("httpHeaders").atomic(),
    ]),
    ("core.v1.HostAlias", &[
        field("hostnames").atomic(),
    ]),
    ("core.v1.ISCSIPersistentVolumeSource", &[
        field("portals").atomic(),
        field("secretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.ISCSIVolumeSource", &[
        field("portals").atomic(),
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.Lifecycle", &[
        field("postStart").of("core.v1.LifecycleHandler"),
        field("preStop").of("core.v1.LifecycleHandler"),
    ]),
    ("core.v1.LifecycleHandler", &[
        field("exec").of("core.v1.ExecAction"),
        field("httpGet").of("core.v1.HTTPGetAction"),
    ]),
    ("core.v1.LimitRange", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.LimitRangeSpec"),
    ]),
    ("core.v1.LimitRangeSpec", &[
        field("limits").atomic(),
    ]),
    ("core.v1.LinuxContainerUser", &[
        field("supplementalGroups").atomic(),
    ]),
    ("core.v1.LoadBalancerIngress", &[
        field("ports").atomic(),
    ]),
    ("core.v1.LoadBalancerStatus", &[
        field("ingress").atomic(),
    ]),
    ("core.v1.Namespace", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.NamespaceSpec"),
        field("status").of("core.v1.NamespaceStatus"),
    ]),
    ("core.v1.NamespaceSpec", &[
        field("finalizers").atomic(),
    ]),
    ("core.v1.NamespaceStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("core.v1.Node", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.NodeSpec"),
        field("status").of("core.v1.NodeStatus"),
    ]),
    ("core.v1.NodeAffinity", &[
        field("preferredDuringSchedulingIgnoredDuringExecution").atomic(),
        field("requiredDuringSchedulingIgnoredDuringExecution").of("core.v1.NodeSelector"),
    ]),
    ("core.v1.NodeAllocatableResourceClaimStatus", &[
        field("containers").set(),
    ]),
    ("core.v1.NodeSelector", &[
        field("nodeSelectorTerms").atomic(),
    ]),
    ("core.v1.NodeSelectorRequirement", &[
        field("values").atomic(),
    ]),
    ("core.v1.NodeSelectorTerm", &[
        field("matchExpressions").atomic(),
        field("matchFields").atomic(),
    ]),
    ("core.v1.NodeSpec", &[
        field("podCIDRs").set().merge(""),
        field("taints").atomic(),
    ]),
    ("core.v1.NodeStatus", &[
        field("addresses").keyed(&["type"]).merge("type"),
        field("conditions").keyed(&["type"]).merge("type"),
        field("declaredFeatures").atomic(),
        field("images").atomic(),
        field("runtimeHandlers").atomic(),
        field("volumesAttached").atomic(),
        field("volumesInUse").atomic(),
    ]),
    ("core.v1.PersistentVolume", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.PersistentVolumeSpec"),
    ]),
    ("core.v1.PersistentVolumeClaim", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.PersistentVolumeClaimSpec"),
        field("status").of("core.v1.PersistentVolumeClaimStatus"),
    ]),
    ("core.v1.PersistentVolumeClaimSpec", &[
        field("accessModes").atomic(),
        field("dataSource").of("core.v1.TypedLocalObjectReference"),
        field("selector").of("meta.v1.LabelSelector"),
    ]),
    ("core.v1.PersistentVolumeClaimStatus", &[
        field("accessModes").atomic(),
        field("allocatedResourceStatuses").granular(),
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("core.v1.PersistentVolumeClaimTemplate", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.PersistentVolumeClaimSpec"),
    ]),
    ("core.v1.PersistentVolumeSpec", &[
        field("accessModes").atomic(),
        field("cephfs").of("core.v1.CephFSPersistentVolumeSource"),
        field("cinder").of("core.v1.CinderPersistentVolumeSource"),
        field("claimRef").granular().of("core.v1.ObjectReference"),
        field("csi").of("core.v1.CSIPersistentVolumeSource"),
        field("fc").of("core.v1.FCVolumeSource"),
        field("flexVolume").of("core.v1.FlexPersistentVolumeSource"),
        field("iscsi").of("core.v1.ISCSIPersistentVolumeSource"),
        field("mountOptions").atomic(),
        field("nodeAffinity").of("core.v1.VolumeNodeAffinity"),
        field("rbd").of("core.v1.RBDPersistentVolumeSource"),
        field("scaleIO").of("core.v1.ScaleIOPersistentVolumeSource"),
        field("storageos").of("core.v1.StorageOSPersistentVolumeSource"),
    ]),
    ("core.v1.Pod", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.PodSpec"),
        field("status").of("core.v1.PodStatus"),
    ]),
    ("core.v1.PodAffinity", &[
        field("preferredDuringSchedulingIgnoredDuringExecution").atomic(),
        field("requiredDuringSchedulingIgnoredDuringExecution").atomic(),
    ]),
    ("core.v1.PodAffinityTerm", &[
        field("labelSelector").of("meta.v1.LabelSelector"),
        field("matchLabelKeys").atomic(),
        field("mismatchLabelKeys").atomic(),
        field("namespaceSelector").of("meta.v1.LabelSelector"),
        field("namespaces").atomic(),
    ]),
    ("core.v1.PodAntiAffinity", &[
        field("preferredDuringSchedulingIgnoredDuringExecution").atomic(),
        field("requiredDuringSchedulingIgnoredDuringExecution").atomic(),
    ]),
    ("core.v1.PodDNSConfig", &[
        field("nameservers").atomic(),
        field("options").atomic(),
        field("searches").atomic(),
    ]),
    ("core.v1.PodExtendedResourceClaimStatus", &[
        field("requestMappings").atomic(),
    ]),
    ("core.v1.PodSecurityContext", &[
        field("supplementalGroups").atomic(),
        field("sysctls").atomic(),
    ]),
    ("core.v1.PodSpec", &[
        field("affinity").of("core.v1.Affinity"),
        field("containers").keyed(&["name"]).merge("name").of("core.v1.Container"),
        field("dnsConfig").of("core.v1.PodDNSConfig"),
        field("ephemeralContainers").keyed(&["name"]).merge("name").of("core.v1.EphemeralContainer"),
        field("hostAliases").keyed(&["ip"]).merge("ip").of("core.v1.HostAlias"),
        field("imagePullSecrets").keyed(&["name"]).merge("name").of("core.v1.LocalObjectReference"),
        field("initContainers").keyed(&["name"]).merge("name").of("core.v1.Container"),
        field("nodeSelector").atomic_map(),
        field("readinessGates").atomic(),
        field("resourceClaims").keyed(&["name"]).merge("name").retain_keys(),
        field("resources").of("core.v1.ResourceRequirements"),
        field("schedulingGates").keyed(&["name"]).merge("name"),
        field("securityContext").of("core.v1.PodSecurityContext"),
        field("tolerations").atomic(),
        field("topologySpreadConstraints").keyed(&["topologyKey", "whenUnsatisfiable"]).merge("topologyKey").of("core.v1.TopologySpreadConstraint"),
        field("volumes").keyed(&["name"]).merge("name").retain_keys().of("core.v1.Volume"),
    ]),
    ("core.v1.PodStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
        field("containerStatuses").atomic(),
        field("ephemeralContainerStatuses").atomic(),
        field("extendedResourceClaimStatus").of("core.v1.PodExtendedResourceClaimStatus"),
        field("hostIPs").atomic().merge("ip"),
        field("initContainerStatuses").atomic(),
        field("nodeAllocatableResourceClaimStatuses").atomic(),
        field("podIPs").keyed(&["ip"]).merge("ip"),
        field("resourceClaimStatuses").keyed(&["name"]).merge("name").retain_keys(),
        field("resources").of("core.v1.ResourceRequirements"),
    ]),
    ("core.v1.PodTemplate", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("template").of("core.v1.PodTemplateSpec"),
    ]),
    ("core.v1.PodTemplateSpec", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.PodSpec"),
    ]),
    ("core.v1.PreferredSchedulingTerm", &[
        field("preference").of("core.v1.NodeSelectorTerm"),
    ]),
    ("core.v1.Probe", &[
        field("exec").of("core.v1.ExecAction"),
        field("httpGet").of("core.v1.HTTPGetAction"),
    ]),
    ("core.v1.ProjectedVolumeSource", &[
        field("sources").atomic(),
    ]),
    ("core.v1.RBDPersistentVolumeSource", &[
        field("monitors").atomic(),
        field("secretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.RBDVolumeSource", &[
        field("monitors").atomic(),
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.ReplicationController", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.ReplicationControllerSpec"),
        field("status").of("core.v1.ReplicationControllerStatus"),
    ]),
    ("core.v1.ReplicationControllerSpec", &[
        field("selector").atomic_map(),
        field("template").of("core.v1.PodTemplateSpec"),
    ]),
    ("core.v1.ReplicationControllerStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("core.v1.ResourceQuota", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.ResourceQuotaSpec"),
    ]),
    ("core.v1.ResourceQuotaSpec", &[
        field("scopeSelector").of("core.v1.ScopeSelector"),
        field("scopes").atomic(),
    ]),
    ("core.v1.ResourceRequirements", &[
        field("claims").keyed(&["name"]),
    ]),
    ("core.v1.ResourceStatus", &[
        field("resources").keyed(&["resourceID"]),
    ]),
    ("core.v1.ScaleIOPersistentVolumeSource", &[
        field("secretRef").of("core.v1.SecretReference"),
    ]),
    ("core.v1.ScaleIOVolumeSource", &[
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.ScopeSelector", &[
        field("matchExpressions").atomic(),
    ]),
    ("core.v1.ScopedResourceSelectorRequirement", &[
        field("values").atomic(),
    ]),
    ("core.v1.Secret", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("core.v1.SecretProjection", &[
        field("items").atomic(),
    ]),
    ("core.v1.SecretVolumeSource", &[
        field("items").atomic(),
    ]),
    ("core.v1.SecurityContext", &[
        field("capabilities").of("core.v1.Capabilities"),
    ]),
    ("core.v1.Service", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("core.v1.ServiceSpec"),
        field("status").of("core.v1.ServiceStatus"),
    ]),
    ("core.v1.ServiceAccount", &[
        field("imagePullSecrets").atomic(),
        field("metadata").of("meta.v1.ObjectMeta"),
        field("secrets").keyed(&["name"]).merge("name").of("core.v1.ObjectReference"),
    ]),
    ("core.v1.ServiceSpec", &[
        field("clusterIPs").atomic(),
        field("externalIPs").atomic(),
        field("ipFamilies").atomic(),
        field("loadBalancerSourceRanges").atomic(),
        field("ports").keyed(&["port", "protocol"]).merge("port").of("core.v1.ServicePort"),
        field("selector").atomic_map(),
    ]),
    ("core.v1.ServiceStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
        field("loadBalancer").of("core.v1.LoadBalancerStatus"),
    ]),
    ("core.v1.StorageOSPersistentVolumeSource", &[
        field("secretRef").of("core.v1.ObjectReference"),
    ]),
    ("core.v1.StorageOSVolumeSource", &[
        field("secretRef").of("core.v1.LocalObjectReference"),
    ]),
    ("core.v1.TopologySelectorLabelRequirement", &[
        field("values").atomic(),
    ]),
    ("core.v1.TopologySelectorTerm", &[
        field("matchLabelExpressions").atomic(),
    ]),
    ("core.v1.TopologySpreadConstraint", &[
        field("labelSelector").of("meta.v1.LabelSelector"),
        field("matchLabelKeys").atomic(),
    ]),
    ("core.v1.Volume", &[
        field("cephfs").of("core.v1.CephFSVolumeSource"),
        field("cinder").of("core.v1.CinderVolumeSource"),
        field("configMap").of("core.v1.ConfigMapVolumeSource"),
        field("csi").of("core.v1.CSIVolumeSource"),
        field("downwardAPI").of("core.v1.DownwardAPIVolumeSource"),
        field("ephemeral").of("core.v1.EphemeralVolumeSource"),
        field("fc").of("core.v1.FCVolumeSource"),
        field("flexVolume").of("core.v1.FlexVolumeSource"),
        field("iscsi").of("core.v1.ISCSIVolumeSource"),
        field("projected").of("core.v1.ProjectedVolumeSource"),
        field("rbd").of("core.v1.RBDVolumeSource"),
        field("scaleIO").of("core.v1.ScaleIOVolumeSource"),
        field("secret").of("core.v1.SecretVolumeSource"),
        field("storageos").of("core.v1.StorageOSVolumeSource"),
    ]),
    ("core.v1.VolumeNodeAffinity", &[
        field("required").of("core.v1.NodeSelector"),
    ]),
    ("core.v1.VolumeProjection", &[
        field("clusterTrustBundle").of("core.v1.ClusterTrustBundleProjection"),
        field("configMap").of("core.v1.ConfigMapProjection"),
        field("downwardAPI").of("core.v1.DownwardAPIProjection"),
        field("secret").of("core.v1.SecretProjection"),
    ]),
    ("core.v1.WeightedPodAffinityTerm", &[
        field("podAffinityTerm").of("core.v1.PodAffinityTerm"),
    ]),
];
