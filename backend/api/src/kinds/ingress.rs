//! Ingress: which HTTP requests from outside go to which Service.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct Ingress;

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// So many hosts are shown, then how many more there are.
const SHOWN_HOSTS: usize = 3;

impl Kind for Ingress {
    type Object = networking::Ingress;
    const SINGULAR: &'static str = "ingress";
    const SHORT_NAMES: &'static [&'static str] = &["ing"];
    const SUBRESOURCES: &'static [Subresource] = &[status("networking.k8s.io", "v1", "Ingress")];
    const HAS_GENERATION: bool = true;

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"loadBalancer": {}}));
    }

    fn validate(object: &networking::Ingress, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            errors.invalid(&path, json!([]), "either `defaultBackend` or `rules` must be specified");
        }
        if let Some(backend) = &spec.default_backend {
            validate_backend(backend, &path.child("defaultBackend"), errors);
        }
        for (i, rule) in rules.iter().enumerate() {
            validate_rule(rule, &path.child("rules").index(i), errors);
        }
        for (i, tls) in spec.tls.iter().flatten().enumerate() {
            for (j, host) in tls.hosts.iter().flatten().enumerate() {
                validate_host(host, &path.child("tls").index(i).child("hosts").index(j), errors);
            }
        }
        if let Some(class) = spec.ingress_class_name.as_deref()
            && let Err(why) = meta::dns_subdomain(class)
        {
            errors.invalid(&path.child("ingressClassName"), class, why);
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Class"), text("Hosts"), text("Address"), text("Ports"), text("Age")]
    }

    fn cells(object: &networking::Ingress, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let given =
            object.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
        let addresses: Vec<String> =
            given.into_iter().flatten().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
        let ports = if spec.tls.as_ref().is_some_and(|t| !t.is_empty()) { "80, 443" } else { "80" };
        vec![
            name_cell(&object.metadata),
            text_or(spec.ingress_class_name.as_deref(), "<none>"),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            addresses.join(",").into(),
            ports.into(),
            age_cell(&object.metadata, now),
        ]
    }
}

fn hosts(rules: &[networking::IngressRule]) -> String {
    let all: Vec<&str> = rules.iter().filter_map(|r| r.host.as_deref()).filter(|h| !h.is_empty()).collect();
    match all.len() {
        0 => "*".into(),
        1..=SHOWN_HOSTS => all.join(","),
        count => format!("{} + {} more...", all[..SHOWN_HOSTS].join(","), count - SHOWN_HOSTS),
    }
}

fn validate_host(host: &str, path: &Path, errors: &mut FieldErrors) {
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    } else if let Err(why) = meta::dns_subdomain(host.strip_prefix("*.").unwrap_or(host)) {
        errors.invalid(path, host, why);
    }
}

fn validate_rule(rule: &networking::IngressRule, path: &Path, errors: &mut FieldErrors) {
    if let Some(host) = rule.host.as_deref().filter(|h| !h.is_empty()) {
        validate_host(host, &path.child("host"), errors);
    }
    let Some(http) = &rule.http else { return };
    let paths = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&paths, "");
    }
    for (i, rule) in http.paths.iter().enumerate() {
        let path = paths.index(i);
        let text = rule.path.as_deref().unwrap_or_default();
        match rule.path_type.as_str() {
            "" => errors.required(&path.child("pathType"), "pathType must be specified"),
            "Exact" | "Prefix" if !text.starts_with('/') => {
                errors.invalid(&path.child("path"), text, "must be an absolute path");
            }
            "Exact" | "Prefix" => {
                for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| text.contains(**part)) {
                    errors.invalid(&path.child("path"), text, format!("must not contain '{part}'"));
                }
            }
            kind => one_of(Some(kind), PATH_TYPES, &path.child("pathType"), errors),
        }
        validate_backend(&rule.backend, &path.child("backend"), errors);
    }
}

fn validate_backend(backend: &networking::IngressBackend, path: &Path, errors: &mut FieldErrors) {
    let service = match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => {
            return errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => return errors.required(path, "must specify resource or service"),
        (None, Some(_)) => return,
        (Some(service), None) => service,
    };
    let path = path.child("service");
    validate_required(Some(&service.name), &path.child("name"), errors);
    let port = service.port.clone().unwrap_or_default();
    let at = path.child("port");
    match (port.name.as_deref().filter(|n| !n.is_empty()), port.number.filter(|n| *n != 0)) {
        (Some(_), Some(_)) => errors.invalid(&path, json!(port), "cannot set both port name & port number"),
        (None, None) => errors.required(&path, "port name or number is required"),
        (Some(name), None) => {
            if let Err(why) = pod_validation::port_name(name) {
                errors.invalid(&at.child("name"), name, why);
            }
        }
        (None, Some(number)) => pod_validation::port_number(number, &at.child("number"), errors),
    }
}
