//! Endpoints: the addresses behind a Service, in the older shape that some clients still read.
use super::support::{age_cell, name_cell};
use crate::kind::{Column, Kind};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Endpoints;

/// `kubectl` shows so many addresses, then how many more there are.
const SHOWN: usize = 3;

impl Kind for Endpoints {
    type Object = core::Endpoints;
    const SINGULAR: &'static str = "endpoints";
    const CREATED_BY_UPDATE: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["ep"];

    fn columns() -> Vec<Column> {
        vec![Column::new("Name", "string"), Column::new("Endpoints", "string"), Column::new("Age", "string")]
    }

    fn cells(object: &core::Endpoints, now: Timestamp) -> Vec<Value> {
        let mut all = Vec::new();
        for subset in object.subsets.iter().flatten() {
            for address in subset.addresses.iter().flatten() {
                match subset.ports.as_deref() {
                    None | Some([]) => all.push(address.ip.clone()),
                    Some(ports) => all.extend(ports.iter().map(|p| format!("{}:{}", address.ip, p.port))),
                }
            }
        }
        let text = match all.len() {
            0 => "<none>".into(),
            1..=SHOWN => all.join(","),
            more => format!("{} + {} more...", all[..SHOWN].join(","), more - SHOWN),
        };
        vec![name_cell(&object.metadata), text.into(), age_cell(&object.metadata, now)]
    }
}
