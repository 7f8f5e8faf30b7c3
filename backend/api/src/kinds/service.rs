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
/// A day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;

impl Kind for Service {
    type Object = core::Service;
    const SINGULAR: &'static str = "service";
    const CREATED_BY_UPDATE: bool = true;
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
        drop_what_the_type_has_not(object, old);
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
        let letters = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let bytes = name.as_bytes();
        if name.len() > 63 {
            return Err("must be no more than 63 bytes".into());
        }
        let ends =
            bytes.first().is_some_and(u8::is_ascii_lowercase) && bytes.last().is_some_and(|c| *c != b'-');
        match ends && bytes.iter().all(|c| letters(*c)) {
            true => Ok(()),
            false => Err("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                 alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used \
                 for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .into()),
        }
    }

    fn validate(object: &core::Service, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let Some(spec) = &object.spec else {
            return errors.required(&path, "");
        };
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        one_of(Some(kind), TYPES, &path.child("type"), errors);
        labels(spec.selector.as_ref(), &path.child("selector"), errors);
        one_of(
            spec.session_affinity.as_deref(),
            &["ClientIP", "None"],
            &path.child("sessionAffinity"),
            errors,
        );
        for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
            address(ip, &path.child("externalIPs").index(i), errors);
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if kind == "ExternalName" {
            validate_external_name(spec, &path, errors);
        } else {
            validate_cluster_ip(spec, kind, &path.child("clusterIPs"), errors);
        }
        validate_ports(spec, headless, &path.child("ports"), errors);
        validate_traffic(spec, kind, &path, errors);
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
            text("Name"),
            text("Type"),
            text("Cluster-IP"),
            text("External-IP"),
            text("Port(s)"),
            text("Age"),
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
        let or_none = |text: Option<String>| {
            Value::from(text.filter(|t| !t.is_empty()).unwrap_or_else(|| "<none>".into()))
        };
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
    let ingress =
        object.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let given: Vec<String> =
        ingress.into_iter().flatten().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
    match spec.type_.as_deref() {
        Some("ExternalName") => spec.external_name.clone(),
        Some("LoadBalancer") if given.is_empty() && spec.external_ips.is_none() => Some("<pending>".into()),
        Some("LoadBalancer") => {
            Some([given, spec.external_ips.clone().unwrap_or_default()].concat().join(","))
        }
        _ => spec.external_ips.as_ref().map(|ips| ips.join(",")),
    }
}

/// A change of the type takes along what only the old type had, where the client left it as it was.
fn drop_what_the_type_has_not(object: &mut Value, old: &Value) {
    let of = |service: &Value| service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let (kind, before) = (of(object), of(old));
    let is_external = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let mut gone: Vec<&str> = Vec::new();
    if kind == "ExternalName" && before != "ExternalName" {
        gone.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if !is_external(&kind) && is_external(&before) {
        gone.push("externalTrafficPolicy");
        let node_ports: Vec<Value> =
            old["spec"]["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect();
        for port in items(&mut object["spec"], "ports") {
            if let Some(fields) =
                port.as_object_mut().filter(|p| p.get("nodePort").is_some_and(|n| node_ports.contains(n)))
            {
                fields.remove("nodePort");
            }
        }
    }
    if kind != "LoadBalancer" && before == "LoadBalancer" {
        gone.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"]);
    }
    let Some(spec) = object["spec"].as_object_mut() else {
        return;
    };
    for field in gone {
        if spec.get(field) == Some(&old["spec"][field]) {
            spec.remove(field);
        }
    }
}

fn address(ip: &str, path: &Path, errors: &mut FieldErrors) {
    if ip.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(path, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

fn validate_external_name(spec: &core::ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
        errors.forbidden(&path.child("clusterIPs"), "may not be set when `type` is 'ExternalName'");
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    let path = path.child("externalName");
    if name.is_empty() {
        errors.required(&path, "");
    } else if let Err(why) = meta::dns_subdomain(name.strip_suffix('.').unwrap_or(name)) {
        errors.invalid(&path, name, why);
    }
}

fn validate_cluster_ip(spec: &core::ServiceSpec, kind: &str, path: &Path, errors: &mut FieldErrors) {
    let one = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let path = path.index(0);
    if let (Some(one), Some(first)) = (one, all.first())
        && one != first
    {
        errors.invalid(&path, json!(all), "first value must match `clusterIP`");
    }
    match one {
        Some("None") if kind != "ClusterIP" => {
            errors.invalid(&path, "None", format!("may not be set to 'None' for {kind} services"));
        }
        Some("None") | None => {}
        Some(ip) => address(ip, &path, errors),
    }
}

/// The fields that only some types of services have.
fn validate_traffic(spec: &core::ServiceSpec, kind: &str, path: &Path, errors: &mut FieldErrors) {
    let policies = ["Cluster", "Local"];
    one_of(spec.internal_traffic_policy.as_deref(), &policies, &path.child("internalTrafficPolicy"), errors);
    let external = path.child("externalTrafficPolicy");
    let is_external = matches!(kind, "NodePort" | "LoadBalancer");
    match spec.external_traffic_policy.as_deref().filter(|p| !p.is_empty()) {
        Some(policy) if !is_external && spec.external_ips.as_ref().is_none_or(Vec::is_empty) => {
            errors.invalid(&external, policy, "may only be set for externally-accessible services");
        }
        policy => one_of(policy, &policies, &external, errors),
    }
    if kind != "LoadBalancer" && spec.allocate_load_balancer_node_ports.is_some() {
        let path = path.child("allocateLoadBalancerNodePorts");
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    if kind != "LoadBalancer" && spec.load_balancer_source_ranges.as_ref().is_some_and(|r| !r.is_empty()) {
        let path = path.child("loadBalancerSourceRanges");
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    let affinity = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref())
        .and_then(|c| c.timeout_seconds);
    if let Some(seconds) = affinity.filter(|s| !(1..=MAX_AFFINITY_SECONDS).contains(s)) {
        let path = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        errors.invalid(
            &path,
            seconds,
            format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
        );
    }
}

fn validate_ports(spec: &core::ServiceSpec, headless: bool, path: &Path, errors: &mut FieldErrors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && spec.type_.as_deref() != Some("ExternalName") {
        errors.required(path, "");
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
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
            Some(IntOrString::Int(number)) => {
                pod_validation::port_number(*number, &path.child("targetPort"), errors)
            }
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
        if let Some(number) = port.node_port.filter(|n| *n != 0)
            && !node_ports.insert((number, port.protocol.clone()))
        {
            errors.duplicate(&path.child("nodePort"), number);
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        one_of(Some(protocol), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(spec: Value) -> (Vec<String>, Vec<Value>) {
        let mut object =
            json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec});
        Service::default(&mut object);
        let typed = serde_json::from_value(object).unwrap();
        let mut errors = FieldErrors::default();
        Service::validate(&typed, &mut errors);
        let told = errors.as_slice().iter().map(ToString::to_string).collect();
        (told, Service::cells(&typed, "2026-01-01T00:01:00Z".parse().unwrap()))
    }

    #[test]
    fn each_type_prints_its_addresses_and_ports() {
        let port = json!([{"port": 80, "nodePort": 30080}]);
        let rows = [
            (
                json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "name": "dns"}],
                "selector": {"app": "web"}}),
                json!(["web", "ClusterIP", "10.96.0.7", "<none>", "80/TCP,53/UDP", "60s", "app=web"]),
            ),
            (
                json!({"clusterIP": "None", "ports": []}),
                json!(["web", "ClusterIP", "None", "<none>", "<none>", "60s", "<none>"]),
            ),
            (
                json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": port}),
                json!(["web", "NodePort", "10.96.0.7", "<none>", "80:30080/TCP", "60s", "<none>"]),
            ),
            (
                json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "ports": port}),
                json!(["web", "LoadBalancer", "10.96.0.7", "<pending>", "80:30080/TCP", "60s", "<none>"]),
            ),
            (
                json!({"type": "ExternalName", "externalName": "db.example.com"}),
                json!(["web", "ExternalName", "<none>", "db.example.com", "<none>", "60s", "<none>"]),
            ),
        ];
        for (spec, expected) in rows {
            assert_eq!(json!(made(spec).1), expected);
        }
    }

    #[test]
    fn wrong_fields_are_named_as_kubernetes_names_them() {
        let rows: [(Value, &[&str]); 8] = [
            (json!({"ports": [{"port": 80}]}), &[]),
            (json!({}), &["spec.ports: Required value"]),
            (
                json!({"ports": [{"port": 80}, {"port": 81}]}),
                &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
            ),
            (
                json!({"ports": [{"port": 0}]}),
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"type": "Door", "ports": [{"port": 80}]}),
                &[
                    "spec.type: Unsupported value: \"Door\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
            (
                json!({"clusterIP": "house", "ports": [{"port": 80}]}),
                &[
                    "spec.clusterIPs[0]: Invalid value: \"house\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
                &[
                    "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
                ],
            ),
        ];
        for (spec, expected) in rows {
            assert_eq!(made(spec.clone()).0, expected, "{spec}");
        }
    }

    #[test]
    fn a_service_that_closes_its_node_ports_loses_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "externalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30080}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        Service::default(&mut new);
        Service::before_update(&mut new, &old);
        let mut errors = FieldErrors::default();
        Service::validate(&serde_json::from_value(new.clone()).unwrap(), &mut errors);
        assert_eq!(errors, FieldErrors::default());
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
    }

    #[test]
    fn an_update_keeps_the_addresses_that_were_given_and_may_not_change_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        Service::default(&mut new);
        Service::before_update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        new["spec"]["clusterIP"] = "10.96.0.8".into();
        let mut errors = FieldErrors::default();
        let typed = |value| serde_json::from_value(value).unwrap();
        Service::validate_update(&typed(new), &typed(old), &mut errors);
        assert_eq!(errors.as_slice()[0].detail, "may not change once set");
    }
}
