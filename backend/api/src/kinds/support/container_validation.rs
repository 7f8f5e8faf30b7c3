//! Rules of one container: image, ports, environment, mounts, resources, probes, hooks (`validateContainer`).
use super::{one_of, probe_validation, volume_validation};
use crate::meta;
use crate::quantity::Quantity;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, ResourceRequirements, SeccompProfile, SecurityContext,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["FallbackToLogsOnError", "File"];
/// Resources that need no domain before their name.
const STANDARD_RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Main,
    Init,
}

pub fn validate(
    container: &Container,
    role: Role,
    volumes: &BTreeSet<String>,
    path: &Path,
    errors: &mut FieldErrors,
) {
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
    let policy = path.child("terminationMessagePolicy");
    one_of(container.termination_message_policy.as_deref(), MESSAGE_POLICIES, &policy, errors);
    validate_ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
    for (i, env) in container.env.iter().flatten().enumerate() {
        validate_env(env, &path.child("env").index(i), errors);
    }
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        validate_env_from(source, &path.child("envFrom").index(i), errors);
    }
    validate_mounts(
        container.volume_mounts.as_deref().unwrap_or_default(),
        volumes,
        &path.child("volumeMounts"),
        errors,
    );
    if let Some(resources) = &container.resources {
        validate_resources(resources, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        validate_security(context, &path.child("securityContext"), errors);
    }
    probe_validation::validate(container, role, path, errors);
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
    if name.contains("--") {
        return Err("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err("must not begin or end with a hyphen".into());
    }
    Ok(())
}

pub fn port_number(port: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=65535).contains(&port) {
        errors.invalid(path, port, "must be between 1 and 65535, inclusive");
    }
}

/// A port by number or by name.
pub fn port(port: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, errors),
        IntOrString::String(name) => {
            if let Err(why) = port_name(name) {
                errors.invalid(path, name.as_str(), why);
            }
        }
    }
}

/// Printable ASCII without `=`, as Kubernetes has it since 1.34.
fn env_name(name: &str) -> Result<(), String> {
    match name.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        true => Ok(()),
        false => {
            Err("a valid environment variable name must consist only of printable ASCII characters other than '='".into())
        }
    }
}

fn validate_env(env: &EnvVar, path: &Path, errors: &mut FieldErrors) {
    if env.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if let Err(why) = env_name(&env.name) {
        errors.invalid(&path.child("name"), env.name.as_str(), why);
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
    let keys = [
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, reference) in keys {
        let Some((name, key)) = reference else { continue };
        for (part, text) in [("name", name), ("key", key)] {
            if text.is_empty() {
                errors.required(&path.child(field).child(part), "");
            }
        }
    }
    if let Some(field) = &from.field_ref {
        validate_field_ref(&field.field_path, &path.child("fieldRef"), errors);
    }
}

/// What an environment variable may tell of its own pod.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn validate_field_ref(field: &str, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("fieldPath");
    let of_a_map = ["metadata.annotations['", "metadata.labels['"];
    if field.is_empty() {
        errors.required(&path, "");
    } else if !(FIELDS.contains(&field)
        || of_a_map.iter().any(|m| field.starts_with(m)) && field.ends_with("']"))
    {
        errors.not_supported(&path, field, FIELDS);
    }
}

fn validate_env_from(source: &EnvFromSource, path: &Path, errors: &mut FieldErrors) {
    if let Some(prefix) = source.prefix.as_deref()
        && let Err(why) = env_name(prefix)
    {
        errors.invalid(&path.child("prefix"), prefix, why);
    }
    let names = [
        ("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)),
        ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
    ];
    for (field, name) in names {
        if name.is_some_and(String::is_empty) {
            errors.required(&path.child(field).child("name"), "");
        }
    }
    match names.iter().filter(|(_, name)| name.is_some()).count() {
        0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn validate_mounts(
    mounts: &[VolumeMount],
    volumes: &BTreeSet<String>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut places = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let path = path.index(i);
        match mount.name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name if !volumes.contains(name) => errors.not_found(&path.child("name"), name),
            _ => {}
        }
        if mount.mount_path.is_empty() {
            errors.required(&path.child("mountPath"), "");
        }
        if !places.insert(&mount.mount_path) {
            errors.invalid(&path.child("mountPath"), mount.mount_path.as_str(), "must be unique");
        }
        let inner = [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)];
        for (field, text) in inner {
            if let Some(text) = text {
                volume_validation::local_path(text, &path.child(field), errors);
            }
        }
        if inner.iter().all(|(_, text)| text.as_deref().is_some_and(|t| !t.is_empty())) {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&path.child("subPathExpr"), json!(mount.sub_path_expr), detail);
        }
        let propagation = ["Bidirectional", "HostToContainer", "None"];
        one_of(mount.mount_propagation.as_deref(), &propagation, &path.child("mountPropagation"), errors);
    }
}

