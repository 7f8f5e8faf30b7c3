//! Rules of a pod's spec, for pods and for every template of pods (`ValidatePodSpec`).
use super::container_validation::{self, Role};
use super::{label_selector, labels, one_of, scheduling_validation, volume_validation};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, PodTemplateSpec};
use std::collections::BTreeSet;

pub use container_validation::{port_name, port_number};

const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
/// What resolvers take: three servers, thirty-two search paths.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const LONGEST_SYSCTL: usize = 253;

/// The template of a workload whose pods may end (`Job`) or not (all others): `restart_policies` are those allowed.
pub fn validate_template(
    template: &PodTemplateSpec,
    restart_policies: &[&str],
    path: &Path,
    errors: &mut FieldErrors,
) {
    let metadata = template.metadata.clone().unwrap_or_default();
    labels(metadata.labels.as_ref(), &path.child("labels"), errors);
    let path = path.child("spec");
    let Some(spec) = &template.spec else {
        return errors.required(&path.child("containers"), "");
    };
    validate(spec, &path, errors);
    if let Some(policy) = spec.restart_policy.as_deref()
        && RESTART_POLICIES.contains(&policy)
        && !restart_policies.contains(&policy)
    {
        errors.not_supported(&path.child("restartPolicy"), policy, restart_policies);
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.forbidden(
            &path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

pub fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let volumes = volume_validation::validate(
        spec.volumes.as_deref().unwrap_or_default(),
        &path.child("volumes"),
        errors,
    );
    validate_containers(spec, &volumes, path, errors);
    one_of(spec.restart_policy.as_deref(), RESTART_POLICIES, &path.child("restartPolicy"), errors);
    validate_dns(spec, path, errors);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let path = path.child("activeDeadlineSeconds");
        errors.invalid(&path, seconds, "must be between 1 and 2147483647, inclusive");
    }
    validate_names(spec, path, errors);
    labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    scheduling_validation::validate(spec, path, errors);
    if let Some(context) = &spec.security_context {
        validate_security(context, &path.child("securityContext"), errors);
        validate_sysctls(spec, context, &path.child("securityContext").child("sysctls"), errors);
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        if let Err(why) = meta::qualified_name(&gate.condition_type) {
            let path = path.child("readinessGates").index(i).child("conditionType");
            errors.invalid(&path, gate.condition_type.as_str(), why);
        }
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(i);
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            errors.invalid(
                &path.child("ip"),
                alias.ip.as_str(),
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            if let Err(why) = meta::dns_subdomain(name) {
                errors.invalid(&path.child("hostnames").index(j), name.as_str(), why);
            }
        }
    }
}

fn validate_containers(spec: &PodSpec, volumes: &BTreeSet<String>, path: &Path, errors: &mut FieldErrors) {
    if spec.containers.is_empty() {
        errors.required(&path.child("containers"), "");
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let lists = [
        ("containers", Role::Main, spec.containers.as_slice()),
        ("initContainers", Role::Init, spec.init_containers.as_deref().unwrap_or_default()),
    ];
    for (list, role, containers) in lists {
        for (i, container) in containers.iter().enumerate() {
            let path = path.child(list).index(i);
            if !container.name.is_empty() && !names.insert(container.name.clone()) {
                errors.duplicate(&path.child("name"), container.name.as_str());
            }
            container_validation::validate(container, role, volumes, &path, errors);
            for (j, port) in container.ports.iter().flatten().enumerate() {
                let path = path.child("ports").index(j);
                let Some(host) = port.host_port.filter(|p| *p != 0) else {
                    continue;
                };
                if spec.host_network == Some(true) && host != port.container_port {
                    errors.invalid(
                        &path.child("containerPort"),
                        port.container_port,
                        "must match `hostPort` when `hostNetwork` is true",
                    );
                }
                let protocol = port.protocol.as_deref().unwrap_or("TCP");
                let place = format!("{protocol}/{}/{host}", port.host_ip.as_deref().unwrap_or_default());
                // Init containers run before the others: they may use the same ports.
                if role == Role::Main && !host_ports.insert(place.clone()) {
                    errors.duplicate(&path.child("hostPort"), place);
                }
            }
        }
    }
    for (i, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.child("ephemeralContainers").index(i);
        if !names.insert(container.name.clone()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        if container.image.as_deref().is_none_or(str::is_empty) {
            errors.required(&path.child("image"), "");
        }
    }
}

fn validate_dns(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    one_of(spec.dns_policy.as_deref(), DNS_POLICIES, &path.child("dnsPolicy"), errors);
    let config = spec.dns_config.clone().unwrap_or_default();
    let servers = config.nameservers.unwrap_or_default();
    let path = path.child("dnsConfig");
    if servers.is_empty() && spec.dns_policy.as_deref() == Some("None") {
        let path = path.child("nameservers");
        errors.required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid(&path.child("nameservers"), servers.clone(), detail);
    }
    for (i, server) in servers.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            errors.invalid(
                &path.child("nameservers").index(i),
                server.as_str(),
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
    }
    let searches = config.searches.unwrap_or_default();
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid(&path.child("searches"), searches, detail);
    }
}

type NameRule = fn(&str) -> Result<(), String>;

fn validate_names(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let rules: [(&str, &Option<String>, NameRule); 5] = [
        ("hostname", &spec.hostname, meta::dns_label),
        ("subdomain", &spec.subdomain, meta::dns_label),
        ("serviceAccountName", &spec.service_account_name, meta::dns_subdomain),
        ("nodeName", &spec.node_name, meta::dns_subdomain),
        ("priorityClassName", &spec.priority_class_name, meta::dns_subdomain),
    ];
    for (field, name, rule) in rules {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty())
            && let Err(why) = rule(name)
        {
            errors.invalid(&path.child(field), name, why);
        }
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if secret.name.is_empty() {
            errors.required(&path.child("imagePullSecrets").index(i).child("name"), "");
        }
    }
}

fn validate_security(context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
    let ids = [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ];
    for (field, id) in ids {
        container_validation::id(id, &path.child(field), errors);
    }
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        container_validation::id(Some(*group), &path.child("supplementalGroups").index(i), errors);
    }
    let policies = ["Always", "OnRootMismatch"];
    let path_of = path.child("fsGroupChangePolicy");
    one_of(context.fs_group_change_policy.as_deref(), &policies, &path_of, errors);
    if let Some(profile) = &context.seccomp_profile {
        container_validation::seccomp(profile, &path.child("seccompProfile"), errors);
    }
}

