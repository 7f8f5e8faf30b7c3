//! PriorityLevelConfiguration: how many requests of a level run at once, and how the others wait.
use super::support::*;
use crate::kind::Subresource;
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct PriorityLevelConfiguration;

const MAX_QUEUES: i32 = 10_000_000;
/// Bits of a flow's hash that a hand may take.
const HASH_BITS: f64 = 60.0;

impl Kind for PriorityLevelConfiguration {
    type Object = flowcontrol::PriorityLevelConfiguration;
    const SINGULAR: &'static str = "prioritylevelconfiguration";
    const SUBRESOURCES: &'static [Subresource] =
        &[status("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration")];
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;
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
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if (name == "exempt") != (spec.type_ == "Exempt") {
            let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
            errors.invalid(&path.child("type"), spec.type_.as_str(), detail);
        }
        let Some(limited) = spec.limited else { return };
        let path = path.child("limited");
        if let Some(percent) = limited.lendable_percent.filter(|percent| !(0..=100).contains(percent)) {
            let detail = "must be between 0 and 100, inclusive";
            errors.invalid(&path.child("lendablePercent"), percent, detail);
        }
        validate_count(limited.borrowing_limit_percent, &path.child("borrowingLimitPercent"), errors);
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
        let path = path.child("queuing");
        match response.queuing {
            None if response.type_ == "Queue" => {
                errors.required(&path, "must not be empty if limited.limitResponse.type is Limited");
            }
            Some(queuing) if response.type_ == "Queue" => validate_queuing(&queuing, &path, errors),
            _ => {}
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

fn validate_queuing(queuing: &flowcontrol::QueuingConfiguration, path: &Path, errors: &mut FieldErrors) {
    let queues = queuing.queues.unwrap_or_default();
    let (hand, length) =
        (queuing.hand_size.unwrap_or_default(), queuing.queue_length_limit.unwrap_or_default());
    for (field, value) in [("queueLengthLimit", length), ("queues", queues), ("handSize", hand)] {
        if value <= 0 {
            errors.invalid(&path.child(field), value, "must be positive");
        }
    }
    if queues > MAX_QUEUES {
        errors.invalid(&path.child("queues"), queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.invalid(&path.child("handSize"), hand, detail);
    } else if (0..hand).map(|dealt| f64::from(queues - dealt).log2()).sum::<f64>() > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(&path.child("handSize"), hand, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_level_that_queues_has_queues_that_fit_its_hands() {
        let check = |name: &str, kind: &str, queuing: Value| {
            let mut object = json!({"metadata": {"name": name}, "spec": {"type": kind, "limited": {
                "limitResponse": {"type": "Queue", "queuing": queuing}}}});
            if kind == "Exempt" {
                object["spec"] = json!({"type": kind});
            }
            let mut errors = FieldErrors::default();
            PriorityLevelConfiguration::validate(&serde_json::from_value(object).unwrap(), &mut errors);
            errors
                .as_slice()
                .iter()
                .map(|e| e.field.rsplit('.').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        let queues =
            |queues: i32, hand: i32| json!({"queues": queues, "handSize": hand, "queueLengthLimit": 5});
        assert!(check("a", "Limited", queues(128, 8)).is_empty());
        assert_eq!(check("a", "Limited", queues(128, 9)), ["handSize"]);
        assert_eq!(check("a", "Limited", queues(4, 5)), ["handSize"]);
        assert_eq!(check("a", "Limited", queues(0, 0)), ["queues", "handSize"]);
        assert_eq!(check("a", "Exempt", Value::Null), ["type"]);
        assert_eq!(check("a", "Limited", Value::Null), ["queuing"]);
        assert!(check("exempt", "Exempt", Value::Null).is_empty());
    }
}
