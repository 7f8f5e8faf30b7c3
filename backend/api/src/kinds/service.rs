//! Service: one address and one name for a set of pods.
use super::support::*;
use crate::kind::{Column, Kind, Subresource, Verb};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub struct Service;

const PROXY_VERBS: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// Of ClientIP affinity: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

impl Kind for Service {
    type Object = core::Service;
    const SINGULAR: &'static str = "service";
    const SHORT_NAMES: &'static [&'static str] = &["svc"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] =
        &[subresource("proxy", "", "v1", "ServiceProxyOptions", PROXY_VERBS), status("", "v1", "Service")];

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        fill(spec, "type", "ClusterIP");
        fill(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "ClientIP" {
            let config = child(spec, "sessionAffinityConfig");
            fill(child(config, "clientIP"), "timeoutSeconds", AFFINITY_SECONDS);
        }
        if spec["type"] != "ExternalName" {
            fill(spec, "internalTrafficPolicy", "Cluster");
        }
        if spec["type"] == "NodePort" || spec["type"] == "LoadBalancer" {
            fill(spec, "externalTrafficPolicy", "Cluster");
        }
        if spec["type"] == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
        for port in items(spec, "ports") {
            fill(port, "protocol", "TCP");
            let number = port["port"].clone();
            fill(port, "targetPort", number);
        }
    }

    fn before_create(object: &mut Value) {
        reset_status(object, json!({"loadBalancer": {}}));
    }

    fn before_update(object: &mut Value, old: &Value) {
        // Addresses and node ports were given out by the server: leaving them out means keeping them.
        if object["spec"]["type"] == "ExternalName" {
            return;
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if !old["spec"][field].is_null() && object["spec"].is_object() {
                let left_out = object["spec"][field].is_null() || object["spec"][field] == "";
                if left_out {
                    object["spec"][field] = old["spec"][field].clone();
                }
            }
        }
        if object["spec"]["type"] == "ClusterIP" {
            return;
        }
        let before: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in items(&mut object["spec"], "ports") {
            let same = before.iter().find(|b| b["port"] == port["port"] && b["protocol"] == port["protocol"]);
            if let Some(number) = same.map(|b| b["nodePort"].clone()).filter(|n| !n.is_null()) {
                fill(port, "nodePort", number);
            }
        }
    }

    fn validate_name(name: &str) -> Result<(), String> {
        meta::dns_label(name)?;
        match name.starts_with(|c: char| c.is_ascii_digit()) {
            true => Err("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                 character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
                 '[a-z]([-a-z0-9]*[a-z0-9])?')".into()),
            false => Ok(()),
        }
    }

    fn validate(object: &core::Service, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else { return errors.required(&path, "") };
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        if !TYPES.contains(&kind) {
            errors.not_supported(&path.child("type"), kind, TYPES);
        }
        if kind == "ExternalName" {
            if spec.external_name.as_deref().is_none_or(|n| meta::dns_subdomain(n.trim_end_matches('.')).is_err()) {
                errors.invalid(&path.child("externalName"), spec.external_name.as_deref().unwrap_or(""), "must be a DNS name");
            }
            return;
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if headless && kind != "ClusterIP" {
            errors.invalid(&path.child("clusterIPs").index(0), "None", format!("may not be set to 'None' for {kind} services"));
        }
        validate_ports(spec, headless, &path.child("ports"), errors);
        if !matches!(spec.session_affinity.as_deref(), None | Some("None" | "ClientIP")) {
            errors.not_supported(&path.child("sessionAffinity"), json!(spec.session_affinity), &["ClientIP", "None"]);
        }
    }

    fn validate_update(object: &core::Service, old: &core::Service, errors: &mut FieldErrors) {
        let of = |service: &core::Service| service.spec.clone().unwrap_or_default();
        let (new, old) = (of(object), of(old));
        let external = |spec: &core::ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
        let had = old.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty());
        if had && !external(&old) && !external(&new) && new.cluster_ip != old.cluster_ip {
            let path = Path::new("spec").child("clusterIPs").index(0);
            errors.invalid(&path, json!([new.cluster_ip]), "may not change once set");
        }
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        let text = |field: &str| object["spec"][field].as_str().unwrap_or_default().to_owned();
        vec![("spec.clusterIP", text("clusterIP")), ("spec.type", text("type"))]
    }

    fn columns() -> Vec<Column> {
        let text = |name: &str| Column::new(name, "string");
        vec![
            text("Name"), text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), text("Age"),
            text("Selector").wide(),
        ]
    }

    fn cells(object: &core::Service, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let ports: Vec<String> = spec
            .ports
            .iter()
            .flatten()
            .map(|p| {
                let protocol = p.protocol.as_deref().unwrap_or("TCP");
                match p.node_port.filter(|n| *n != 0) {
                    Some(node_port) => format!("{}:{node_port}/{protocol}", p.port),
                    None => format!("{}/{protocol}", p.port),
                }
            })
            .collect();
        let or_none = |text: Option<String>| Value::from(text.filter(|t| !t.is_empty()).unwrap_or_else(|| "<none>".into()));
        vec![
            name_cell(&object.metadata),
            spec.type_.clone().unwrap_or_default().into(),
            or_none(spec.cluster_ip.clone()),
            or_none(external_address(object, &spec)),
            or_none(Some(ports.join(","))),
            age_cell(&object.metadata, now),
            labels_cell(spec.selector.as_ref()),
        ]
    }
}

fn external_address(object: &core::Service, spec: &core::ServiceSpec) -> Option<String> {
    let ingress = object.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let given: Vec<String> =
        ingress.into_iter().flatten().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
    match spec.type_.as_deref() {
        Some("ExternalName") => spec.external_name.clone(),
        Some("LoadBalancer") if given.is_empty() && spec.external_ips.is_none() => Some("<pending>".into()),
        Some("LoadBalancer") => Some([given, spec.external_ips.clone().unwrap_or_default()].concat().join(",")),
        _ => spec.external_ips.as_ref().map(|ips| ips.join(",")),
    }
}

fn validate_ports(spec: &core::ServiceSpec, headless: bool, path: &Path, errors: &mut FieldErrors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless {
        errors.required(path, "");
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => errors.required(&path.child("name"), ""),
            "" => {}
            name => {
                if let Err(why) = meta::dns_label(name) {
                    errors.invalid(&path.child("name"), name, why);
                }
                if !names.insert(name) {
                    errors.duplicate(&path.child("name"), name);
                }
            }
        }
        pod_validation::port_number(port.port, &path.child("port"), errors);
        if !numbers.insert((port.port, port.protocol.clone())) {
            errors.duplicate(&path, json!({"port": port.port, "protocol": port.protocol}));
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) => pod_validation::port_number(*number, &path.child("targetPort"), errors),
            Some(IntOrString::String(name)) => {
                if let Err(why) = pod_validation::port_name(name) {
                    errors.invalid(&path.child("targetPort"), name.as_str(), why);
                }
            }
            None => {}
        }
        if port.node_port.is_some_and(|n| n != 0) && spec.type_.as_deref() == Some("ClusterIP") {
            errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !matches!(protocol, "SCTP" | "TCP" | "UDP") {
            errors.not_supported(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        }
    }
}
