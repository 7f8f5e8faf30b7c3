//! Rules of a pod's spec, for pods and for every template of pods (`ValidatePodSpec`).
use crate::meta;
use crate::quantity::Quantity;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVar, PodSpec, Probe, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];

pub fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let volumes = validate_volumes(spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"), errors);
    if spec.containers.is_empty() {
        errors.required(&path.child("containers"), "");
    }
    let mut names = BTreeSet::new();
    for (list, containers) in
        [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)]
    {
        for (i, container) in containers.iter().enumerate() {
            let path = path.child(list).index(i);
            validate_container(container, &volumes, &path, errors);
            if !container.name.is_empty() && !names.insert(container.name.clone()) {
                errors.duplicate(&path.child("name"), container.name.as_str());
            }
        }
    }
    one_of(spec.restart_policy.as_deref(), RESTART_POLICIES, &path.child("restartPolicy"), errors);
    one_of(spec.dns_policy.as_deref(), DNS_POLICIES, &path.child("dnsPolicy"), errors);
    if let Some(grace) = spec.termination_grace_period_seconds.filter(|g| *g < 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must be greater than or equal to 0");
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty())
            && let Err(why) = meta::dns_label(name)
        {
            errors.invalid(&path.child(field), name, why);
        }
    }
    if let Some(name) = spec.service_account_name.as_deref().filter(|n| !n.is_empty())
        && let Err(why) = meta::dns_subdomain(name)
    {
        errors.invalid(&path.child("serviceAccountName"), name, why);
    }
}

fn one_of(value: Option<&str>, allowed: &[&str], path: &Path, errors: &mut FieldErrors) {
    if let Some(value) = value.filter(|v| !allowed.contains(v)) {
        errors.not_supported(path, value, allowed);
    }
}

fn validate_volumes(volumes: &[Volume], path: &Path, errors: &mut FieldErrors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        if volume.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Err(why) = meta::dns_label(&volume.name) {
            errors.invalid(&path.child("name"), volume.name.as_str(), why);
        }
        if !names.insert(volume.name.clone()) {
            errors.duplicate(&path.child("name"), volume.name.as_str());
        }
        let sources = serde_json::to_value(volume).ok().and_then(|v| v.as_object().map(|o| o.len() - 1)).unwrap_or(0);
        match sources {
            0 => errors.required(&path, "must specify a volume type"),
            1 => {}
            _ => errors.forbidden(&path, "may not specify more than 1 volume type"),
        }
        if let Some(secret) = volume.secret.as_ref().filter(|s| s.secret_name.as_deref().unwrap_or_default().is_empty()) {
            let _ = secret;
            errors.required(&path.child("secret").child("secretName"), "");
        }
        if volume.config_map.as_ref().is_some_and(|c| c.name.is_empty()) {
            errors.required(&path.child("configMap").child("name"), "");
        }
        if volume.host_path.as_ref().is_some_and(|h| h.path.is_empty()) {
            errors.required(&path.child("hostPath").child("path"), "");
        }
    }
    names
}

fn validate_container(container: &Container, volumes: &BTreeSet<String>, path: &Path, errors: &mut FieldErrors) {
    match container.name.as_str() {
        "" => errors.required(&path.child("name"), ""),
        name => {
            if let Err(why) = meta::dns_label(name) {
                errors.invalid(&path.child("name"), name, why);
            }
        }
    }
    match container.image.as_deref() {
        None | Some("") => errors.required(&path.child("image"), ""),
        Some(image) if image.trim() != image => {
            errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
        }
        Some(_) => {}
    }
    one_of(container.image_pull_policy.as_deref(), PULL_POLICIES, &path.child("imagePullPolicy"), errors);
    validate_ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
    for (i, env) in container.env.iter().flatten().enumerate() {
        validate_env(env, &path.child("env").index(i), errors);
    }
    let mut places = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(i);
        if !volumes.contains(&mount.name) {
            errors.not_found(&path.child("name"), mount.name.as_str());
        }
        if mount.mount_path.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if !places.insert(mount.mount_path.clone()) {
            errors.invalid(&path.child("mountPath"), mount.mount_path.as_str(), "must be unique");
        }
    }
    validate_resources(container, &path.child("resources"), errors);
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        if let Some(probe) = probe {
            validate_probe(probe, field, &path.child(field), errors);
        }
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            if let Err(why) = port_name(name) {
                errors.invalid(&path.child("name"), name, why);
            } else if !names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            port_number(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(host) = port.host_port.filter(|p| *p != 0) {
            port_number(host, &path.child("hostPort"), errors);
        }
        one_of(port.protocol.as_deref(), PROTOCOLS, &path.child("protocol"), errors);
    }
}

