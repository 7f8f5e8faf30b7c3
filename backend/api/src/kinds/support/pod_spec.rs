//! Defaults of a pod's spec, for pods and for every template of pods.
use super::{child, fill, items};
use serde_json::{Value, json};

/// Kubernetes' `SetDefaults_PodSpec` and its container defaults.
pub fn default(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    fill(spec, "restartPolicy", "Always");
    fill(spec, "terminationGracePeriodSeconds", 30);
    // Less than nothing is as little as there is: Kubernetes once let such pods be.
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "securityContext", json!({}));
    fill(spec, "schedulerName", "default-scheduler");
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            default_container(container, host_network);
        }
    }
    for volume in items(spec, "volumes") {
        default_volume(volume);
    }
    // The two names of one field follow each other.
    if !spec["serviceAccountName"].is_null() {
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
    } else if !spec["serviceAccount"].is_null() {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    }
}

/// The `template` of a workload's spec.
pub fn default_template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template").filter(|template| template.is_object()) {
        default(child(template, "spec"));
    }
}

fn default_container(container: &mut Value, host_network: bool) {
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    let policy = match container["image"].as_str() {
        Some(image) if is_latest(image) => "Always",
        _ => "IfNotPresent",
    };
    fill(container, "imagePullPolicy", policy);
    for port in items(container, "ports") {
        fill(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            fill(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[probe].is_object() {
            default_probe(&mut container[probe]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook]["httpGet"].is_object() {
            default_request(&mut container["lifecycle"][hook]["httpGet"]);
        }
    }
    for env in items(container, "env") {
        if env["valueFrom"].is_object() {
            default_field(&mut env["valueFrom"]);
        }
    }
    default_requests(container);
}

/// A limit without a request is its request too.
fn default_requests(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else {
        return;
    };
    let requests = child(&mut container["resources"], "requests");
    for (resource, limit) in limits {
        fill(requests, &resource, limit);
    }
}

/// No tag, or the tag `latest`; a digest pins the image.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        fill(probe, field, value);
    }
    if probe["httpGet"].is_object() {
        default_request(&mut probe["httpGet"]);
    }
    if probe["grpc"].is_object() {
        fill(&mut probe["grpc"], "service", "");
    }
}

fn default_request(get: &mut Value) {
    fill(get, "path", "/");
    fill(get, "scheme", "HTTP");
}

/// What names a field or a resource of the pod.
fn default_field(source: &mut Value) {
    if source["fieldRef"].is_object() {
        fill(&mut source["fieldRef"], "apiVersion", "v1");
    }
    if source["resourceFieldRef"].is_object() {
        fill(&mut source["resourceFieldRef"], "divisor", "0");
    }
}

/// The permission bits of mounted files: 0644.
const DEFAULT_MODE: i32 = 0o644;

fn default_volume(volume: &mut Value) {
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if volume[source].is_object() {
            fill(&mut volume[source], "defaultMode", DEFAULT_MODE);
        }
    }
    if volume["hostPath"].is_object() {
        fill(&mut volume["hostPath"], "type", "");
    }
    if volume["downwardAPI"].is_object() {
        items(&mut volume["downwardAPI"], "items").for_each(default_field);
    }
    if volume["projected"].is_object() {
        for source in items(&mut volume["projected"], "sources") {
            if source["serviceAccountToken"].is_object() {
                fill(&mut source["serviceAccountToken"], "expirationSeconds", 3600);
            }
            if source["downwardAPI"].is_object() {
                items(&mut source["downwardAPI"], "items").for_each(default_field);
            }
        }
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        fill(claim, "volumeMode", "Filesystem");
    }
    let sources = volume.as_object().map_or(0, |fields| fields.len());
    if sources == 1 && volume["name"].is_string() {
        volume["emptyDir"] = json!({});
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from requests and limits of CPU and memory.
pub fn qos_class(spec: &Value) -> &'static str {
    let (mut guaranteed, mut any) = (true, false);
    let lists = ["containers", "initContainers"].map(|list| spec[list].as_array());
    for container in lists.into_iter().flatten().flatten() {
        for resource in ["cpu", "memory"] {
            let of = |which: &str| {
                let text = container["resources"][which][resource].as_str().map(str::to_owned);
                let text = text
                    .or_else(|| container["resources"][which][resource].as_number().map(ToString::to_string));
                text.and_then(|t| crate::quantity::Quantity::parse(&t)).filter(|q| !q.is_zero())
            };
            let (request, limit) = (of("requests"), of("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, expected) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("web:1", "IfNotPresent"),
            ("host:5000/web", "Always"),
            ("web@sha256:00", "IfNotPresent"),
        ] {
            let mut spec = json!({"containers": [{"name": "a", "image": image}]});
            default(&mut spec);
            assert_eq!(spec["containers"][0]["imagePullPolicy"], expected, "{image}");
        }
    }

    #[test]
    fn the_quality_of_service_follows_requests_and_limits() {
        let class = |resources: Value| qos_class(&json!({"containers": [{"resources": resources}]}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    }

    #[test]
    fn what_is_left_out_deep_in_a_spec_is_filled_in() {
        let field = json!({"fieldRef": {"fieldPath": "metadata.name"}});
        let amount = json!({"resourceFieldRef": {"resource": "limits.cpu"}});
        let mut spec = json!({
            "containers": [{"name": "a", "image": "b", "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
                "env": [{"name": "F", "valueFrom": field}, {"name": "R", "valueFrom": amount}]}],
            "volumes": [{"name": "d", "downwardAPI": {"items": [field, amount]}},
                {"name": "p", "projected": {"sources": [{"downwardAPI": {"items": [field]}}]}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]});
        default(&mut spec);
        let filled = [
            ("/containers/0/lifecycle/preStop/httpGet/scheme", "HTTP"),
            ("/containers/0/lifecycle/preStop/httpGet/path", "/"),
            ("/containers/0/env/0/valueFrom/fieldRef/apiVersion", "v1"),
            ("/containers/0/env/1/valueFrom/resourceFieldRef/divisor", "0"),
            ("/volumes/0/downwardAPI/items/0/fieldRef/apiVersion", "v1"),
            ("/volumes/0/downwardAPI/items/1/resourceFieldRef/divisor", "0"),
            ("/volumes/1/projected/sources/0/downwardAPI/items/0/fieldRef/apiVersion", "v1"),
            ("/volumes/2/ephemeral/volumeClaimTemplate/spec/volumeMode", "Filesystem"),
        ];
        for (path, value) in filled {
            assert_eq!(spec.pointer(path).unwrap(), value, "{path}");
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        let mut once = json!({"containers": [{"name": "a", "image": "b", "resources": {"limits": {"cpu": 1}},
            "readinessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]});
        default(&mut once);
        let mut twice = once.clone();
        default(&mut twice);
        assert_eq!(once, twice);
        assert_eq!(once["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(once["containers"][0]["resources"]["requests"]["cpu"], 1);
    }
}
