//! Tests of the OpenAPI documents, by what their readers look for.
use super::*;

/// A marker that a document is right in itself: every reference leads somewhere.
fn dangling(document: &Value, schemas: &Value, prefix: &str) -> Vec<String> {
    let mut missing = Vec::new();
    match document {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let name = target.strip_prefix(prefix).unwrap_or("?");
                if schemas.get(name).is_none() {
                    missing.push(target.to_owned());
                }
            }
            fields.values().for_each(|value| missing.extend(dangling(value, schemas, prefix)));
        }
        Value::Array(items) => items.iter().for_each(|item| missing.extend(dangling(item, schemas, prefix))),
        _ => {}
    }
    missing
}

#[test]
fn every_reference_leads_to_a_schema_of_the_same_document() {
    let registry = Registry::builtin();
    for (name, document) in v3(&registry) {
        let missing = dangling(&document, &document["components"]["schemas"], COMPONENTS);
        assert_eq!(missing, Vec::<String>::new(), "{name}");
    }
    let document = v2(&registry);
    assert_eq!(dangling(&document, &document["definitions"], "#/definitions/"), Vec::<String>::new());
}

/// Where a document has an empty list, or an object without a field; a default may be either.
fn empty(value: &Value, at: &str) -> Vec<String> {
    if at.ends_with("/default") {
        return Vec::new();
    }
    let below = |(name, value): (String, &Value)| empty(value, &format!("{at}/{name}"));
    match value {
        Value::Array(items) if items.is_empty() => vec![at.to_owned()],
        Value::Object(fields) if fields.is_empty() => vec![at.to_owned()],
        Value::Array(items) => {
            items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).flat_map(below).collect()
        }
        Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), v)).flat_map(below).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_document_that_is_read_and_written_again_is_the_same() {
    for (name, document) in v3(&Registry::builtin()) {
        assert_eq!(empty(&document, ""), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn kubectl_explain_finds_the_way_from_a_resource_to_a_nested_field() {
    let document = &v3(&Registry::builtin())["apis/apps/v1"];
    let get = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["get"];
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(get["x-kubernetes-group-version-kind"], kind);
    let schemas = &document["components"]["schemas"];
    let mut schema = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(schema["x-kubernetes-group-version-kind"], json!([kind]));
    for field in ["spec", "template", "spec", "containers"] {
        let property = &schema["properties"][field];
        assert!(property["description"].is_string(), "{field}");
        let reference = property["allOf"][0]["$ref"].as_str().or(property["items"]["$ref"].as_str()).unwrap();
        schema = &schemas[reference.strip_prefix(COMPONENTS).unwrap()];
    }
    assert_eq!(schema["properties"]["image"]["type"], "string");
    let ports = &schema["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
}

#[test]
fn kubectl_apply_finds_field_validation_in_the_patch_of_every_kind() {
    let registry = Registry::builtin();
    let documents = v3(&registry);
    for entry in registry.entries().iter().filter(|e| e.verbs.contains(&crate::Verb::Patch)) {
        let room = if entry.is_namespaced() { "namespaces/{namespace}/" } else { "" };
        let prefix = prefix(entry);
        let path = format!("/{prefix}/{room}{}/{{name}}", entry.plural);
        let patch = &documents[&prefix]["paths"][&path]["patch"];
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        for wanted in ["fieldValidation", "dryRun", "fieldManager", "force"] {
            assert!(names.contains(&wanted), "{path}: {names:?}");
        }
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], entry.kind.as_str());
    }
}

#[test]
fn the_second_version_tells_the_same_in_its_own_words() {
    let document = v2(&Registry::builtin());
    let spec = &document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    let quantity = &document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!((&quantity["type"], quantity.get("oneOf")), (&json!("string"), None));
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    let body = post["parameters"].as_array().unwrap().iter().find(|p| p["in"] == "body").unwrap();
    assert_eq!(body["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    assert_eq!(post["responses"]["200"]["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
}

#[test]
fn a_subresource_of_another_group_is_described_where_it_is() {
    let document = &v3(&Registry::builtin())["apis/apps/v1"];
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["group"], "autoscaling");
    assert!(document["components"]["schemas"].get("io.k8s.api.autoscaling.v1.Scale").is_some());
}

/// The tables of marks against the types themselves: a field renamed, or a way forgotten, is found here.
#[test]
fn the_marks_agree_with_the_schemas_of_the_types() {
    let mut generator = generator();
    every_kind(&mut generator);
    let components = finished(generator);
    let mut seen = 0;
    for (name, schema) in &components {
        let name = marked_name(name);
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            seen += usize::from(marks::marks(&name, field).is_some_and(marks::Field::is_marked));
            agrees(&name, field, property);
        }
    }
    let marked = marks::types().flat_map(|(_, fields)| fields).filter(|f| f.is_marked()).count();
    assert_eq!(seen, marked, "a marked field is not in the schema of its type");
}

fn agrees(of: &str, name: &str, property: &Value) {
    let marks = marks::marks(of, name);
    let inner = property.get("items").or(property.get("additionalProperties")).unwrap_or(property);
    let reference = inner["$ref"].as_str().or(inner["allOf"][0]["$ref"].as_str()).unwrap_or_default();
    let target = marked_name(reference.strip_prefix(COMPONENTS).unwrap_or_default());
    let is_list = property["type"] == "array";
    let merges = |field: &marks::Field| {
        !matches!(field.list, None | Some(ListType::Atomic)) || field.merge_key.is_some()
    };
    if let Some(field) = marks {
        // Bytes are a list for Go.
        let is_list = is_list || property["format"] == "byte";
        assert!(is_list || field.list.is_none(), "{of}.{name} is no list");
        assert!(field.of.is_empty() || field.of == target, "{of}.{name} is of {target}");
    }
    let is_marked_below =
        marks::types().any(|(name, _)| name == target) || ATOMIC_TYPES.contains(&target.as_str());
    if is_marked_below && (!is_list || marks.is_some_and(merges)) {
        assert!(
            marks.is_some_and(|field| field.of == target),
            "no way is marked from {of}.{name} to {target}"
        );
    }
}

/// Every kind of the stable API, whether it is served or not.
fn every_kind(generator: &mut SchemaGenerator) {
    use k8s_openapi::api::{
        admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
        batch::v1 as batch, certificates::v1 as certificates, core::v1 as core, discovery::v1 as discovery,
        flowcontrol::v1 as flow, networking::v1 as networking, node::v1 as node, rbac::v1 as rbac,
        resource::v1 as resource, storage::v1 as storage,
    };
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
    use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as aggregator;
    macro_rules! add {
        ($($module:ident: $($kind:ident)*;)*) => { $($(generator.subschema_for::<$module::$kind>();)*)* };
    }
    add! {
        admission: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
        apps: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        authentication: TokenRequest TokenReview SelfSubjectReview;
        autoscaling: HorizontalPodAutoscaler;
        batch: CronJob Job;
        certificates: CertificateSigningRequest;
        core: ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim
            Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
        discovery: EndpointSlice;
        flow: FlowSchema PriorityLevelConfiguration;
        networking: Ingress IngressClass NetworkPolicy ServiceCIDR;
        node: RuntimeClass;
        policy: Eviction PodDisruptionBudget;
        rbac: ClusterRole ClusterRoleBinding Role RoleBinding;
        resource: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        storage: CSIDriver CSINode StorageClass VolumeAttachment;
        extensions: CustomResourceDefinition;
        aggregator: APIService;
        meta: APIGroup APIGroupList APIResourceList APIVersions DeleteOptions Status LabelSelector FieldSelectorRequirement;
    }
    use k8s_openapi::api::authorization::v1 as authorization;
    add! { authorization: SelfSubjectRulesReview SubjectAccessReview; }
}
