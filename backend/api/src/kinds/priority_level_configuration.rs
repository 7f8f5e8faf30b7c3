//! PriorityLevelConfiguration: how many requests of a level run at once, and how the others wait.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct PriorityLevelConfiguration;

impl Kind for PriorityLevelConfiguration {
    type Object = flowcontrol::PriorityLevelConfiguration;
    const SINGULAR: &'static str = "prioritylevelconfiguration";
    const SUBRESOURCES: &'static [Subresource] =
        &[status("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration")];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        if spec["limited"].is_object() {
            let limited = &mut spec["limited"];
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
            if limited["limitResponse"]["type"] == "Queue" {
                let queuing = child(&mut limited["limitResponse"], "queuing");
                fill(queuing, "queues", 64);
                fill(queuing, "handSize", 8);
                fill(queuing, "queueLengthLimit", 50);
            }
        }
        if spec["type"] == "Exempt" {
            let exempt = child(spec, "exempt");
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
    }

    fn validate(object: &flowcontrol::PriorityLevelConfiguration, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let spec = object.spec.clone().unwrap_or_default();
        one_of(Some(&spec.type_), &["Exempt", "Limited"], &path.child("type"), errors);
        match (spec.type_.as_str(), &spec.limited) {
            ("Limited", None) => {
                errors.required(&path.child("limited"), "must not be empty when type is Limited")
            }
            ("Exempt", Some(_)) => {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            _ => {}
        }
        let Some(limited) = spec.limited else { return };
        let path = path.child("limited");
        validate_count(limited.nominal_concurrency_shares, &path.child("nominalConcurrencyShares"), errors);
        let Some(response) = limited.limit_response else {
            return;
        };
        let path = path.child("limitResponse");
        one_of(Some(&response.type_), &["Queue", "Reject"], &path.child("type"), errors);
        if response.type_ == "Reject" && response.queuing.is_some() {
            errors.forbidden(
                &path.child("queuing"),
                "must be nil if limited.limitResponse.type is not Limited",
            );
        }
    }

    fn columns() -> Vec<Column> {
        let told =
            ["Name", "Type", "NominalConcurrencyShares", "Queues", "HandSize", "QueueLengthLimit", "Age"];
        told.map(text).into()
    }

    fn cells(object: &flowcontrol::PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let shares = spec.limited.as_ref().and_then(|l| l.nominal_concurrency_shares);
        let shares = shares.or(spec.exempt.as_ref().and_then(|e| e.nominal_concurrency_shares));
        let queuing = spec.limited.and_then(|l| l.limit_response).and_then(|r| r.queuing).unwrap_or_default();
        let count = |value: Option<i32>| value.map_or(Value::from("<none>"), Value::from);
        vec![
            name_cell(&object.metadata),
            spec.type_.into(),
            count(shares),
            count(queuing.queues),
            count(queuing.hand_size),
            count(queuing.queue_length_limit),
            age_cell(&object.metadata, now),
        ]
    }
}
