//! Node: a machine that runs pods.
use super::support::{age_cell, name_cell, status, subresource};
use crate::kind::{Column, Kind, Subresource, Verb};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Node;

const PROXY_VERBS: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const NONE: &str = "<none>";

impl Kind for Node {
    type Object = core::Node;
    const SINGULAR: &'static str = "node";
    const SHORT_NAMES: &'static [&'static str] = &["no"];
    const SUBRESOURCES: &'static [Subresource] =
        &[subresource("proxy", "", "v1", "NodeProxyOptions", PROXY_VERBS), status("", "v1", "Node")];
    /// A node introduces itself with its capacity and conditions.
    const KEEPS_STATUS_AT_CREATION: bool = true;

    fn before_update(object: &mut Value, old: &Value) {
        // Assigned once by the control plane; a client that writes back an older copy must not clear it.
        for field in ["podCIDR", "podCIDRs", "providerID"] {
            if object["spec"][field].is_null() && !old["spec"][field].is_null() {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
    }

    fn validate_update(object: &core::Node, old: &core::Node, errors: &mut FieldErrors) {
        let cidr =
            |node: &core::Node| node.spec.as_ref().and_then(|s| s.pod_cidr.clone()).unwrap_or_default();
        if !cidr(old).is_empty() && cidr(object) != cidr(old) {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&Path::new("spec").child("podCIDRs"), detail);
        }
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", (object["spec"]["unschedulable"] == true).to_string())]
    }

    fn columns() -> Vec<Column> {
        let wide = |name: &str| Column::new(name, "string").wide();
        vec![
            Column::new("Name", "string"),
            Column::new("Status", "string"),
            Column::new("Roles", "string"),
            Column::new("Age", "string"),
            Column::new("Version", "string"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ]
    }

    fn cells(object: &core::Node, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let info = status.node_info.clone();
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|a| a.type_ == kind);
            Value::from(found.map_or(NONE, |a| a.address.as_str()))
        };
        let fact =
            |pick: fn(&core::NodeSystemInfo) -> &str| Value::from(info.as_ref().map_or("<unknown>", pick));
        let roles: Vec<&str> = object
            .metadata
            .labels
            .iter()
            .flatten()
            .filter_map(|(label, value)| match label.strip_prefix(ROLE_PREFIX) {
                Some(role) => Some(role),
                None if label == "kubernetes.io/role" => Some(value.as_str()),
                None => None,
            })
            .filter(|role| !role.is_empty())
            .collect();
        vec![
            name_cell(&object.metadata),
            readiness(object).into(),
            if roles.is_empty() { NONE.into() } else { roles.join(",").into() },
            age_cell(&object.metadata, now),
            fact(|i| &i.kubelet_version),
            address("InternalIP"),
            address("ExternalIP"),
            fact(|i| &i.os_image),
            fact(|i| &i.kernel_version),
            fact(|i| &i.container_runtime_version),
        ]
    }
}

fn readiness(node: &core::Node) -> String {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    let mut words = vec![match ready.map(|c| c.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_tells_its_state_roles_and_addresses() {
        let node = json!({
            "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/worker": ""}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1",
                    "containerRuntimeVersion": "docker://20.10", "architecture": "amd64", "bootID": "", "kubeProxyVersion": "",
                    "machineID": "", "operatingSystem": "linux", "systemUUID": ""},
            },
        });
        let cells =
            Node::cells(&serde_json::from_value(node).unwrap(), "2026-01-01T03:00:00Z".parse().unwrap());
        let expected = json!([
            "n1",
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "3h",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "docker://20.10"
        ]);
        assert_eq!(json!(cells), expected);
    }

    #[test]
    fn a_node_nobody_heard_of_is_unknown() {
        let cells = Node::cells(
            &serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap(),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(cells[1..5], ["Unknown", "<none>", "<unknown>", "<unknown>"]);
    }
}
