//! Two pods cannot listen on one port of a node.
use crate::framework::{Filter, PodInfo, Verdict};
use crate::snapshot::{NodeInfo, Snapshot};
use serde_json::Value;

pub struct NodePorts;

/// Port, protocol and address of each host port.
fn host_ports(pod: &Value) -> impl Iterator<Item = (i64, &str, &str)> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.filter_map(|port| {
        let number = port["hostPort"].as_i64().filter(|n| *n > 0)?;
        Some((number, port["protocol"].as_str().unwrap_or("TCP"), port["hostIP"].as_str().unwrap_or("0.0.0.0")))
    })
}

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> Verdict {
        let clash = |a: (i64, &str, &str), b: (i64, &str, &str)| {
            (a.0, a.1) == (b.0, b.1) && (a.2 == b.2 || a.2 == "0.0.0.0" || b.2 == "0.0.0.0")
        };
        let taken = host_ports(&pod.pod).any(|wanted| {
            node.pods.values().any(|other| host_ports(&other.pod).any(|used| clash(wanted, used)))
        });
        match taken {
            true => Verdict::No(vec!["node(s) didn't have free ports for the requested pod ports".into()]),
            false => Verdict::Fits,
        }
    }
}