/// Amounts by resource name; the malformed ones are told and left out. Also of quotas and capacities.
pub fn quantities(
    list: Option<&BTreeMap<String, resource::Quantity>>,
    path: &Path,
    errors: &mut FieldErrors,
) -> BTreeMap<String, Quantity> {
    let mut amounts = BTreeMap::new();
    for (resource, quantity) in list.into_iter().flatten() {
        let path = path.key(resource);
        if let Err(why) = meta::qualified_name(resource) {
            errors.invalid(&path, resource.as_str(), why);
        }
        match Quantity::parse(&quantity.0) {
            None => errors.invalid(
                &path,
                quantity.0.as_str(),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            Some(amount) if amount.is_negative() => {
                errors.invalid(&path, amount.to_string(), "must be greater than or equal to 0");
            }
            Some(amount) => drop(amounts.insert(resource.clone(), amount)),
        }
    }
    amounts
}

fn validate_resources(resources: &ResourceRequirements, path: &Path, errors: &mut FieldErrors) {
    let mut read = |field: &str, list: &Option<BTreeMap<String, resource::Quantity>>| {
        let path = path.child(field);
        let amounts = quantities(list.as_ref(), &path, errors);
        for (resource, amount) in &amounts {
            let path = path.key(resource);
            let plain = !resource.contains('/');
            if plain
                && !STANDARD_RESOURCES.contains(&resource.as_str())
                && !resource.starts_with("hugepages-")
            {
                errors.invalid(
                    &path,
                    resource.as_str(),
                    "must be a standard resource type or fully qualified",
                );
                errors.invalid(&path, resource.as_str(), "must be a standard resource for containers");
            } else if !plain && amount.milli() % 1000 != 0 {
                errors.invalid(&path, amount.to_string(), "must be an integer");
            }
        }
        amounts
    };
    let limits = read("limits", &resources.limits);
    let requests = read("requests", &resources.requests);
    for (resource, request) in requests {
        match limits.get(&resource) {
            Some(limit) if resource.contains('/') && request != *limit => {
                let detail = format!("must be equal to {resource} limit of {limit}");
                errors.invalid(&path.child("requests"), request.to_string(), detail);
            }
            Some(limit) if request > *limit => {
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.invalid(&path.child("requests"), request.to_string(), detail);
            }
            None if resource.contains('/') || resource.starts_with("hugepages-") => {
                errors.required(&path.child("limits"), "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

/// A numeric user or group.
pub fn id(id: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

pub fn seccomp(profile: &SeccompProfile, path: &Path, errors: &mut FieldErrors) {
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    one_of(Some(&profile.type_), &types, &path.child("type"), errors);
    let file = profile.localhost_profile.as_deref().unwrap_or_default();
    let path = path.child("localhostProfile");
    match (profile.type_.as_str(), file.is_empty()) {
        ("Localhost", true) => errors.required(&path, "must be set when seccomp type is Localhost"),
        ("Localhost", false) | (_, true) => {}
        _ => errors.invalid(&path, file, "can only be set when seccomp type is Localhost"),
    }
}

fn validate_security(context: &SecurityContext, path: &Path, errors: &mut FieldErrors) {
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    one_of(context.proc_mount.as_deref(), &["Default", "Unmasked"], &path.child("procMount"), errors);
    if let Some(profile) = &context.seccomp_profile {
        seccomp(profile, &path.child("seccompProfile"), errors);
    }
    if context.allow_privilege_escalation == Some(false) && context.privileged == Some(true) {
        errors.invalid(
            path,
            json!(context),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
}