fn validate_sysctls(spec: &PodSpec, context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let (name, path) = (sysctl.name.as_str(), path.index(i).child("name"));
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            let why = format!(
                "must have at most {LONGEST_SYSCTL} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.invalid(&path, name, why);
        } else if !names.insert(name) {
            errors.duplicate(&path, name);
        }
        let of = |groups: &[&str]| groups.iter().any(|group| name.replace('/', ".").starts_with(group));
        if spec.host_network == Some(true) && of(&["net."]) {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.host_ipc == Some(true) && of(&["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."])
        {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Words of lower case letters, digits, dashes and underscores between dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let within = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let word =
        |word: &str| ends(word.chars().next()) && ends(word.chars().last()) && word.chars().all(within);
    name.len() <= LONGEST_SYSCTL && name.split(['.', '/']).all(word)
}

/// A workload's selector and the template that must match it: what `selector` asks, the template's labels have.
pub fn validate_selected_template(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    template: &PodTemplateSpec,
    restart_policies: &[&str],
    spec: &Path,
    errors: &mut FieldErrors,
) {
    if label_selector::is_empty(selector) {
        // A selector that was left out and one that asks for nothing read the same here.
        errors.required(&spec.child("selector"), "");
    } else {
        label_selector::validate(selector, &spec.child("selector"), errors);
    }
    let path = spec.child("template");
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if label_selector::is_empty(selector) || label_selector::misses(selector, &labels) {
        let path = path.child("metadata").child("labels");
        errors.invalid(&path, serde_json::json!(labels), "`selector` does not match template `labels`");
    }
    validate_template(template, restart_policies, &path, errors);
}

#[cfg(test)]
mod tests;