/// An IANA service name: at most 15 of `[a-z0-9-]`, at least one letter.
pub fn port_name(name: &str) -> Result<(), String> {
    if name.len() > 15 {
        return Err("must be no more than 15 characters".into());
    }
    if !name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
        return Err("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|c| c.is_ascii_lowercase()) {
        return Err("must contain at least one letter (a-z)".into());
    }
    if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return Err("must not begin or end with a hyphen, nor contain consecutive hyphens".into());
    }
    Ok(())
}

pub fn port_number(port: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=65535).contains(&port) {
        errors.invalid(path, port, "must be between 1 and 65535, inclusive");
    }
}

fn validate_env(env: &EnvVar, path: &Path, errors: &mut FieldErrors) {
    if env.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if env.name.contains('=') || !env.name.bytes().all(|c| (0x20..0x7f).contains(&c)) {
        let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        errors.invalid(&path.child("name"), env.name.as_str(), detail);
    }
    let Some(from) = &env.value_from else { return };
    let path = path.child("valueFrom");
    if env.value.as_deref().is_some_and(|v| !v.is_empty()) {
        errors.invalid(&path, "", "may not be specified when `value` is not empty");
    }
    let sources = [
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    match sources.iter().filter(|set| **set).count() {
        0 => errors.invalid(
            &path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        1 => {}
        _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
    }
    if from.secret_key_ref.as_ref().is_some_and(|s| s.key.is_empty()) {
        errors.required(&path.child("secretKeyRef").child("key"), "");
    }
    if from.config_map_key_ref.as_ref().is_some_and(|c| c.key.is_empty()) {
        errors.required(&path.child("configMapKeyRef").child("key"), "");
    }
}

fn validate_resources(container: &Container, path: &Path, errors: &mut FieldErrors) {
    let Some(resources) = &container.resources else { return };
    let mut read = |field: &str, list: &Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        let mut amounts = BTreeMap::new();
        for (resource, quantity) in list.iter().flatten() {
            let path = path.child(field).key(resource);
            match Quantity::parse(&quantity.0) {
                None => errors.invalid(
                    &path,
                    quantity.0.as_str(),
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ),
                Some(amount) if amount.is_negative() => {
                    errors.invalid(&path, quantity.0.as_str(), "must be greater than or equal to 0");
                }
                Some(amount) => drop(amounts.insert(resource.clone(), amount)),
            }
        }
        amounts
    };
    let limits = read("limits", &resources.limits);
    let requests = read("requests", &resources.requests);
    for (resource, request) in requests {
        if let Some(limit) = limits.get(&resource).filter(|limit| request > **limit) {
            let detail = format!("must be less than or equal to {resource} limit of {limit}");
            errors.invalid(&path.child("requests"), request.to_string(), detail);
        }
    }
}

fn validate_probe(probe: &Probe, name: &str, path: &Path, errors: &mut FieldErrors) {
    let handlers =
        [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
    match handlers.iter().filter(|set| **set).count() {
        0 => errors.required(path, "must specify a handler type"),
        1 => {}
        _ => errors.forbidden(path, "may not specify more than 1 handler type"),
    }
    let counts = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, value) in counts {
        super::validate_count(value, &path.child(field), errors);
    }
    if name != "readinessProbe" && probe.success_threshold.is_some_and(|t| t > 1) {
        errors.invalid(&path.child("successThreshold"), json!(probe.success_threshold), "must be 1");
    }
    let port = probe.http_get.as_ref().map(|h| (&h.port, "httpGet"));
    let port = port.or_else(|| probe.tcp_socket.as_ref().map(|t| (&t.port, "tcpSocket")));
    if let Some((IntOrString::Int(port), handler)) = port {
        port_number(*port, &path.child(handler).child("port"), errors);
    }
}
