//! EndpointSlice: some of the addresses behind a Service, with whether each is ready.
use super::support::{age_cell, name_cell};
use crate::kind::{Column, Kind};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct EndpointSlice;

impl Kind for EndpointSlice {
    type Object = discovery::EndpointSlice;
    const SINGULAR: &'static str = "endpointslice";

    fn columns() -> Vec<Column> {
        let text = |name: &str| Column::new(name, "string");
        vec![text("Name"), text("AddressType"), text("Ports"), text("Endpoints"), text("Age")]
    }

    fn cells(object: &discovery::EndpointSlice, now: Timestamp) -> Vec<Value> {
        let shortened = |mut all: Vec<String>| -> Value {
            match all.len() {
                0 => "<unset>".into(),
                1..=3 => all.join(",").into(),
                count => {
                    all.truncate(3);
                    format!("{} + {} more...", all.join(","), count - 3).into()
                }
            }
        };
        let ports = object.ports.iter().flatten().filter_map(|p| p.port.map(|n| n.to_string())).collect();
        let addresses = object.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()).collect();
        vec![
            name_cell(&object.metadata),
            object.address_type.clone().into(),
            shortened(ports),
            shortened(addresses),
            age_cell(&object.metadata, now),
        ]
    }
}
