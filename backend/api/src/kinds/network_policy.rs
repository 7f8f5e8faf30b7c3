//! NetworkPolicy: who may talk to a set of pods, and to whom they may.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct NetworkPolicy;

impl Kind for NetworkPolicy {
    type Object = networking::NetworkPolicy;
    const SINGULAR: &'static str = "networkpolicy";
    const SHORT_NAMES: &'static [&'static str] = &["netpol"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        let sends = spec["egress"].as_array().is_some_and(|e| !e.is_empty());
        let types = if sends { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        fill(spec, "policyTypes", types);
        for direction in ["ingress", "egress"] {
            for rule in items(spec, direction) {
                for port in items(rule, "ports") {
                    fill(port, "protocol", "TCP");
                }
            }
        }
    }

    fn validate(object: &networking::NetworkPolicy, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        if let Some(selector) = &spec.pod_selector {
            label_selector::validate(selector, &path.child("podSelector"), errors);
        }
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = path.child("ingress").index(i);
            validate_ports(rule.ports.as_deref(), &path.child("ports"), errors);
            validate_peers(rule.from.as_deref(), &path.child("from"), errors);
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let path = path.child("egress").index(i);
            validate_ports(rule.ports.as_deref(), &path.child("ports"), errors);
            validate_peers(rule.to.as_deref(), &path.child("to"), errors);
        }
        for (i, kind) in spec.policy_types.iter().flatten().enumerate() {
            one_of(Some(kind), &["Egress", "Ingress"], &path.child("policyTypes").index(i), errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("Pod-Selector"), text("Age")]
    }

    fn cells(object: &networking::NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = object.spec.as_ref().and_then(|s| s.pod_selector.clone()).unwrap_or_default();
        vec![name_cell(&object.metadata), label_selector::cell(&selector), age_cell(&object.metadata, now)]
    }
}

fn validate_ports(ports: Option<&[networking::NetworkPolicyPort]>, path: &Path, errors: &mut FieldErrors) {
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let path = path.index(i);
        one_of(port.protocol.as_deref(), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
        if let Some(number) = &port.port {
            container_validation::port(number, &path.child("port"), errors);
        } else if port.end_port.is_some() {
            errors.required(&path.child("port"), "must be specified if `endPort` is specified");
        }
    }
}

fn validate_peers(peers: Option<&[networking::NetworkPolicyPeer]>, path: &Path, errors: &mut FieldErrors) {
    for (i, peer) in peers.into_iter().flatten().enumerate() {
        let path = path.index(i);
        let selectors =
            [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
        for (field, selector) in selectors {
            if let Some(selector) = selector {
                label_selector::validate(selector, &path.child(field), errors);
            }
        }
        let selects = selectors.iter().any(|(_, selector)| selector.is_some());
        match &peer.ip_block {
            None if !selects => errors.required(&path, "must specify a peer"),
            Some(_) if selects => errors.forbidden(&path, "may not specify both ipBlock and another peer"),
            Some(block) => {
                let path = path.child("ipBlock");
                validate_cidr(&block.cidr, &path.child("cidr"), errors);
                for (j, cidr) in block.except.iter().flatten().enumerate() {
                    validate_cidr(cidr, &path.child("except").index(j), errors);
                }
            }
            None => {}
        }
    }
}
