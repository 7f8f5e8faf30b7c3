//! Marks of the types of the smaller groups (Kubernetes v1.36).
use super::{Field, field};

#[rustfmt::skip] // one line a field
pub(super) const TYPES: &[(&str, &[Field])] = &[
    ("admissionregistration.v1.MatchResources", &[
        field("excludeResourceRules").atomic(),
        field("namespaceSelector").of("meta.v1.LabelSelector"),
        field("objectSelector").of("meta.v1.LabelSelector"),
        field("resourceRules").atomic(),
    ]),
    ("admissionregistration.v1.MutatingAdmissionPolicy", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("admissionregistration.v1.MutatingAdmissionPolicySpec"),
    ]),
    ("admissionregistration.v1.MutatingAdmissionPolicyBinding", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("admissionregistration.v1.MutatingAdmissionPolicyBindingSpec"),
    ]),
    ("admissionregistration.v1.MutatingAdmissionPolicyBindingSpec", &[
        field("matchResources").of("admissionregistration.v1.MatchResources"),
        field("paramRef").of("admissionregistration.v1.ParamRef"),
    ]),
    ("admissionregistration.v1.MutatingAdmissionPolicySpec", &[
        field("matchConditions").keyed(&["name"]).merge("name"),
        field("matchConstraints").of("admissionregistration.v1.MatchResources"),
        field("mutations").atomic(),
        field("paramKind").of("admissionregistration.v1.ParamKind"),
        field("variables").atomic(),
    ]),
    ("admissionregistration.v1.MutatingWebhook", &[
        field("admissionReviewVersions").atomic(),
        field("matchConditions").keyed(&["name"]).merge("name"),
        field("namespaceSelector").of("meta.v1.LabelSelector"),
        field("objectSelector").of("meta.v1.LabelSelector"),
        field("rules").atomic(),
    ]),
    ("admissionregistration.v1.MutatingWebhookConfiguration", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("webhooks").keyed(&["name"]).merge("name").of("admissionregistration.v1.MutatingWebhook"),
    ]),
    ("admissionregistration.v1.NamedRuleWithOperations", &[
        field("apiGroups").atomic(),
        field("apiVersions").atomic(),
        field("operations").atomic(),
        field("resourceNames").atomic(),
        field("resources").atomic(),
    ]),
    ("admissionregistration.v1.ParamRef", &[
        field("selector").of("meta.v1.LabelSelector"),
    ]),
    ("admissionregistration.v1.RuleWithOperations", &[
        field("apiGroups").atomic(),
        field("apiVersions").atomic(),
        field("operations").atomic(),
        field("resources").atomic(),
    ]),
    ("admissionregistration.v1.TypeChecking", &[
        field("expressionWarnings").atomic(),
    ]),
    ("admissionregistration.v1.ValidatingAdmissionPolicy", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("admissionregistration.v1.ValidatingAdmissionPolicySpec"),
        field("status").of("admissionregistration.v1.ValidatingAdmissionPolicyStatus"),
    ]),
    ("admissionregistration.v1.ValidatingAdmissionPolicyBinding", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec"),
    ]),
    ("admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", &[
        field("matchResources").of("admissionregistration.v1.MatchResources"),
        field("paramRef").of("admissionregistration.v1.ParamRef"),
        field("validationActions").set(),
    ]),
    ("admissionregistration.v1.ValidatingAdmissionPolicySpec", &[
        field("auditAnnotations").atomic(),
        field("matchConditions").keyed(&["name"]).merge("name"),
        field("matchConstraints").of("admissionregistration.v1.MatchResources"),
        field("paramKind").of("admissionregistration.v1.ParamKind"),
        field("validations").atomic(),
        field("variables").keyed(&["name"]).merge("name"),
    ]),
    ("admissionregistration.v1.ValidatingAdmissionPolicyStatus", &[
        field("conditions").keyed(&["type"]),
        field("typeChecking").of("admissionregistration.v1.TypeChecking"),
    ]),
    ("admissionregistration.v1.ValidatingWebhook", &[
        field("admissionReviewVersions").atomic(),
        field("matchConditions").keyed(&["name"]).merge("name"),
        field("namespaceSelector").of("meta.v1.LabelSelector"),
        field("objectSelector").of("meta.v1.LabelSelector"),
        field("rules").atomic(),
    ]),
    ("admissionregistration.v1.ValidatingWebhookConfiguration", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("webhooks").keyed(&["name"]).merge("name").of("admissionregistration.v1.ValidatingWebhook"),
    ]),
    ("apiextensions.v1.CustomResourceConversion", &[
        field("webhook").of("apiextensions.v1.WebhookConversion"),
    ]),
    ("apiextensions.v1.CustomResourceDefinition", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("apiextensions.v1.CustomResourceDefinitionSpec"),
        field("status").of("apiextensions.v1.CustomResourceDefinitionStatus"),
    ]),
    ("apiextensions.v1.CustomResourceDefinitionNames", &[
        field("categories").atomic(),
        field("shortNames").atomic(),
    ]),
    ("apiextensions.v1.CustomResourceDefinitionSpec", &[
        field("conversion").of("apiextensions.v1.CustomResourceConversion"),
        field("names").of("apiextensions.v1.CustomResourceDefinitionNames"),
        field("versions").atomic(),
    ]),
    ("apiextensions.v1.CustomResourceDefinitionStatus", &[
        field("acceptedNames").of("apiextensions.v1.CustomResourceDefinitionNames"),
        field("conditions").keyed(&["type"]),
        field("storedVersions").atomic(),
    ]),
    ("apiextensions.v1.CustomResourceDefinitionVersion", &[
        field("additionalPrinterColumns").atomic(),
        field("schema").of("apiextensions.v1.CustomResourceValidation"),
        field("selectableFields").atomic(),
    ]),
    ("apiextensions.v1.CustomResourceValidation", &[
        field("openAPIV3Schema").of("apiextensions.v1.JSONSchemaProps"),
    ]),
    ("apiextensions.v1.JSONSchemaProps", &[
        field("allOf").atomic(),
        field("anyOf").atomic(),
        field("definitions").values("apiextensions.v1.JSONSchemaProps"),
        field("enum").atomic(),
        field("not").of("apiextensions.v1.JSONSchemaProps"),
        field("oneOf").atomic(),
        field("patternProperties").values("apiextensions.v1.JSONSchemaProps"),
        field("properties").values("apiextensions.v1.JSONSchemaProps"),
        field("required").atomic(),
        field("x-kubernetes-list-map-keys").atomic(),
        field("x-kubernetes-validations").keyed(&["rule"]).merge("rule"),
    ]),
    ("apiextensions.v1.WebhookConversion", &[
        field("conversionReviewVersions").atomic(),
    ]),
    ("apiregistration.v1.APIService", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("apiregistration.v1.APIServiceSpec"),
        field("status").of("apiregistration.v1.APIServiceStatus"),
    ]),
    ("apiregistration.v1.APIServiceSpec", &[
        field("caBundle").atomic(),
    ]),
    ("apiregistration.v1.APIServiceStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("authentication.v1.SelfSubjectReview", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("status").of("authentication.v1.SelfSubjectReviewStatus"),
    ]),
    ("authentication.v1.SelfSubjectReviewStatus", &[
        field("userInfo").of("authentication.v1.UserInfo"),
    ]),
    ("authentication.v1.TokenRequest", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("authentication.v1.TokenRequestSpec"),
    ]),
    ("authentication.v1.TokenRequestSpec", &[
        field("audiences").atomic(),
    ]),
    ("authentication.v1.TokenReview", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("authentication.v1.TokenReviewSpec"),
        field("status").of("authentication.v1.TokenReviewStatus"),
    ]),
    ("authentication.v1.TokenReviewSpec", &[
        field("audiences").atomic(),
    ]),
    ("authentication.v1.TokenReviewStatus", &[
        field("audiences").atomic(),
        field("user").of("authentication.v1.UserInfo"),
    ]),
    ("authentication.v1.UserInfo", &[
        field("groups").atomic(),
    ]),
    ("authorization.v1.FieldSelectorAttributes", &[
        field("requirements").atomic(),
    ]),
    ("authorization.v1.LabelSelectorAttributes", &[
        field("requirements").atomic(),
    ]),
    ("authorization.v1.LocalSubjectAccessReview", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("authorization.v1.SubjectAccessReviewSpec"),
    ]),
    ("authorization.v1.NonResourceRule", &[
        field("nonResourceURLs").atomic(),
        field("verbs").atomic(),
    ]),
    ("authorization.v1.ResourceAttributes", &[
        field("fieldSelector").of("authorization.v1.FieldSelectorAttributes"),
        field("labelSelector").of("authorization.v1.LabelSelectorAttributes"),
    ]),
    ("authorization.v1.ResourceRule", &[
        field("apiGroups").atomic(),
        field("resourceNames").atomic(),
        field("resources").atomic(),
        field("verbs").atomic(),
    ]),
    ("authorization.v1.SelfSubjectAccessReview", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("authorization.v1.SelfSubjectAccessReviewSpec"),
    ]),
    ("authorization.v1.SelfSubjectAccessReviewSpec", &[
        field("resourceAttributes").of("authorization.v1.ResourceAttributes"),
    ]),
    ("authorization.v1.SelfSubjectRulesReview", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("status").of("authorization.v1.SubjectRulesReviewStatus"),
    ]),
    ("authorization.v1.SubjectAccessReview", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("authorization.v1.SubjectAccessReviewSpec"),
    ]),
    ("authorization.v1.SubjectAccessReviewSpec", &[
        field("groups").atomic(),
        field("resourceAttributes").of("authorization.v1.ResourceAttributes"),
    ]),
    ("authorization.v1.SubjectRulesReviewStatus", &[
        field("nonResourceRules").atomic(),
        field("resourceRules").atomic(),
    ]),
    ("certificates.v1.CertificateSigningRequest", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("certificates.v1.CertificateSigningRequestSpec"),
        field("status").of("certificates.v1.CertificateSigningRequestStatus"),
    ]),
    ("certificates.v1.CertificateSigningRequestSpec", &[
        field("groups").atomic(),
        field("usages").atomic(),
    ]),
    ("certificates.v1.CertificateSigningRequestStatus", &[
        field("conditions").keyed(&["type"]),
    ]),
    ("coordination.v1.Lease", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("discovery.v1.Endpoint", &[
        field("addresses").set(),
        field("hints").of("discovery.v1.EndpointHints"),
        field("targetRef").of("core.v1.ObjectReference"),
    ]),
    ("discovery.v1.EndpointHints", &[
        field("forNodes").atomic(),
        field("forZones").atomic(),
    ]),
    ("discovery.v1.EndpointSlice", &[
        field("endpoints").atomic(),
        field("metadata").of("meta.v1.ObjectMeta"),
        field("ports").atomic(),
    ]),
    ("events.v1.Event", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("regarding").of("core.v1.ObjectReference"),
        field("related").of("core.v1.ObjectReference"),
    ]),
    ("flowcontrol.v1.FlowSchema", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("flowcontrol.v1.FlowSchemaSpec"),
        field("status").of("flowcontrol.v1.FlowSchemaStatus"),
    ]),
    ("flowcontrol.v1.FlowSchemaSpec", &[
        field("rules").atomic(),
    ]),
    ("flowcontrol.v1.FlowSchemaStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("flowcontrol.v1.NonResourcePolicyRule", &[
        field("nonResourceURLs").set(),
        field("verbs").set(),
    ]),
    ("flowcontrol.v1.PolicyRulesWithSubjects", &[
        field("nonResourceRules").atomic(),
        field("resourceRules").atomic(),
        field("subjects").atomic(),
    ]),
    ("flowcontrol.v1.PriorityLevelConfiguration", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("status").of("flowcontrol.v1.PriorityLevelConfigurationStatus"),
    ]),
    ("flowcontrol.v1.PriorityLevelConfigurationStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("flowcontrol.v1.ResourcePolicyRule", &[
        field("apiGroups").set(),
        field("namespaces").set(),
        field("resources").set(),
        field("verbs").set(),
    ]),
    ("networking.v1.HTTPIngressPath", &[
        field("backend").of("networking.v1.IngressBackend"),
    ]),
    ("networking.v1.HTTPIngressRuleValue", &[
        field("paths").atomic(),
    ]),
    ("networking.v1.IPAddress", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("networking.v1.IPBlock", &[
        field("except").atomic(),
    ]),
    ("networking.v1.Ingress", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("networking.v1.IngressSpec"),
        field("status").of("networking.v1.IngressStatus"),
    ]),
    ("networking.v1.IngressBackend", &[
        field("resource").of("core.v1.TypedLocalObjectReference"),
    ]),
    ("networking.v1.IngressClass", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("networking.v1.IngressLoadBalancerIngress", &[
        field("ports").atomic(),
    ]),
    ("networking.v1.IngressLoadBalancerStatus", &[
        field("ingress").atomic(),
    ]),
    ("networking.v1.IngressRule", &[
        field("http").of("networking.v1.HTTPIngressRuleValue"),
    ]),
    ("networking.v1.IngressSpec", &[
        field("defaultBackend").of("networking.v1.IngressBackend"),
        field("rules").atomic(),
        field("tls").atomic(),
    ]),
    ("networking.v1.IngressStatus", &[
        field("loadBalancer").of("networking.v1.IngressLoadBalancerStatus"),
    ]),
    ("networking.v1.IngressTLS", &[
        field("hosts").atomic(),
    ]),
    ("networking.v1.NetworkPolicy", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("networking.v1.NetworkPolicySpec"),
    ]),
    ("networking.v1.NetworkPolicyEgressRule", &[
        field("ports").atomic(),
        field("to").atomic(),
    ]),
    ("networking.v1.NetworkPolicyIngressRule", &[
        field("from").atomic(),
        field("ports").atomic(),
    ]),
    ("networking.v1.NetworkPolicyPeer", &[
        field("ipBlock").of("networking.v1.IPBlock"),
        field("namespaceSelector").of("meta.v1.LabelSelector"),
        field("podSelector").of("meta.v1.LabelSelector"),
    ]),
    ("networking.v1.NetworkPolicySpec", &[
        field("egress").atomic(),
        field("ingress").atomic(),
        field("podSelector").of("meta.v1.LabelSelector"),
        field("policyTypes").atomic(),
    ]),
    ("networking.v1.ServiceCIDR", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("networking.v1.ServiceCIDRSpec"),
        field("status").of("networking.v1.ServiceCIDRStatus"),
    ]),
    ("networking.v1.ServiceCIDRSpec", &[
        field("cidrs").atomic(),
    ]),
    ("networking.v1.ServiceCIDRStatus", &[
        field("conditions").keyed(&["type"]).merge("type"),
    ]),
    ("node.v1.RuntimeClass", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("scheduling").of("node.v1.Scheduling"),
    ]),
    ("node.v1.Scheduling", &[
        field("nodeSelector").atomic_map(),
        field("tolerations").atomic(),
    ]),
    ("rbac.v1.AggregationRule", &[
        field("clusterRoleSelectors").atomic(),
    ]),
    ("rbac.v1.ClusterRole", &[
        field("aggregationRule").of("rbac.v1.AggregationRule"),
        field("metadata").of("meta.v1.ObjectMeta"),
        field("rules").atomic(),
    ]),
    ("rbac.v1.ClusterRoleBinding", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("roleRef").of("rbac.v1.RoleRef"),
        field("subjects").atomic(),
    ]),
    ("rbac.v1.PolicyRule", &[
        field("apiGroups").atomic(),
        field("nonResourceURLs").atomic(),
        field("resourceNames").atomic(),
        field("resources").atomic(),
        field("verbs").atomic(),
    ]),
    ("rbac.v1.Role", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("rules").atomic(),
    ]),
    ("rbac.v1.RoleBinding", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("roleRef").of("rbac.v1.RoleRef"),
        field("subjects").atomic(),
    ]),
    ("scheduling.v1.PriorityClass", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
    ("storage.v1.CSIDriver", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("storage.v1.CSIDriverSpec"),
    ]),
    ("storage.v1.CSIDriverSpec", &[
        field("tokenRequests").atomic(),
        field("volumeLifecycleModes").set(),
    ]),
    ("storage.v1.CSINode", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("storage.v1.CSINodeSpec"),
    ]),
    ("storage.v1.CSINodeDriver", &[
        field("topologyKeys").atomic(),
    ]),
    ("storage.v1.CSINodeSpec", &[
        field("drivers").keyed(&["name"]).merge("name").of("storage.v1.CSINodeDriver"),
    ]),
    ("storage.v1.CSIStorageCapacity", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("nodeTopology").of("meta.v1.LabelSelector"),
    ]),
    ("storage.v1.StorageClass", &[
        field("allowedTopologies").atomic(),
        field("metadata").of("meta.v1.ObjectMeta"),
        field("mountOptions").atomic(),
    ]),
    ("storage.v1.VolumeAttachment", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("storage.v1.VolumeAttachmentSpec"),
    ]),
    ("storage.v1.VolumeAttachmentSource", &[
        field("inlineVolumeSpec").of("core.v1.PersistentVolumeSpec"),
    ]),
    ("storage.v1.VolumeAttachmentSpec", &[
        field("source").of("storage.v1.VolumeAttachmentSource"),
    ]),
    ("storage.v1.VolumeAttributesClass", &[
        field("metadata").of("meta.v1.ObjectMeta"),
    ]),
];
