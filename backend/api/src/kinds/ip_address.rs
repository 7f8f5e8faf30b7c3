//! IPAddress: one address of a service range, taken.
use super::support::*;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct IPAddress;

impl Kind for IPAddress {
    type Object = networking::IPAddress;
    const SINGULAR: &'static str = "ipaddress";
    const SHORT_NAMES: &'static [&'static str] = &["ip"];

    fn validate_name(name: &str) -> Result<(), String> {
        match name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_string() == name) {
            true => Ok(()),
            false => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()),
        }
    }

    fn validate(object: &networking::IPAddress, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("parentRef");
        validate_required(Some(&object.spec.parent_ref.resource), &path.child("resource"), errors);
        validate_required(Some(&object.spec.parent_ref.name), &path.child("name"), errors);
    }

    fn validate_update(
        object: &networking::IPAddress,
        old: &networking::IPAddress,
        errors: &mut FieldErrors,
    ) {
        let changed = object.spec != old.spec;
        validate_immutable(
            changed,
            &Path::new("spec").child("parentRef"),
            json!(object.spec.parent_ref),
            errors,
        );
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), text("ParentRef")]
    }

    fn cells(object: &networking::IPAddress, _now: Timestamp) -> Vec<Value> {
        let parent = &object.spec.parent_ref;
        let group = parent.group.as_deref().filter(|g| !g.is_empty()).map(|g| format!(".{g}"));
        let namespace = parent.namespace.as_deref().filter(|n| !n.is_empty()).map(|n| format!("{n}/"));
        let parent = format!(
            "{}{}/{}{}",
            parent.resource,
            group.unwrap_or_default(),
            namespace.unwrap_or_default(),
            parent.name
        );
        vec![name_cell(&object.metadata), parent.into()]
    }
}
